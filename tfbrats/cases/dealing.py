"""Who is trained on: cases dealt out by patient and grade, in folds, or as a paper did."""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfbrats.cases import split_files
from tfbrats.cases.split_files import Splits
from tfbrats.datasets import layouts
from tfbrats.datasets.grades import GRADES
from tfbrats.datasets.layouts import Dataset
from tfbrats.errors import InputError
from tfbrats.machine import files

_Strata = Mapping[str, Mapping[str, list[str]]]  # grade or "" -> patient -> case ids


class Dealt(NamedTuple):
    """Which case belongs to which split, and what a person should know of how that came about."""

    splits: Splits
    notes: tuple[str, ...] = ()


def deal(
    dataset: Dataset,
    ratio: Sequence[int],
    seed: int,
    source: str | None = None,
    fold: int | None = None,
    old: Mapping[str, Sequence[str]] | None = None,
) -> Dealt:
    """The split that a command asks for: by ratio, by a recipe, or from a file.

    Args:
        ratio: train : validation : test, e.g. (3, 1, 1); of no effect where `source` is.
        source: one of `RECIPES`, or the path of a file for `splits.read` (./paper_a for one of that name).
        fold: which of a file's folds.
        old: split -> case ids that were dealt out before; only the others are then dealt out, by `extended`.

    Raises:
        InputError: no such recipe or file, or one that does not fit the data set.
    """

    def whole_or_new(by_hand: Splits | None) -> Splits:
        if old is None:
            return split_cases(dataset, ratio, seed, by_hand)
        return extended(dataset, ratio, seed, old, by_hand)

    if source is None or source in RECIPES:
        if fold is not None:
            raise InputError(
                f"--fold {fold}: of which file? Write one with tfbrats split --folds 5, and name it "
                "with --splits."
            )
        by_recipe, notes = (None, ()) if source is None else RECIPES[source](dataset)
        return Dealt(whole_or_new(by_recipe), (*notes, *dataset.patient_notes))
    if not files.exists(source):
        raise InputError(f"{source}: no such file, nor a recipe; the recipes are {', '.join(RECIPES)}.")
    of_file = split_files.read(source, fold)
    try:
        return Dealt(whole_or_new(of_file))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def split_cases(
    dataset: Dataset, ratio: Sequence[int], seed: int, by_hand: Mapping[str, Sequence[str]] | None = None
) -> Splits:
    """Which case belongs to which split, by patient.

    Patients are dealt out grade by grade, where grades are known, in a seeded order, with the largest remainder
    deciding uneven shares.

    Args:
        ratio: train : validation : test, e.g. (3, 1, 1).
        by_hand: split -> case ids, used as it is; cases that it does not name are left out.

    Returns:
        split -> sorted case ids, for each of `splits.SPLITS`. Test images, which come without a
        segmentation, are in none.

    Raises:
        InputError: `by_hand` names an unknown split or case, one patient is in two splits, or no case has a
            segmentation.
    """
    if by_hand is None:
        return _by_ratio(_labelled(dataset), ratio, seed)
    splits = split_files.named(by_hand)
    _check(splits, dataset)
    return splits


def extended(
    dataset: Dataset,
    ratio: Sequence[int],
    seed: int,
    old: Mapping[str, Sequence[str]],
    by_hand: Mapping[str, Sequence[str]] | None = None,
) -> Splits:
    """Where the cases go that came to a data set later; those that were there stay where they are.

    A new scan of a known patient goes where the patient is. New patients are dealt out among themselves by the
    rule of `split_cases`: patients that come one by one all go to the split with the largest share.

    Args:
        old: split -> case ids, all that were dealt out before, rejected ones too.
        by_hand: as for `split_cases`; may name old cases as well, each where it is.

    Returns:
        split -> sorted ids of the new cases alone; empty lists if there are none.

    Raises:
        InputError: an old case is no longer there, or `by_hand` would put a patient into two splits.
    """
    home = {case_id: name for name, ids in old.items() for case_id in ids}
    try:
        layouts.select(dataset, sorted(home))
    except InputError as error:
        raise InputError(f"{error} Cases that were dealt out must stay: give old and new together.") from error
    if by_hand is not None:
        together = {name: {*old.get(name, ()), *ids} for name, ids in split_files.named(by_hand).items()}
        checked = split_cases(dataset, ratio, seed, {name: sorted(ids) for name, ids in together.items()})
        return {name: [i for i in ids if i not in home] for name, ids in checked.items()}
    cure = "They were written so: write all anew, with --overwrite."
    _check(old, dataset, cure, to_train_on=False)  # there need not be a training case
    patient_of = dataset.patient_of
    homes = {patient_of[entry.case_id]: home[entry.case_id] for entry in dataset.cases if entry.case_id in home}
    joining = {name: [] for name in split_files.SPLITS}
    strata = collections.defaultdict(dict)
    for stratum, by_patient in _labelled(dataset).items():
        for patient, ids in by_patient.items():
            if patient in homes:
                joining[homes[patient]] += [i for i in ids if i not in home]
            else:
                strata[stratum][patient] = ids
    dealt = _by_ratio(strata, ratio, seed)
    return {name: sorted(joining[name] + ids) for name, ids in dealt.items()}


def folds(dataset: Dataset, count: int, seed: int) -> list[Splits]:
    """`count` splits; each patient is in the validation split of one and in the training split of all others.

    Both the folds and each grade's share of them differ by at most one patient.

    Raises:
        InputError: fewer than two folds, or more than there are patients with a segmentation.
    """
    strata = _labelled(dataset)
    there = sum(map(len, strata.values()))
    if not 2 <= count <= there:
        raise InputError(f"--folds {count}: expected 2 to {there}, the patients with a segmentation.")
    held_out: list[list[str]] = [[] for _ in range(count)]
    dealt = 0
    for stratum, by_patient in sorted(strata.items()):
        for patient in _order(stratum, by_patient, seed):
            held_out[dealt % count] += by_patient[patient]
            dealt += 1
    all_ids = {case_id for ids in held_out for case_id in ids}
    return [{"train": sorted(all_ids - set(ids)), "validation": sorted(ids), "test": []} for ids in held_out]


def _labelled(dataset: Dataset) -> _Strata:
    """The cases with a segmentation; a patient whose scans differ in grade counts as high grade.

    Raises:
        InputError: there is none.
    """
    of_patient, patient_of = collections.defaultdict(list), dataset.patient_of
    for entry in dataset.cases:
        if entry.label or entry.label_expected:
            of_patient[patient_of[entry.case_id]].append(entry)
    if not of_patient:
        raise InputError(f"{dataset.root}: no case has a segmentation, and training needs them.")
    strata = collections.defaultdict(dict)
    for patient, cases in of_patient.items():
        grades = {dataset.grade_of(entry) for entry in cases}
        stratum = next((grade for grade in GRADES if grade in grades), "")
        strata[stratum][patient] = [entry.case_id for entry in cases]
    return strata


def _order(stratum: str, patients: Iterable[str], seed: int) -> list[str]:
    """The patients of one grade in the order in which they are dealt out, which the seed decides."""
    from tfbrats.cases.case import case_seed  # with what reads images: who only offers recipes need not wait

    return list(np.random.default_rng(case_seed(seed, stratum)).permutation(sorted(patients)))


def _by_ratio(strata: _Strata, ratio: Sequence[int], seed: int) -> Splits:
    """Deals the patients of each grade out; the largest remainders get those that no whole share takes."""
    splits = {name: [] for name in split_files.SPLITS}
    for stratum, by_patient in sorted(strata.items()):
        order = _order(stratum, by_patient, seed)
        exact = [len(order) * part / sum(ratio) for part in ratio]
        counts = [int(share) for share in exact]
        by_remainder = sorted(range(len(ratio)), key=lambda n: counts[n] - exact[n])
        for n in by_remainder[: len(order) - sum(counts)]:
            counts[n] += 1
        start = 0
        for name, count in zip(split_files.SPLITS, counts, strict=True):
            splits[name] += [i for patient in order[start : start + count] for i in by_patient[patient]]
            start += count
    return {name: sorted(ids) for name, ids in splits.items()}


def _check(
    splits: Mapping[str, Sequence[str]],
    dataset: Dataset,
    cure: str = "Correct the file.",
    to_train_on: bool = True,
) -> None:
    """Raises InputError where these are no splits of this data set, or one patient is in two."""
    if faults := split_files.faults(splits, dataset.patient_of, dataset.root, to_train_on):
        raise InputError("splits: " + "; ".join(faults) + f". {cure}")


def _paper_a(dataset: Dataset) -> Dealt:
    """Paper A's experiments: the 210 HGG cases of BraTS 2017 (2018 has as many), 126, 42 and 42 of them.

    Which case is where the paper does not tell; here seed 0 does.
    """
    strata = _labelled(dataset)
    cases = {grade or "of unknown grade": sum(map(len, of.values())) for grade, of in sorted(strata.items())}
    counts = [f"{count} {grade}" for grade, count in cases.items()]
    if cases.get("HGG") != 210 or len(strata["HGG"]) != 210:
        raise InputError(
            f"{dataset.root}: paper_a divides the 210 HGG cases of BraTS 2017; found {', '.join(counts)}. "
            "Folders HGG and LGG or name_mapping.csv tell the grade. For data of your own leave the "
            "recipe out, or write a file with tfbrats split --ratio 3,1,1."
        )
    left = [text for text in counts if text != "210 HGG"]
    notes = (f"paper_a takes HGG alone; left out: {', '.join(left)}",) if left else ()
    return Dealt(_by_ratio({"HGG": strata["HGG"]}, (3, 1, 1), seed=0), notes)


def _paper_b(dataset: Dataset) -> Dealt:
    """Paper B's experiments: all 285 cases of BraTS 2018 train; those that it scored have no public labels."""
    dealt = _by_ratio(_labelled(dataset), (1, 0, 0), seed=0)
    count = len(dealt["train"])
    notes = (f"paper_b trains on the 285 cases of BraTS 2018; all {count} found are taken",)
    return Dealt(dealt, notes if count != 285 else ())


RECIPES: Mapping[str, Callable[[Dataset], Dealt]] = {"paper_a": _paper_a, "paper_b": _paper_b}


def table(dataset: Dataset, splits: Splits | Sequence[Splits]) -> list[dict[str, Any]]:
    """A row per split, or per split of each fold: `split`, `patients`, `cases`, and cases by grade."""
    if isinstance(splits, Mapping):
        named = dict(splits)
    else:
        named = {f"fold {n} {name}": ids for n, fold in enumerate(splits) for name, ids in fold.items() if ids}
    used = {case_id for ids in named.values() for case_id in ids}
    by_id, patient_of = {entry.case_id: entry for entry in dataset.cases}, dataset.patient_of
    left = [case_id for case_id in by_id if case_id not in used]
    rows = []
    for name, ids in [*named.items(), *([("none", left)] if left else [])]:
        grades = collections.Counter(dataset.grade_of(by_id[case_id]) or "unknown" for case_id in ids)
        row = {"split": name, "patients": len({patient_of[i] for i in ids}), "cases": len(ids)}
        rows.append(row | {grade: grades[grade] for grade in (*GRADES, "unknown")})
    return rows
