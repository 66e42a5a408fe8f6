"""What a person sees of a training: every epoch in TensorBoard once, the slice right way up, a short bar."""

import io
import os
import types

import numpy as np
import pytest
import tensorflow as tf
import tqdm.std
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfbrats.cases import overlays
from tfbrats.errors import InputError
from tfbrats.labels import Tissue
from tfbrats.pictures import captions
from tfbrats.terminal import bars
from tfbrats.training import board

ROW = {
    "epoch": 1,
    "steps": 12,
    "learning_rate": 0.01,
    "omega": 0.1,
    "loss": 3.25,
    "loss1": 0.5,
    "auxiliary": 9.5,
    "training_dice_wt": 0.75,
    "sampled_normal": 1500.0,
    "validation_loss": 1.5,
    "dice_wt": 0.5,
}


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "tb")


def told(folder, tag="loss/loss"):
    """(epoch, value) of a scalar, as TensorBoard reads the folder: in the order of the files."""
    events = EventAccumulator(folder, size_guidance={"tensors": 0}).Reload()
    return [(one.step, float(tf.make_ndarray(one.tensor_proto))) for one in events.Tensors(tag)]


def epochs(*numbers):
    return [{**ROW, "epoch": n, "loss": 10.0 / n} for n in numbers]


# --- TensorBoard ----------------------------------------------------------------------------------------


def test_an_epoch_is_read_back_with_every_number_under_its_tag(folder):
    board.Board(folder).write_epoch(ROW)
    assert set(EventAccumulator(folder).Reload().Tags()["tensors"]) == {
        "schedule/learning_rate",
        "schedule/omega",
        "loss/loss",
        "loss/loss1",
        "loss/auxiliary",
        "dice/training_dice_wt",
        "lws/sampled_normal",
        "loss/validation_loss",
        "dice/dice_wt",
    }
    assert told(folder, "dice/training_dice_wt") == [(1, 0.75)]
    assert told(folder, "lws/sampled_normal") == [(1, 1500.0)]


def test_an_epoch_is_told_once_however_often_it_is_trained(folder):
    one = board.Board(folder)
    for row in epochs(1, 2, 3):
        one.write_epoch(row)
    # Killed, and gone on with from the checkpoint of epoch 1; the machine's clock does not matter.
    again = board.Board(folder)
    again.write_epoch({**epochs(2)[0], "loss": 7.0})
    assert told(folder) == [(1, 10.0), (2, 7.0)]
    again.write_epoch(epochs(3)[0])
    assert [step for step, _ in told(folder)] == [1, 2, 3]


def test_epochs_are_read_in_their_order_also_beyond_the_tenth(folder):
    one = board.Board(folder)
    for row in epochs(9, 10, 11):
        one.write_epoch(row)
    assert [step for step, _ in told(folder)] == [9, 10, 11]


def test_a_write_that_was_killed_leaves_nothing_that_tensorboard_reads(folder, monkeypatch):
    one = board.Board(folder)
    one.write_epoch(ROW)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            one.write_epoch({**ROW, "epoch": 2})
    assert told(folder) == [(1, 3.25)]
    one.write_epoch({**ROW, "epoch": 2})
    assert [step for step, _ in told(folder)] == [1, 2]
    assert len(tf.io.gfile.listdir(folder)) == 2


def test_files_of_others_stay(folder, tmp_path):
    (tmp_path / "tb").mkdir()
    for name in ("events.out.tfevents.1700000000.machine.1.0.v2", "notes.txt"):
        (tmp_path / "tb" / name).write_text("others'")
    board.Board(folder).write_epoch(ROW)
    assert len(tf.io.gfile.listdir(folder)) == 3


def test_it_writes_wherever_tensorflow_does():
    folder = "ram://board/run/tb"  # a file system of TensorFlow's own, as gs:// is
    one = board.Board(folder)
    for row in epochs(1, 2, 2):
        one.write_epoch(row)
    names = sorted(tf.io.gfile.listdir(folder))
    assert names == ["events.out.tfevents.epoch-000001", "events.out.tfevents.epoch-000002"]
    read = [
        tf.compat.v1.Event.FromString(one.numpy()) for one in tf.data.TFRecordDataset(f"{folder}/{names[1]}")
    ]
    assert {event.step for event in read if event.summary.value} == {2}


def test_a_full_disk_is_said_with_what_to_do(folder, monkeypatch):
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.io.gfile, "copy", full)
    with pytest.raises(InputError, match=r"epoch 1 cannot be written.*No space left.*Make room"):
        board.Board(folder).write_epoch(ROW)


def test_a_picture_is_read_back_as_it_was_drawn(folder):
    drawn = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    board.Board(folder).write_epoch(ROW, {"prediction": drawn})
    (event,) = EventAccumulator(folder).Reload().Tensors("slice/prediction")
    np.testing.assert_array_equal(tf.io.decode_png(event.tensor_proto.string_val[2]), drawn)


OLDER = {  # column -> tag of the versions before
    "loss": "loss/training",
    "loss1": "loss/training_loss1",
    "loss_region": "loss/training_region",
    "auxiliary": "loss/training_auxiliary",
    "validation_loss": "loss/validation",
    "training_dice": "dice/training",
    "training_dice_wt": "dice/training/WT",
    "dice": "dice/validation",
    "dice_wt": "dice/validation/WT",
    "omega": "schedule/omega",
}


def test_a_run_of_an_older_version_goes_on_under_todays_tags(folder, monkeypatch):
    rows = [{**dict.fromkeys(OLDER, 1.0), "epoch": n, "loss": 10.0 / n} for n in (1, 2, 4)]
    drawn = {"wt": np.full((4, 6, 3), 7, np.uint8)}
    whole = board.Board(f"{folder}_whole")
    for row in rows:
        whole.write_epoch(row, drawn)
    with monkeypatch.context() as older:
        older.setattr(board.epochs, "tag", OLDER.get)
        for row in rows[:2]:
            board.Board(folder).write_epoch(row, drawn)
    assert told(folder, "loss/training") == [(1, 10.0), (2, 5.0)]
    board.Board(folder).rename_older()
    board.Board(folder).write_epoch(rows[2], drawn)
    names = sorted(os.listdir(folder))
    assert names == sorted(os.listdir(f"{folder}_whole"))
    tags = set(EventAccumulator(folder).Reload().Tags()["tensors"])
    assert tags == set(EventAccumulator(f"{folder}_whole").Reload().Tags()["tensors"])
    assert told(folder) == [(1, 10.0), (2, 5.0), (4, 2.5)]
    for tag in tags - {"slice/wt"}:
        assert told(folder, tag) == told(f"{folder}_whole", tag)
    before = [os.stat(os.path.join(folder, name)).st_mtime_ns for name in names]
    board.Board(folder).rename_older()  # nothing is left to do
    assert before == [os.stat(os.path.join(folder, name)).st_mtime_ns for name in names]


def test_a_folder_without_epochs_or_with_a_damaged_one_is_left_as_it_is(folder):
    board.Board(folder).rename_older()
    assert not os.path.exists(folder)
    board.Board(folder).write_epoch(ROW)
    (name,) = os.listdir(folder)
    with open(os.path.join(folder, name), "r+b") as file:
        file.truncate(100)
    board.Board(folder).rename_older()
    assert os.listdir(folder) == [name] and os.path.getsize(os.path.join(folder, name)) == 100


# --- the slice ------------------------------------------------------------------------------------------


def rgb(tissue):
    return [int(overlays.COLOURS[tissue][at : at + 2], 16) for at in (1, 3, 5)]


def halves(picture):
    picture = picture[captions.HEIGHT :]  # without the words
    middle = (picture.shape[1] - 8) // 2
    return picture[:, :middle], picture[:, middle + 8 :]


def has(picture, tissue):
    return (picture == rgb(tissue)).all(axis=-1)


def test_the_prediction_is_on_the_left_the_reference_on_the_right_and_the_front_on_top():
    image = np.ones((40, 50), np.float32)
    predicted, reference = np.zeros((2, 40, 50), np.uint8)
    predicted[2:12, 2:12] = Tissue.ET  # small i and j: the patient's right, front
    reference[28:38, 38:48] = Tissue.NCR
    left, right = halves(board.picture(image, predicted, reference))
    assert left.shape == right.shape and left.dtype == np.uint8 and max(left.shape) >= 400
    rows, columns = np.nonzero(has(left, Tissue.ET))
    assert rows.max() < left.shape[0] / 2 and columns.max() < left.shape[1] / 2
    rows, columns = np.nonzero(has(right, Tissue.NCR))
    assert rows.min() > left.shape[0] / 2 and columns.min() > left.shape[1] / 2
    assert not has(left, Tissue.NCR).any() and not has(right, Tissue.ET).any()


def test_the_words_say_which_half_is_which_and_the_dice_of_the_slice(monkeypatch):
    told = []

    def kept(picture, *lines):
        told.append(lines)
        return np.concatenate([np.full((captions.HEIGHT, picture.shape[1], 3), 7, np.uint8), picture])

    image = np.ones((8, 8), np.float32)
    predicted, reference = np.zeros((2, 8, 8), np.uint8)
    predicted[:2], reference[:4] = Tissue.NCR, Tissue.ED
    assert np.ptp(board.picture(image, predicted, reference)[: captions.HEIGHT, 420:600]) > 200
    monkeypatch.setattr(captions, "above", kept)
    assert (board.picture(image, predicted, reference)[0, [0, -1]] == 7).all()
    assert told == [("prediction", "Dice of this slice: WT 0.67, TC 0.00, ET -"), ("reference",)]
    told.clear()
    board.picture(image, predicted, np.where(reference, Tissue.NCR, 0), "TC")
    assert told[0] == ("prediction", "Dice of this slice: TC 0.67")


def test_only_the_head_is_drawn_whatever_is_predicted():
    image = np.zeros((100, 100), np.float32)
    image[30:60, 40:80] = np.random.default_rng(0).normal(size=(30, 40))
    nothing, everything = np.zeros((100, 100), np.uint8), np.full((100, 100), Tissue.ED)
    shape = board.picture(image, nothing, nothing).shape
    assert shape == board.picture(image, everything, nothing).shape
    assert halves(board.picture(image, nothing, nothing))[0].shape[:2] == pytest.approx((400, 309), abs=2)


def test_a_slice_without_brain_is_black_and_no_error():
    nothing = np.zeros((20, 20), np.uint8)
    left, _ = halves(board.picture(np.zeros((20, 20), np.float32), nothing, nothing))
    assert not left.any()


def batch(*tumour_pixels, valid=None):
    """Slices with so many pixels of ED, each of an image that holds its number in the batch."""
    count = len(tumour_pixels)
    label = np.zeros((count, 8, 8), np.uint8)
    for one, pixels in zip(label, tumour_pixels, strict=True):
        one.flat[:pixels] = Tissue.ED
    image = np.arange(1, count + 1, dtype=np.float32)[:, None, None, None] * np.ones((8, 8, 2), np.float32)
    return {"image": image, "label": label, "valid": np.ones(count, np.float32) if valid is None else valid}


def test_the_fixed_slice_is_the_first_with_most_tumour_and_is_a_batch_of_one():
    fixed = board.fixed_slice([batch(0, 3, 1), batch(7, 9, 9), batch(2)], ("t1", "flair"))
    assert fixed.reference.sum() == 9 * Tissue.ED
    assert fixed.example["image"].shape == (1, 8, 8, 2) and fixed.example["image"].max() == 2
    assert fixed.example["valid"].tolist() == [1]
    assert halves(fixed.picture(fixed.reference))[0].any()


def test_filling_is_never_the_fixed_slice():
    fixed = board.fixed_slice([batch(0, 64, valid=np.array([1, 0], np.float32))], ("flair", "t1"))
    assert fixed.example["image"].max() == 1
    with pytest.raises(InputError, match="No validation example"):
        board.fixed_slice([], ("flair",))


def test_of_a_patch_the_plane_with_most_of_the_region_is_drawn_in_the_regions_colour():
    target = np.zeros((3, 8, 8, 8), np.uint8)
    target[0, :2, :2, 1] = target[1, :4, :4, 5] = target[1, :2, :2, 6] = 1
    x1 = np.ones((3, 8, 8, 8, 2), np.float16)
    x1[..., 1] = np.arange(8)  # t1ce tells the plane
    given = {"x1": x1, "half": x1, "target": target, "valid": np.ones(3, np.float32)}
    fixed = board.fixed_patch([given], ("flair", "t1ce"), "TC")
    assert fixed.k == 5 and (fixed.grey == 5).all() and fixed.example["x1"].shape == (1, 8, 8, 8, 2)
    left, right = halves(fixed.picture(np.zeros((8, 8, 8), bool)))
    assert has(right, Tissue.NCR).any() and not has(left, Tissue.NCR).any()
    left, right = halves(fixed.picture(target[1] > 0))
    np.testing.assert_array_equal(left, right)


def test_of_patches_without_the_region_the_middle_plane_is_drawn():
    given = {"x1": np.ones((1, 8, 8, 8, 1), np.float16), "target": np.zeros((1, 8, 8, 8)), "valid": np.ones(1)}
    assert board.fixed_patch([given], ("t2",), "WT").k == 4


# --- progress bar ---------------------------------------------------------------------------------------

SUMS = {
    "loss": 2.468,
    "loss1": 0.824,
    "loss2": 1.24,
    "auxiliary": 4.02,
    "sampled_normal": 5e4,
    **{f"overlap_wt_{what}": n for what, n in (("both", 40.0), ("predicted", 50.0), ("reference", 50.0))},
    **{f"overlap_tc_{what}": n for what, n in (("both", 0.0), ("predicted", 0.0), ("reference", 0.0))},
    **{f"overlap_et_{what}": n for what, n in (("both", 0.0), ("predicted", 0.0), ("reference", 9.0))},
}


def test_the_bar_says_the_means_of_the_losses_dice_and_speed():
    said = board.postfix(SUMS, 2, "slices", 61.2, 200)
    assert said == (
        "loss 1.23 loss1 0.412 loss2 0.620 auxiliary 2.01, training Dice WT 0.80 TC 1.00 ET 0.00, 61.2 slices/s"
    )
    # A network of one region; the epoch's name says which.
    sums = {"loss": 0.5, "overlap_both": 1.0, "overlap_predicted": 2.0, "overlap_reference": 2.0}
    said = board.postfix(sums, 1, "patches", 0.258, 200)
    assert said == "loss 0.500, training Dice 0.50, 0.258 patches/s"
    assert board.postfix({"loss": 0.5}, 1, "patches", 0.0, 200) == "loss 0.500"


def test_the_bars_words_are_those_of_history_csv():
    said = board.postfix({"loss": 1.0, "loss_boundary": 0.5}, 1, "slices", 0.0, 200)
    assert said == "loss 1.00 loss boundary 0.500"


@pytest.mark.parametrize("room", range(9, 90))
def test_a_narrow_terminal_loses_words_but_never_the_loss(room):
    said = board.postfix(SUMS, 2, "slices", 61.2, room)
    assert said.startswith("loss 1.23") and len(said) <= room


def drawn_bar():
    """The line of a bar half way through an epoch, a step a second."""
    with board.progress_bar(1450, 720, "epoch 12/50", hidden=False) as bar:
        bar.fp = io.StringIO()
        bar.start_t -= 5
        bar.n += 5
        board.show(bar, SUMS, 2, 16, "slices")
        return str(bar)


@pytest.mark.parametrize("size", [(100, 30), (0, 0)], ids=["known", "said to be 0"])
def test_loss_dice_and_speed_stand_in_a_hundred_columns(size, monkeypatch):
    monkeypatch.setattr(bars.os, "get_terminal_size", lambda _: os.terminal_size(size))
    screen = types.SimpleNamespace(fileno=lambda: 2, write=len, flush=str, isatty=lambda: True)
    monkeypatch.setattr(bars.sys, "stderr", screen)
    if size == (100, 30):  # tqdm would ask the terminal itself
        monkeypatch.setattr(tqdm.std, "_screen_shape_wrapper", lambda: lambda _: (100, 30))
    line = drawn_bar()
    assert len(line) <= 100
    for word in (
        "epoch 12/50",
        "725/1450",
        "ETA",
        "loss 1.23",
        "training Dice 0.80 1.00 0.00",
        "16.0 slices/s",
    ):
        assert word in line


def test_without_a_terminal_the_epoch_says_a_line_a_minute(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(bars.sys, "stderr", screen)
    with board.progress_bar(100, 0, "WT epoch 3/10") as bar:
        bar.start_t -= 120
        bar.n = 24
        board.show(bar, SUMS, 2, 16, "slices")
        bar.last_print_t -= 120
        bar.start_t -= 120
        bar.update()
    (line,) = screen.getvalue().splitlines()
    assert line.startswith("WT epoch 3/10: 25 of 100, about ") and "loss 1.23" in line


def test_a_hidden_bar_takes_its_numbers_without_a_word():
    with board.progress_bar(3, 0, "epoch 1/1", hidden=True) as bar:
        board.show(bar, SUMS, 1, 4, "slices")


# --- pace -----------------------------------------------------------------------------------------------


def test_the_pace_is_told_once_without_the_first_step_and_without_what_is_no_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(board.time, "monotonic", lambda: now[0])
    pace, told = board.Pace(), []
    pace.begin_step()
    for step in range(30):
        now[0] += 100 if step == 0 else 2  # the first compiles
        told.append(pace.after_step())
        now[0] += 7  # a checkpoint is saved
        pace.begin_step()
    assert [value for value in told if value] == [2.0] and told.index(2.0) == 20


def test_the_forecast_says_pace_time_left_and_memory():
    assert board.forecast("61.2 slices/s", 3725.0, 50, {"GPU:0": 3 * 2**29, "GPU:1": 2**30}) == (
        "pace        61.2 slices/s over 20 steps; about 1:02:05 to the end of epoch 50; "
        "peak memory: GPU:0 1.5 GiB, GPU:1 1.0 GiB"
    )
