"""Say what a folder of cases holds and all that is wrong with it, before anything costs hours.

    tfbrats inspect data/MICCAI_BraTS2020_TrainingData

Reads every image once. Exits with 1 when anything is wrong or nothing is found; repairs nothing. Of an exported
model (models/cun, models/cun/1) it says what the card says: what it is, and what it asks of its callers.
"""

import sys

if __name__ == "inspect":  # not tfbrats.inspect: somebody asked for Python's own module, and found this one
    raise SystemExit(
        f"error: {sys.argv[0]}: the folder of the package tfbrats stands first where Python looks for modules, "
        "so that it takes inspect.py for its own. Run a command as a module, from another folder: cd .. and "
        "python -m tfbrats.train, not python tfbrats/train.py."
    )

import argparse
import concurrent.futures
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tfbrats import labels
from tfbrats.cases import split_files
from tfbrats.datasets import case_names, layouts, patients
from tfbrats.datasets.scan_names import beginning_of_listing, nifti_stem
from tfbrats.dicom import study
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES, REGIONS, Tissue
from tfbrats.machine import files, memory, packing, paths
from tfbrats.reporting import model_text
from tfbrats.terminal import bars, command, style, verbs
from tfbrats.terminal.wording import columns, counted, grouped

if TYPE_CHECKING:  # what reads images is imported once the arguments are understood
    from tfbrats.cases.case import Case

_SATURATED_VOXELS = 1000  # at the top of the data type: no longer a bright vessel or two
_TOPS = (np.iinfo(np.int16).max, np.iinfo(np.uint16).max)
_MOSTLY = 0.5  # of a tumour outside the brain
_DEPTH = 4  # of folders in which data sets are looked for
_NAMED = 8  # data sets, before the rest is counted
_READERS = 4  # cases held in memory at a time, ~0.2 GB each at full size
_LAYOUT = ("<", "  <16", "  <4", "  <13", "  <15", "")  # of the table of cases; its last column by itself:
_VOLUMES = (*([">8"] * len(REGIONS)), "  ")


def describe(entry: layouts.CaseFiles) -> dict:
    """What one case has and lacks, and its faults, ready for JSON. Reads each of its files once.

    Returns:
        case_id, patient_id, edition, modalities, missing, segmentation (file name or None), notes, faults;
        of a case that could be read also shape, spacing_mm, and of its segmentation tissue_voxels and
        volume_ml (by region).
    """
    from tfbrats.cases import case, preprocess

    present = [modality for modality, _, _ in entry.images]
    content = {
        "case_id": entry.case_id,
        "patient_id": entry.patient_id,
        "edition": entry.schema.edition,
        "modalities": present,
        "missing": [m for m in MODALITIES if m not in present],
        "segmentation": files.name(entry.label) if entry.label else None,
        "shape": None,
        "spacing_mm": None,
        "tissue_voxels": None,
        "volume_ml": None,
        "notes": list(entry.notes),
        "faults": [],
    }
    try:
        loaded = case.load(entry, need_label=entry.label_expected)
    except case.CaseError as error:
        content["faults"] = list(error.faults)
        content["notes"] += error.notes
        return content
    content["shape"] = list(loaded.image.shape[:3])
    content["spacing_mm"] = list(loaded.spacing_mm)
    content["notes"] += [*loaded.notes, *_saturation(loaded), *_too_large(loaded)]
    brain = preprocess.brain_mask(loaded.image)
    try:
        preprocess.check(loaded.label, brain)
    except InputError as error:
        content["faults"].append(str(error))
    if loaded.label is not None:
        sizes, notes = _segmentation(loaded, brain)
        content |= sizes
        content["notes"] += notes
    return content


def _segmentation(loaded: "Case", brain: np.ndarray) -> tuple[dict[str, dict], list[str]]:
    """`tissue_voxels` and `volume_ml` of a case's segmentation, and what is odd about it.

    Args:
        brain: bool [I, J, K].
    """
    from tfbrats.cases import preprocess

    counts = np.bincount(loaded.label.ravel(), minlength=len(Tissue))
    voxels = {tissue.name: int(counts[tissue]) for tissue in Tissue if tissue and counts[tissue]}
    volumes = {region: round(volume, 3) for region, volume in loaded.volumes_ml.items()}
    notes = [] if voxels else ["its segmentation is empty"]
    if 1 > (outside := preprocess.tumour_outside(loaded.label, brain)) > _MOSTLY:
        notes.append(
            f"{100 * outside:.0f} % of its segmentation lies outside the brain: another case's, or flipped?"
        )
    return {"tissue_voxels": voxels, "volume_ml": volumes}, notes


def _too_large(loaded: "Case") -> list[str]:
    """What an exported model would refuse, though records can be made of it."""
    shape = loaded.image.shape[:3]
    if max(shape) <= packing.LONGEST_SIDE and np.prod(shape) <= packing.MOST_VOXELS:
        return []
    return [
        f"{' x '.join(map(str, shape))} voxels: an exported model takes up to {packing.LONGEST_SIDE} a side, "
        f"{packing.MOST_VOXELS} in all. Crop or resample it for tfbrats predict and the server"
    ]


def _saturation(loaded: "Case") -> Iterator[str]:
    """Notes on scans with many voxels at the top of their data type."""
    for channel, modality in enumerate(loaded.modalities):
        image = loaded.image[..., channel]
        top = image.max()
        count = int((image == top).sum()) if top in _TOPS else 0
        if count >= _SATURATED_VOXELS:
            yield f"{modality} is saturated: {count} voxels at {int(top)}"


def inspect(
    root: str | os.PathLike,
    edition: str | None = None,
    splits: str | None = None,
    fold: int | None = None,
    patients_file: str | None = None,
) -> dict:
    """Everything `main` says, as one mapping ready for JSON; "faults" holds all, "sound" whether none.

    Args:
        patients_file: a CSV of case,patient, where names do not tell.

    Raises:
        InputError: no case is found, or its edition is not told by its name; no such splits file.
    """
    if fold is not None and not splits:
        raise InputError(f"--fold {fold} needs --splits: the file that holds the folds.")
    division = split_files.read(splits, fold) if splits else None
    dataset = _found(root, edition).with_patients(patients_file)
    descriptions = _described(dataset)
    faults = [f"{row['case_id']}: {fault}" for row in descriptions for fault in row["faults"]]
    of_cases = (f"{row['case_id']}: {note}" for row in descriptions for note in row["notes"])
    notes = [*dataset.notes, *dataset.patient_notes, *of_cases]
    if edition is not None:
        doubts = _doubts(EDITIONS[edition], descriptions)
        faults += doubts.faults
        notes += doubts.notes
    if not any(row["segmentation"] for row in descriptions):
        notes.append("no segmentations: usable for prediction only")
    if division is not None:
        patient_of = dataset.patient_of
        faults += [f"{splits}: {fault}" for fault in split_files.faults(division, patient_of, dataset.root)]
        left = sorted(set(patient_of) - {case_id for ids in division.values() for case_id in ids})
        if left:
            notes.append(f"{splits}: {len(left)} cases are in no split: {split_files.some(left)}")
    return {
        "root": dataset.root,
        "layouts": dataset.layouts,
        "editions": {entry.schema.edition: entry.schema.describe() for entry in dataset.cases},
        "cases": descriptions,
        "notes": notes,
        "faults": faults,
        "sound": not faults,
    }


def _found(root: str | os.PathLike, edition: str | None) -> layouts.Dataset:
    """The data set, or a DICOM study; of a folder that holds several data sets, their names are told."""
    try:
        return layouts.find(root, edition)
    except InputError as error:
        if isinstance(error, layouts.NoCaseError) and study.lies_in(list(files.walk(root))):
            return study.find(root, edition)
        below = _data_sets_below(os.fspath(root), edition) if files.is_folder(root) else []
        if not below:
            raise
        more = f" and {len(below) - _NAMED} more" if len(below) > _NAMED else ""
        raise InputError(
            f"{root}: {counted(len(below), 'data set')} below: {', '.join(below[:_NAMED])}{more}. Name "
            f"{'it' if len(below) == 1 else 'one'}.\nAll of it together is none: {error}"
        ) from error


def _data_sets_below(root: str, edition: str | None) -> list[str]:
    """The folders in `root` that are data sets by themselves, from the top down."""
    top = beginning_of_listing(root)
    images = [path for path in files.walk(root) if nifti_stem(path) is not None]

    def below(folder: str, depth: int) -> list[str]:
        inside = [path.removeprefix(f"{folder}/") for path in images if path.startswith(f"{folder}/")]
        found, lone_cases = [], []
        for name in sorted({path.partition("/")[0] for path in inside if "/" in path}):
            child = f"{folder}/{name}"
            try:
                cases = layouts.find(child, edition).cases
            except InputError:
                found += below(child, depth - 1) if depth else []
                continue
            is_lone = len(cases) == 1 and all("/" not in p.removeprefix(f"{child}/") for p in cases[0].paths())
            (lone_cases if is_lone else found).append(child)
        # Folders of one case each are no data sets: the one that they lie in is.
        return [*found, *(lone_cases if len(lone_cases) == 1 else [folder] if lone_cases else [])]

    as_given = root.rstrip("/")
    return [as_given + folder.removeprefix(top) for folder in below(top, _DEPTH) if folder != top]


def _described(dataset: layouts.Dataset) -> list[dict]:
    """`describe` of each case, with its patient as the data set's tables tell it."""
    # Decompression releases the interpreter's lock; only descriptions are kept.
    with concurrent.futures.ThreadPoolExecutor(min(_READERS, memory.cores())) as pool:
        descriptions = list(
            bars.bar(pool.map(describe, dataset.cases), total=len(dataset.cases), desc="cases", unit="case")
        )
    patient_of = dataset.patient_of
    return [{**row, "patient_id": patient_of[row["case_id"]]} for row in descriptions]


class _Doubts(NamedTuple):
    """What speaks against a table of labels."""

    faults: list[str]
    notes: list[str]


def _doubts(schema: labels.LabelSchema, descriptions: Sequence[Mapping]) -> _Doubts:
    """What speaks against the table that was given by hand, in all masks of which no id tells the edition.

    Of a mask or two it is a note, as they may be so; of more it is a fault.
    """
    masks = [
        {Tissue[name] for name in row["tissue_voxels"]}
        for row in descriptions
        if row["tissue_voxels"] and case_names.edition_by_id(row["case_id"]) is None
    ]
    remarks = labels.doubts(schema, set().union(*masks))
    return _Doubts(remarks, []) if len(masks) >= labels.MASKS_THAT_TELL else _Doubts([], remarks)


def _volumes(row: Mapping) -> str:
    """The last columns of a case's line: its volumes, and which tissues it lacks or has beside the usual."""
    if not row["volume_ml"]:
        return ""
    tissues = row["tissue_voxels"]
    absent = [name for name in ("NCR", "ED", "ET") if name not in tissues]
    extra = [f"no {name}" for name in absent] + [name for name in ("RC", "CC") if name in tissues]
    cells = [f"{volume:.1f}" for volume in row["volume_ml"].values()]
    cells += [", ".join(extra)] if extra else []
    return "".join(columns([cells], _VOLUMES))


def _cells(row: Mapping) -> list[str]:
    """A case's line of the table. Its faults stand in the place of shape and spacing."""
    names = " ".join(m if m in row["modalities"] else "-" * len(m) for m in MODALITIES)
    cells = [row["case_id"], names, "yes" if row["segmentation"] else "-"]
    if row["faults"]:
        return [*cells, f"{counted(len(row['faults']), 'fault')}, below{_volumes(row)}"]
    spacing = " ".join(f"{side:.4g}" for side in row["spacing_mm"])
    return [*cells, " ".join(map(str, row["shape"])), spacing, _volumes(row)]


def _told(report: Mapping, title: str) -> list[str]:
    """The notes or faults of a report; what is the same of several cases is said once."""
    in_common = {
        f"{row['case_id']}: {text}": f"{row['case_id']}: {text.replace(row['case_id'], 'CASE')}"
        for row in report["cases"]
        for text in row[title]
    }
    times = Counter(text.partition(": ")[2] for text in in_common.values())

    def told(text: str) -> str:
        shared = in_common.get(text, text)
        return shared if times[shared.partition(": ")[2]] > 1 else text

    return grouped(map(told, report[title]), lambda name: "file" if "/" in name else "case")


def _print(report: Mapping) -> None:
    rows = report["cases"]
    patient_count = len({row["patient_id"] for row in rows})
    masks = sum(row["segmentation"] is not None for row in rows)
    heads = [("layout", layout) for layout in report["layouts"]]
    heads += [("edition", f"{edition}: {values}") for edition, values in report["editions"].items()]
    heads.append(("cases", f"{len(rows)} of {patient_count} patients, {masks} with a segmentation"))
    print("\n".join(columns(heads, ("<9", ""))) + "\n")
    volumes = columns([[f"{region} ml" for region in REGIONS]], _VOLUMES)
    titles = ("case", "modalities", "mask", "shape", "spacing mm", *volumes)
    print("\n".join(columns([titles, *map(_cells, rows)], _LAYOUT)))
    for title in ("notes", "faults"):
        if report[title]:
            print(f"\n{style.heading(title)}")
            for text in _told(report, title):
                print("  " + text.replace("\n", "\n  "))
    faulty = sum(bool(row["faults"]) for row in rows)
    if report["sound"]:
        print("\nNothing is wrong.")
    else:
        faults = counted(len(report["faults"]), "fault")
        print(f"\n{faults}; {faulty} of {counted(len(rows), 'case')} cannot be used.")


def _read_as_own(folder: str, edition: str | None) -> str | None:
    """A sentence on patients that `predict` finds here by any names; None where it reads what we read."""
    from tfbrats.predictions import own_scans

    try:
        found = own_scans.find(folder, edition)
    except InputError:
        return None
    patients_found = [entry.case_id for entry in found if entry.layout == own_scans.LAYOUT]
    if not patients_found:
        return None
    more = f" and {len(patients_found) - _NAMED} more" if len(patients_found) > _NAMED else ""
    number = counted(len(patients_found), "patient")
    return (
        f"one's own scans lie here, of {number} ({', '.join(patients_found[:_NAMED])}{more}): not named as "
        "those of a data set, but tfbrats predict reads them as they are"
    )


def _to_predict(data: str) -> str:
    return verbs.command_line("tfbrats.predict", "--model", "MODEL", "--input", data, "--output", "predictions")


def _following(options: argparse.Namespace, report: Mapping, as_own: str | None) -> str:
    """What to do with what was found."""
    if as_own:
        return _to_predict(options.folder)
    given = [("--edition", options.edition), ("--patients", options.patients), ("--splits", options.splits)]
    given += [("--fold", None if options.fold is None else str(options.fold))]
    more = [text for pair in given if pair[1] is not None for text in pair]
    if not report["sound"]:
        return f"mend that, and run {verbs.command_line('tfbrats.inspect', options.folder, *more)} again"
    if not any(row["segmentation"] for row in report["cases"]):
        return _to_predict(options.folder)
    return verbs.command_line(
        *("beam_pipelines.nifti_to_tfrecord", "--config", "cun", "--input", options.folder, *more),
        *("--output", "records/cun"),
    )


def parser() -> command.Parser:
    """The command's options."""
    ours = command.parser("tfbrats.inspect", __doc__)
    ours.add_argument("folder", type=paths.argument, help="a data set, a case's folder, or a model; gs:// too")
    ours.add_argument("--edition", choices=tuple(EDITIONS), help="overrides what the names say")
    ours.add_argument(
        "--splits", type=paths.argument, metavar="FILE", help="case ids by split: no patient may be in two"
    )
    ours.add_argument("--fold", type=int, metavar="N", help="which of the folds that --splits holds")
    patients.add_argument(ours)
    ours.add_argument("--json", action="store_true", help="print one JSON object instead")
    return ours


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    if told := model_text.told(options.folder, options.json):
        print(told)
        return 0
    try:
        report = inspect(options.folder, options.edition, options.splits, options.fold, options.patients)
    except InputError as error:
        if not options.json:
            if as_own := _read_as_own(options.folder, options.edition):
                raise InputError(f"{error}\nBut {as_own}: {_to_predict(options.folder)}") from error
            raise
        report = {"root": options.folder, "cases": [], "notes": [], "faults": [str(error)], "sound": False}
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
        as_own = None if report["sound"] else _read_as_own(options.folder, options.edition)
        if as_own:
            print(f"But {as_own}.")
        print(style.following(_following(options, report, as_own)))
    return 0 if report["sound"] else 1


if __name__ == "__main__":
    command.run(main)
