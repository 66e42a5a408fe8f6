"""What is to be segmented, and where each result goes: what `predict` and the client have in common.

All that can be told before a model is loaded or a server is asked: no such case, an output that cannot be
written or should not be, a scan that the model does not take.
"""

import argparse
import dataclasses
from collections.abc import Sequence

from tfbrats.cases import nifti
from tfbrats.datasets import layouts
from tfbrats.datasets.layouts import CaseFiles, Dataset
from tfbrats.dicom import headers, parsing, segmentation_object, study
from tfbrats.dicom.study import Study
from tfbrats.errors import InputError
from tfbrats.labels import MODALITIES
from tfbrats.machine import files
from tfbrats.predictions import doubts, own_scans, provenance, results, volumes
from tfbrats.predictions.model_card import ModelCard
from tfbrats.predictions.results import Target
from tfbrats.terminal import style, verbs, wording

_NO_IMAGES = (".html", ".json", ".png", ".zip", ".csv", ".dcm", ".nrrd", ".mha", ".img", ".hdr", ".gz")
_OWN = (own_scans.LAYOUT, own_scans.NAMED, study.LAYOUT)
_SHOWN = 10  # cases that a message names


def dataset_of(options: argparse.Namespace) -> Dataset:
    """The cases that the options name (`options.add_input`), by names alone.

    Raises:
        InputError: none, or a scan that cannot be meant.
    """
    scans = {name: path for name in MODALITIES if (path := getattr(options, name)) is not None}
    if scans and options.input is not None:
        raise InputError(f"--input and --{next(iter(scans))}: give a folder, or one patient's scans by name.")
    if scans:
        if options.case or options.cases:
            raise InputError("--case and --cases choose among --input's cases; scans that are named are one.")
        return own_scans.named(scans, options.edition)
    if options.input is None:
        raise InputError(f"which scans? Give --input FOLDER, or one patient's scans: {own_scans.FLAGS}.")
    return own_scans.find(options.input, options.edition)


def is_file(output: str) -> bool:
    """Whether --output names one case's file; any other name is a folder's, made if need be.

    Raises:
        InputError: a file of another kind.
    """
    if files.is_folder(output) or output.endswith("/"):
        return False
    if layouts.nifti_stem(output) is not None:
        return True
    if output.lower().endswith(_NO_IMAGES):
        raise InputError(f"{output}: an output file ends in .nii.gz or .nii; another name is a folder's.")
    return False


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Cases to be segmented, and the place of each one's result.

    Attributes:
        folder: of results; None for a file that the person named.
    """

    dataset: Dataset
    pairs: tuple[tuple[CaseFiles, Target], ...]
    folder: str | None

    @property
    def targets(self) -> list[Target]:
        return [target for _, target in self.pairs]

    def todo(self, overwrite: bool) -> list[tuple[CaseFiles, Target]]:
        return [(entry, target) for entry, target in self.pairs if overwrite or not target.is_done()]

    def check(self, card: ModelCard, overwrite: bool) -> None:
        """What `prepare` and the table of volumes would refuse, before a model is loaded; deletes nothing.

        Raises:
            InputError: results of another model, or another file in the place of volumes.csv.
        """
        results.check_owner(card, self._place, overwrite, self.targets)
        if self.folder is not None:
            volumes.read(self.folder)

    def prepare(self, card: ModelCard, overwrite: bool) -> None:
        """Makes way for results of a model (`results.prepare`)."""
        results.prepare(card, self._place, overwrite, self.targets)

    @property
    def _place(self) -> str:
        return files.parent(self.targets[0].segmentation) or "." if self.folder is None else self.folder

    def by(self, card: ModelCard) -> tuple["Wanted", list[str]]:
        """The same for a model; notes on it.

        Cases whose label values nothing tells are written in those of the model's card.

        Raises:
            InputError: scans that were named, or those of the only case, do not go with the model. Of several
                cases one that lacks a scan is that case's fault, told when its turn comes.
        """
        dataset = own_scans.written_as(self.dataset, card.schema_of_labels)
        entry_of = {entry.case_id: entry for entry in dataset.cases}
        pairs = tuple((entry_of[entry.case_id], target) for entry, target in self.pairs)
        for entry, _ in pairs:
            is_own = entry.layout in (own_scans.LAYOUT, study.LAYOUT)
            if entry.layout == own_scans.NAMED or (is_own and len(pairs) == 1):
                _check_scans(entry, card)
        untold = [entry for entry, _ in pairs if entry.case_id in dataset.untold]
        notes = [note] if (note := doubts.n4_note(card)) else []
        if untold and untold[0].layout not in _OWN:  # the last line tells it
            more = f" and {len(untold) - 1} more" if untold[1:] else ""
            notes.append(
                f"{untold[0].case_id}{more}: no name tells an edition; written in the model's label values "
                f"({untold[0].schema.describe()}). --edition chooses others"
            )
        return dataclasses.replace(self, dataset=dataset, pairs=pairs), notes


def _check_scans(entry: CaseFiles, card: ModelCard) -> None:
    present = [modality for modality, *_ in entry.images]
    lacking = [modality for modality in card.modalities if modality not in present]
    needless = [modality for modality in present if modality not in card.modalities]
    takes = f"{entry.case_id}: the model {card.name} takes {', '.join(card.modalities)}"
    is_named = entry.layout == own_scans.NAMED
    if lacking:
        cure = " ".join(f"--{modality} FILE" for modality in lacking)
        found = ", ".join(f"{modality} {files.name(path)}" for modality, path, _ in entry.images)
        raise InputError(
            f"{takes}; found {found}. "
            + (f"Give {cure} too." if is_named else f"Name all by {own_scans.FLAGS}, or rename the files.")
            + f" What to do without such a scan: {own_scans.PAGE}."
        )
    if needless and is_named:
        raise InputError(
            f"{takes}, and not {', '.join(needless)}. Leave {' '.join(f'--{name}' for name in needless)} out."
        )


def wanted(
    dataset: Dataset,
    chosen: Sequence[str] | None,
    output: str,
    probabilities: bool | str | None = None,
    with_provenance: bool = False,
    overwrite: bool = False,
    uncertainty: bool = False,
    dicom_seg: str | bool = False,
) -> Wanted:
    """Which cases, and where each goes.

    Args:
        chosen: ids of cases; None for all.
        probabilities: True writes them beside each segmentation; a path names the file of the one case.
        uncertainty: writes a file a region beside each segmentation.
        dicom_seg: writes a DICOM-SEG beside each; True onto the series that the case was read from, a path onto
            the series that lies there.

    Raises:
        InputError: no such case, several for one file, or an output that cannot be or must not be written.
    """
    entries = layouts.select(dataset, chosen)
    place = _study(dataset, entries, dicom_seg) if dicom_seg else None
    if is_file(output):
        path = _beside(output, "_probabilities") if probabilities is True else probabilities or None
        maps = tuple(_beside(output, end) for end in results.UNCERTAINTY.values() if uncertainty)
        pairs = ((_only(entries, dataset.root), Target(output, path, with_provenance, maps, study=place)),)
        _check_files(pairs[0][1], overwrite)
        folder = None
    else:
        pairs = tuple(
            (
                entry,
                dataclasses.replace(
                    results.target(entry.case_id, output, bool(probabilities), with_provenance, uncertainty),
                    study=place,
                ),
            )
            for entry in entries
        )
        files.check_can_hold(output)
        folder = output
    written = [path for _, target in pairs for path in (target.all_paths if folder else target.paths)]
    layouts.check_outputs(dataset.cases, written)
    if with_provenance:
        provenance.check([target.segmentation for _, target in pairs])
    if place is not None:
        segmentation_object.check([target.dicom_seg for _, target in pairs])
    return Wanted(dataset, pairs, folder)


def _study(dataset: Dataset, entries: Sequence[CaseFiles], series: str | bool) -> Study:
    """The study that the one case's DICOM-SEG is written onto.

    Raises:
        InputError: none, several cases, or scans that do not lie on the series.
        MissingPackageError: what writes the object is not installed.
    """
    parsing.package("highdicom.seg")
    if len(entries) > 1:
        raise InputError(
            f"--dicom-seg goes with one case; {dataset.root} holds {len(entries)}. Name one with --case."
        )
    (entry,) = entries
    own = dataset.studies.get(entry.case_id)
    if own is not None:
        if series is not True:
            raise InputError("--dicom-seg SERIES: the scans are DICOM themselves. Give --dicom-seg alone.")
        return own
    if series is True:
        raise InputError(
            "--dicom-seg: the scans are NIfTI files. Name the DICOM series on whose voxels they lie: "
            f"--dicom-seg SERIES, a folder; see {headers.PAGE}."
        )
    place = study.alone(series, "--dicom-seg")
    for _, path, _ in entry.images[:1]:  # the others lie on its grid, or are refused when they are read
        segmentation_object.check_grid(place, nifti.read_grid(path), entry.case_id)
    return place


def _beside(output: str, ending: str) -> str:
    """seg_probabilities.nii.gz for seg.nii.gz."""
    stem = layouts.nifti_stem(output)
    return f"{output[: len(output) - len(files.name(output))]}{stem}{ending}.nii.gz"


def _check_files(target: Target, overwrite: bool) -> None:
    paths = [path for path in (target.segmentation, target.probabilities, *target.uncertainty) if path]
    for path in paths:
        if layouts.nifti_stem(path) is None:
            raise InputError(f"{path}: an output file ends in .nii.gz or .nii.")
        if files.exists(path) and not overwrite:
            raise InputError(f"{path} exists. Give another name, or --overwrite.")
        files.check_can_hold(files.parent(path) or ".")
    if target.study and files.exists(target.dicom_seg) and not overwrite:
        raise InputError(f"{target.dicom_seg} exists. Give --output another name, or --overwrite.")
    if len(set(map(files.canonical, paths))) < len(paths):
        raise InputError(f"{paths[0]}: named by --output and by --probabilities. Give two names.")


def _only(entries: Sequence[CaseFiles], root: str) -> CaseFiles:
    if len(entries) == 1:
        return entries[0]
    names = sorted(entry.case_id for entry in entries)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise InputError(
        f"{root}: {len(names)} cases for one output file: {', '.join(names[:_SHOWN])}{more}. Name one with "
        "--case, or give a folder as --output."
    )


def ending(wanted: Wanted, by: str, fresh: Sequence[CaseFiles], uploads: bool = False) -> list[str]:
    """What a command says when all are done: where they are, in which values, what comes next.

    Args:
        by: the model, e.g. "cun version 3".
        fresh: what this run has segmented; the others were kept.
        uploads: an upload is packed of them next, by the same command.
    """
    place = wanted.targets[0].segmentation if wanted.folder is None else wanted.folder
    number = wording.counted(len(wanted.pairs), "segmentation")
    lines = [f"{number} by {by} in {place}; {_values(wanted, fresh)}"]
    lines += [f"DICOM-SEG in {target.dicom_seg}" for target in wanted.targets if target.study]
    if uploads:
        return lines
    untold = wanted.dataset.untold  # its masks cannot be read without --edition
    if wanted.folder is not None and any(e.label and e.case_id not in untold for e, _ in wanted.pairs):
        some = wanted.pairs if len(wanted.pairs) < len(wanted.dataset) else ()
        chosen = [text for entry, _ in some if entry.label for text in ("--case", entry.case_id)]
        arguments = ("--prediction", place, "--reference", wanted.dataset.root, *chosen, "--output", "scores")
        return [*lines, style.following(verbs.command_line("tfbrats.evaluate", *arguments))]
    entry, first = wanted.pairs[0][0], wanted.targets[0].segmentation
    viewers = "ITK-SNAP, 3D Slicer"
    if wanted.folder is not None and entry.layout != own_scans.NAMED:  # the card beside it tells its values
        which = ("--case", entry.case_id) if len(wanted.dataset) > 1 else ()
        page = ("--prediction", place, "--output", f"{entry.case_id}.html")
        viewers = f"{verbs.command_line('tfbrats.view', wanted.dataset.root, *which, *page)}; or {viewers}"
    look = f"look at {first} over the scans in a viewer ({viewers}); for research only"
    return [*lines, style.following(look)]


def _values(wanted: Wanted, fresh: Sequence[CaseFiles]) -> str:
    """In which label values the files are; of kept ones that is not known."""
    ids = {entry.case_id for entry in fresh}

    def of(is_fresh: bool) -> str:
        entries = [entry for entry, _ in wanted.pairs if (entry.case_id in ids) is is_fresh]
        return "; or ".join(dict.fromkeys(entry.schema.describe() for entry in entries))

    kept = len(wanted.pairs) - len(ids)
    if not kept:
        return f"values: {of(True)}"
    own = f"kept, in the values that {'it was' if kept == 1 else 'they were'} written in (--overwrite writes"
    if not ids:
        return f"{own} {of(False)})"
    return f"values of {len(ids)}: {of(True)}; {kept} {own} {of(False)})"
