"""The benchmark of a training step: PyTorch's networks are ours, and its tables say what was measured."""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).parent.parent.parent / "benchmarks"
COUNT = 6  # networks that the peer has


@pytest.fixture
def modules(monkeypatch):
    """The benchmark's files as modules: train_step and step_jobs."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("train_step"), importlib.import_module("step_jobs")


def python(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS), "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


# --- the same network -----------------------------------------------------------------------------------

# Moments and biases are moved from where they start, so that a layer without them would be seen.
OURS = """
import json, sys
import keras, numpy as np
import step_jobs
from tfbrats import config_file, networks

found, random = {}, np.random.default_rng(0)
for name in json.loads(sys.argv[2]):
    yaml, region = step_jobs.NETWORKS[name]
    network = networks.build(config_file.load(yaml, ["model.width=4"]), region=region)
    for variable in network.variables:
        if variable.name != "kernel":
            variable.assign(np.abs(np.array(variable) + random.normal(0, 0.2, variable.shape)) + 0.1)
    image = random.normal(size=(2, *(32,) * (3 if region else 2), network.inputs[0].shape[-1]))
    arrays = {"image": image.astype(np.float32)}
    for layer, each in step_jobs.weights_of(network).items():
        arrays |= {f"weight {layer} {n}": array for n, array in enumerate(each)}
    for output, logits in network(arrays["image"], training=False).items():
        arrays[f"output {output}"] = np.array(logits)
    np.savez(f"{sys.argv[1]}/{name}.npz", **arrays)
    found[name] = [network.count_params(), step_jobs.macs(network, image.shape[1:])]
print(json.dumps(found))
"""
THEIRS = """
import json, sys
sys.modules["tensorflow"] = None  # MONAI would load it
import numpy as np
import torch, torch_networks

found = {}
for name in torch_networks.NETWORKS:
    arrays = dict(np.load(f"{sys.argv[1]}/{name}.npz"))
    weights = {}
    for key in arrays:  # in the order in which they were written
        if key.startswith("weight "):
            weights.setdefault(key.split()[1], []).append(arrays[key])
    network = torch_networks.build(name, 4)
    torch_networks.take(network, weights)
    image = torch_networks.from_ours(arrays["image"])
    with torch.inference_mode():
        outputs = network.eval()(image)
    apart = {
        key: float(np.abs(np.moveaxis(logits.numpy(), 1, -1) - arrays[f"output {key}"]).max())
        for key, logits in outputs.items()
    }
    outputs_ours = sorted(key.split()[1] for key in arrays if key.startswith("output "))
    shape = (1, *image.shape[1:])
    found[name] = [torch_networks.parameters(network), torch_networks.macs(network, shape), apart, outputs_ours]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("monai")):
        pytest.skip("PyTorch and MONAI are not installed: pip install torch monai")
    folder = tmp_path_factory.mktemp("networks")
    names = ("cun", "unet2d", "msm", "msm_et", "msm_noaspp", "unet3d")
    ours = python(OURS, folder, json.dumps(names))
    return ours, python(THEIRS, folder)


def test_pytorchs_networks_with_our_weights_say_what_ours_say(both):
    _, theirs = both
    assert len(theirs) == COUNT
    for name, (_, _, apart, outputs) in theirs.items():
        assert sorted(apart) == outputs, name
        assert max(apart.values()) < 1e-4, name


def test_pytorchs_networks_have_our_parameters_and_multiplications(both):
    ours, theirs = both
    assert len(ours) == COUNT
    assert {name: found[:2] for name, found in theirs.items()} == ours


def test_multiplications_are_those_counted_by_hand(modules):
    from tfbrats import config_file, networks

    _, step_jobs = modules
    network = networks.build(config_file.load("unet3d.yaml", ["model.width=2"]), region="WT")
    # Kernel, grid of its places: a transposed convolution's are those of its input.
    table = [(27, 4, 2, 16), (27, 2, 2, 16), (27, 2, 4, 8), (27, 4, 4, 8), (27, 4, 8, 4), (27, 8, 8, 4)]
    table += [(27, 8, 16, 2), (27, 16, 16, 2), (8, 16, 8, 2), (27, 16, 8, 4), (27, 8, 8, 4), (8, 8, 4, 4)]
    table += [(27, 8, 4, 8), (27, 4, 4, 8), (8, 4, 2, 8), (27, 4, 2, 16), (27, 2, 2, 16), (1, 2, 1, 16)]
    expected = sum(taps * into * out * grid**3 for taps, into, out, grid in table)
    assert step_jobs.macs(network, (16, 16, 16, 4)) == expected


# --- figures --------------------------------------------------------------------------------------------


def test_a_cells_median_leaves_out_the_steps_that_compile(modules):
    train_step, _ = modules
    took = [90.0, 7.0, 2.0, 4.0, 3.0]
    answers = [{"seconds": [s], "losses": [10.0 - n], "peak_mib": 800.0 + n} for n, s in enumerate(took)]
    found = train_step.cell(answers, argparse.Namespace(batch=6, steps=5))
    assert found == {"step_s": 3.0, "per_second": 2.0, "peak_mib": 804.0, "steps": 5, "loss": 6.0}


def test_a_cell_that_was_cut_short_has_a_time_and_no_loss(modules):
    train_step, _ = modules
    answers = [{"seconds": [9.0], "losses": [1.0], "peak_mib": 800.0}] * 2
    found = train_step.cell(answers, argparse.Namespace(batch=6, steps=20))
    assert found["step_s"] == 9.0 and found["steps"] == 2 and found["loss"] is None


@pytest.mark.parametrize(
    ("precision", "ours_s", "met"),
    [("float32", 0.8, True), ("float32", 0.81, False), ("mixed_bfloat16", 0.99, True)],
)
def test_goals_of_time_are_those_of_the_precision(modules, precision, ours_s, met):
    train_step, _ = modules
    ours = {"step_s": ours_s, "cpu_s": 2.0, "peak_mib": 90.0}
    theirs = {"step_s": 1.0, "cpu_s": 4.0, "peak_mib": 100.0}
    found = train_step.compared(ours, theirs, precision, "train")
    assert found == {
        "ratios": {"step_s": ours_s, "cpu_s": 0.5, "peak_mib": 0.9},
        "met": {"memory": True, "time": met},
    }
    assert train_step.compared(theirs, ours, precision, "inference")["met"] == {"memory": False}


def test_a_training_step_counts_three_forward_passes(modules):
    train_step, _ = modules
    assert train_step.flops(1_000, 4, "inference", 2.0) == 4_000
    assert train_step.flops(1_000, 4, "train", 2.0) == 12_000


class Sided:
    """A side whose steps take as long as it is told; `calls` is shared by both."""

    def __init__(self, name, seconds, calls):
        self._name, self._seconds, self._calls = name, seconds, calls

    def run(self, steps):
        self._calls.append((self._name, steps))
        return {
            "seconds": [self._seconds] * steps,
            "cpu": [2 * self._seconds] * steps,
            "losses": [float(len(self._calls))] * steps,
            "peak_mib": 100.0 + len(self._calls),
        }


def test_all_sides_run_in_turn_and_none_is_always_first(modules):
    train_step, _ = modules
    calls = []
    sides = {name: Sided(name, seconds, calls) for name, seconds in (("o", 1.0), ("t", 3.0), ("c", 2.0))}
    found = train_step.alternate(sides, rounds=2, steps=5)
    assert calls == [(name, 2) for name in "otc"] + [(name, 5) for name in "otctco"]
    assert found["o"] == {"step_s": 1.0, "cpu_s": 2.0, "peak_mib": 109.0, "first_s": 1.0, "first_loss": 1.0}
    assert found["c"] == {"step_s": 2.0, "cpu_s": 4.0, "peak_mib": 108.0, "first_s": 2.0, "first_loss": 3.0}


def test_a_peer_whose_first_loss_is_another_makes_another_step(modules):
    train_step, _ = modules
    train_step.check_losses(4.192876, 4.192875, "torch", "float32")
    train_step.check_losses(None, None, "torch", "float32")  # inference
    with pytest.raises(train_step.Failed, match=r"4\.192876 and torch-compile's 4\.2"):
        train_step.check_losses(4.192876, 4.2, "torch-compile", "float32")


def test_made_up_batches_are_the_same_every_time_and_half_tumour(modules):
    from tfbrats import config_file

    _, step_jobs = modules
    for yaml, key in (("msm.yaml", "target"), ("cun_lws.yaml", "label")):
        settings = config_file.load(yaml, ["train.batch_size=1"])
        one, other = step_jobs.made_up(settings), step_jobs.made_up(settings)
        assert all(np.array_equal(one[name], other[name]) for name in one)
        assert np.mean(one[key] > 0) == 0.5


# --- commands -------------------------------------------------------------------------------------------


def test_a_cell_that_takes_too_long_is_ended_and_says_so(modules):
    train_step, _ = modules
    with pytest.raises(train_step.Failed, match=r"over 0\.05 s"):
        train_step.Job(0.05, side="ours", network="msm", settings=[], mode="train", weights=None, threads=1)


def test_a_cell_that_fails_says_why(modules):
    train_step, _ = modules
    with pytest.raises(train_step.Failed, match=r"model\.width 3 is odd"):
        train_step.Job(
            60,
            side="ours",
            network="msm",
            settings=["model.width=3"],
            mode="train",
            weights=None,
            threads=1,
        )


def test_a_peer_that_is_not_known_is_refused_with_those_that_are():
    command = [sys.executable, BENCHMARKS / "train_step.py", "--peer", "torch,jax"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "torch, torch-compile" in ended.stderr and "Traceback" not in ended.stderr


def test_a_precision_that_the_peer_has_not_is_refused_with_those_that_it_has():
    command = [sys.executable, BENCHMARKS / "train_step.py", "--peer", "torch", "--precisions", "mixed_float16"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "float32, mixed_bfloat16" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.slow
def test_the_table_has_a_line_for_each_cell_and_is_kept_as_json(tmp_path):
    chosen = ("--networks", "unet2d,msm", "--precisions", "float32,mixed_bfloat16")
    small = ("--width", 2, "--batch", 1, "--size", 16, "--steps", 4, "--output", tmp_path / "figures.json")
    ended = subprocess.run(
        [sys.executable, BENCHMARKS / "train_step.py", *chosen, *map(str, small)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    rows = json.loads((tmp_path / "figures.json").read_text())["table"]
    assert len(rows) == 8 and not any("failed" in row for row in rows)
    assert [row["difference"] for row in rows if row["precision"] == "float32"][::2] == [0, 0]
    assert all(abs(row["difference"]) < 0.05 * abs(row["loss"]) for row in rows)
    assert sum(line.startswith(("unet2d", "msm")) for line in ended.stdout.splitlines()) == 8
