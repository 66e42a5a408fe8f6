"""DICOM files below a folder: their headers, by series, and the frames of each. Pixels are read elsewhere.

pydicom is imported when the first file is read, so that who has no DICOM needs no pydicom.
"""

import collections
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfbrats.dicom import parsing
from tfbrats.errors import InputError
from tfbrats.machine import files, stores

PAGE = "docs/how-to/dicom.md"
_MARK = 128, b"DICM"  # where, and what
_SINGLE = ("1.2.840.10008.5.1.4.1.1.4",)  # MR Image Storage
_MULTI = ("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")  # enhanced, and legacy converted
_LOOKED_AT = 50  # files, before a folder is said to hold no DICOM
_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"),
    *("PatientID", "PatientName", "PatientBirthDate", "Modality", "SeriesNumber", "SeriesDescription"),
    *("ProtocolName", "ImageType", "InstanceNumber", "AcquisitionNumber", "AcquisitionTime", "ContentTime"),
    *("TemporalPositionIdentifier", "TriggerTime", "EchoNumbers", "EchoTime", "RepetitionTime"),
    *("InversionTime", "FlipAngle", "DiffusionBValue", "ScanningSequence", "ContrastBolusAgent"),
    *("ContrastBolusAgentSequence", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PixelSpacing"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PhotometricInterpretation"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
_COUNTS = ("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel")
_NUMBERS = ("SeriesNumber", "InstanceNumber", *_COUNTS)
_TEXTS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesDescription", "ProtocolName")
# What may tell apart images of one place: keyword, in words. Of time the last, as it differs in many series.
_MARKS = {
    "EchoTime": "echo time",
    "EchoNumbers": "echo",
    "EffectiveEchoTime": "echo time",
    "TemporalPositionIdentifier": "time point",
    "TemporalPositionIndex": "time point",
    "DiffusionBValue": "b-value",
    "TriggerTime": "trigger time",
    "InversionTime": "inversion time",
    "FlipAngle": "flip angle",
    "ImageType": "kind of image",
    "FrameType": "kind of image",
    "AcquisitionNumber": "acquisition",
    "AcquisitionTime": "acquisition time",
    "StackID": "stack",
}


@dataclass(frozen=True, eq=False)
class Frame:
    """One plane of voxels.

    Attributes:
        path: of the file that it lies in.
        index: its place in the file, from 0.
        sop_uid: of the file.
        position: of its first voxel's centre, mm, LPS, float64 [3].
        directions: of a row (along which the column's number grows), and of a column, float64 [2, 3].
        spacing_mm: between rows, and between columns.
        marks: what may tell it apart from another of the same place, in words.
        rescale: slope and intercept where the header of its own frame tells them; else None.
    """

    path: str
    index: int
    sop_uid: str
    position: Any
    directions: Any
    spacing_mm: tuple[float, float]
    marks: Mapping[str, str]
    rescale: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class Series:
    """The images of one series, headers alone.

    Attributes:
        headers: path -> header without pixels, in the order of the instances' numbers.
        doubled: files that are copies of another one.
    """

    headers: Mapping[str, Any]
    doubled: int = 0

    @property
    def first(self) -> Any:
        return next(iter(self.headers.values()))

    @property
    def uid(self) -> str:
        return str(self.first.SeriesInstanceUID)

    @property
    def number(self) -> str:
        number = self.first.get("SeriesNumber")
        return "?" if number in (None, "") else str(_whole(number))

    @property
    def description(self) -> str:
        """What the scanner, or a program, calls it."""
        return parsing.shown(self.first.get("SeriesDescription") or self.first.get("ProtocolName") or "")

    @property
    def name(self) -> str:
        """For messages: no patient's data is in it, unless somebody wrote it into the description."""
        return f"series {self.number}" + (f" ({self.description})" if self.description else "")

    @property
    def is_mr(self) -> bool:
        return all(str(header.get("SOPClassUID")) in _SINGLE + _MULTI for header in self.headers.values())

    @property
    def is_multi_frame(self) -> bool:
        return str(self.first.get("SOPClassUID")) in _MULTI

    @property
    def frame_count(self) -> int:
        return sum(_whole(header.get("NumberOfFrames") or 1) for header in self.headers.values())

    @property
    def voxel_count(self) -> int:
        """That the headers tell of."""
        return sum(
            _whole(header.get("NumberOfFrames") or 1)
            * _whole(header.get("Rows"))
            * _whole(header.get("Columns"))
            for header in self.headers.values()
        )


# --- finding --------------------------------------------------------------------------------------------


def is_dicom(path: str) -> bool:
    """Whether a file begins as DICOM does."""
    fs, inner = stores.located(path)
    if not fs.isfile(inner):
        return False
    with fs.open(inner, "rb") as file:
        place, mark = _MARK
        return file.read(place + len(mark))[place:] == mark


def lie_in(paths: Iterable[str]) -> bool:
    """Whether DICOM files are among these: by their endings, else by the beginnings of some."""
    candidates = [path for path in paths if not files.name(path).startswith(".")]
    if any(
        path.lower().endswith(parsing.NAMES) or files.name(path).upper() == "DICOMDIR" for path in candidates
    ):
        return True
    return any(is_dicom(path) for path in candidates[:_LOOKED_AT])


@parsing.unwarned()
def series_below(
    place: str | os.PathLike, given_as: str = "", allowance: parsing.Allowance | None = None
) -> list[Series]:
    """Every series in a file, or in the files below a folder, by its number.

    Args:
        given_as: the option that named the place, for messages.
        allowance: for all of their headers together; None: each has its own.

    Raises:
        InputError: no DICOM file there, or one that cannot be read.
        MissingPackageError: pydicom is not installed.
    """
    place = os.fspath(place)
    listing = files.walk(place) if files.is_folder(place) else [place]
    by_uid: dict[str, dict[str, Any]] = collections.defaultdict(dict)
    for path in listing:
        if files.name(path).startswith("."):
            continue
        header = _header(path, allowance)
        with parsing.understood(files.name(path)):
            if header is not None and header.get("SeriesInstanceUID"):
                _check_entries(header)
                by_uid[str(header.SeriesInstanceUID)][path] = header
    if not by_uid:
        where = f"{given_as} {place}".lstrip()
        raise InputError(f"{where}: no DICOM image lies here. Give the folder that holds a series' files.")
    series = [_series(headers) for headers in by_uid.values()]
    return sorted(series, key=lambda one: (_whole(one.first.get("SeriesNumber")), one.uid))


def _check_entries(header: Any) -> None:
    """Raises what `parsing.understood` tells: an entry that sorts or counts files is not to be had."""
    for keyword in _TEXTS:
        str(header.get(keyword))
    for keyword in _NUMBERS:
        if _whole(header.get(keyword)) < 0 and keyword in _COUNTS:
            raise ValueError(f"{keyword} is {header.get(keyword)}")


def _header(path: str, allowance: parsing.Allowance | None) -> Any | None:
    """A file's header, the tags that are needed here; None for what is no DICOM file."""
    is_marked = None
    try:
        is_marked = is_dicom(path)
        if not (is_marked or path.lower().endswith(parsing.NAMES)):
            return None
        return parsing.header(path, _TAGS, allowance)
    except InputError:
        raise
    except Exception as error:  # pydicom raises many kinds for what is damaged
        if is_marked is False:  # it has the name alone
            return None
        raise InputError(
            f"{files.name(path)}: a DICOM file that cannot be read ({parsing.shown(error)}). Copy it again."
        ) from error


def _series(headers: Mapping[str, Any]) -> Series:
    in_order = sorted(headers, key=lambda path: (_whole(headers[path].get("InstanceNumber")), path))
    by_sop = {str(headers[path].get("SOPInstanceUID")): path for path in reversed(in_order)}
    kept = [path for path in in_order if by_sop[str(headers[path].get("SOPInstanceUID"))] == path]
    return Series({path: headers[path] for path in kept}, len(in_order) - len(kept))


def _whole(number: Any) -> int:
    return 0 if number in (None, "") else int(number)


# --- frames ---------------------------------------------------------------------------------------------


def frames_of(series: Series) -> list[Frame]:
    """Every plane of a series, in the order of its files.

    Raises:
        InputError: a header does not tell where its voxels lie, or they are no grey values.
    """
    frames = []
    for path, header in series.headers.items():
        with parsing.understood(series.name):
            if _whole(header.get("SamplesPerPixel") or 1) != 1:
                raise InputError(
                    f"{series.name}: its images are in colour; expected the scanner's grey values."
                )
        try:
            frames += _of_groups(path, header) if series.is_multi_frame else [_of_file(path, header)]
        except Exception as error:  # pydicom raises many kinds, of its own too
            raise InputError(
                f"{series.name}: {files.name(path)} does not tell where its voxels lie "
                f"({parsing.shown(error)}). Send the series from the scanner or the archive again; a "
                "screenshot is no scan."
            ) from error
    return frames


def _of_file(path: str, header: Any) -> Frame:
    return _frame(path, 0, header, (header,), header.ImagePositionPatient, header.PixelSpacing, None)


def _of_groups(path: str, header: Any) -> list[Frame]:
    """The frames of a multi-frame file: what its own functional group does not tell, the shared one does."""
    shared = header.get("SharedFunctionalGroupsSequence") or ()
    frames = []
    for index, group in enumerate(header.PerFrameFunctionalGroupsSequence):
        groups = group, *shared
        rescale = _group(groups, "PixelValueTransformationSequence")
        orientation = _group(groups, "PlaneOrientationSequence")
        told = [orientation, *(_group(groups, name) for name in _GROUPS_OF_MARKS)]
        frames.append(
            _frame(
                *(path, index, header, [item for item in told if item is not None]),
                _group(groups, "PlanePositionSequence").ImagePositionPatient,
                _group(groups, "PixelMeasuresSequence").PixelSpacing,
                rescale and (float(rescale.RescaleSlope), float(rescale.RescaleIntercept)),
            )
        )
    return frames


_GROUPS_OF_MARKS = (
    *("MREchoSequence", "FrameContentSequence", "MRDiffusionSequence", "MRImageFrameTypeSequence"),
    *("MRModifierSequence", "MRTimingAndRelatedParametersSequence"),
)


def _group(groups: Sequence[Any], name: str) -> Any | None:
    """A macro's item, of the frame's own group or of the shared one."""
    for group in groups:
        if items := group.get(name):
            return items[0]
    return None


def _frame(
    path: str,
    index: int,
    header: Any,
    told: Sequence[Any],
    position: Sequence[float],
    spacing: Sequence[float],
    rescale: tuple[float, float] | None,
) -> Frame:
    import numpy as np

    orientations = [item.ImageOrientationPatient for item in told if "ImageOrientationPatient" in item]
    if not orientations:
        raise ValueError("no ImageOrientationPatient")
    marks = {
        words: parsing.shown(item.get(keyword))
        for keyword, words in _MARKS.items()
        for item in told
        if item.get(keyword) not in (None, "")
    }
    rows_mm, columns_mm = map(float, spacing)
    place, directions = (np.array([float(x) for x in numbers]) for numbers in (position, orientations[0]))
    if not (0 < rows_mm < np.inf and 0 < columns_mm < np.inf):
        raise ValueError(f"pixels of {rows_mm:g} x {columns_mm:g} mm")
    if place.shape != (3,) or not np.isfinite([*place, *directions]).all():
        raise ValueError("its position or its directions are no numbers")
    return Frame(
        path,
        index,
        str(header.SOPInstanceUID),
        place,
        directions.reshape(2, 3),
        (rows_mm, columns_mm),
        marks,
        rescale,
    )
