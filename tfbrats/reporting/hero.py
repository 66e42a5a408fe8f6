r"""One case in one picture, to be shown where a page cannot be: a README, a slide, a poster.

Above, the four scans of one axial slice, bare, so that a reader can judge for themselves. Below, the same slice
with the reference, with the prediction, and with where the two differ; the Dice of the whole volume beside it.
The slice is the one with most tumour in the reference, never one chosen by hand. The
picture says "simulated" where the case's files do.

docs/hero.png was made so, on two CPU cores in some twenty minutes:

    tfbrats phantom --output hero/cases --count 20 --edition 2021 --seed 1 --shape 192 192 124
    tfbrats prepare --config smoke_2d --input hero/cases --output hero/records records.slice_shape=[160,160]
    tfbrats train --config smoke_2d --records hero/records --run hero/run records.slice_shape=[160,160]
    tfbrats export --run hero/run --output hero/models/phantoms
    tfbrats predict --model hero/models/phantoms --input hero/cases --splits hero/run/splits.json --split test \
        --output hero/predictions
    tfbrats evaluate --prediction hero/predictions --reference hero/cases --splits hero/run/splits.json \
        --output hero/scores
    tfbrats report --scores hero/scores --prediction hero/predictions --reference hero/cases \
        --hero docs/hero.png
"""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib import font_manager
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from PIL import Image
from scipy import ndimage

from tfbrats.cases import case
from tfbrats.cases.boxes import box_of
from tfbrats.cases.overlays import COLOURS, own_style, plane
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS, Tissue, region_mask
from tfbrats.predictions import seen
from tfbrats.reporting import marks
from tfbrats.reporting.case_pictures import as_grey, choose, named, pairs_of, scored_pair
from tfbrats.scoring.evaluation import Evaluation
from tfbrats.terminal import wording

FOUND, MISSED, FALSE = 1, 2, 3  # what `difference` tells of a voxel; 0 is neither's
# Told apart by colour-blind readers, by a test; none of them a tissue's.
DIFFERENCE_COLOURS = {FOUND: "#2E8B57", MISSED: "#FF9F1C", FALSE: "#B388FF"}
DIFFERENCE_NAMES = {FOUND: "found", MISSED: "missed", FALSE: "false"}
SIMULATED = "simulated"
_TITLES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1ce", "t2": "T2"}
_SHORT_NAMES = {
    Tissue.ED: "ED oedema",
    Tissue.ET: "ET enhancing",
    Tissue.NCR: "NCR necrosis",
    Tissue.RC: "RC cavity",
    Tissue.CC: "CC cyst",
}
_REGION_NAMES = {"WT": "whole tumour", "TC": "tumour core", "ET": "enhancing tumour"}

# Pixels. A README shows the picture at half its width: what is to be read is 20 pixels or more.
WIDTH = 1600
_EDGE, _GAP, _RADIUS = 44, 16, 14
_PANEL = (366, 440)  # width and height
_TOP, _BOTTOM = 144, 78  # the words above and below the panels
HEIGHT = _TOP + 2 * _PANEL[1] + _GAP + _BOTTOM
_AIR = (34, 36)  # beside and above the head, for the letters
_INK, _SOFT, _PAPER, _SHEET, _LINE = "#1f2328", "#59636e", "#ffffff", "#f4f6f8", "#d1d9e0"
_WARN, _WARN_SHEET = "#7a4a00", "#ffe9bf"
_FONTS = (
    "Inter",
    "Helvetica Neue",
    "Helvetica",
    "Arial",
    "Liberation Sans",
    "DejaVu Sans",
)  # the last is matplotlib's own
MOST_BYTES = 400_000
_COLOURS_IN_FILE = (255, 128, 64)  # the first with which the file is small enough


@dataclass(frozen=True)
class Hero:
    """One slice of a case, and what is said of it.

    Attributes:
        greys: modality's title -> 0 to 1, [rows, columns].
        reference: tissues [rows, columns].
        prediction: same shape.
        at: which slice it is.
        dice: region -> of the whole volume; nan where there is none.
        caption: whose prediction this is, and what the case stands for.
        simulated: whether the case's files say so.
    """

    case_id: str
    greys: Mapping[str, np.ndarray]
    reference: np.ndarray
    prediction: np.ndarray
    at: marks.Slice
    dice: Mapping[str, float]
    caption: str = ""
    simulated: bool = False


def hero_of(
    evaluation: Evaluation,
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    case_id: str | None,
    scores: str | os.PathLike,
) -> Hero:
    """A case that was scored, and what is known of it.

    Args:
        prediction: the folder that was scored.
        reference: what it was scored against, with the scans.
        case_id: which case; None for the median one by Dice of WT.
        scores: folder of the evaluation, for errors.

    Raises:
        InputError: no case can be shown; a file of it is not there, cannot be read or is not what was scored.
    """
    rows = evaluation.rows
    chosen = dict(choose(rows, 1)) if case_id is None else named(rows, [case_id])
    if not chosen:
        raise InputError(f"{scores}: no case has a Dice of WT. Name one with --case.")
    ((case_id, stands_for),) = chosen.items()
    (pair,) = pairs_of(evaluation, prediction, reference, [case_id], scores)
    predicted, expert, grid = scored_pair(rows, pair, scores)
    if pair.source is None:
        raise InputError(f"{reference}: holds no scans of {case_id}. Give the data set as --reference.")
    scans = case.load(pair.source, list(_TITLES), read_label=False).image
    k = fullest(expert, predicted)
    voxel = (0, 0, k)
    return Hero(
        case_id=case_id,
        greys={title: plane(as_grey(scans[..., n]), voxel, 2) for n, title in enumerate(_TITLES.values())},
        reference=plane(expert, voxel, 2),
        prediction=plane(predicted, voxel, 2),
        at=marks.Slice(2, k, expert.shape[2], grid.spacing_mm),
        dice={row["region"]: row["dice"] for row in rows if row["case_id"] == case_id},
        caption=_caption(evaluation, case_id, stands_for),
        simulated=case.is_simulated(grid),
    )


def _caption(evaluation: Evaluation, case_id: str, stands_for: str) -> str:
    """Whose prediction it is, which rank the case has, and whether the model has seen it."""
    model = evaluation.model
    by_whom = f"Segmented by {model.name} version {model.version}. " if model and model.name else ""
    if stands_for in ("worst", "median", "best"):
        stands_for = f"the {stands_for} of {wording.counted(evaluation.cases, 'case')}"
    by_what = "" if stands_for == "the only one" else " by Dice of WT"
    kinds = evaluation.seen_by_model.cases if evaluation.seen_by_model else {}
    kind = next((kind for kind, case_ids in kinds.items() if case_id in case_ids), "")
    known = " The model has seen it in training." if kind in seen.KNOWN_TO_THE_MODEL else ""
    return f"{by_whom}{stands_for[0].upper()}{stands_for[1:]}{by_what}.{known}"


def fullest(reference: np.ndarray, prediction: np.ndarray) -> int:
    """K of the axial slice with most tumour in the reference; without any in the prediction, or the middle one.

    Args:
        reference: tissues [I, J, K].
        prediction: same shape.
    """
    for tissues in (reference, prediction):
        voxels = region_mask(tissues, "WT").sum(axis=(0, 1))
        if voxels.any():
            return int(voxels.argmax())
    return reference.shape[2] // 2


def difference(reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Of each voxel whether the whole tumour is found there, missed or false: uint8; 0 where neither has it."""
    expected, predicted = region_mask(reference, "WT"), region_mask(prediction, "WT")
    kinds = np.zeros(reference.shape, np.uint8)
    kinds[expected & predicted] = FOUND
    kinds[expected & ~predicted] = MISSED
    kinds[predicted & ~expected] = FALSE
    return kinds


def painted(
    grey: np.ndarray, kinds: np.ndarray, colours: Mapping[int, str], opacity: Mapping[int, float]
) -> np.ndarray:
    """A plane in grey with some of its voxels in colour: 0 to 1, [rows, columns, 3].

    Args:
        grey: 0 to 1, [rows, columns].
        kinds: same shape.
        colours: of the kinds that are painted.
        opacity: 1 hides the grey below.
    """
    picture = np.repeat(grey[..., None], 3, axis=-1).astype(float)
    for kind, colour in colours.items():
        inside = kinds == kind
        picture[inside] = (1 - opacity[kind]) * picture[inside] + opacity[kind] * np.array(to_rgb(colour))
    return picture


class _View:
    """How the pixels of a panel lie on the slice: all panels show the same part of it, on one scale."""

    def __init__(self, hero: Hero):
        filled = np.any([grey > 0 for grey in hero.greys.values()], axis=0) | (hero.reference > 0)
        filled |= hero.prediction > 0
        box = box_of(filled) if filled.any() else tuple((0, size) for size in filled.shape)
        height_mm, width_mm = hero.at.pixel_mm
        extents_mm = [(high - low) * side for (low, high), side in zip(box, hero.at.pixel_mm, strict=True)]
        width, height = _PANEL
        self.pixels_per_mm = min((height - 2 * _AIR[1]) / extents_mm[0], (width - 2 * _AIR[0]) / extents_mm[1])
        middles = [(low + high - 1) / 2 for low, high in box]
        rows = middles[0] + (np.arange(height) - (height - 1) / 2) / self.pixels_per_mm / height_mm
        columns = middles[1] + (np.arange(width) - (width - 1) / 2) / self.pixels_per_mm / width_mm
        self._where = np.array(np.meshgrid(rows, columns, indexing="ij"))

    def grey(self, plane: np.ndarray) -> np.ndarray:
        """Smooth, as a scan is."""
        return np.clip(ndimage.map_coordinates(plane.astype(float), self._where, order=3, cval=0), 0, 1)

    def kinds(self, plane: np.ndarray) -> np.ndarray:
        """Every voxel with sharp borders, as a label map is."""
        return ndimage.map_coordinates(plane, self._where, order=0, cval=0)


def panels(hero: Hero) -> dict[str, np.ndarray]:
    """The pictures in reading order: title -> 0 to 1, [rows, columns, 3], all of one size."""
    view = _View(hero)
    greys = {title: view.grey(grey) for title, grey in hero.greys.items()}
    pictures = {title: np.repeat(grey[..., None], 3, axis=-1) for title, grey in greys.items()}
    below = next(iter(greys.values()))
    for title, tissues in (("Reference", hero.reference), ("Prediction", hero.prediction)):
        kinds = view.kinds(tissues)
        picture = painted(below, kinds, COLOURS, dict.fromkeys(COLOURS, 0.55))
        for tissue, colour in COLOURS.items():
            inside = kinds == tissue
            picture[inside & ~ndimage.binary_erosion(inside, iterations=2, border_value=1)] = to_rgb(colour)
        pictures[title] = picture
    kinds = view.kinds(difference(hero.reference, hero.prediction))
    opacity = {FOUND: 0.6, MISSED: 1, FALSE: 1}
    pictures["Difference"] = painted(0.6 * below, kinds, DIFFERENCE_COLOURS, opacity)
    return pictures


@own_style()
def compose(hero: Hero) -> bytes:
    """The picture as a PNG file's bytes: a light card with round corners, clear outside of them."""
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72, facecolor="none")  # a point is a pixel
    sheet = _Sheet(figure)
    sheet.box(1.5, 1.5, WIDTH - 3, HEIGHT - 3, _PAPER, 28, _LINE)
    _head(sheet, hero)
    width, height = _PANEL
    pictures = panels(hero)
    for number, (title, picture) in enumerate(pictures.items()):
        left = _EDGE + number % 4 * (width + _GAP)
        top = _TOP + number // 4 * (height + _GAP)
        sheet.picture(left, top, picture)
        _marks(sheet, left, top, title, hero.at.letters, _View(hero).pixels_per_mm)
    _key(sheet, _EDGE + 3 * (width + _GAP), _TOP + height + _GAP, hero)
    _foot(sheet, hero)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    return _small(buffer)


def _head(sheet: "_Sheet", hero: Hero) -> None:
    """Which case, and which slice of it."""
    middle = 62
    after = _EDGE + sheet.text(_EDGE, middle, hero.case_id, 38, widest=700, weight="bold")
    if hero.simulated:
        width = sheet.text(after + 42, middle - 1, SIMULATED, 24, _WARN, weight="bold")
        sheet.box(after + 22, middle - 23, width + 40, 44, _WARN_SHEET, 22)
    words = hero.at.words
    sheet.text(WIDTH - _EDGE, middle, words, 26, _SOFT, ha="right")
    sheet.text(_EDGE, 112, hero.caption, 26, _SOFT)


def _marks(
    sheet: "_Sheet", left: float, top: float, title: str, letters: marks.Letters, pixels_per_mm: float
) -> None:
    """A panel's title, the letters at its sides and the scale bar."""
    width, height = _PANEL
    sheet.text(left + 16, top + 30, title, 25, "white", weight="bold")
    style = {"size": 22, "colour": "#c8d0d8", "weight": "bold", "ha": "center"}
    middle_x, middle_y = left + width / 2, top + height / 2
    sheet.text(left + 17, middle_y, letters.left, **style)
    sheet.text(left + width - 17, middle_y, letters.right, **style)
    sheet.text(middle_x, top + 20, letters.top, **style)
    sheet.text(middle_x, top + height - 17, letters.bottom, **style)
    long, low = marks.SCALE_MM * pixels_per_mm, top + height - 18
    sheet.bar(left + 16, low, long, 4, "white")
    for end in (left + 16, left + 16 + long - 3):
        sheet.bar(end, low - 5, 3, 14, "white")
    sheet.text(left + 16, low - 20, marks.SCALE_NAME, 20, "white")


def _key(sheet: "_Sheet", left: float, top: float, hero: Hero) -> None:
    """Dice, and what the colours mean."""
    width, height = _PANEL
    sheet.box(left, top, width, height, _SHEET, _RADIUS)
    left += 24
    sheet.text(left, top + 34, "Dice", 25, weight="bold")
    right = left - 48 + width
    sheet.text(right, top + 34, "whole volume", 22, _SOFT, ha="right")
    for place, region in enumerate(REGIONS):
        baseline = top + 93 + 60 * place
        dice = hero.dice[region]
        sheet.text(left, baseline, "–" if np.isnan(dice) else f"{dice:.2f}", 46, weight="bold")
        sheet.text(left + 122, baseline - 12, region, 23, weight="bold")
        sheet.text(left + 122, baseline + 14, _REGION_NAMES[region], 21, _SOFT)
    top += 278
    sheet.bar(left, top - 22, width - 48, 2, _LINE)
    shown = [t for t in _SHORT_NAMES if (hero.reference == t).any() or (hero.prediction == t).any()]
    tissues = [(COLOURS[tissue], _SHORT_NAMES[tissue]) for tissue in shown]
    kinds = [(DIFFERENCE_COLOURS[kind], name) for kind, name in DIFFERENCE_NAMES.items()]
    between = left + 178
    for x, end, title, lines in (
        (left, between, "Tissue", tissues),
        (between, right, _REGION_NAMES["WT"].capitalize(), kinds),
    ):
        sheet.text(x, top + 10, title, 22, widest=end - x, weight="bold")
        for place, (colour, name) in enumerate(lines, 1):
            sheet.swatch(x, top + 12 + 33 * place, colour)
            sheet.text(x + 28, top + 12 + 33 * place, name, 21, widest=end - x - 32)


def _foot(sheet: "_Sheet", hero: Hero) -> None:
    """From where it is seen, and what it is not for."""
    middle = HEIGHT - 40
    ours = "Radiological view: the patient’s left is on the right."
    sheet.text(_EDGE, middle, ours, 22, _SOFT)
    sheet.text(WIDTH - _EDGE, middle, "tfbrats. Not for clinical use.", 22, _SOFT, ha="right")


def _small(picture: io.BytesIO) -> bytes:
    """The same picture in few colours, half the bytes; nobody sees the difference."""
    with Image.open(picture) as image:
        colours, outside = image.convert("RGB"), np.asarray(image)[..., 3] < 128
    content = b""
    for number in _COLOURS_IN_FILE:
        few = colours.quantize(number, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        indices = np.array(few)
        indices[outside] = number
        clear = Image.fromarray(indices)
        clear.putpalette([*few.getpalette()[: 3 * number], 0, 0, 0])
        buffer = io.BytesIO()
        clear.save(buffer, format="png", optimize=True, transparency=number)
        content = buffer.getvalue()
        if len(content) <= MOST_BYTES:
            break
    return content


class _Sheet:
    """A figure that is drawn on in pixels from its upper left corner."""

    def __init__(self, figure: Figure):
        self._figure = figure
        there = font_manager.get_font_names()
        self._font = next(name for name in _FONTS if name in there)
        self._axes = figure.add_axes((0, 0, 1, 1), zorder=2)
        self._axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
        self._axes.axis("off")
        self._below = figure.add_axes((0, 0, 1, 1), zorder=0)
        self._below.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
        self._below.axis("off")

    def picture(self, left: int, top: int, picture: np.ndarray) -> None:
        """Pixel by pixel, with round corners."""
        height, width = picture.shape[:2]
        x, y = np.arange(width), np.arange(height)[:, None]
        inward = [np.minimum(at, size - 1 - at) for at, size in ((x, width), (y, height))]
        from_corner = np.hypot(*(np.maximum(_RADIUS - 0.5 - at, 0) for at in inward))
        alpha = np.clip(_RADIUS - from_corner, 0, 1)
        rgba = np.concatenate([picture, alpha[..., None]], axis=-1)
        self._figure.figimage(rgba, left, HEIGHT - top - height, zorder=1, origin="upper")

    def box(self, left: float, top: float, width: float, height: float, fill: str, radius: float, line="none"):
        shape = f"round,pad=0,rounding_size={radius}"
        patch = FancyBboxPatch((left, top), width, height, shape, facecolor=fill, edgecolor=line, linewidth=2)
        self._below.add_patch(patch)

    def swatch(self, left: float, middle: float, colour: str) -> None:
        self._axes.add_patch(Circle((left + 9, middle), 9, facecolor=colour, edgecolor="none"))

    def bar(self, left: float, top: float, width: float, height: float, colour: str) -> None:
        self._axes.add_patch(Rectangle((left, top), width, height, facecolor=colour, edgecolor="none"))

    def text(
        self,
        left: float,
        middle: float,
        words: str,
        size: float,
        colour: str = _INK,
        widest: float = WIDTH - 2 * _EDGE,
        **style,
    ) -> float:
        """Writes, in smaller letters where the words are wider than `widest`; gives how wide they are."""
        style = {"va": "center_baseline", "family": self._font, **style}
        text = self._axes.text(left, middle, words, size=size, color=colour, **style)
        width = text.get_window_extent().width
        if width > widest:
            text.set_size(size * widest / width)
        return min(width, widest)
