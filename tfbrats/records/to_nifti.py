"""Volumes back to NIfTI: each case's z-scored images and its segmentation, on the grid of its own files.

Nothing is resampled or rounded: the images are the records' float16 values as float32, 0 outside the crop to
the brain; the segmentation has the edition's own label values and equals the input's, voxel by voxel. Labels
outside that crop are in no record, and do not come back. Refuses an output folder that holds anything else.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfbrats.cases import boxes, case, nifti
from tfbrats.cases.nifti import Grid
from tfbrats.datasets import case_names
from tfbrats.errors import InputError
from tfbrats.labels import LabelSchema
from tfbrats.machine import files
from tfbrats.records import tfrecord
from tfbrats.records.manifest import CaseRow, Manifest, Shard
from tfbrats.records.reading import check_case, example_of, placed

FILE = "from_records.json"  # in the output folder: what was written there, and from which records


def paths_of(output: str | os.PathLike, case_id: str, modalities: Sequence[str]) -> list[str]:
    """CASE/CASE_flair.nii.gz, ..., last CASE/CASE_seg.nii.gz: a BraTS folder, which every command reads."""
    if files.name(case_id) != case_id or case_id in ("", ".", ".."):
        raise InputError(f"{case_id!r}: a case of that name cannot be a folder.")
    return [files.join(output, case_id, f"{case_id}_{name}.nii.gz") for name in (*modalities, "seg")]


def grid_and_schema(example: dict[str, Any], row: CaseRow) -> tuple[Grid, LabelSchema]:
    """The grid of a case's files and how they write tissues, as `row.source` has them.

    Raises:
        InputError: dataset.json does not tell them, tells another shape, or has no value for a tissue.
    """
    if row.source is None:
        raise InputError("dataset.json does not tell the grid of its files")
    grid = nifti.grid_of(row.source.shape, np.array(row.source.affine))
    shape = tuple(example["shape_ijk"].tolist())
    if grid.file_shape != grid.to_file(np.empty(shape, np.bool_)).shape:
        raise InputError(f"cut from {shape}; dataset.json says that the files are {grid.file_shape}")
    try:
        schema = LabelSchema.from_json(row.source.label_schema)
    except (KeyError, ValueError, AttributeError) as error:
        raise InputError(f"dataset.json has a damaged label schema for it ({error})") from error
    schema.to_values(example["label"], "its label")  # so that what cannot be written fails before it is begun
    return grid, schema


def whole(
    example: dict[str, Any], row: CaseRow, modalities: Sequence[str]
) -> tuple[dict[str, np.ndarray], np.ndarray, Grid, LabelSchema]:
    """A stored volume uncropped.

    Args:
        example: of `schema.VOLUMES`.
        row: of its case, with `source`.

    Returns:
        modality -> float32 [I, J, K]; tissues uint8 [I, J, K]; the grid of the case's files; how they write
        tissues.

    Raises:
        InputError: as `grid_and_schema`.
    """
    grid, schema = grid_and_schema(example, row)
    shape = example["shape_ijk"].tolist()
    box = tuple(
        (low, low + size)
        for low, size in zip(example["origin_ijk"].tolist(), example["image"].shape, strict=False)
    )
    images = {
        name: boxes.uncrop(example["image"][..., m].astype(np.float32), box, shape)
        for m, name in enumerate(modalities)
    }
    return images, boxes.uncrop(example["label"], box, shape), grid, schema


def write_case(paths: Sequence[str], example: dict[str, Any], row: CaseRow, modalities: Sequence[str]) -> None:
    """Writes one case's files, the segmentation last: its presence says that the case is done."""
    images, tissues, grid, schema = whole(example, row, modalities)
    for path, image in zip(paths[:-1], images.values(), strict=True):
        files.write_bytes(path, nifti.to_bytes(grid.to_file(image), grid, files.name(path), level=1))
    case.save_segmentation(paths[-1], tissues, grid, _read_by(row.case_id, tissues, schema))


def _read_by(case_id: str, tissues: np.ndarray, schema: LabelSchema) -> LabelSchema:
    """The schema by which a folder of this name will be read: in nnU-Net's layout the case had another."""
    own = case_names.edition_by_id(case_id)
    return own if own is not None and own.holds(tissues) else schema


@dataclass
class Outcome:
    """What became of the cases.

    Attributes:
        written, kept: how many were written, and how many were there already.
        faults: of those that could not be.
    """

    written: int = 0
    kept: int = 0
    faults: list[str] = field(default_factory=list)


def write(
    folder: str | os.PathLike,
    manifest: Manifest,
    output: str | os.PathLike,
    case_ids: Sequence[str] | None = None,
    overwrite: bool = False,
    seen: Callable[[], None] = lambda: None,
) -> Outcome:
    """Writes the cases of a set of volumes; one that is damaged does not cost the others.

    Args:
        case_ids: only these.
        overwrite: write again what is there already.
        seen: called after each case.

    Raises:
        InputError: no such case; an output that holds what this command did not write, or cannot be written.
    """
    for case_id in case_ids or ():
        check_case(manifest, folder, case_id)
    written = Written(output)
    outcome = Outcome()
    todo: list[tuple[Shard, dict[int, CaseRow]]] = []
    for shard in manifest.shards:
        rows: dict[int, CaseRow] = {}  # by the record's number in the shard
        for number, row in placed(shard):
            if case_ids is None or row.case_id in case_ids:
                paths = paths_of(output, row.case_id, manifest.modalities)
                if written.is_done(row.case_id, shard.crc32c, paths, overwrite):
                    outcome.kept += 1
                    seen()
                else:
                    rows[number] = row
        todo.append((shard, rows))
    for shard, rows in todo:
        for row, example, fault in _read(folder, manifest, shard, rows):
            if example is None:
                outcome.faults.append(f"{row.case_id}: {fault}")
            else:
                paths = paths_of(output, row.case_id, manifest.modalities)
                written.begin(row.case_id, shard.crc32c, paths)
                write_case(paths, example, row, manifest.modalities)
                outcome.written += 1
            seen()
    return outcome


def _read(
    folder: str | os.PathLike, manifest: Manifest, shard: Shard, rows: Mapping[int, CaseRow]
) -> Iterator[tuple[CaseRow, dict[str, Any] | None, str]]:
    """Each of `rows` with its example, or with None and what is wrong with it.

    Args:
        rows: by the record's number in the shard.
    """
    left = dict(rows)
    reason = "the file ends before it"
    try:
        frames = tfrecord.read_frames(files.join(folder, shard.file)) if left else ()
        for number, (_, content) in enumerate(frames):
            row = left.pop(number, None)
            if row is None:
                continue
            try:
                yield row, _example(manifest, shard, row, content, folder), ""
            except InputError as error:
                yield row, None, f"{shard.file}, record {number}: {error}"
            if not left:
                return
    except InputError as error:  # the file is not there, or cannot be read
        reason = str(error)
    for number, row in left.items():
        yield row, None, f"{shard.file}, record {number}: {reason}"


def _example(
    manifest: Manifest, shard: Shard, row: CaseRow, content: bytes | None, folder: str | os.PathLike
) -> dict[str, Any]:
    if content is None:
        raise InputError("damaged")
    example = example_of(manifest, shard, content, folder)
    if example["case_id"] != row.case_id:
        raise InputError(f"holds {example['case_id']!r} in this case's place")
    grid_and_schema(example, row)
    return example


# --- the output folder ----------------------------------------------------------------------------------


class Written:
    """What this command has written into an output folder, and so may replace; pictures too.

    Raises:
        InputError: the folder holds files, and no list of this command; or it cannot be written to.
    """

    def __init__(self, output: str | os.PathLike):
        self._output = os.fspath(output)
        self._path = files.join(output, FILE)
        self._sources: dict[str, str] = {}
        files.check_can_hold(output)
        if files.exists(self._path):
            content = files.read_json(self._path)
            if not isinstance(content, dict) or not isinstance(content.get("made_from"), dict):
                raise InputError(f"{self._path}: not the list that to-nifti keeps. Choose another --output.")
            self._sources = content["made_from"]
        elif files.is_folder(output):
            others = [path for path in files.walk(output) if files.PARTIAL not in files.name(path)]
            if others:
                raise InputError(
                    f"{output}: not empty, and not written by to-nifti: it holds {files.name(others[0])}. "
                    "Choose another --output."
                )

    def is_done(self, name: str, source: str, paths: Sequence[str], overwrite: bool) -> bool:
        """Whether all of `paths` are there already, made from `source`.

        Args:
            name: of the case or picture.
            source: what tells its records from others'.
            overwrite: what is there is to be made again, and may be of other records.

        Raises:
            InputError: a file that was not written here stands in the way, or one of other records.
        """
        there = [path for path in paths if files.exists(path)]
        if there and name not in self._sources:
            raise InputError(f"{there[0]}: exists, and to-nifti did not write it. Choose another --output.")
        if overwrite or not there:
            return False
        if self._sources[name] != source:
            raise InputError(
                f"{there[0]}: written from other records, or with other options. Choose another --output, or "
                "pass --overwrite."
            )
        return len(there) == len(paths)

    def begin(self, name: str, source: str, paths: Sequence[str]) -> None:
        """Before the files of `name` are written. Killed at any moment, none is left that is of two sources."""
        if self._sources.get(name) != source:
            for path in paths:
                files.remove(path)
            self._sources[name] = source
            files.write_json(self._path, {"made_from": dict(sorted(self._sources.items()))})
