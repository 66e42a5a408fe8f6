"""Words above a picture, as part of it: where nothing but the picture is shown, as in TensorBoard."""

import numpy as np
from PIL import Image

from tfbrats.cases.overlays import own_style
from tfbrats.pictures.sheet import Sheet

HEIGHT = 52  # pixels that the words take


@own_style()
def above(picture: np.ndarray, title: str, line: str = "") -> np.ndarray:
    """The picture, uint8 [rows, columns, 3], below a title and a smaller line, both white on black."""
    width = picture.shape[1]
    sheet = Sheet(width, HEIGHT, "black")
    sheet.text(8, 16, title, 17, "white", weight="bold", widest=width - 16)
    sheet.text(8, 38, line, 14, "#c8d0d8", widest=width - 16)
    with Image.open(sheet.file()) as words:
        return np.concatenate([np.asarray(words.convert("RGB")), picture])
