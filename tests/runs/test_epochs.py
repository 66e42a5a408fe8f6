"""An epoch's numbers have one name everywhere, and stand in one table."""

import re

import pytest

from tfbrats.runs import epochs

ROW = {
    "epoch": 7,
    "steps": 12,
    "learning_rate": 0.01,
    "omega": 0.1,
    "loss": 2.1641,
    "loss1": 0.5,
    "auxiliary": 9.5,
    "training_dice_wt": 0.75,
    "training_dice_tc": 0.65,
    "training_dice_et": 0.55,
    "sampled_normal": 1500.0,
    "validation_loss": 0.7,
    "dice_wt": 0.8,
    "dice_tc": 0.7,
    "dice_et": 0.0,
    "seconds": 31.25,
    "slices_per_second": 12.0,
}


def without_validation():
    return {name: value for name, value in ROW.items() if not name.startswith(("validation", "dice"))}


def cells(text):
    return text.split()


def test_the_table_shows_the_validation_s_numbers_and_no_more():
    header, line = epochs.header(ROW), epochs.line(ROW)
    names = ["epoch", "learning rate", "loss", "validation loss", "Dice WT", "Dice TC", "Dice ET", "seconds"]
    assert re.split("  +", header) == names
    assert cells(line) == ["7", "0.01", "2.164", "0.7000", "0.800", "0.700", "0.000", "31.2"]


@pytest.mark.parametrize("row", [ROW, without_validation()], ids=["validated", "never validated"])
@pytest.mark.parametrize(
    "change",
    [{}, {"epoch": 1000, "seconds": 432100.5}, {"loss": 1.2e-5, "validation_loss": 98765.4}, {"loss": 12.3}],
)
def test_every_line_is_as_wide_as_the_header_and_at_most_100(row, change):
    row = {**row, **{name: value for name, value in change.items() if name in row}}
    header, line = epochs.header(row), epochs.line(row)
    assert len(line) == len(header) <= 100


def test_without_validation_the_training_s_dice_is_shown_and_called_so():
    header = epochs.header(without_validation())
    assert "validation" not in header and " training Dice WT " in header
    assert cells(epochs.line(without_validation())) == ["7", "0.01", "2.164", "0.750", "0.650", "0.550", "31.2"]


def test_a_network_of_one_region_has_one_dice_by_its_region():
    row = {"epoch": 1, "learning_rate": 5e-5, "loss": 0.5, "training_dice": 0.1, "dice": 0.9, "seconds": 2.0}
    assert cells(epochs.header(row, "TC")) == ["epoch", "learning", "rate", "loss", "Dice", "TC", "seconds"]
    assert cells(epochs.line(row, "TC")) == ["1", "5e-05", "0.5000", "0.900", "2.0"]


@pytest.mark.parametrize(
    ("column", "words", "tag"),
    [
        ("loss", "loss", "loss/loss"),
        ("loss2", "loss2", "loss/loss2"),
        ("auxiliary", "auxiliary", "loss/auxiliary"),
        ("loss_boundary", "loss boundary", "loss/loss_boundary"),
        ("validation_loss", "validation loss", "loss/validation_loss"),
        ("dice_et", "Dice ET", "dice/dice_et"),
        ("training_dice_wt", "training Dice WT", "dice/training_dice_wt"),
        ("dice", "Dice", "dice/dice"),
        ("learning_rate", "learning rate", "schedule/learning_rate"),
        ("slices_per_second", "slices per second", "pace/slices_per_second"),
        ("sampled_contour", "sampled contour", "lws/sampled_contour"),
        ("something_new", "something new", "other/something_new"),
    ],
)
def test_a_column_s_name_is_the_same_on_screen_and_in_tensorboard(column, words, tag):
    assert epochs.words(column) == words
    assert epochs.tag(column) == tag
