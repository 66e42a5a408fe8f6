"""Which cases choose for a run, or for several as one model: none that every one of them was trained on."""

from collections.abc import Mapping, Sequence

from tfbrats.datasets import case_names, layouts
from tfbrats.datasets.layouts import CaseFiles, Dataset
from tfbrats.errors import InputError
from tfbrats.predictions import seen
from tfbrats.terminal.wording import counted
from tfbrats.tuning import gains

_SEEN = ("train", "train_patient")
_NAMED = 5  # cases that a message names

Splits = Mapping[str, Sequence[str]]  # of a run: split -> case ids


def found(dataset: Dataset, runs: Mapping[str, Splits], case_ids: Sequence[str] | None) -> list[CaseFiles]:
    """The cases that choose.

    Args:
        dataset: where they are looked for.
        runs: folder of each run -> its splits.
        case_ids: these; by default the validation cases of all runs.

    Raises:
        InputError: none, too few, or some that are not there, have no segmentation or trained every run.
    """
    first = next(iter(runs))
    ids = case_ids
    if ids is None:
        ids = list(dict.fromkeys(case_id for splits in runs.values() for case_id in splits["validation"]))
        if not ids:
            raise InputError(
                f"{first}: trained without validation cases. Name some that it was not trained on with --cases."
            )
    entries = list(layouts.select(dataset, ids))
    if trained := [case_id for case_id, unseen in unseen_by(runs, ids).items() if not unseen]:
        more = f" and {len(trained) - _NAMED} more" if trained[_NAMED:] else ""
        raise InputError(
            f"{', '.join(trained[:_NAMED])}{more}: trained the run, or another scan of the patient did. What "
            "helps on them says nothing of other patients. Name others with --cases."
        )
    if faults := [entry.case_id for entry in entries if not entry.label]:
        raise InputError(f"{dataset.root}: no segmentation of {', '.join(faults)}. Choose others with --cases.")
    number = len(set(patients(dataset, entries)))
    if number < gains.LEAST_PATIENTS:
        raise InputError(
            f"{counted(len(entries), 'case')} of {counted(number, 'patient')} to choose by: too few to tell a "
            f"gain from noise ({gains.LEAST_PATIENTS} patients at least, {gains.FEW_PATIENTS} to be of use). "
            "Name more cases that the run was not trained on with --cases, or train folds and give all their "
            "runs: --run A B C."
        )
    return entries


def patients(dataset: Dataset, entries: Sequence[CaseFiles]) -> list[str]:
    """Whose each case is: two scans of one person, under the names of any edition, are one patient's."""
    return [case_names.person_of(dataset.patient_of[entry.case_id]) for entry in entries]


def unseen_by(runs: Mapping[str, Splits], case_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Case id -> folders of the runs that were not trained on it, nor on another scan of the patient."""
    kinds = {folder: seen.kinds_of(seen.hashes_of(splits), case_ids) or {} for folder, splits in runs.items()}
    return {
        case_id: tuple(folder for folder, kind in kinds.items() if kind[case_id] not in _SEEN)
        for case_id in case_ids
    }


def note_of_tests(runs: Mapping[str, Splits], entries: Sequence[CaseFiles]) -> str:
    """What to say where cases choose that were kept for testing; "" where none does."""
    tests = {case_id for splits in runs.values() for case_id in splits.get("test", ())}
    tested = tests.intersection(entry.case_id for entry in entries)
    if not tested or len(runs) > 1:  # of folds, one's test cases are another's
        return ""
    return f"{counted(len(tested), 'case')} of the test split: scored on them, the run will look too good"
