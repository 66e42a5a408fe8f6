"""A picture as the address of a file that a page can hold. The same picture, the same bytes."""

import base64
import io

import matplotlib.image
import numpy as np
from PIL import Image

from tfbrats.cases.overlays import own_style

_EFFORT = 6  # of WebP, the most: a tenth fewer bytes than its default
_QUALITIES = (50, 40, 32, 25, 20)  # as libwebp counts it; below, what one sees of a brain suffers
_FLAT_COLOURS = 64


def data_uri(content: bytes, kind: str = "png") -> str:
    """A picture file's bytes as an address that a page can hold."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@own_style()
def png(picture: np.ndarray) -> str:
    """A picture, uint8 or 0 to 1 [rows, columns, 3], as a data URI."""
    buffer = io.BytesIO()
    # PNG's metadata names the library's version: left out, the same scores give the same page.
    matplotlib.image.imsave(buffer, picture, format="png", metadata={"Software": None})
    return data_uri(buffer.getvalue())


def exact(values: np.ndarray) -> str:
    """Numbers, uint8 [rows, columns], as a grey PNG that a page reads back as they are: a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="png", optimize=True)
    return data_uri(buffer.getvalue())


def small(picture: np.ndarray, most_bytes: int) -> str:
    """A picture, uint8 [rows, columns] or [rows, columns, 3], as a WebP of about so many bytes: a data URI.

    The more noise a scan has, the more of it is lost; what could not be made smaller without harm is larger.
    """
    image, buffer = Image.fromarray(picture).convert("RGB"), io.BytesIO()
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, format="webp", quality=quality, method=_EFFORT)
        if buffer.tell() <= most_bytes:
            break
    return data_uri(buffer.getvalue(), "webp")


def flat(png_bytes: bytes) -> str:
    """A chart's PNG in few colours, half the bytes; nobody sees the difference: a data URI."""
    with Image.open(io.BytesIO(png_bytes)) as image:
        few = image.convert("RGB").quantize(_FLAT_COLOURS, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, format="png", optimize=True)
    return data_uri(buffer.getvalue())
