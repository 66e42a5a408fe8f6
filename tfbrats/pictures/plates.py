"""Three planes of a case as one picture, for a browser that runs no script: bare, contours, difference.

Letters, scale, slice and "simulated" are part of the picture: whoever saves it has them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from tfbrats.cases.boxes import crop
from tfbrats.cases.overlays import own_style, plane
from tfbrats.pictures import encoding, hero, marks
from tfbrats.pictures.hero import Hero, View
from tfbrats.pictures.sheet import SIMULATED, Sheet
from tfbrats.pictures.sprites import head_box

_BARE = ("FLAIR", "T1ce")  # the scans that are shown beside reference, prediction and difference
_WIDTH, _GAP, _LINE = 230, 6, 24  # pixels: a panel, between panels, a line of words above each plane
_AIR = (18, 22)
_WORDS = 0.62  # of the hero's letters
_MOST_BYTES = 60_000


@own_style()
def compose(
    greys: Mapping[str, np.ndarray],
    reference: np.ndarray,
    prediction: np.ndarray,
    voxel: Sequence[int],
    spacing_mm: Sequence[float],
    simulated: bool,
) -> str:
    """The picture, as a data URI.

    Args:
        greys: modality's title -> 0 to 1, [I, J, K].
        reference: tissues, same shape.
        prediction: same shape.
        voxel: the planes go through.
        spacing_mm: along i, j, k.
        simulated: whether the case's files say so.
    """
    box = head_box(greys, reference, prediction)
    shown = {title: grey for title, grey in greys.items() if title in _BARE} or dict(list(greys.items())[:1])
    in_box = [place - low for place, (low, _) in zip(voxel, box, strict=True)]
    planes = []
    for axis in (2, 1, 0):
        at = marks.Slice(axis, voxel[axis], reference.shape[axis], spacing_mm)
        cut = {title: plane(crop(grey, box), in_box, axis) for title, grey in shown.items()}
        labels = (plane(crop(tissues, box), in_box, axis) for tissues in (reference, prediction))
        planes.append(Hero("", cut, *labels, at, {}))
    heights = [_height(one) for one in planes]
    columns = len(shown) + 3
    width = columns * (_WIDTH + _GAP) - _GAP
    sheet = Sheet(width, sum(heights) + 3 * (_LINE + _GAP), "black")
    top = 0
    for one, height in zip(planes, heights, strict=True):
        sheet.text(4, top + _LINE / 2 + 1, one.at.short, 14, "white")
        if simulated:
            sheet.text(width - 6, top + _LINE / 2 + 1, SIMULATED, 14, "#ffd27a", weight="bold", ha="right")
        view = View(one, (_WIDTH, height), _AIR)
        for number, (title, picture) in enumerate(hero.panels(one, view, fill=0).items()):
            left = number * (_WIDTH + _GAP)
            letters = one.at.letters, view.pixels_per_mm
            sheet.panel(left, top + _LINE, picture, title, letters, _WORDS)
        top += height + _LINE + _GAP
    with Image.open(sheet.file()) as image:
        return encoding.small(np.asarray(image.convert("RGB")), _MOST_BYTES)


def _height(one: Hero) -> int:
    """Pixels of a panel, so that the head fills its width."""
    rows, columns = one.reference.shape
    height_mm, width_mm = one.at.pixel_mm
    return max(96, round(rows * height_mm * (_WIDTH - 2 * _AIR[0]) / (columns * width_mm)) + 2 * _AIR[1])
