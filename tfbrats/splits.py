"""Deal out cases to training, validation and test, by patient. No TensorFlow.

The same cases, ratio and seed give the same split; a patient with several time points stays in one.
"""

import collections
import json
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tfbrats import examples, records
from tfbrats.command import InputError
from tfbrats.layouts import Dataset


def split_cases(
    dataset: Dataset, ratio: Sequence[int], seed: int, given: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[str]]:
    """Which case belongs to which split, by patient.

    Patients are dealt out stratum by stratum (HGG and LGG folders, where there are such) in a seeded order,
    with the largest remainder deciding uneven shares.

    Args:
        ratio: train : validation : test, e.g. (3, 1, 1).
        given: split -> case ids, used as it is; cases that it does not name are left out.

    Returns:
        split -> sorted case ids, for each of `records.SPLITS`. Test images, which come without a
        segmentation, are in none.

    Raises:
        InputError: `given` names an unknown split or case, one patient is in two splits, or no case has a
            segmentation.
    """
    patient_of = {one.case_id: one.patient_id for one in dataset.cases}
    if given is not None:
        splits = _checked(given, patient_of, dataset.root)
    else:
        strata = collections.defaultdict(lambda: collections.defaultdict(list))
        for one in dataset.cases:
            if not (one.label or one.label_expected):
                continue
            grade = re.search(r"/(HGG|LGG)/", one.paths()[0])
            strata[grade.group(1) if grade else ""][one.patient_id].append(one.case_id)
        splits = {name: [] for name in records.SPLITS}
        for stratum, patients in sorted(strata.items()):
            order = np.random.default_rng(examples.case_seed(seed, stratum)).permutation(sorted(patients))
            exact = [len(order) * part / sum(ratio) for part in ratio]
            counts = [int(share) for share in exact]
            by_remainder = sorted(range(len(ratio)), key=lambda n: counts[n] - exact[n])
            for n in by_remainder[: len(order) - sum(counts)]:
                counts[n] += 1
            start = 0
            for name, count in zip(records.SPLITS, counts, strict=True):
                splits[name] += [i for p in order[start : start + count] for i in patients[p]]
                start += count
        splits = {name: sorted(ids) for name, ids in splits.items()}
        if not any(splits.values()):
            raise InputError(f"{dataset.root}: no case has a segmentation, and training needs them.")
    homes = collections.defaultdict(set)
    for name, ids in splits.items():
        for case_id in ids:
            homes[patient_of[case_id]].add(name)
    shared = {patient: sorted(names) for patient, names in homes.items() if len(names) > 1}
    if shared:
        raise InputError(f"splits: these patients are in more than one split: {shared}. Keep each in one.")
    return splits


def _checked(given: Mapping, known: Iterable[str], root: str) -> dict[str, list[str]]:
    """A person's splits under our names, or InputError."""
    expected = f"expected {{split: [case ids]}} with {', '.join(records.SPLITS)}"
    if not isinstance(given, Mapping) or not all(isinstance(ids, list) for ids in given.values()):
        raise InputError(f"splits: {expected}; found {json.dumps(given)[:60]}...")
    if {"val", "validation"} <= set(given):
        raise InputError("splits: both val and validation are there. Keep one of them.")
    splits = {"validation" if name == "val" else name: sorted(map(str, ids)) for name, ids in given.items()}
    unknown = sorted(set(splits) - set(records.SPLITS))
    missing = sorted({i for ids in splits.values() for i in ids} - set(known))
    doubled = sorted({i for ids in splits.values() for i in ids if ids.count(i) > 1})
    faults = [
        *([f"unknown splits {unknown}; {expected}"] if unknown else []),
        *([f"case ids that are not in {root}: {missing}"] if missing else []),
        *([f"case ids listed twice: {doubled}"] if doubled else []),
        *([] if splits.get("train") else ["no training case"]),
    ]
    if faults:
        raise InputError("splits: " + "; ".join(faults) + ". Correct the file.")
    return {name: splits.get(name, []) for name in records.SPLITS}
