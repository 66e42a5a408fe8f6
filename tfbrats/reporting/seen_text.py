"""What is said of which of the scored cases the model has seen. No I/O."""

import math

from tfbrats.predictions import seen
from tfbrats.scoring.origin import BySplit, NotTold
from tfbrats.terminal.wording import counted


def sentence(by_split: BySplit | NotTold | None, name: str | None, chosen: bool) -> tuple[str, bool]:
    """The sentence, and whether it is a warning; "" of predictions without a card.

    Args:
        by_split: of the evaluation.
        name: the model's.
        chosen: the person has already named the split to score.
    """
    if by_split is None:
        return "", False
    if isinstance(by_split, NotTold):
        return _not_told(name, chosen), True
    if set(by_split.cases) == {"fold"}:
        return _held_out(len(by_split.cases["fold"])), False
    number = seen.number_seen(by_split.cases)
    if not number:
        return _none_seen(by_split), bool(by_split.other_names)
    total = sum(map(len, by_split.cases.values()))
    text = _some_seen(by_split, number, total) if number < total else _all_seen(by_split, total)
    return text if chosen else text + _cure(by_split), True


def _held_out(total: int) -> str:
    subject = f"Each of the {total} cases" if total > 1 else "The case scored"
    return (
        f"{subject} was segmented by the network of the fold that held it out: it did not train that network. "
        "The network's best epoch was chosen on the cases that its fold holds out."
    )


def _not_told(name: str | None, chosen: bool) -> str:
    cure = "Export it again."
    if not chosen:
        cure += " Or pass --splits with the splits.json of the model's run."
    return (
        f"the card does not tell which cases the model {name} was trained on: an older version exported it. "
        f"Some of the cases scored may be training cases. {cure}"
    )


def _none_seen(by_split: BySplit) -> str:
    total = sum(map(len, by_split.cases.values()))
    if total == 1:
        subject = "The case scored neither trained the model nor chose"
    else:
        by_names = "By their names n" if by_split.other_names else "N"
        subject = f"{by_names}one of the {total} cases trained the model or chose"
    return f"{subject} its checkpoint: {seen.listed(by_split.cases)}.{_by_other_names(by_split)}"


def _some_seen(by_split: BySplit, number: int, total: int) -> str:
    known = seen.listed(by_split.cases, seen.KNOWN_TO_THE_MODEL)
    means = ", ".join(
        f"{region} {'-' if math.isnan(mean) else f'{mean:.4f}'}"
        for region, mean in by_split.others_dice.items()
    )
    return (
        f"{number} of these {counted(total, 'case')} {'was' if number == 1 else 'were'} seen in training: "
        f"{known}. Mean Dice of the {counted(total - number, 'other')}: {means}.{_by_other_names(by_split)}"
    )


def _all_seen(by_split: BySplit, total: int) -> str:
    known = seen.listed(by_split.cases, seen.KNOWN_TO_THE_MODEL)
    subject = f"All of these {total} cases were" if total > 1 else "The case scored was"
    return (
        f"{subject} seen in training: {known}. Nothing here says how the model does on cases that it has not "
        "seen."
    )


def _by_other_names(by_split: BySplit) -> str:
    if not by_split.other_names:
        return ""
    sets = " and ".join(by_split.other_names)
    return f" {sets} show many patients under different names: some may be the same."


def _cure(by_split: BySplit) -> str:
    if not by_split.has_test:
        return " Its split has no test cases: score cases that it was not trained on."
    path = f"{by_split.run}/splits.json" if by_split.run else "with the splits.json of the model's run"
    return f" To score the test cases alone, pass --splits {path}."
