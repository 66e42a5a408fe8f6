"""What tells where a picture lies in the patient: letters at its sides, which slice, how long 5 cm are."""

from collections.abc import Sequence
from dataclasses import dataclass

from tfbrats.cases.nifti import AXES

SCALES = ((50, "5 cm"), (10, "1 cm"), (1, "1 mm"))
_PLANES = ("sagittal", "coronal", "axial")  # by the axis that they cut
_OPPOSITE = dict(zip("LRPASI", "RLAPIS", strict=True))
_BEYOND = {"L": "left of", "P": "behind", "S": "above"}


def scale_bar(most_mm: float) -> tuple[int, str]:
    """How long a scale bar is, in mm and in words: 5 cm where there is room for it."""
    return next((scale for scale in SCALES if scale[0] <= most_mm), SCALES[-1])


@dataclass(frozen=True)
class Letters:
    """The patient's side at each side of a picture: L or R, A (front) or P (back), S (head) or I (feet)."""

    left: str
    right: str
    top: str
    bottom: str


def beyond(axis: int) -> str:
    """Where a slice lies, seen from the first: "above" it of axial ones (`axis` 2)."""
    return _BEYOND[AXES[axis]]


@dataclass(frozen=True)
class Slice:
    """One plane of a volume, seen as `overlays.plane` turns it.

    Attributes:
        axis: that it cuts: 2 for an axial slice.
        index: of the voxels, from 0.
        count: how many slices there are along the axis.
        spacing_mm: along i, j, k.
    """

    axis: int
    index: int
    count: int
    spacing_mm: Sequence[float]

    @property
    def plane(self) -> str:
        return _PLANES[self.axis]

    @property
    def words(self) -> str:
        """E.g. "axial slice 78 of 155, 77 mm above the first"."""
        away_mm = self.index * self.spacing_mm[self.axis]
        place = f"{away_mm:.0f} mm {beyond(self.axis)} the first"
        return f"{self.plane} slice {self.index + 1} of {self.count}, {place}"

    @property
    def short(self) -> str:
        """What stands in the picture itself, e.g. "axial 78 of 155, 77 mm"."""
        return (
            f"{self.plane} {self.index + 1} of {self.count}, {self.index * self.spacing_mm[self.axis]:.0f} mm"
        )

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Height and width of a voxel in this plane."""
        width_mm, height_mm = (self.spacing_mm[axis] for axis in range(3) if axis != self.axis)
        return height_mm, width_mm

    @property
    def letters(self) -> Letters:
        across, down = (AXES[axis] for axis in range(3) if axis != self.axis)
        if self.axis != 2:  # `overlays.plane` puts the head on top
            down = _OPPOSITE[down]
        return Letters(left=_OPPOSITE[across], right=across, top=_OPPOSITE[down], bottom=down)
