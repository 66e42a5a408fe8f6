"""splits.json, in and out: one split, or the folds of a cross-validation, with a hash. No TensorFlow.

    {"train": [case ids], "validation": [...], "test": [...], "sha256": "..."}
    {"folds": [one such for each fold], "sha256": "..."}

Reads such files without a hash too, "val" for "validation", and nnU-Net's splits_final.json. Refuses a file
whose hash is not that of its cases. A run keeps a copy of its own (`runs.folder`). Knows no
data set, but checks a split against its cases and patients.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tfbrats.errors import InputError
from tfbrats.machine import files

SPLITS = ("train", "validation", "test")
Splits = dict[str, list[str]]  # split -> sorted case ids, for each of SPLITS

_EXPECTED = f"expected {{split: [case ids]}} with {', '.join(SPLITS)}"


def sha256_of_split(cases: Mapping[str, Sequence[str]]) -> str:
    """The hash by which records, runs and models know a split.

    Args:
        cases: split -> sorted case ids, for each of `SPLITS`.
    """
    return hashlib.sha256(json.dumps(cases, sort_keys=True).encode()).hexdigest()


def read(path: str | os.PathLike, fold: int | None = None) -> Splits:
    """One split of a file: a run's splits.json, {split: ids} of one's own, or one of several folds.

    Args:
        fold: which, of a file that holds folds; None for a file that holds one split.

    Raises:
        InputError: no such file, one that holds something else or was edited, or no such fold.
    """
    content = files.read_json(path)
    try:
        entries = content.get("folds") if isinstance(content, Mapping) else content
        if not isinstance(entries, list) or not entries:
            splits = _unedited(content)
            if fold is not None:
                raise InputError(f"splits: it holds one split, no folds. Leave --fold {fold} out.")
            return splits
        folds = [_unedited(entry) for entry in entries]
        if isinstance(content, Mapping):
            _check_hash(content, _sha256_of_folds(folds))
        if fold is None or not 0 <= fold < len(folds):
            unknown = "" if fold is None else f"no fold {fold}; "
            raise InputError(
                f"splits: {unknown}it holds the folds 0 to {len(folds) - 1}. Say which with --fold, or give "
                "the splits.json of the run that was trained on one."
            )
        return folds[fold]
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from error


def read_folds(path: str | os.PathLike) -> list[Splits]:
    """The splits of all folds of a file; [] of a file that holds one split.

    Raises:
        InputError: no such file, or one that holds something else or was edited.
    """
    content = files.read_json(path)
    entries = content.get("folds") if isinstance(content, Mapping) else content
    count = len(entries) if isinstance(entries, list) else 0
    return [read(path, fold) for fold in range(count)]


def check_cross_validation(folds: Sequence[Splits], path: str | os.PathLike) -> None:
    """Raises InputError unless each case is validated in exactly one fold and trained on in all others."""
    held_out = [set(fold["validation"]) for fold in folds]
    everyone = set().union(*held_out)
    for number, (fold, own) in enumerate(zip(folds, held_out, strict=True)):
        trained = set(fold["train"])
        elsewhere = own & set().union(*held_out[:number])
        wrong = elsewhere | (trained ^ (everyone - own)) | set(fold["test"])
        if wrong:
            raise InputError(
                f"{os.fspath(path)}: no folds of a cross-validation: fold {number} does not train on just what "
                f"the others validate ({some(sorted(wrong))}). Deal them with tfbrats split --folds."
            )


def as_json(splits: Splits | Sequence[Splits]) -> dict[str, Any]:
    """What a file holds of one split or of several folds.

    The hash of a split, each fold's too, is the one that records and models of it carry.
    """
    if isinstance(splits, Mapping):
        return {**splits, "sha256": sha256_of_split(splits)}
    return {"folds": [as_json(fold) for fold in splits], "sha256": _sha256_of_folds(splits)}


def write(path: str | os.PathLike, splits: Splits | Sequence[Splits], overwrite: bool = False) -> bool:
    """Writes one split or several folds; False where they are there already.

    Raises:
        InputError: something else is there: other splits without `overwrite`, or no splits at all.
    """
    content = as_json(splits)
    if files.exists(path):
        try:
            present = files.read_json(path)
        except InputError:
            present = None
        if present == content:
            return False
        is_mapping = isinstance(present, Mapping) and bool({"train", "folds"} & set(present))
        if not isinstance(present, list) and not is_mapping:
            raise InputError(f"{path}: exists, and holds no splits. Choose another --output.")
        if not overwrite:
            raise InputError(f"{path}: holds other splits. Choose another --output, or pass --overwrite.")
    files.write_json(path, content)
    return True


def named(ids_of: Any) -> Splits:
    """A person's {split: ids} under our names, ids sorted; a split that is not there is empty.

    Raises:
        InputError: not such a mapping, or unknown splits.
    """
    if (
        not isinstance(ids_of, Mapping)
        or not ids_of
        or not all(isinstance(ids, list) for ids in ids_of.values())
    ):
        raise InputError(f"splits: {_EXPECTED}; found {json.dumps(ids_of)[:60]}")
    if {"val", "validation"} <= set(ids_of):
        raise InputError("splits: both val and validation are there. Keep one of them.")
    splits = {"validation" if name == "val" else name: sorted(map(str, ids)) for name, ids in ids_of.items()}
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown:
        raise InputError(f"splits: unknown splits {unknown}; {_EXPECTED}. Correct the file.")
    return {name: splits.get(name, []) for name in SPLITS}


def faults(
    splits: Mapping[str, Sequence[str]], patient_of: Mapping[str, str], root: str, to_train_on: bool = True
) -> list[str]:
    """What is wrong with a division of these cases into splits, as sentences.

    Args:
        splits: case ids by name of the split.
        patient_of: case id -> patient, of the cases there are.
        root: where they lie.
        to_train_on: a split named "train" without a case is a fault too.
    """
    sentences = []
    ids_by_patient: dict[str, dict[str, list[str]]] = {}  # ... and split
    for split, ids in splits.items():
        if strange := sorted({case_id for case_id in ids if case_id not in patient_of}):
            sentences.append(f"split {split}: case ids that are not in {root}: {some(strange)}")
        if doubled := sorted({case_id for case_id in ids if ids.count(case_id) > 1}):
            sentences.append(f"split {split}: case ids listed twice: {some(doubled)}")
        for case_id in ids:
            by_split = ids_by_patient.setdefault(patient_of.get(case_id, case_id), {})
            by_split.setdefault(split, []).append(case_id)
    for patient, by_split in sorted(ids_by_patient.items()):
        if len(by_split) > 1:
            where = "; ".join(f"{split}: {some(sorted(set(ids)))}" for split, ids in by_split.items())
            sentences.append(f"patient {patient} is in more than one split ({where}); keep all scans in one")
    if to_train_on and "train" in splits and not splits["train"]:
        sentences.append("no training case")
    return sentences


def some(names: Sequence[str]) -> str:
    """The first three of many names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _unedited(content: Any) -> Splits:
    """The split that a mapping of a file holds; its hash, where it has one, is checked."""
    if not isinstance(content, Mapping):
        return named(content)
    splits = named({key: ids for key, ids in content.items() if key != "sha256"})
    _check_hash(content, sha256_of_split(splits))
    return splits


def _check_hash(content: Mapping[str, Any], sha256: str) -> None:
    if content.get("sha256", sha256) != sha256:
        raise InputError(
            "splits: its sha256 is not that of its cases: it was edited. Take the file as it was written, or "
            "leave every sha256 out for a split of your own."
        )


def _sha256_of_folds(folds: Sequence[Splits]) -> str:
    return hashlib.sha256("".join(map(sha256_of_split, folds)).encode()).hexdigest()
