"""The probe times the networks of a config, whatever the paper, without data."""

import json

import pytest

from tfbrats import config, models, probe


@pytest.mark.parametrize("name", ["cun_lws.yaml", "bfcn.yaml", "drn.yaml"])
def test_a_network_on_slices(name):
    settings = config.load(name, ["model.width=2", "records.slice_shape=[32,32]"])
    (found,) = probe.probe(settings)
    assert found.region == ""
    assert found.parameters == models.build(settings).count_params()
    assert found.batch_size == 2
    assert found.slots == 1  # momentum
    assert 0 < found.forward_seconds < found.train_seconds < 60


def test_three_networks_on_patches():
    settings = config.load("msm.yaml", ["model.width=2", "sampling.patch_size=16", "cascade.stride=8"])
    found = probe.probe(settings)
    assert [one.region for one in found] == ["WT", "TC", "ET"]
    for one in found:
        assert one.parameters == models.build(settings, region=one.region).count_params()
        assert one.slots == 2  # Adam's two moments
        assert one.train_seconds > 0


def test_the_command_prints_numbers_that_a_program_can_read(capsys):
    small = ["model.width=2", "sampling.patch_size=16", "cascade.stride=8", "region=et"]
    probe.main(["--config", "unet3d.yaml", *small, "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["region"] == "ET"
    probe.main(["--config", "unet3d.yaml", *small])
    assert "unet3d ET" in capsys.readouterr().out
