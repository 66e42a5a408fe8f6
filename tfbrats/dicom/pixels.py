"""The voxels of a series: decoded, rescaled, in the order of its slices."""

from typing import Any

import numpy as np

from tfbrats.dicom import parsing
from tfbrats.dicom.geometry import Geometry
from tfbrats.dicom.headers import Series
from tfbrats.errors import InputError
from tfbrats.machine import files

_INT16, _INT32 = np.iinfo(np.int16), np.iinfo(np.int32)


def volume(series: Series, geometry: Geometry) -> tuple[np.ndarray, list[str]]:
    """The voxels, [columns, rows, slices], and notes.

    Whole numbers stay whole: int16 where they fit, else int32. A slope or intercept with fractions, and numbers
    beyond int32, make float32. What MONOCHROME1 stores is turned, so that bright is large.

    Raises:
        InputError: it is compressed and no decoder is installed, or a file is damaged.
    """
    in_file: dict[str, list[tuple[int, int]]] = {}
    for k, frame in enumerate(geometry.frames):
        in_file.setdefault(frame.path, []).append((k, frame.index))
    planes: list[np.ndarray] = [np.empty(0)] * len(geometry.frames)
    notes: dict[str, None] = {}
    for path, places in in_file.items():
        image = _read(series, path)
        stored = _decoded(series, path, image, geometry.shape[1::-1])
        with parsing.understood(f"{series.name}: {files.name(path)}"):
            if image.get("PhotometricInterpretation") == "MONOCHROME1":
                stored = _turned(image, stored)
                notes["MONOCHROME1: its grey values are turned, so that bright is large"] = None
            for k, index in places:
                planes[k] = _rescaled(stored[index], image, geometry.frames[k].rescale)
    return _compact(np.stack(planes).transpose(2, 1, 0)), list(notes)


def _read(series: Series, path: str) -> Any:
    try:
        image = parsing.image(path)
    except InputError:
        raise
    except Exception as error:  # pydicom raises many kinds for what is damaged
        raise InputError(
            f"{series.name}: {files.name(path)} cannot be read ({parsing.shown(error)}). Copy it again."
        ) from error
    if "ModalityLUTSequence" in image:
        raise InputError(
            f"{series.name}: its values are translated by a table (Modality LUT), which is not read here. "
            "Export it with a rescale slope and intercept."
        )
    return image


def _decoded(series: Series, path: str, image: Any, plane: tuple[int, int]) -> np.ndarray:
    """The stored values, [frames, rows, columns]; `plane` is rows and columns as the geometry has them."""
    try:
        syntax = getattr(getattr(image, "file_meta", None), "TransferSyntaxUID", None)
        if syntax is not None and syntax.is_compressed:
            _check_decoder(series, syntax)
        stored = image.pixel_array
    except InputError:
        raise
    except Exception as error:  # each decoder raises its own
        raise InputError(
            f"{series.name}: the pixels of {files.name(path)} cannot be read ({parsing.shown(error)}). Copy "
            "the file again."
        ) from error
    stored = stored if stored.ndim == 3 else stored[None]
    if stored.shape[1:] != plane or stored.dtype.kind not in "iuf":
        raise InputError(
            f"{series.name}: {files.name(path)} holds {stored.dtype} {stored.shape} where its header says "
            f"images of {plane[0]} x {plane[1]}. Copy the file again."
        )
    return stored


def _check_decoder(series: Series, syntax: Any) -> None:
    decoders = parsing.package("pydicom.pixels")
    try:
        decoder = decoders.get_decoder(syntax)
    except NotImplementedError:
        needed = ["none is known"]
    else:
        if decoder.is_available:
            return
        needed = list(decoder.missing_dependencies)
    raise InputError(
        f"{series.name}: its pixels are compressed ({syntax.name}), and no decoder for that is installed "
        f"({'; '.join(needed)}). Install one:\n  pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg\n"
        "or export the series uncompressed (dcmdjpeg of DCMTK does it)."
    )


def _turned(image: Any, stored: np.ndarray) -> np.ndarray:
    """Stored values of MONOCHROME1, whose least is white, as MONOCHROME2 would hold them."""
    bits = int(image.BitsStored)
    ends = -1 if int(image.PixelRepresentation) else 2**bits - 1  # the least and the largest together
    return ends - stored.astype(np.int64)


def _rescaled(stored: np.ndarray, image: Any, of_frame: tuple[float, float] | None) -> np.ndarray:
    slope, intercept = of_frame or (
        float(image.get("RescaleSlope") or 1),
        float(image.get("RescaleIntercept") or 0),
    )
    if not np.isfinite([slope, intercept]).all():
        raise ValueError(f"a slope of {slope:g} and an intercept of {intercept:g}")
    is_whole = stored.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer()
    if is_whole and max(abs(slope), abs(intercept)) < _INT32.max and stored.itemsize <= 4:
        return stored.astype(np.int64) * int(slope) + int(intercept)
    with np.errstate(all="ignore"):  # what becomes infinite is found by who reads the case
        return stored.astype(np.float64) * slope + intercept


def _compact(array: np.ndarray) -> np.ndarray:
    least, most = array.min(), array.max()
    if array.dtype.kind == "f" or least < _INT32.min or most > _INT32.max:
        with np.errstate(all="ignore"):
            return array.astype(np.float32)
    return array.astype(np.int16 if least >= _INT16.min and most <= _INT16.max else np.int32)
