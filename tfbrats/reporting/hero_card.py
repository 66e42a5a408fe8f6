"""The picture of one case, set: a light card with its panels, letters, scale, legend and scores.

What is shown, `hero` tells; here is where it stands, in which letters. The machine has the fonts.
"""

import io

import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from PIL import Image

from tfbrats.cases.overlays import COLOURS, own_style
from tfbrats.labels import REGIONS, Tissue
from tfbrats.reporting import marks
from tfbrats.reporting.hero import DIFFERENCE_COLOURS, FALSE, FOUND, MISSED, Hero, View, panels

SIMULATED = "simulated"
DIFFERENCE_NAMES = {FOUND: "found", MISSED: "missed", FALSE: "false"}
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
_LONGEST_SCALE = 0.42  # of a panel's width: beside the letter in its middle
_AIR = (34, 36)  # beside and above the head, for the letters
_INK, _SOFT, _PAPER, _SHEET, _LINE = "#1f2328", "#59636e", "#ffffff", "#f4f6f8", "#d1d9e0"
_WARN, _WARN_SHEET = "#7a4a00", "#ffe9bf"
# The first that this machine has; the last is matplotlib's own.
_FONTS = ("Inter", "Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")
MOST_BYTES = 400_000
_COLOURS_IN_FILE = (255, 128, 64)  # the first with which the file is small enough


@own_style()
def compose(hero: Hero) -> bytes:
    """The picture as a PNG file's bytes: a light card with round corners, clear outside of them."""
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72, facecolor="none")  # a point is a pixel
    sheet = _Sheet(figure)
    sheet.box(1.5, 1.5, WIDTH - 3, HEIGHT - 3, _PAPER, 28, _LINE)
    _head(sheet, hero)
    width, height = _PANEL
    view = View(hero, _PANEL, _AIR)
    pictures = panels(hero, view)
    for number, (title, picture) in enumerate(pictures.items()):
        left = _EDGE + number % 4 * (width + _GAP)
        top = _TOP + number // 4 * (height + _GAP)
        sheet.picture(left, top, picture)
        _marks(sheet, left, top, title, hero.at.letters, view.pixels_per_mm)
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
    scale_mm, scale = marks.scale_bar(_LONGEST_SCALE * width / pixels_per_mm)
    long, low = scale_mm * pixels_per_mm, top + height - 18
    sheet.bar(left + 16, low, long, 4, "white")
    for end in (left + 16, left + 16 + long - 3):
        sheet.bar(end, low - 5, 3, 14, "white")
    sheet.text(left + 16, low - 20, scale, 20, "white")


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
