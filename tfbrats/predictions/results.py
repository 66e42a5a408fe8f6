"""One case through a model, and the files that it leaves; whatever segments it, whoever asks. No TensorFlow.

`predict`, the client and the Beam job differ in what segments a case. How it is read and written, what is said
of one that fails, and whose results may lie in a folder is the same for all and stands here.
"""

import concurrent.futures
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tfbrats.cases import case, nifti, overlays, preprocess
from tfbrats.cases.case import Case
from tfbrats.cases.rejected import LIST_FAULTS, Rejected
from tfbrats.datasets import layouts
from tfbrats.datasets.layouts import CaseFiles
from tfbrats.dicom import parsing, segmentation_object
from tfbrats.dicom.study import Study
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS
from tfbrats.machine import files, paths
from tfbrats.machine.stopwatch import Stopwatch
from tfbrats.predictions import doubts, model_card, provenance
from tfbrats.predictions.model_card import ModelCard

VOLUMES = "volumes.csv"  # in a folder of results
# Of each region, in the names of QU-BraTS (arXiv 2112.10074): uint8, hundredths of a bit, 0 where it is sure.
UNCERTAINTY = {"WT": "_unc_whole", "TC": "_unc_core", "ET": "_unc_enhance"}
STAGES = ("read", "segment", "write")  # of the work on a case
_HEADERS_AT_ONCE = 8  # from a store, each takes a while
_NOTES_TOLD = 20  # of a whole data set
_NO_PACKAGE = (preprocess.MissingPackageError, parsing.MissingPackageError)
_OF_ALL_CASES = (model_card.OtherModelError, *_NO_PACKAGE)  # no fault of one case
_LEFT_S = 3600  # a half file that was not written to for so long is a dead command's

# --- where it goes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """Where the result of one case goes.

    Attributes:
        segmentation: the file.
        probabilities: the file of WT, TC and ET; None for none.
        with_provenance: also the file beside the segmentation (`provenance`).
        uncertainty: the files of WT, TC and ET; () for none.
        folder: that of results, which keeps their model's card; None for files that the person named.
        study: onto whose images a DICOM-SEG is written too; None for none.
    """

    segmentation: str
    probabilities: str | None = None
    with_provenance: bool = False
    uncertainty: tuple[str, ...] = ()
    folder: str | None = None
    study: Study | None = None

    @property
    def paths(self) -> list[str]:
        """The files that the result is, the segmentation first."""
        return [
            self.segmentation,
            *([self.probabilities] if self.probabilities else []),
            *self.uncertainty,
            *([provenance.path_of(self.segmentation)] if self.with_provenance else []),
            *([self.dicom_seg] if self.study else []),
        ]

    @property
    def dicom_seg(self) -> str:
        return segmentation_object.path_of(self.segmentation)

    @property
    def all_paths(self) -> list[str]:
        """Those, and what else another command may have left of an earlier one."""
        if self.folder is None:
            earlier = Target(self.segmentation, self.probabilities, True, self.uncertainty)
        else:
            case_id = files.name(self.segmentation).removesuffix(".nii.gz")
            earlier = target(case_id, self.folder, True, True, True)
        return [*earlier.paths, self.dicom_seg]

    def is_done(self) -> bool:
        return all(map(files.exists, self.paths))


def target(
    case_id: str,
    folder: str | os.PathLike,
    probabilities: bool = False,
    with_provenance: bool = False,
    uncertainty: bool = False,
) -> Target:
    """A case's place in a folder of results."""
    return Target(
        files.join(folder, f"{case_id}.nii.gz"),
        files.join(folder, f"{case_id}_probabilities.nii.gz") if probabilities else None,
        with_provenance,
        tuple(files.join(folder, f"{case_id}{end}.nii.gz") for end in UNCERTAINTY.values() if uncertainty),
        os.fspath(folder),
    )


def prepare(card: ModelCard, folder: str | os.PathLike, overwrite: bool, targets: Sequence[Target]) -> None:
    """Makes way in a folder for results of the model that `card` is of: those of two must not be mixed.

    Another model's results go only when asked for, and all at once, so that a killed run leaves no mixture.
    What killed commands have left of these results, half written, goes after an hour.

    Args:
        folder: that the targets are in.
        overwrite: what is at the targets may be deleted.

    Raises:
        OtherModelError: the folder holds another model's results.
    """
    path = files.join(folder, model_card.FILE)
    if not check_owner(card, folder, overwrite, targets):
        for target in targets:
            remove(target)
        files.remove(files.join(folder, VOLUMES))
        files.remove(path)
    files.sweep([path, *(path for target in targets for path in target.all_paths)], _LEFT_S)


def check_owner(card: ModelCard, folder: str | os.PathLike, overwrite: bool, targets: Sequence[Target]) -> bool:
    """Whether a folder's results, if there are any, are this model's; deletes nothing.

    Raises:
        OtherModelError: they are another's, and must not be deleted (`prepare`).
    """
    path = files.join(folder, model_card.FILE)
    owner = model_card.parse(files.read_bytes(path), path) if files.exists(path) else card
    if owner != card:
        redone = {files.name(path) for target in targets for path in target.all_paths}
        images = [files.name(path) for path in files.walk(folder) if layouts.nifti_stem(path) is not None]
        others = [name for name in images if name not in redone]
        if others or not overwrite:
            cure = "Choose another --output" if others else "Choose another --output, or pass --overwrite"
            raise model_card.OtherModelError(
                f"{folder}: holds segmentations of another model, {owner.name} version {owner.version} "
                f"(now {card.name} version {card.version})"
                + (f", and not only of the cases named now: {others[0]}. " if others and overwrite else ". ")
                + f"{cure}."
            )
    return owner == card


def remove(target: Target) -> None:
    """Deletes a result, where there is one, with all that belongs to it."""
    provenance.drop(target.segmentation)
    segmentation_object.drop(target.segmentation)
    for path in target.all_paths:
        if path not in (provenance.path_of(target.segmentation), target.dicom_seg):
            files.remove(path)


# --- one case, whatever comes of it ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Segmentation:
    """A segmented case, on its grid.

    Attributes:
        tissues: `labels.Tissue`, uint8 [I, J, K].
        probabilities: of WT, TC, ET, float32 [I, J, K, 3]; None if they were not asked for.
        tiles: int32 [3], how many each stage of a cascade ran; None for models that are none.
        card: of the model that made it.
        case: that was segmented, with its image; None where only the answer is kept.
        entropy: of WT, TC, ET, uint8 [I, J, K, 3], in hundredths of a bit; None if it was not asked for.
        request_id: by which a server was asked; None where none was.
    """

    tissues: np.ndarray
    probabilities: np.ndarray | None
    tiles: np.ndarray | None
    card: ModelCard
    case: Case | None = field(default=None, kw_only=True)
    entropy: np.ndarray | None = field(default=None, kw_only=True)
    request_id: str | None = field(default=None, kw_only=True)

    @property
    def labels(self) -> np.ndarray:
        """The label values that the card names, uint8 [I, J, K]; `tissues` are the same whatever the card."""
        return self.card.schema_of_labels.to_values(self.tissues, self._name)

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Millilitres of WT, TC and ET.

        Raises:
            InputError: it knows no case, and so no voxel size.
        """
        return case.volumes_ml(self.tissues, self._own_case().spacing_mm)

    def save(self, path: str | os.PathLike, edition: str | None = None) -> None:
        """Writes it on the grid of its case, as `tfbrats predict` would, and reads it back.

        Of a case of arrays the grid is made up: voxels of their spacing, axes to the patient's left, back and
        head, the first voxel at the origin. Over the scans that the arrays came from it lies elsewhere.

        Args:
            path: ends in .nii.gz or .nii; replaced if it is there.
            edition: whose label values are written, e.g. "2023"; by default those of the case's own files. A
                case of arrays has the model's, as has one of a folder or files that tell no edition.

        Raises:
            InputError: it knows no case; the path cannot be written, is one of no NIfTI file, or the edition
                is unknown or has no value for a tissue.
        """
        loaded, path = self._own_case(), paths.given(os.fspath(path))
        if layouts.nifti_stem(path) is None:
            raise InputError(f"{path}: expected a name that ends in .nii.gz or .nii.")
        if edition is not None and edition not in EDITIONS:
            raise InputError(f"edition {edition!r} is unknown; choose from {', '.join(EDITIONS)}.")
        own = self.card.schema_of_labels if loaded.edition_untold else loaded.schema
        schema = own if edition is None else EDITIONS[edition]
        case.save_segmentation(path, self.tissues, loaded.grid, schema)

    @property
    def _name(self) -> str:
        return self.case.case_id if self.case else "segmentation"

    def _own_case(self) -> Case:
        if self.case is None:
            raise InputError("this segmentation knows no case: segment one with its model's segment(case).")
        return self.case

    def __repr__(self) -> str:
        by = f"by {self.card.name} version {self.card.version}"
        if self.case is None:
            return f"<Segmentation {by}: {' x '.join(map(str, self.tissues.shape))} voxels>"
        volumes = ", ".join(f"{region} {volume:.1f} ml" for region, volume in self.volumes_ml.items())
        return f"<Segmentation of {self._name} {by}: {volumes}>"

    def _repr_html_(self) -> str | None:
        """Three planes, outlined as predicted; below as in the reference, where the case has one."""
        if self.case is None:
            return None
        scans = overlays.scans_shown(self.case.image, self.case.modalities)
        rows = [overlays.Row(f"prediction on {title}", grey, self.tissues) for title, grey in scans.items()]
        if self.case.label is not None:
            title, grey, _ = rows[0]
            rows[1:] = [overlays.Row(title.replace("prediction", "reference"), grey, self.case.label)]
        return overlays.three_planes_html(repr(self)[1:-1], rows, self.case.spacing_mm)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict:
        """Beside the pictures NiiVue's widget, in a notebook that has imported ipyniivue."""
        return {} if self.case is None else self.case.niivue_bundle(self.tissues)


@dataclass(frozen=True)
class Attempt:
    """What became of one case. Holds its voxels: to be looked at and let go.

    Attributes:
        seconds: by those of `STAGES` that it came to.
        fault: why there is no result; None where there is one.
        case: as it was read, or None.
        found: what `segment` made of it, or None.
        notes: guesses in reading it, that the model was trained on other voxels, and what looks odd.
    """

    seconds: dict[str, float]
    fault: Rejected | None
    case: Case | None
    found: Segmentation | None
    notes: tuple[str, ...] = ()


_HINTS = {
    "read": LIST_FAULTS,
    "segment": f"what the model takes is said in its {model_card.FILE}",
    "write": "--edition chooses the label values that are written",
}


def attempt(
    segment: Callable[[Case], Segmentation],
    entry: CaseFiles,
    card: ModelCard,
    target: Target,
    concerns_all: Callable[[Exception], bool] = lambda error: False,
    tell: Callable[[str], None] = lambda note: None,
) -> Attempt:
    """Reads, segments and writes one case. What is wrong with the case is told and not raised.

    Args:
        segment: what a model makes of a case that was loaded with the modalities of its card.
        card: of that model.
        concerns_all: which of its errors are no fault of the case, so that they are raised.
        tell: is called with each of the case's notes, before it is segmented, or where it cannot be read.

    Raises:
        OtherModelError: another model's results lie in the folder.
        MissingPackageError: the model needs a package that is not installed.
        InputError, OSError: the folder takes no file.
    """
    stage, watch = "read", Stopwatch()
    loaded = segmentation = rejected = None
    notes: tuple[str, ...] = ()
    try:
        with watch.part(stage):
            loaded = case.load(entry, card.modalities, read_label=False)
        spacing = doubts.spacing_note(card, loaded.spacing_mm)
        notes = (*loaded.notes, *([spacing] if spacing else []), *doubts.of(loaded))
        for note in notes:
            tell(note)
        stage = "segment"
        with watch.part(stage):
            segmentation = segment(loaded)
        stage = "write"
        with watch.part(stage):
            write(entry, loaded, segmentation, target, notes)
    except (MemoryError, OSError, *_OF_ALL_CASES):
        raise
    except Exception as error:  # one bad case must not cost the others
        if _is_of_place(error, stage) or concerns_all(error):
            raise
        if isinstance(error, case.CaseError):
            notes = error.notes
            for note in notes:
                tell(note)
        rejected = _rejected(error, entry.case_id, stage)
    seconds = {part: round(taken, 4) for part, taken in watch.taken().items()}
    return Attempt(seconds, rejected, loaded, segmentation, notes)


def _is_of_place(error: Exception, stage: str) -> bool:
    """Whether an error tells that the output takes no file."""
    return stage == "write" and isinstance(error, InputError) and isinstance(error.__cause__, OSError)


def _rejected(error: Exception, case_id: str, stage: str) -> Rejected:
    """As `Rejected.by`, with the case's name in the reason: a person reads it among those of others."""
    rejected = Rejected.by(error, case_id, stage, _HINTS[stage])
    if isinstance(error, InputError) and case_id in rejected.reason:
        return rejected
    return rejected.model_copy(update={"reason": f"{case_id}: {rejected.reason}"})


def spacing_notes(card: ModelCard, entries: Sequence[CaseFiles]) -> dict[str, str]:
    """By case id, before any work, what is to be told of scans of other voxels than the model's.

    Reads headers alone. What cannot be read is told when its turn comes.
    """

    def of(entry: CaseFiles) -> str | None:
        paths = [path for modality, path, _ in entry.images if modality in card.modalities]
        try:
            return doubts.spacing_note(card, nifti.read_grid(paths[0]).spacing_mm) if paths else None
        except InputError:
            return None

    with concurrent.futures.ThreadPoolExecutor(_HEADERS_AT_ONCE) as pool:
        notes = dict(zip((entry.case_id for entry in entries), pool.map(of, entries), strict=True))
    return {case_id: note for case_id, note in notes.items() if note}


def notes_told(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines for a screen, of the notes by case id; of very many the first, and how many there are."""
    lines = [f"note: {case_id}: {note}" for case_id, of_case in notes.items() for note in of_case]
    more = len(lines) - _NOTES_TOLD
    if more <= 0:
        return lines
    return [*lines[:_NOTES_TOLD], f"note: and {more} more of this kind; tfbrats inspect lists all"]


def write(
    entry: CaseFiles, loaded: Case, segmentation: Segmentation, target: Target, notes: Sequence[str] = ()
) -> None:
    """Writes what `target` names, the model's card beside it in a folder of results.

    Args:
        entry: the case's files, as `loaded` was read from them.
        notes: on the case, kept where the segmentation comes from is.

    Raises:
        InputError: the output cannot be written, or the case's labels have no value for a tissue.
        OtherModelError: another model's results lie in the folder.
    """
    if target.folder is not None:
        # With the first result, so that a run without any leaves nothing.
        model_card.keep(segmentation.card, target.folder)
    if target.probabilities is not None:
        case.save_probabilities(target.probabilities, segmentation.probabilities, loaded.grid)
    for region, path in enumerate(target.uncertainty):
        nifti.write(path, loaded.grid.to_file(segmentation.entropy[..., region]), loaded.grid)
    provenance.drop(target.segmentation)
    segmentation_object.drop(target.segmentation)
    case.save_segmentation(target.segmentation, segmentation.tissues, loaded.grid, loaded.schema)
    if target.with_provenance:
        provenance.write(segmentation.card, entry, target.segmentation, notes, segmentation.request_id)
    if target.study is not None:
        on_images = target.study, segmentation.tissues, loaded.grid, loaded.schema
        segmentation_object.write(target.dicom_seg, *on_images, provenance.algorithm(segmentation.card))
