"""What a NIfTI header says about space, judged: one affine in mm, and a note on every guess. Pure numpy.

A header tells where its voxels lie in up to three ways: by a quaternion (qform), by a matrix (sform), by voxel
sizes alone (pixdim). Where they agree nothing is said. Where they do not, SimpleITK's reading is taken and the
note says so; where programs would differ on voxel size or on which side is left, the file is refused.
`nifti` knows the file format.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from tfbrats.errors import InputError

# NIfTI's xyzt_units, the three bits for space: name, and mm in one of them.
_UNITS = {0: ("", 1.0), 1: ("metres", 1000.0), 2: ("", 1.0), 3: ("micrometres", 0.001)}
_LAST_CODE = 5  # of the standard: 1 scanner, 2 aligned, 3 Talairach, 4 MNI, 5 template
_SCANNER, _ALIGNED = 1, 2

_SIDES_MM = (0.05, 30.0)  # voxels of a brain scan lie well within
_SAME_MM = 0.1  # qform and sform that differ by less, at the corners, are the same
_SAME_SIDES, _ROUGHLY_SAME_SIDES = 1e-3, 1e-2  # relative: the same; rounded by who wrote them
_RIGHT_ANGLE = 1e-4  # cosine between axes: what SimpleITK takes for a right angle
_NEARLY_RIGHT_ANGLE = 1e-2  # 0.6 degrees: rounding by who wrote it, not a gantry's tilt
_ROUNDED = 1e-3  # a quaternion's squared length above 1: normalised, as SimpleITK does
_EXACT = 3 * float(np.finfo(np.float32).eps)  # that nibabel takes without a word


@dataclass(frozen=True)
class Header:
    """The fields of a NIfTI header that are about space, as they stand in the file.

    Attributes:
        shape: of the first three axes.
        pixdim: [4], the first is qfac.
        units: xyzt_units' bits for space.
        qform: [4, 4] voxel -> units, as SimpleITK would have it: of the quaternion brought to length 1, sides
            of 1 where pixdim has none; NaN where the quaternion is no number.
        quaternion: [3], b, c and d.
        sform: [4, 4] voxel -> units.
    """

    shape: tuple[int, ...]
    pixdim: np.ndarray
    units: int
    qform: np.ndarray
    qform_code: int
    quaternion: np.ndarray
    sform: np.ndarray
    sform_code: int


@dataclass(frozen=True)
class Judgement:
    """Where the voxels lie.

    Attributes:
        affine: [4, 4] voxel of the file -> mm.
        notes: guesses that were made and what else a person should know, without the file's name.
        qform, sform: [4, 4] voxel -> mm, to be written in place of a damaged one; else None.
        sides: [3] mm, to be written into pixdim in place of damaged ones; else None.
        codes: qform_code and sform_code as they count.
        unit_mm: mm in one of the header's units.
    """

    affine: np.ndarray
    notes: tuple[str, ...] = ()
    qform: np.ndarray | None = None
    sform: np.ndarray | None = None
    sides: np.ndarray | None = None
    codes: tuple[int, int] = (0, 0)
    unit_mm: float = 1.0


def judge(header: Header) -> Judgement:
    """Where the voxels of a file with this header lie.

    Raises:
        InputError: it cannot be told, or programs would differ on voxel size or on left and right. Without the
            file's name.
    """
    notes: list[str] = []
    unit, mm = _UNITS.get(header.units, ("", 1.0))
    if unit:
        notes.append(f"its header is in {unit} (xyzt_units {header.units}): converted to mm")
    elif header.units not in _UNITS:
        notes.append(f"xyzt_units {header.units} is no unit of the standard: taken as mm")
    codes = []
    for name, code in (("qform_code", header.qform_code), ("sform_code", header.sform_code)):
        codes.append(_ALIGNED if code > _LAST_CODE else max(code, 0))
        if codes[-1] != code:
            notes.append(f"{name} {code} is no code of the standard: taken as {codes[-1]}")
    sides = header.pixdim[1:4]
    if (sides < 0).any():
        raise InputError(
            f"pixdim is negative ({_listed(sides)}): programs differ in whether that turns an axis round, and "
            "so which side is left. Repair the header."
        )
    judged = _chosen(_in_mm(header, mm), *codes)
    _check_sides(judged.affine, header.units)
    return dataclasses.replace(
        judged, notes=(*notes, *judged.notes), codes=(judged.codes[0] or codes[0], codes[1]), unit_mm=mm
    )


def _in_mm(header: Header, unit_mm: float) -> Header:
    rows = np.array([[unit_mm], [unit_mm], [unit_mm], [1.0]])
    return dataclasses.replace(
        header,
        pixdim=header.pixdim * np.array([1.0, unit_mm, unit_mm, unit_mm]),
        qform=header.qform * rows,
        sform=header.sform * rows,
    )


def _chosen(header: Header, qform_code: int, sform_code: int) -> Judgement:
    """The one of the ways that counts. `header` is in mm."""
    qform_fault = _qform_fault(header) if qform_code else "its qform_code is 0"
    sform_fault = _sform_fault(header.sform) if sform_code else "its sform_code is 0"
    if not qform_code and not sform_code:
        return _by_sides_alone(header)
    if not sform_code:
        if qform_fault:
            raise InputError(f"{qform_fault}, and it has no sform. Repair the header.")
        return _by_qform(header)
    if sform_fault:
        if not qform_code or qform_fault:
            more = f"; {qform_fault}" if qform_code else ", and it has no qform"
            raise InputError(f"{sform_fault}{more}. Repair the header.")
        judged = _by_qform(header)
        note = f"{sform_fault}; its qform is used"
        return dataclasses.replace(judged, notes=(*judged.notes, note), sform=judged.affine)
    if not qform_code:
        return _by_sform(header, sform_code)
    if qform_fault:
        if _skew(header.sform) > _RIGHT_ANGLE:
            raise InputError(
                f"{qform_fault}, and the axes of its sform are not at right angles. Repair the header."
            )
        away = _distance(header.qform, header.sform, header.shape)
        if sform_code != _SCANNER and away > _SAME_MM:  # NaN is not
            raise InputError(
                f"{qform_fault}; mended, as SimpleITK does, its qform would lie {away:.4g} mm from its sform. "
                "Repair the header."
            )
        judged = _by_sform(header, qform_code)
        note = f"{qform_fault}; its sform is used"
        return dataclasses.replace(judged, notes=(*judged.notes, note), qform=header.sform)
    return _by_either(header, sform_code)


# --- one way ----------------------------------------------------------------------------------------------


def _by_sides_alone(header: Header) -> Judgement:
    sides = header.pixdim[1:4]
    if not np.isfinite(sides).all() or not sides.all():
        raise InputError(f"qform_code and sform_code are 0, and pixdim is {_listed(sides)}. Repair the header.")
    note = (
        "qform_code and sform_code are 0, so the header does not say which side is left: guessed, as SimpleITK "
        "does, that the axes run to the patient's left, back and head (LPS). nibabel guesses another "
        "orientation. Repair the header if the guess is wrong"
    )
    return Judgement(np.diag([-sides[0], -sides[1], sides[2], 1.0]), (note,))


def _by_qform(header: Header) -> Judgement:
    """Of a qform that has no fault."""
    excess = excess_of(header.quaternion)
    notes = []
    if excess > 0:
        notes.append(f"its quaternion is longer than 1 by rounding ({1 + excess / 2:.7f}): normalised")
    qfac = header.pixdim[0]
    if qfac not in (-1, 0, 1):
        notes.append(f"pixdim[0] (qfac) is {qfac:g}: taken as {-1 if qfac < 0 else 1}")
    return Judgement(header.qform, tuple(notes), header.qform if notes else None)


def _by_sform(header: Header, code: int) -> Judgement:
    """Of an sform that has no fault; its lengths must be those of pixdim, which SimpleITK believes.

    Args:
        code: of the qform, should one be written.
    """
    sform, sides = header.sform, header.pixdim[1:4]
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    # As the NIfTI library has them, and so SimpleITK: 1 where nothing was written.
    taken = np.where(np.isfinite(sides) & (sides != 0), sides, 1.0)
    difference = np.abs(lengths / taken - 1).max()
    if difference > _ROUGHLY_SAME_SIDES:
        raise InputError(
            f"its sform says voxels of {_listed(lengths)}, its pixdim {_listed(sides)}: programs differ in "
            "which they believe. Repair the header."
        )
    notes, mended = [], None
    if difference > _SAME_SIDES:
        notes.append(
            f"its sform says voxels of {_listed(lengths)}, its pixdim {_listed(sides)}: the sform is used"
        )
    if (taken != sides).any():
        notes.append(f"pixdim is {_listed(sides)}: the voxel size of its sform is used, {_listed(lengths)}")
        mended = lengths
    skew = _skew(sform)
    if skew > _NEARLY_RIGHT_ANGLE:
        raise InputError(
            f"the axes of its sform are {_degrees(skew)} off a right angle. Resample it onto a grid with right "
            "angles."
        )
    if skew > _RIGHT_ANGLE and not header.qform_code > 0:
        notes.append(
            f"the axes of its sform are {_degrees(skew)} off a right angle: taken as one. SimpleITK refuses "
            "the file"
        )
        return Judgement(sform, tuple(notes), qform=sform, sides=mended, codes=(code, 0))
    return Judgement(sform, tuple(notes), sides=mended)


def _by_either(header: Header, sform_code: int) -> Judgement:
    """Of qform and sform that have no fault each: the same, or contradicting each other."""
    away = _distance(header.qform, header.sform, header.shape)
    by_qform = _by_qform(header)
    if away <= _SAME_MM and _skew(header.sform) <= _RIGHT_ANGLE:
        judged = _by_sform(header, sform_code)
        return dataclasses.replace(judged, notes=(*judged.notes, *by_qform.notes), qform=by_qform.qform)
    says = f"its qform and its sform lie up to {away:.4g} mm apart"
    if sform_code == _SCANNER and _skew(header.sform) <= _RIGHT_ANGLE:
        judged = _by_sform(header, sform_code)
        turned = "" if _axes(header.qform) == _axes(header.sform) else ", and along other axes"
        note = f"{says}{turned}: the sform is used, as SimpleITK and nibabel do"
        return dataclasses.replace(judged, notes=(*judged.notes, note), qform=by_qform.qform)
    if _axes(header.qform) != _axes(header.sform):
        raise InputError(
            f"{says} and run along other axes ({_axes(header.qform)}, {_axes(header.sform)}): programs differ "
            "in which they believe, and so which side is left. Repair the header."
        )
    note = f"{says}: the qform is used, as SimpleITK does; nibabel uses the sform"
    return dataclasses.replace(by_qform, notes=(*by_qform.notes, note))


# --- what is wrong with one -------------------------------------------------------------------------------


def _qform_fault(header: Header) -> str:
    """Why a qform cannot be used by itself; empty if it can."""
    sides, excess = header.pixdim[1:4], excess_of(header.quaternion)
    if not np.isfinite(excess):
        return f"its quaternion is {_listed(header.quaternion, ', ')}"
    if not np.isfinite(sides).all() or not sides.all():
        return f"pixdim is {_listed(sides)}"
    if excess > _ROUNDED:
        return f"its quaternion has the length {np.sqrt(1 + excess):.7g}; expected 1"
    return "" if np.isfinite(header.qform).all() else "its qform holds NaN or infinity"


def _sform_fault(sform: np.ndarray) -> str:
    """Why an sform cannot be used; empty if it can."""
    if not np.isfinite(sform).all():
        return "its sform holds NaN or infinity"
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if not lengths.all() or abs(np.linalg.det(sform[:3, :3] / lengths)) < 1e-3:
        return "its sform has no three axes (an empty one, or two along one line)"
    return ""


def excess_of(quaternion: np.ndarray) -> float:
    """By how much b2 + c2 + d2 is more than the 1 that it may be; 0 for what nibabel takes, NaN for NaN."""
    excess = float(np.square(quaternion).sum()) - 1
    return 0.0 if excess <= _EXACT else excess


def qform_of_turn(quaternion: np.ndarray, pixdim: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """[4, 4] of a quaternion that leaves nothing to its first part, brought to length 1 as SimpleITK does.

    Args:
        quaternion: [3], b, c and d.
        pixdim: [4], qfac first.
    """
    axis = quaternion / np.linalg.norm(quaternion)
    qform = np.eye(4)
    qform[:3, :3] = (2 * np.outer(axis, axis) - np.eye(3)) * (pixdim[1:] * np.array([1, 1, pixdim[0]]))
    qform[:3, 3] = offset
    return qform


def _check_sides(affine: np.ndarray, units: int) -> None:
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(affine).all() and (sides >= _SIDES_MM[0]).all() and (sides <= _SIDES_MM[1]).all()):
        raise InputError(
            f"voxels of {_listed(sides)} mm; expected {_SIDES_MM[0]:g} to {_SIDES_MM[1]:g} mm a side. Repair "
            f"the header: pixdim, sform, or the unit (xyzt_units is {units}; 1 is metres, 2 mm, 3 micrometres)."
        )


# --- geometry ---------------------------------------------------------------------------------------------


def _distance(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """The furthest that a corner of the volume moves between two affines, in their units."""
    corners = np.array(np.meshgrid(*((0, n - 1) for n in shape))).reshape(3, -1)
    moved = (affine - other)[:3]
    return float(np.linalg.norm(moved[:, :3] @ corners + moved[:, 3:], axis=0).max())


def _skew(affine: np.ndarray) -> float:
    """The largest cosine between two axes: 0 for right angles."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def _axes(affine: np.ndarray) -> str:
    """Where the axes of the file run to, e.g. LPS."""
    letters = ("LR", "PA", "IS")
    largest = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).argmax(axis=0)
    return "".join(letters[row][int(affine[row, axis] > 0)] for axis, row in enumerate(largest))


def _degrees(cosine: float) -> str:
    return f"{np.degrees(np.arcsin(min(cosine, 1.0))):.2g} degrees"


def _listed(sides: np.ndarray, between: str = " x ") -> str:
    return between.join(f"{side:.7g}" for side in sides)
