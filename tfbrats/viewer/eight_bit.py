"""Scans and label maps as a page carries them: 8 bits a voxel, cut to the head, packed.

A scan is stored as what is left of each voxel when its neighbours have foretold it (the median edge detector of
JPEG-LS, in each axial slice), then by gzip, which a browser unpacks: half the bytes of gzip alone. Where a page
would be too large, greys are rounded to fewer levels, which is told.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import deflate
import numpy as np

from tfbrats.cases import overlays
from tfbrats.cases.boxes import Box, box_of, crop, grown
from tfbrats.cases.case import Case
from tfbrats.labels import Tissue

TISSUES = len(Tissue)
LEVELS = (256, 192, 128, 96, 64)
MOST_BYTES = 4_700_000  # of all scans, as base64: the page has 6 MB, of which NiiVue takes 1
_MARGIN = 2  # voxels round the head
_LEVEL = 9  # libdeflate's


@dataclass(frozen=True)
class Packed:
    """Scans of one case.

    Attributes:
        scans: modality -> base64.
        levels: of grey, from 64 to 256.
    """

    scans: Mapping[str, str]
    levels: int


def head_box(case: Case, *label_maps: np.ndarray | None) -> Box:
    """What is shown of a case: where any scan is not 0 and where a label map has something."""
    # Modality by modality, and along the files' own order: a mask of all at once takes four times as long.
    filled = np.zeros(case.image.shape[:3], bool)
    for m in range(case.image.shape[3]):
        filled |= case.image[..., m] != 0
    for label_map in label_maps:
        if label_map is not None:
            filled |= label_map != 0
    return grown(box_of(filled), _MARGIN, filled.shape)


def scans(case: Case, box: Box, most_bytes: int = MOST_BYTES) -> Packed:
    """All scans of a case inside a box; as many levels of grey as `most_bytes` of base64 leave room for."""
    greys = {
        name: overlays.as_grey(crop(case.image[..., m], box).astype(np.float32))
        for m, name in enumerate(case.modalities)
    }
    for levels in LEVELS:
        packed = {name: _packed(foretold(_rounded(grey, levels))) for name, grey in greys.items()}
        if sum(map(len, packed.values())) <= most_bytes:
            break
    return Packed(packed, levels)


def label_codes(prediction: np.ndarray | None, reference: np.ndarray | None, box: Box) -> str:
    """Both label maps as one volume, base64: tissue of the prediction + `TISSUES` x tissue of the reference.

    Args:
        prediction: tissues [I, J, K], or None.
        reference: the same.
    """
    codes = np.zeros([high - low for low, high in box], np.uint8)
    for label_map, factor in ((prediction, 1), (reference, TISSUES)):
        if label_map is not None:
            codes += crop(label_map, box).astype(np.uint8) * np.uint8(factor)
    return _packed(codes.transpose(2, 1, 0))


def _rounded(grey: np.ndarray, levels: int) -> np.ndarray:
    """Greys 0 to 1 [I, J, K] -> 0 to `levels` - 1, uint8 [K, J, I]: as NIfTI files lie."""
    return np.round(grey * (levels - 1)).astype(np.uint8).transpose(2, 1, 0)


def foretold(volume: np.ndarray) -> np.ndarray:
    """uint8 [K, J, I] -> what its neighbours do not foretell of each voxel, modulo 256, same shape."""
    padded = np.pad(volume.astype(np.int16), ((0, 0), (1, 0), (1, 0)))
    left, above, corner = padded[:, 1:, :-1], padded[:, :-1, 1:], padded[:, :-1, :-1]
    low, high = np.minimum(left, above), np.maximum(left, above)
    guess = np.where(corner >= high, low, np.where(corner <= low, high, left + above - corner))
    return (padded[:, 1:, 1:] - guess).astype(np.uint8)


def packed_text(text: str) -> str:
    """A text, by gzip, as base64."""
    return base64.b64encode(deflate.gzip_compress(text.encode(), 12)).decode()


def _packed(volume: np.ndarray) -> str:
    return base64.b64encode(deflate.gzip_compress(np.ascontiguousarray(volume).tobytes(), _LEVEL)).decode()
