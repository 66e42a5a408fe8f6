"""The planes of a series as one volume: in order, evenly spaced, and where it lies; or an error that says why.

A volume of a series is [columns, rows, slices], as NIfTI's axes are named: a column's number grows along a row
of the image. Slices are ordered along the normal (row x column), so that the axes are right-handed, as in ITK.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfbrats.dicom import parsing
from tfbrats.dicom.headers import PAGE, Frame, Series, frames_of
from tfbrats.errors import InputError

_UNIT = 1e-3  # how far the directions may be from unit length, from each other's square, and from the others'
_STEP = 0.01  # how far a plane may lie from its place: this share of the distance between planes, or so many mm
_TOLERANCE_MM = 1e-3  # between the grids of two series, as between those of NIfTI files
_SHOWN = 4
_LONGEST_SIDE = 2**15 - 1  # NIfTI-1 keeps a side in int16
# Of what differs between images of one place: what is nearest to the cause is said alone.
_CAUSES = (
    *("echo time", "echo", "time point", "b-value", "inversion time", "flip angle", "kind of image", "stack"),
    *("acquisition", "trigger time", "acquisition time"),
)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the voxels of a series lie.

    Attributes:
        frames: in the order of the slices.
        shape: columns, rows, slices.
        affine: [4, 4], voxel (column, row, slice) -> mm, in DICOM's axes (LPS).
        frame_of_reference: the UID of the space that the millimetres are of.
    """

    frames: tuple[Frame, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    frame_of_reference: str

    @property
    def affine_ras(self) -> np.ndarray:
        """The same in NIfTI's axes."""
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ self.affine

    @property
    def spacing_mm(self) -> np.ndarray:
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def differences(self, other: "Geometry") -> list[str]:
        """What keeps two series from lying on one grid, in words."""
        if self.frame_of_reference != other.frame_of_reference:
            return ["another frame of reference: their millimetres do not mean the same place"]
        if self.shape != other.shape:
            return [f"{_times(self.shape)} voxels against {_times(other.shape)}"]
        if not np.allclose(self.spacing_mm, other.spacing_mm, atol=_TOLERANCE_MM):
            return [f"voxels of {_times(self.spacing_mm)} mm against {_times(other.spacing_mm)} mm"]
        corners = np.array([[*voxel, 1] for voxel in itertools.product(*((0, n - 1) for n in self.shape))])
        apart = np.linalg.norm((corners @ (self.affine - other.affine).T)[:, :3], axis=1).max()
        return [f"up to {apart:.3g} mm apart"] if apart > _TOLERANCE_MM else []


def _times(sides: Sequence[float]) -> str:
    return " x ".join(f"{side:.4g}" for side in sides)


def of(series: Series) -> Geometry:
    """Where a series' voxels lie, and its planes in order.

    Raises:
        InputError: its planes make no volume of even spacing.
    """
    frames = frames_of(series)
    name = series.name
    if len(frames) < 2:
        raise InputError(f"{name}: one image; expected the slices of a volume. Give all of the series' files.")
    with parsing.understood(name):
        _check_alike(series, frames)
    directions = frames[0].directions
    lengths = np.linalg.norm(directions, axis=1)
    if abs(lengths - 1).max() > _UNIT or abs(directions[0] @ directions[1]) > _UNIT:
        raise InputError(
            f"{name}: its directions ({directions.tolist()}) are not at right angles, or not of length 1. "
            "The header is damaged: send the series again."
        )
    normal = np.cross(*directions)
    depths = np.array([frame.position @ normal for frame in frames])
    order = np.argsort(depths, kind="stable")
    frames, depths = [frames[n] for n in order], depths[order]
    _check_places(name, frames, depths)
    step = (depths[-1] - depths[0]) / (len(depths) - 1)
    _check_steps(name, frames, depths, normal)
    rows_mm, columns_mm = frames[0].spacing_mm
    affine = np.eye(4)
    affine[:3, :3] = np.stack([directions[0] * columns_mm, directions[1] * rows_mm, normal * step], axis=1)
    affine[:3, 3] = frames[0].position
    header = series.first
    shape = int(header.Columns), int(header.Rows), len(frames)
    if max(shape) > _LONGEST_SIDE:
        sides = " x ".join(map(str, shape))
        raise InputError(
            f"{series.name}: {sides} voxels; NIfTI, as which results are written, has at most "
            f"{_LONGEST_SIDE} along an axis. No MRI scan is that large: is it another image?"
        )
    return Geometry(tuple(frames), shape, affine, str(header.get("FrameOfReferenceUID") or ""))


def _check_alike(series: Series, frames: Sequence[Frame]) -> None:
    """Raises InputError: the images differ in size, direction, spacing or frame of reference."""
    headers = series.headers.values()
    name, first = series.name, frames[0]
    spaces = {str(header.get("FrameOfReferenceUID") or "") for header in headers}
    if len(spaces) > 1 or "" in spaces:
        raise InputError(
            f"{name}: {'no frame of reference' if spaces == {''} else f'{len(spaces)} frames of reference'} in "
            "one series: its positions are not of one space. Send the series from the archive again."
        )
    sizes = {(int(header.Rows), int(header.Columns)) for header in headers}
    if any(min(size) < 1 for size in sizes):
        raise InputError(f"{name}: an image without rows or columns. Send the series again.")
    if len(sizes) > 1:
        raise InputError(f"{name}: images of {len(sizes)} sizes. Give the series of the scan alone.")
    ways = [frame.directions for frame in frames]
    if any(not np.allclose(way, first.directions, atol=_UNIT) for way in ways):
        raise InputError(
            f"{name}: its images are not parallel: a localizer, or several stacks in one series. Give the "
            "series of the scan alone."
        )
    spacings = {frame.spacing_mm for frame in frames}
    if any(not np.allclose(spacing, first.spacing_mm, atol=_TOLERANCE_MM) for spacing in spacings):
        raise InputError(f"{name}: pixels of {len(spacings)} sizes. Give the series of the scan alone.")
    if series.is_multi_frame and len(series.headers) > 1:
        raise InputError(
            f"{name}: {len(series.headers)} multi-frame files in one series. Name the one that is the scan: "
            "its path in place of the folder."
        )


def _check_places(name: str, frames: Sequence[Frame], depths: np.ndarray) -> None:
    """Raises InputError: several images lie at one place."""
    gaps = np.diff(depths)
    least = _STEP * np.median(gaps[gaps > _TOLERANCE_MM]) if (gaps > _TOLERANCE_MM).any() else np.inf
    same = gaps <= max(least, _TOLERANCE_MM) if np.isfinite(least) else np.ones(len(gaps), bool)
    if not same.any():
        return
    groups, number = [[frames[0]]], 1
    for frame, is_same in zip(frames[1:], same, strict=True):
        if is_same:
            groups[-1].append(frame)
        else:
            groups.append([frame])
    number = max(map(len, groups))
    doubled = [group for group in groups if len(group) > 1]
    raise InputError(
        f"{name}: {len(frames)} images at {len(groups)} places, up to {number} at one. {_why(doubled)} Give "
        f"the images of one scan alone; see {PAGE}."
    )


def _why(doubled: Sequence[Sequence[Frame]]) -> str:
    """What tells apart images of one place."""
    for cause in _CAUSES:
        values = Counter(frame.marks.get(cause, "none") for group in doubled for frame in group)
        if all(len({frame.marks.get(cause) for frame in group}) > 1 for group in doubled):
            shown = ", ".join(sorted(values)[:_SHOWN]) + (", ..." if len(values) > _SHOWN else "")
            return f"They differ in {cause} ({shown}): several scans in one series."
    return "Nothing tells which of them is the scan."


def _check_steps(name: str, frames: Sequence[Frame], depths: np.ndarray, normal: np.ndarray) -> None:
    """Raises InputError: planes are missing, unevenly spaced, or shifted against each other."""
    gaps = np.diff(depths)
    usual = float(np.median(gaps))
    allowed = max(_STEP * usual, _STEP)
    even = depths[0] + (depths[-1] - depths[0]) / (len(depths) - 1) * np.arange(len(depths))
    if abs(depths - even).max() > allowed:
        multiples = np.rint(gaps / usual)
        if abs(gaps - multiples * usual).max() <= 2 * allowed and multiples.max() > 1:
            wide = gaps[multiples > 1]
            raise InputError(
                f"{name}: {int((multiples - 1).sum())} of its slices are missing: they lie {usual:.4g} mm "
                f"apart, but in {len(wide)} places up to {wide.max():.4g} mm. Get the whole series."
            )
        raise InputError(
            f"{name}: its slices are unevenly spaced, {gaps.min():.4g} to {gaps.max():.4g} mm apart. Resample "
            f"it to even slices first; see {PAGE}."
        )
    shifts = np.array([frame.position - frames[0].position for frame in frames])
    shifts -= np.outer(shifts @ normal, normal)
    if (shift := np.linalg.norm(shifts, axis=1).max()) > allowed:
        raise InputError(
            f"{name}: each slice is shifted against the one before it, {shift:.4g} mm from the first to the "
            f"last (a tilted gantry, or a sheared stack). Resample it to a right-angled grid first; see {PAGE}."
        )
