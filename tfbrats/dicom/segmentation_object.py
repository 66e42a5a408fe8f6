"""A segmentation as DICOM-SEG: binary segments in coded terms, each frame referring to its source images.

highdicom writes it. What was written is read back and compared, voxel by voxel, before the file gets its name.
"""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfbrats import __version__
from tfbrats.cases.nifti import Grid
from tfbrats.dicom import codes, parsing
from tfbrats.dicom.geometry import Geometry
from tfbrats.dicom.headers import Series
from tfbrats.dicom.parsing import package, unwarned
from tfbrats.dicom.study import Study
from tfbrats.errors import InputError
from tfbrats.labels import LabelSchema, Tissue
from tfbrats.machine import files

MANUFACTURER = "tfbrats"
_TOLERANCE_MM = 1e-3
_SERIES_NUMBER = 900  # behind those of scanners
_HEAD = 4096  # bytes, in which a file of ours says what it is and who made it
# Its elements, as they are encoded: explicit little endian, padded to an even length.
_OURS = b"\x08\x00\x60\x00CS\x04\x00SEG ", b"\x08\x00\x70\x00LO\x08\x00" + f"{MANUFACTURER} ".encode()
_LONGEST = 64  # characters, of DICOM's long strings
# Which every image has by the standard; a de-identifying program may have taken them out whole.
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName"),
)
# Some scanners tell these of each frame, though they are the same of all (`geometry` has seen to it).
_OF_ALL_FRAMES = ("PlaneOrientationSequence", "PixelMeasuresSequence")


@dataclass(frozen=True)
class Algorithm:
    """What made a segmentation, as the object says it.

    Attributes:
        source: who it is from, with its version.
        parameters: name -> value, told to who opens the object.
    """

    name: str
    version: str
    source: str
    parameters: Mapping[str, str]


def path_of(segmentation: str | os.PathLike) -> str:
    """CASE.dcm for CASE.nii.gz or CASE.nii."""
    folder, name = files.parent(segmentation), files.name(segmentation)
    return (
        files.join(folder, f"{name.removesuffix('.gz').removesuffix('.nii')}.dcm")
        if folder
        else (f"{name.removesuffix('.gz').removesuffix('.nii')}.dcm")
    )


def is_ours(path: str) -> bool:
    """Whether a file is an object that was written here."""
    beginning = next(iter(files.read_chunks(path, _HEAD)), b"")
    return all(element in beginning for element in _OURS)


def check(paths: Sequence[str]) -> None:
    """Raises InputError: a file lies at one of these places that is no segmentation of ours."""
    for path in paths:
        if files.exists(path) and not is_ours(path):
            raise InputError(
                f"{path}: there already, and not written by --dicom-seg. Move it, or choose another --output."
            )


def drop(segmentation: str | os.PathLike) -> None:
    """Removes the object beside a segmentation that is about to be replaced; one that is not ours stays."""
    path = path_of(segmentation)
    if files.exists(path) and is_ours(path):
        files.remove(path)


def check_grid(study: Study, grid: Grid, name: str) -> None:
    """Raises InputError: a case's scans do not lie voxel by voxel on the series of a study."""
    ours, series = _corners(grid), _corners(study.grid)
    if _canonical_shape(grid) != _canonical_shape(study.grid):
        differing = f"{_canonical_shape(grid)} voxels against {_canonical_shape(study.grid)}"
    elif (apart := float(np.linalg.norm(ours - series, axis=-1).max())) > _TOLERANCE_MM:
        differing = f"up to {apart:.3g} mm apart"
    else:
        return
    raise InputError(
        f"{name}: its scans do not lie on {study.scans[study.reference].name}: {differing}. A DICOM-SEG lies "
        "on the images that it refers to: register the scans to that series, or name the series that they were "
        "registered to."
    )


def _canonical_shape(grid: Grid) -> tuple[int, ...]:
    return grid.from_file(np.empty(grid.file_shape, bool)).shape


def _corners(grid: Grid) -> np.ndarray:
    """The corner voxels' centres, mm, in the order of the axes LPS: [2, 2, 2, 3]."""
    voxels = np.stack(np.meshgrid(*((0, side - 1) for side in grid.file_shape), indexing="ij"), axis=-1)
    return grid.from_file(voxels) @ grid.affine[:3, :3].T + grid.affine[:3, 3]


# --- the object -----------------------------------------------------------------------------------------


def write(
    path: str | os.PathLike,
    study: Study,
    tissues: np.ndarray,
    grid: Grid,
    schema: LabelSchema,
    algorithm: Algorithm,
) -> None:
    """Writes a label map onto the images of a study. Arguments and errors as `content`."""
    files.write_bytes(path, content(study, tissues, grid, schema, algorithm))


@unwarned()
def content(study: Study, tissues: np.ndarray, grid: Grid, schema: LabelSchema, algorithm: Algorithm) -> bytes:
    """A label map as the bytes of a DICOM-SEG.

    Args:
        study: whose images it lies on.
        tissues: uint8 [I, J, K].
        grid: of the case that was segmented: that of the study's series, whatever the order of its axes.
        schema: in whose words the segments are called.

    Raises:
        InputError: the grids differ, or a header of the series lacks what the object needs.
        MissingPackageError: highdicom is not installed.
        OSError: what was read back is not what was written.
    """
    check_grid(study, grid, study.case_id)
    slices = study.grid.to_file(tissues).transpose(2, 1, 0)  # [slices, rows, columns]
    segments = codes.segments(schema, {Tissue(value) for value in np.unique(tissues) if value})
    numbers = np.zeros(len(Tissue), np.uint8)
    for number, segment in enumerate(segments, 1):
        numbers[segment.tissue] = number
    marked = numbers[slices]
    try:
        made = _object(study, marked, segments, algorithm)
    except InputError:
        raise
    except Exception as error:  # of the source's headers; pydicom and highdicom raise many kinds
        raise InputError(
            f"{study.scans[study.reference].name}: no DICOM-SEG can be made on it ({error}). Its headers lack "
            "what the standard asks for, or hold what it forbids."
        ) from error
    file = io.BytesIO()
    made.save_as(file)
    _check_read_back(file.getvalue(), marked, study.place)
    return file.getvalue()


def _object(study: Study, marked: np.ndarray, segments: Sequence[codes.Segment], algorithm: Algorithm) -> Any:
    """The Segmentation that highdicom makes of numbers of segments, uint8 [slices, rows, columns]."""
    seg, uid = package("highdicom.seg"), package("pydicom.uid")
    images, in_file = _source_images(study.scans[study.reference], study.place)
    others = [
        header
        for name, series in study.scans.items()
        if name != study.reference
        for header in _with_what_may_be_empty(map(parsing.header, series.headers))
    ]
    return seg.Segmentation(
        source_images=images,
        pixel_array=marked[in_file],
        segmentation_type=seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(n, one, algorithm) for n, one in enumerate(segments, 1)],
        series_instance_uid=uid.generate_uid(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=uid.generate_uid(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=_short(algorithm.name),
        software_versions=f"tfbrats {__version__}",
        device_serial_number=_short(f"{algorithm.name} {algorithm.version}"),
        content_label="BRAIN_TUMOUR",
        content_description="Brain tumour by a model; for research",
        series_description=_short(f"Tumour by {algorithm.name} {algorithm.version}, research only"),
        further_source_images=others or None,
        coding_schemes=_private_scheme() if any(s.type.scheme == codes.PRIVATE for s in segments) else None,
    )


def _private_scheme() -> list[Any]:
    return [
        package("highdicom.coding_schemes").CodingSchemeIdentificationItem(
            designator=codes.PRIVATE, name="tfbrats", version=__version__
        )
    ]


def _source_images(series: Series, place: Geometry) -> tuple[list[Any], list[int]]:
    """The headers that frames refer to, and the slices in their order."""
    if series.is_multi_frame:
        (path,) = series.headers
        in_file = sorted(range(len(place.frames)), key=lambda k: place.frames[k].index)
        return _with_what_may_be_empty([parsing.header(path)]), in_file
    headers = [parsing.header(frame.path) for frame in place.frames]
    return _with_what_may_be_empty(headers), list(range(len(place.frames)))


def _with_what_may_be_empty(headers: Any) -> list[Any]:
    """The headers, with the entries that may be empty, but not lack; and what all frames share told so."""
    complete = []
    for header in headers:
        for keyword in _MAY_BE_EMPTY:
            if keyword not in header:
                setattr(header, keyword, "")
        for name in _OF_ALL_FRAMES if "SharedFunctionalGroupsSequence" in header else ():
            (shared,) = header.SharedFunctionalGroupsSequence
            if name not in shared:
                setattr(shared, name, header.PerFrameFunctionalGroupsSequence[0][name].value)
        complete.append(header)
    return complete


def _description(number: int, segment: codes.Segment, algorithm: Algorithm) -> Any:
    highdicom, seg = package("highdicom"), package("highdicom.seg")
    identification = highdicom.AlgorithmIdentificationSequence(
        name=_short(algorithm.name),
        family=_coded(codes.ALGORITHM_FAMILY),
        version=_short(algorithm.version),
        source=_short(algorithm.source),
        parameters=dict(algorithm.parameters),
    )
    return seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.label,
        segmented_property_category=_coded(codes.CATEGORY),
        segmented_property_type=_coded(segment.type),
        algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identification,
        anatomic_regions=[_coded(codes.BRAIN)],
        tracking_id=f"{segment.tissue.name} {number}",
        tracking_uid=package("pydicom.uid").generate_uid(),
        display_color=highdicom.color.CIELabColor.from_rgb(*segment.colour),
    )


def _coded(code: codes.Code) -> Any:
    return package("highdicom.sr").CodedConcept(code.value, code.scheme, code.meaning)


def _short(text: str) -> str:
    return text[:_LONGEST]


def _check_read_back(bytes_written: bytes, marked: np.ndarray, place: Geometry) -> None:
    """Raises OSError: the object read anew is not the label map, or does not lie where the images lie.

    Frame by frame, by its own place in space: what highdicom made of it is not asked.
    """
    pydicom = package("pydicom")
    made = pydicom.dcmread(io.BytesIO(bytes_written))
    pixels = made.pixel_array.reshape(-1, *marked.shape[1:])
    again = np.zeros_like(marked)
    inverse = np.linalg.inv(place.affine)
    for group, plane in zip(made.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        position = [float(x) for x in group.PlanePositionSequence[0].ImagePositionPatient]
        voxel = inverse @ [*position, 1]
        k = int(np.rint(voxel[2]))
        if np.linalg.norm(place.affine[:3, :3] @ (voxel[:3] - [0, 0, k])) > _TOLERANCE_MM:
            raise OSError("a frame of the DICOM-SEG does not lie on an image; nothing was kept.")
        again[k][plane != 0] = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    if not np.array_equal(again, marked):
        raise OSError("what was read back of the DICOM-SEG is not what was written; nothing was kept.")
