"""What an epoch came to: what each of its numbers is called, everywhere; and the table of epochs on screen.

A number has one name, that of its column in history.csv or timing.csv. On screen, in the table and in the bar,
it is that name as one writes it: validation_loss is "validation loss", training_dice_wt "training Dice WT".
TensorBoard shows it as GROUP/name: loss/validation_loss, dice/training_dice_wt.

    epoch, steps                   its number, from 1, and its updates of the weights
    learning_rate, omega           of its schedule; omega in paper A alone
    loss                           what was minimised, the mean of its steps
    loss1, loss2, auxiliary        parts of it: paper A's network
    loss_combination, loss_region, loss_boundary   parts of it: BFCN
    training_dice_wt, _tc, _et     Dice over all that it was trained on, by the weights of each step
    sampled_normal, _tumour, _contour   pixels that loss weighted sampling took
    validation_loss                of the validation cases, by the weights at its end
    dice_wt, dice_tc, dice_et      Dice of the validation cases, over all their voxels together
    case_dice_wt, _tc, _et         the mean of the cases' Dice, each over its volume; with train.select: dice
    seconds, slices_per_second, patches_per_second   how long its training took (timing.csv)

A network of one region has training_dice, dice and case_dice, without the region; it sees patches, and a case's
Dice is over all its patches. Without validation cases there is no validation_loss and no dice; the table then
shows the training's Dice. No TensorFlow.
"""

import re
from collections.abc import Mapping
from typing import Any

from tfbrats.labels import REGIONS

_GROUPS = (  # of TensorBoard
    (r"(validation_)?loss\d?|auxiliary|loss_\w+", "loss"),
    (r"(training_|case_)?dice(_\w+)?", "dice"),
    (r"learning_rate|omega", "schedule"),
    (r"sampled_\w+", "lws"),
    (r"seconds|\w+_per_second", "pace"),
)
# The table's columns before and behind Dice, with how they are printed. Five digits and a sign fit everywhere.
_BEFORE = {"epoch": "d", "learning_rate": ".4g", "loss": "#.4g", "validation_loss": "#.4g"}
_BEHIND = {"seconds": ".1f"}
_DICE = ".3f"
_NARROWEST = 9  # 1.234e-05


def words(column: str, region: str = "") -> str:
    """A column's name as it stands on screen, e.g. "training Dice WT".

    Args:
        region: of a network of one region: its Dice is named by it.
    """
    text = column.replace("_", " ").replace("dice", "Dice")
    first, _, last = text.rpartition(" ")
    if last.upper() in REGIONS:
        return f"{first} {last.upper()}"
    return f"{text} {region}" if region and last == "Dice" else text


def tag(column: str) -> str:
    """Where TensorBoard shows a column, e.g. "dice/training_dice_wt"."""
    group = next((group for pattern, group in _GROUPS if re.fullmatch(pattern, column)), "other")
    return f"{group}/{column}"


def _columns(row: Mapping[str, Any]) -> dict[str, str]:
    """The columns of a row that the table shows, with the form of each."""
    dice = [column for column in row if re.fullmatch(r"dice(_\w+)?", column)]
    dice = dice or [column for column in row if re.fullmatch(r"training_dice(_\w+)?", column)]
    forms = _BEFORE | dict.fromkeys(dice, _DICE) | _BEHIND
    return {column: form for column, form in forms.items() if column in row}


def _width(heading: str) -> int:
    return len(heading) if heading == "epoch" else max(len(heading), _NARROWEST)


def header(row: Mapping[str, Any], region: str = "") -> str:
    """The table's first line, for rows like this one: at most 100 characters.

    Args:
        row: of the history and of the timing together.
        region: of a network of one region.
    """
    headings = [words(column, region) for column in _columns(row)]
    return "  ".join(f"{heading:>{_width(heading)}}" for heading in headings)


def line(row: Mapping[str, Any], region: str = "") -> str:
    """An epoch below `header`; arguments as there."""
    return "  ".join(
        f"{format(row[column], form):>{_width(words(column, region))}}"
        for column, form in _columns(row).items()
    )
