"""The benchmark of a fixed time: its arithmetic, what its peers see, and at small size all of it."""

import importlib
import importlib.util
import itertools
import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from tfbrats import config_file
from tfbrats.cases.preprocess import Prepared
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS, region_mask
from tfbrats.phantoms import data_sets

BENCHMARKS = pathlib.Path(__file__).parent.parent.parent / "benchmarks"


def budget(*options):
    return subprocess.run(
        [sys.executable, BENCHMARKS / "budget.py", *map(str, options)],
        check=False,
        capture_output=True,
        text=True,
    )


# --- how many steps fit ---------------------------------------------------------------------------------


def test_the_pace_is_found_again_and_the_schedule_ends_just_in_time(benchmark):
    ours = benchmark("budget_ours")
    start, epoch, step = 20.0, 3.0, 2.5

    def seconds(epochs, steps):
        return start + epochs * (epoch + steps * step)

    few, many = (epoch + count * step for count in ours._PACED)
    pace = ours.pace_of(seconds(2, ours._PACED[1]), [few, many])
    assert (pace.start, pace.epoch, pace.step) == pytest.approx((start, epoch, step))
    steps = ours.steps_per_epoch(pace, 10, 1800)
    usable = (1 - ours._MARGIN) * 1800
    assert seconds(10, steps) <= usable < seconds(10, steps + 1)


def test_a_time_too_short_for_the_schedule_is_refused_with_one_that_is_not(benchmark):
    ours = benchmark("budget_ours")
    pace = ours.Pace(20.0, 3.0, 2.5)
    with pytest.raises(InputError, match=r"--minutes (1\.4)") as error:
        ours.steps_per_epoch(pace, 10, 60)
    named = float(str(error.value).rpartition("--minutes ")[2].rstrip("."))
    assert ours.steps_per_epoch(pace, 10, 60 * named) == 1


def test_a_longer_epoch_that_took_less_time_tells_no_pace(benchmark):
    with pytest.raises(InputError, match="too busy"):
        benchmark("budget_ours").pace_of(80.0, [28.0, 27.0])


def test_the_peers_rate_is_spent_when_the_time_is(benchmark):
    peer = benchmark("budget_peer")
    assert peer.rate_at(0) == peer.LEARNING_RATE
    assert peer.rate_at(0.5) == pytest.approx(peer.LEARNING_RATE / 2)
    assert peer.rate_at(1) == peer.rate_at(1.01) == 0


# --- what the peers see ---------------------------------------------------------------------------------


def test_a_peers_patches_show_what_their_masks_say_and_half_are_centred_on_a_region(benchmark, monkeypatch):
    peer = benchmark("budget_peer")
    rng = np.random.default_rng(0)
    volumes = []
    for shape in ((40, 44, 36), (38, 40, 40)):
        label = np.zeros(shape, np.uint8)
        label[10:20, 12:24, 8:20] = rng.integers(1, 4, (10, 12, 12))
        image = np.stack([label, label], axis=-1).astype(np.float16)  # a voxel's brightness is its tissue
        volumes.append({"image": image, "label": label})
    one = types.SimpleNamespace(file="volumes")
    manifest = types.SimpleNamespace(shards_of=lambda split: [one] if split == "train" else [])
    monkeypatch.setattr(peer, "read_manifest", lambda folder: manifest)
    monkeypatch.setattr(peer.tfrecord, "read_records", lambda path: volumes)
    monkeypatch.setattr(peer.schema, "decode", lambda schema, content: content)
    settings = config_file.load("smoke_3d.yaml", ["sampling.patch_size=16", "train.batch_size=4"])
    batches = list(itertools.islice(peer.patch_batches("", settings), 12))  # a round: 2 x 3 x 8 patches
    image, masks = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert image.shape == (48, 16, 16, 16, 2) and image.dtype == np.float32
    for number, region in enumerate(REGIONS):
        assert np.array_equal(masks[:, number], region_mask(image[..., 0], region))
    centred = masks[:, :, 8, 8, 8].any(axis=0)
    assert centred.all() and np.count_nonzero(masks[:, 0, 8, 8, 8]) >= 24


def test_a_peers_slices_come_back_where_they_lay(benchmark):
    peer = benchmark("budget_peer")
    tissues = np.zeros((40, 36, 10), np.uint8)
    tissues[3, 30, 2], tissues[39, 5, 9], tissues[20, 20, 6] = 1, 2, 3
    box = ((3, 40), (4, 36), (1, 10))
    image = tissues[3:40, 4:36, 1:10, None].astype(np.float32)
    ready = Prepared("one", image, image[..., 0] >= 0, None, box, tissues.shape, (1, 1, 1))
    seen = []

    class Brightness:
        """A network whose answer is the pixel's own brightness."""

        @staticmethod
        def as_input(batch):
            return batch

        @staticmethod
        def network(batch):
            seen.append(batch.shape)
            answer = types.SimpleNamespace(numpy=lambda: batch[..., 0])
            return types.SimpleNamespace(argmax=lambda axis: answer)

    found = peer._from_slices(Brightness, ready, (32, 48))
    assert np.array_equal(found, tissues)
    assert {shape[1:] for shape in seen} == {(48, 48, 1)}  # sixteenths, and no less than the canvas


# --- all of it ------------------------------------------------------------------------------------------


def test_the_table_holds_a_row_a_contestant_and_a_dash_for_what_is_not_defined(benchmark):
    result = {
        "network": "cun, width 16",
        "parameters": 5000000,
        "seconds": 1790.0,
        "steps": 640,
        "examples": 5120,
        "dice": {"WT": 0.91234, "TC": 0.5, "ET": 0.0},
        "hd95_mm": {"WT": 3.0, "TC": 12.25, "ET": None},
    }
    *_, line = lines = benchmark("budget").table({"cun_lws": result})
    assert line == (
        "| cun_lws | cun, width 16 | 5,000,000 | 29.8 | 640 | 5,120 | 0.912 | 0.500 | 0.000 | 3.0 | 12.2 | - |"
    )
    assert len({one.count("|") for one in lines}) == 1


def test_what_cannot_be_run_is_refused_before_anything_is_written(tiny_dataset, tmp_path):
    common = ("--cases", tiny_dataset("2021"), "--output", tmp_path / "out", "--only")
    unknown = budget(*common, "cun", "--held-out", "BraTS2021_00001")
    assert unknown.returncode == 1 and "the contestants are cun_lws" in unknown.stderr
    elsewhere = budget(*common, "cun_lws", "--held-out", "BraTS2021_09999")
    assert elsewhere.returncode == 1 and "no case BraTS2021_09999" in elsewhere.stderr
    if not importlib.util.find_spec("torch"):
        lacking = budget(*common, "monai_2d", "--held-out", "BraTS2021_00001")
        assert lacking.returncode == 1 and "pip install monai" in lacking.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_all_contestants_end_in_one_table_and_are_not_trained_again(tmp_path):
    ids = data_sets.write_dataset(tmp_path / "cases", 3, "2021", seed=2, shape=(40, 44, 32))
    contestants = ["cun_lws", "msm"]
    if importlib.util.find_spec("torch") and importlib.util.find_spec("monai"):
        contestants += ["monai_2d", "monai_3d"]
    options = ("--cases", tmp_path / "cases", "--held-out", ids[-1], "--output", tmp_path / "out")
    options += ("--minutes", 2, "--steps", 1, "--width", 2, "--only", ",".join(contestants))
    options += ("--config-2d", "smoke_2d.yaml", "--config-3d", "smoke_3d.yaml")
    ended = budget(*options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((tmp_path / "out" / "budget.json").read_text())
    assert set(found["results"]) == set(contestants) and found["held_out"] == ids[-1]
    assert ids[-1] not in found["training"] and len(found["training"]) == 2
    assert found["results"]["cun_lws"]["steps"] == 10 and found["results"]["msm"]["steps"] == 15
    table = (tmp_path / "out" / "budget.md").read_text()
    again = budget(*options)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done already") == len(contestants)
    assert (tmp_path / "out" / "budget.md").read_text() == table
    other = budget(*options, "--steps", 2)
    assert other.returncode == 1 and "steps: 2, there 1" in other.stderr
