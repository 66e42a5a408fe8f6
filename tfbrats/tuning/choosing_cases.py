"""Which cases choose for a run, or for several as one model: none that every one of them was trained on."""

from collections.abc import Sequence

from tfbrats.datasets import case_names, layouts
from tfbrats.datasets.layouts import CaseFiles, Dataset
from tfbrats.errors import InputError
from tfbrats.predictions import seen
from tfbrats.runs.folder import RunFolder
from tfbrats.terminal.wording import counted
from tfbrats.tuning import gains

_SEEN = ("train", "train_patient")
_NAMED = 5  # cases that a message names


def found(dataset: Dataset, runs: Sequence[RunFolder], case_ids: Sequence[str] | None) -> list[CaseFiles]:
    """The cases that choose.

    Args:
        dataset: where they are looked for.
        runs: that are tuned, one or several as one model.
        case_ids: these; by default the validation cases of all runs.

    Raises:
        InputError: none, too few, or some that are not there, have no segmentation or trained every run.
    """
    ids = case_ids
    if ids is None:
        ids = list(dict.fromkeys(case_id for run in runs for case_id in run.splits["validation"]))
        if not ids:
            raise InputError(
                f"{runs[0].path}: trained without validation cases. Name some that it was not trained on with "
                "--cases."
            )
    entries = list(layouts.select(dataset, ids))
    if trained := [case_id for case_id, unseen in unseen_by(runs, ids).items() if not unseen]:
        more = f" and {len(trained) - _NAMED} more" if trained[_NAMED:] else ""
        raise InputError(
            f"{', '.join(trained[:_NAMED])}{more}: trained the run or the one that it began from, or another "
            "scan of the patient did. What helps on them says nothing of other patients. Name others with "
            "--cases."
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


def unseen_by(runs: Sequence[RunFolder], case_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Case id -> folders of the runs that were not trained on it, nor on another scan of the patient.

    What trained the weights that a run began with (`tfbrats train --from`) trained the run.
    """
    kinds = {
        run.path: seen.kinds_of(seen.hashes_of_run(run.splits, run.begun_from), case_ids) or {} for run in runs
    }
    return {
        case_id: tuple(folder for folder, kind in kinds.items() if kind[case_id] not in _SEEN)
        for case_id in case_ids
    }


def notes(runs: Sequence[RunFolder], entries: Sequence[CaseFiles]) -> list[str]:
    """What to say of the cases that choose: that some were kept for testing, or may be known by other names."""
    ids = [entry.case_id for entry in entries]
    kept = [set(run.splits.get("test", ())) for run in runs]  # of folds, one's test cases are another's
    lines = []
    if tested := set.intersection(*kept).intersection(ids):
        who, model = counted(len(tested), "case"), "the run" if len(runs) == 1 else "a model of the runs"
        lines.append(f"{who} of the test split: scored on them, {model} will look too good")
    editions = [str(schema.get("edition")) for run in runs for schema in run.records["label_schemas"]]
    if sets := seen.other_names(editions, ids):
        lines.append(
            f"{' and '.join(sets)} show many patients under different names: some who choose may have trained "
            f"the run{'s' if runs[1:] else ''}"
        )
    return lines
