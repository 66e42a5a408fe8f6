"""A figure that is drawn on in pixels: pictures with round corners, boxes, bars, words that always fit."""

import io

import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from tfbrats.pictures import marks

INK, SOFT = "#1f2328", "#59636e"
WARN, WARN_SHEET = "#7a4a00", "#ffe9bf"  # of what must not be overlooked
SIMULATED = "simulated"
RADIUS = 14  # of a picture's corners, in pixels
_WIDEST = 0.945  # of the sheet's width
_LONGEST_SCALE = 0.42  # of a panel's width: beside the letter in its middle
# The first that this machine has; the last is matplotlib's own.
_FONTS = ("Inter", "Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")


class Sheet:
    """A figure that is drawn on in pixels from its upper left corner.

    Args:
        width: in pixels.
        height: same.
        paper: its colour; "none" is clear.
    """

    def __init__(self, width: int, height: int, paper: str = "none"):
        self._width, self._height = width, height
        # At 72 dpi a point is a pixel.
        self._figure = figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor=paper)
        there = font_manager.get_font_names()
        self._font = next(name for name in _FONTS if name in there)
        self._axes = figure.add_axes((0, 0, 1, 1), zorder=2)
        self._axes.set(xlim=(0, width), ylim=(height, 0))
        self._axes.axis("off")
        self._below = figure.add_axes((0, 0, 1, 1), zorder=0)
        self._below.set(xlim=(0, width), ylim=(height, 0))
        self._below.axis("off")

    def file(self) -> io.BytesIO:
        """What was drawn, as a PNG."""
        buffer = io.BytesIO()
        self._figure.savefig(buffer, format="png", facecolor=self._figure.get_facecolor())
        return buffer

    def picture(self, left: int, top: int, picture: np.ndarray, radius: float = RADIUS) -> None:
        """Pixel by pixel, with round corners: 0 to 1, [rows, columns, 3]."""
        height, width = picture.shape[:2]
        x, y = np.arange(width), np.arange(height)[:, None]
        inward = [np.minimum(at, size - 1 - at) for at, size in ((x, width), (y, height))]
        from_corner = np.hypot(*(np.maximum(radius - 0.5 - at, 0) for at in inward))
        alpha = np.clip(radius - from_corner, 0, 1)
        rgba = np.concatenate([picture, alpha[..., None]], axis=-1)
        self._figure.figimage(rgba, left, self._height - top - height, zorder=1, origin="upper")

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
        colour: str = INK,
        widest: float | None = None,
        **style,
    ) -> float:
        """Writes, in smaller letters where the words are wider than `widest`; gives how wide they are."""
        widest = self._width * _WIDEST if widest is None else widest
        style = {"va": "center_baseline", "family": self._font, **style}
        text = self._axes.text(left, middle, words, size=size, color=colour, **style)
        width = text.get_window_extent().width
        if width > widest:
            text.set_size(size * widest / width)
        return min(width, widest)

    def panel(
        self, left: int, top: int, picture: np.ndarray, title: str, view: tuple[marks.Letters, float], size=1.0
    ) -> None:
        """A picture with its title, the letters at its sides and a scale bar.

        Args:
            picture: 0 to 1, [rows, columns, 3].
            view: the letters, and how many pixels a mm has.
            size: of the words; 1 is of 20 pixels and more.
        """
        letters, pixels_per_mm = view
        height, width = picture.shape[:2]
        self.picture(left, top, picture, RADIUS * size)
        self.text(left + 16 * size, top + 30 * size, title, 25 * size, "white", weight="bold")
        style = {"size": 22 * size, "colour": "#c8d0d8", "weight": "bold", "ha": "center"}
        middle_x, middle_y = left + width / 2, top + height / 2
        self.text(left + 17 * size, middle_y, letters.left, **style)
        self.text(left + width - 17 * size, middle_y, letters.right, **style)
        self.text(middle_x, top + 20 * size, letters.top, **style)
        self.text(middle_x, top + height - 17 * size, letters.bottom, **style)
        scale_mm, scale = marks.scale_bar(_LONGEST_SCALE * width / pixels_per_mm)
        long, low = scale_mm * pixels_per_mm, top + height - 18 * size
        self.bar(left + 16 * size, low, long, 4 * size, "white")
        for end in (left + 16 * size, left + 16 * size + long - 3 * size):
            self.bar(end, low - 5 * size, 3 * size, 14 * size, "white")
        self.text(left + 16 * size, low - 20 * size, scale, 20 * size, "white")
