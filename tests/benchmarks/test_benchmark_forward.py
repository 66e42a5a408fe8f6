"""The benchmark of a forward pass: its medians, its goal, and that what is missing is told."""

import sys

import numpy as np
import pytest


@pytest.fixture
def forward(benchmark):
    return benchmark("forward")


def test_figures_are_medians_without_the_round_that_warms_up(forward):
    rounds = [
        {"seconds": [60.0, 50.0], "cpu": [9.0, 9.0], "peak_mib": 1.0},
        {"seconds": [1.0, 2.0], "cpu": [3.0, 5.0], "peak_mib": 2.0},
        {"seconds": [4.0, 8.0], "cpu": [4.0, 6.0], "peak_mib": 3.0},
    ]
    assert forward.figures(rounds, 1e-6) == {"seconds": 3.0, "cpu": 4.5, "peak_mib": 3.0, "gap": 1e-6}


def test_outputs_of_other_weights_are_no_comparison(forward, tmp_path):
    logits, path = np.linspace(-5, 5, 20), tmp_path / "outputs.npz"
    np.savez(path, logits=logits + 1e-5)
    assert forward.gap("torch", str(path), {"logits": logits}) == pytest.approx(1e-5)
    np.savez(path, logits=logits + 0.2)
    with pytest.raises(forward.Failed, match=r"torch: logits 2\.0e-01 from ours"):
        forward.gap("torch", str(path), {"logits": logits})


@pytest.mark.parametrize(("ours", "verdict"), [(0.8, "0.80, goal 0.8: met"), (0.9, "0.90, goal 0.8: NOT met")])
def test_the_goal_is_the_fastest_peers(forward, capsys, ours, verdict):
    row = {"cpu": 1.0, "peak_mib": 1.0, "gap": 0.0}
    seconds = {"ours": ours, "ours unfolded": 0.1, "torch": 3.0, "openvino": 1.0, "compile": 2.0}
    forward.show("cun", {side: {**row, "seconds": s} for side, s in seconds.items()})
    assert f"ours over the fastest, openvino: {verdict}" in capsys.readouterr().out


def test_an_engine_that_is_not_there_is_told(forward, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SystemExit):
        forward.main(["--peers", "openvino"])
    assert "openvino needs: pip install" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        forward.main(["--networks", "resnet"])
    assert "resnet unknown; choose from cun" in capsys.readouterr().err
