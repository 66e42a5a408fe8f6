"""The picture of one case, set: a light card with its panels, letters, scale, legend and scores.

What is shown, `hero` tells; here is where it stands, in which letters. The machine has the fonts.
"""

import io

import numpy as np
from PIL import Image

from tfbrats.cases.overlays import COLOURS, own_style
from tfbrats.labels import REGIONS, Tissue
from tfbrats.pictures import differences
from tfbrats.pictures.hero import SOLID_PIXELS, Hero, View, panels
from tfbrats.pictures.sheet import RADIUS, SIMULATED, SOFT, WARN, WARN_SHEET, Sheet
from tfbrats.pictures.solid import FROM

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
_EDGE, _GAP = 44, 16
_PANEL = SOLID_PIXELS  # width and height
_TOP, _KEY, _BOTTOM = 144, 168, 78  # the words above the panels; below them the key, and the words below it
HEIGHT = _TOP + 2 * (_PANEL[1] + _GAP) + _KEY + _BOTTOM
_AIR = (34, 36)  # beside and above the head, for the letters
_PAPER, _SHEET, _LINE = "#ffffff", "#f4f6f8", "#d1d9e0"
MOST_BYTES = 400_000
_COLOURS_IN_FILE = (255, 128, 64)  # the first with which the file is small enough


@own_style()
def compose(hero: Hero) -> bytes:
    """The picture as a PNG file's bytes: a light card with round corners, clear outside of them."""
    sheet = Sheet(WIDTH, HEIGHT)
    sheet.box(1.5, 1.5, WIDTH - 3, HEIGHT - 3, _PAPER, 28, _LINE)
    _head(sheet, hero)
    width, height = _PANEL
    view = View(hero, _PANEL, _AIR)
    for number, (title, picture) in enumerate(panels(hero, view).items()):
        left, top = _EDGE + number % 4 * (width + _GAP), _TOP + number // 4 * (height + _GAP)
        sheet.panel(left, top, picture, title, (hero.at.letters, view.pixels_per_mm))
    if hero.solid is not None:
        _in_space(sheet, _EDGE + 3 * (width + _GAP), _TOP + height + _GAP, hero.solid)
    _key(sheet, _EDGE, _TOP + 2 * (height + _GAP), hero)
    _foot(sheet, hero)
    return _small(sheet.file())


def _head(sheet: Sheet, hero: Hero) -> None:
    """Which case, and which slice of it."""
    middle = 62
    after = _EDGE + sheet.text(_EDGE, middle, hero.case_id, 38, widest=700, weight="bold")
    if hero.simulated:
        width = sheet.text(after + 42, middle - 1, SIMULATED, 24, WARN, weight="bold")
        sheet.box(after + 22, middle - 23, width + 40, 44, WARN_SHEET, 22)
    words = hero.at.words
    sheet.text(WIDTH - _EDGE, middle, words, 26, SOFT, ha="right")
    sheet.text(_EDGE, 112, hero.caption, 26, SOFT)


def _in_space(sheet: Sheet, left: int, top: int, picture: np.ndarray) -> None:
    """The prediction in 3-D, and from where it is seen."""
    width, height = _PANEL
    sheet.picture(left, top, picture)
    sheet.text(left + 16, top + 30, "Prediction, 3-D", 25, "white", weight="bold")
    sheet.text(left + 16, top + height - 20, FROM, 20, "#c8d0d8", widest=width - 32)


def _key(sheet: Sheet, left: float, top: float, hero: Hero) -> None:
    """Dice, and what the colours mean."""
    right = WIDTH - _EDGE
    sheet.box(left, top, right - left, _KEY, _SHEET, RADIUS)
    sheet.text(left + 24, top + 34, "Dice, whole volume", 23, weight="bold")
    for place, region in enumerate(REGIONS):
        x, dice = left + 24 + 236 * place, hero.dice[region]
        sheet.text(x, top + 98, "–" if np.isnan(dice) else f"{dice:.2f}", 50, weight="bold")
        after = sheet.text(x, top + 142, region, 21, weight="bold")
        sheet.text(x + after + 9, top + 142, _REGION_NAMES[region], 21, SOFT)
    shown = [t for t in _SHORT_NAMES if (hero.reference == t).any() or (hero.prediction == t).any()]
    tissues = [(COLOURS[tissue], _SHORT_NAMES[tissue]) for tissue in shown]
    kinds = [(differences.COLOURS[kind], name) for kind, name in differences.NAMES.items()]
    for x, title, lines in (
        (left + 780, "Tissue", tissues),
        (left + 1230, "Difference, " + _REGION_NAMES["WT"], kinds),
    ):
        sheet.bar(x - 30, top + 22, 2, _KEY - 44, _LINE)
        sheet.text(x, top + 34, title, 23, widest=right - 20 - x, weight="bold")
        for place, (colour, name) in enumerate(lines):
            column, row = divmod(place, 3)
            sheet.swatch(x + 200 * column, top + 74 + 33 * row, colour)
            sheet.text(x + 200 * column + 28, top + 74 + 33 * row, name, 21)


def _foot(sheet: Sheet, hero: Hero) -> None:
    """From where it is seen, and what it is not for."""
    middle = HEIGHT - 40
    ours = "Radiological view: the patient’s left is on the right."
    sheet.text(_EDGE, middle, ours, 22, SOFT)
    sheet.text(WIDTH - _EDGE, middle, "tfbrats. Not for clinical use.", 22, SOFT, ha="right")


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
