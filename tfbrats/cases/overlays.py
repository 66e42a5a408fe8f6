"""A plane of a case with its tissues in colour: which plane, which way up, in which colours.

numpy, SciPy and matplotlib's colours. Those two are imported by what draws: who wants a colour's name, or a
plane, need not wait for them.
"""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from tfbrats.cases import boxes
from tfbrats.labels import LwsRegion, Tissue, region_mask

# Okabe and Ito's colours: told apart by colour-blind readers, and on grey.
COLOURS = {
    Tissue.NCR: "#D55E00",
    Tissue.ED: "#56B4E9",
    Tissue.ET: "#F0E442",
    Tissue.RC: "#009E73",
    Tissue.CC: "#0072B2",
}
NAMES = {
    Tissue.NCR: "NCR, necrotic and non-enhancing core",
    Tissue.ED: "ED, oedema",
    Tissue.ET: "ET, enhancing tumour",
    Tissue.RC: "RC, resection cavity",
    Tissue.CC: "CC, cystic component",
}
# None of them a tissue's, and apart in lightness too.
LWS_COLOURS = {
    LwsRegion.S1: "#000000",
    LwsRegion.S2: "#59616b",
    LwsRegion.S3: "#cc79a7",
    LwsRegion.S4: "#e69f00",
}
LWS_NAMES = {
    LwsRegion.S1: "S1, background: every modality is 0",
    LwsRegion.S2: "S2, normal brain",
    LwsRegion.S3: "S3, tumour inside the contour band",
    LwsRegion.S4: "S4, contour band of the whole tumour",
}
SHOWN_MODALITIES = {"flair": "FLAIR", "t1ce": "T1ce"}
_FILL = 0.5  # opacity inside an outline
_PICTURE_PIXELS = 400  # of the longest side, at least


def focus(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[tuple[int, int, int], str]:
    """The voxel to cut through, and what is there.

    Args:
        prediction: tissues [I, J, K].
        reference: same shape.
        spacing_mm: along i, j, k.

    Returns:
        (i, j, k) of the middle of the thickest error, of equally thick ones in the largest connected piece; of
        the thickest part of the tumour without an error; of the volume without a tumour.
    """
    from scipy import ndimage

    tumour = region_mask(reference, "WT") | region_mask(prediction, "WT")
    for where, text in ((prediction != reference, "the largest error"), (tumour, "the middle of the tumour")):
        if where.any():
            box = boxes.box_of(where)
            inside = np.pad(boxes.crop(where, box), 1)
            depth_mm = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
            pieces, _ = ndimage.label(inside, np.ones((3, 3, 3)))
            deepest = np.argwhere(depth_mm == depth_mm.max())
            sizes = np.bincount(pieces.ravel())[pieces[tuple(deepest.T)]]
            chosen = deepest[sizes.argmax()]
            return tuple(int(at) - 1 + low for at, (low, _) in zip(chosen, box, strict=True)), text
    return tuple(size // 2 for size in reference.shape), "the middle of the volume: there is no tumour"


def plane(array: np.ndarray, voxel: Sequence[int], axis: int) -> np.ndarray:
    """One plane of [I, J, K] as rows x columns, the way a radiologist looks at it.

    i, j, k point to the patient's left, back and head: axial planes (`axis` 2) have the front on top,
    coronal (1) and sagittal (0) ones the head; left is on the viewer's right, sagittal planes face left.
    """
    rows_by_columns = np.take(array, voxel[axis], axis).T
    return rows_by_columns if axis == 2 else rows_by_columns[::-1]


def _places(shape: tuple[int, int], pixel_mm: tuple[float, float]) -> np.ndarray:
    """Where the square pixels of a picture lie on a plane of `shape`: [2, rows, columns] in voxels."""
    extent_mm = np.multiply(shape, pixel_mm)
    per_mm = max(_PICTURE_PIXELS / extent_mm.max(), 1 / min(pixel_mm))
    sides = np.maximum(1, np.round(extent_mm * per_mm).astype(int))
    rows, columns = (
        (np.arange(side) + 0.5) * size / side - 0.5 for side, size in zip(sides, shape, strict=True)
    )
    return np.array(np.meshgrid(rows, columns, indexing="ij"))


def overlay(grey: np.ndarray, tissues: np.ndarray, pixel_mm: tuple[float, float]) -> np.ndarray:
    """A plane with its tissues in colour, outlined: uint8 [rows, columns, 3], square pixels.

    Args:
        grey: 0 to 1, [rows, columns].
        tissues: same shape.
        pixel_mm: height and width of a voxel in this plane.
    """
    from matplotlib.colors import to_rgb
    from scipy import ndimage

    where = _places(grey.shape, pixel_mm)
    picture = ndimage.map_coordinates(grey, where, order=1, mode="nearest")[..., None].repeat(3, -1)
    labels = ndimage.map_coordinates(tissues, where, order=0, mode="nearest")
    for tissue, colour in COLOURS.items():
        inside = labels == tissue
        outline = inside & ~ndimage.binary_erosion(inside, iterations=2)
        rgb = np.array(to_rgb(colour))
        picture[inside] = (1 - _FILL) * picture[inside] + _FILL * rgb
        picture[outline] = rgb
    return np.round(picture * 255).astype(np.uint8)


def enlarged(picture: np.ndarray, pixel_mm: tuple[float, float]) -> np.ndarray:
    """A plane [rows, columns, 3] from 0 to 1 as large as `overlay` makes it, every voxel with sharp borders."""
    rows, columns = np.round(_places(picture.shape[:2], pixel_mm)).astype(int)
    return np.round(picture[rows, columns] * 255).astype(np.uint8)


def lws_picture(regions: np.ndarray) -> np.ndarray:
    """Regions [rows, columns] of S1 to S4 as a picture from 0 to 1: [rows, columns, 3]."""
    from matplotlib.colors import to_rgb

    return np.array([to_rgb(LWS_COLOURS[region]) for region in LwsRegion])[regions]


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """In the block matplotlib draws by its own defaults: no matplotlibrc of another project moves or flips."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield
