"""A plane of a case with its tissues in colour: which plane, which way up, in which colours.

numpy, SciPy and matplotlib's colours. Those two are imported by what draws: who wants a colour's name, or a
plane, need not wait for them.
"""

import base64
import contextlib
import html
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfbrats.cases import boxes
from tfbrats.labels import LwsRegion, Tissue, region_mask

if TYPE_CHECKING:  # who draws planes need not wait for the reader of images
    from tfbrats.cases.nifti import Grid
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
_COLOUR_WORDS = {  # for a reader who sees no colours, or a page that shows none
    Tissue.NCR: "orange",
    Tissue.ED: "light blue",
    Tissue.ET: "yellow",
    Tissue.RC: "green",
    Tissue.CC: "dark blue",
}
MODALITY_TITLES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1ce", "t2": "T2"}  # in the order shown
SHOWN_MODALITIES = {name: MODALITY_TITLES[name] for name in ("flair", "t1ce")}
_FILL = 0.5  # opacity inside an outline
_PICTURE_PIXELS = 400  # of the longest side, at least
_PLANES_PIXELS = 720  # three planes side by side: two rows of a real case are about 130 kB
_GAP_PIXELS = 12  # between planes
_GREYS = 40  # levels in the three planes: noise hides their steps, and costs the most bytes
# Axis -> the plane's name; the letters at its left, right, top and bottom.
_PLANES = {2: ("axial", "RLAP"), 1: ("coronal", "RLSI"), 0: ("sagittal", "APSI")}
_LETTERS = {  # rows of five pixels, as bits
    "R": (30, 17, 17, 30, 20, 18, 17),
    "L": (16, 16, 16, 16, 16, 16, 31),
    "A": (14, 17, 17, 31, 17, 17, 17),
    "P": (30, 17, 17, 30, 16, 16, 16),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "I": (14, 4, 4, 4, 4, 4, 14),
}


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
        matplotlib.rcParams["text.parse_math"] = False  # names of files are written: $x$ is no formula
        yield


# --- three planes as a piece of a page: what a notebook shows of a case ----------------------------------


class Row(NamedTuple):
    """One scan and one label map, to be seen in three planes."""

    caption: str  # e.g. "prediction on FLAIR"
    grey: np.ndarray  # 0 to 1, [I, J, K]
    tissues: np.ndarray  # [I, J, K]


def as_grey(image: np.ndarray) -> np.ndarray:
    """One modality from 0 to 1, whatever its scale; what is 0 stays black."""
    if not image.any():
        return np.zeros(image.shape, np.float32)
    low, high = np.percentile(image[image != 0], (0.5, 99.5))
    return np.where(image == 0, 0, np.clip((image - low) / max(high - low, 1e-6), 0, 1))


def scans_shown(image: np.ndarray, modalities: Sequence[str]) -> dict[str, np.ndarray]:
    """FLAIR and T1ce of [I, J, K, M], or the first modality where neither is there: title -> grey [I, J, K]."""
    shown = [name for name in SHOWN_MODALITIES if name in modalities] or list(modalities[:1])
    return {
        SHOWN_MODALITIES.get(name, name): as_grey(image[..., list(modalities).index(name)].astype(np.float32))
        for name in shown
    }


def three_planes_html(title: str, rows: Sequence[Row], spacing_mm: Sequence[float]) -> str:
    """HTML with one PNG in it: each row's axial, coronal and sagittal plane, tissues outlined; a legend.

    Letters R L A P S I stand in the picture. Its background is black, and the text takes the page's colour, so
    that it is as good on a dark page. The planes go through the thickest part of the first row's tumour.

    Args:
        title: plain text.
        rows: one or two, of one shape.
        spacing_mm: along i, j, k.
    """
    first = rows[0].tissues
    voxel, through = focus(first, first, spacing_mm)
    picture = base64.b64encode(_three_planes_png(rows, voxel, spacing_mm)).decode()
    present = [tissue for tissue in COLOURS if any((row.tissues == tissue).any() for row in rows)]
    named = [f"{_PLANES[axis][0]} {'ijk'[axis]} = {voxel[axis]}" for axis in _PLANES]
    places = f"{', '.join(named)}, through {through}".capitalize()
    sides = ("Above: ", "below: ") if rows[1:] else ("",)
    captions = "; ".join(f"{side}{row.caption}" for side, row in zip(sides, rows, strict=True))
    legend = "&ensp; ".join(
        '<span style="display:inline-block;width:0.7em;height:0.7em;margin-right:0.3em;border:1px solid '
        f'currentColor;background:{COLOURS[tissue]}"></span>{NAMES[tissue]} ({_COLOUR_WORDS[tissue]})'
        for tissue in present
    )
    outlined = ", ".join(f"{NAMES[tissue]} in {_COLOUR_WORDS[tissue]}" for tissue in present)
    alt = f"{title}. Three planes. {captions}. {places}. Outlined: {outlined or 'nothing'}."
    return (
        '<figure style="margin:0">'
        f'<img alt="{html.escape(alt)}" style="max-width:100%;height:auto" '
        f'src="data:image/png;base64,{picture}">'
        f'<figcaption style="text-align:left"><b>{html.escape(title)}</b><br>'
        f"{html.escape(captions)}. {html.escape(places)}.<br>{legend or 'No tumour is outlined.'}"
        "</figcaption></figure>"
    )


def niivue_bundle(
    image: np.ndarray, modalities: Sequence[str], tissues: np.ndarray | None, grid: "Grid"
) -> dict[str, Any]:
    """NiiVue's widget, as a notebook displays it, where that notebook has imported ipyniivue; {} elsewhere.

    The import is the wish for it: a widget is gone when the notebook is opened again, and pictures stay.

    Args:
        image: [I, J, K, M], of these modalities; one is shown.
        tissues: uint8 [I, J, K], or None.
        grid: they lie on.
    """
    if (package := sys.modules.get("ipyniivue")) is None:
        return {}
    from tfbrats.cases import nifti

    def volume(name: str, array: np.ndarray, **how: Any) -> Any:
        content = nifti.to_bytes(grid.to_file(array), grid, f"{name}.nii.gz", 1)
        return package.widget.Volume(data=content, name=f"{name}.nii.gz", **how)

    grey = next(iter(scans_shown(image, modalities).values()))
    scan_voxels = np.round(grey * 255).astype(np.uint8)
    scan = volume("scan", scan_voxels, colormap="gray", cal_min=0, cal_max=255)
    tissue = volume("tissues", np.zeros_like(scan_voxels) if tissues is None else tissues, opacity=_FILL)
    shades = [(0, 0, 0, 0), *((*bytes.fromhex(colour[1:]), 255) for colour in COLOURS.values())]
    table = dict(zip("RGBA", map(list, zip(*shades, strict=True)), strict=True))
    values = [int(Tissue.BACKGROUND), *map(int, COLOURS)]
    names = [Tissue(value).name for value in values]
    tissue.set_colormap_label({**table, "I": values, "labels": names})
    shown = package.NiiVue(is_radiological_convention=True, sagittal_nose_left=True)
    shown.load_volumes([scan, tissue])
    bundle = shown._repr_mimebundle_()
    view, _ = bundle if isinstance(bundle, tuple) else (bundle, {})
    return {kind: content for kind, content in (view or {}).items() if kind != "text/plain"}


def _three_planes_png(rows: Sequence[Row], voxel: Sequence[int], spacing_mm: Sequence[float]) -> bytes:
    """The planes of all rows side by side, on one scale, cut to the head."""
    filled = np.any([(row.grey > 0) | (row.tissues > 0) for row in rows], axis=0)
    box = boxes.grown(boxes.box_of(filled), 2, filled.shape) if filled.any() else [(0, n) for n in filled.shape]
    at = [place - low for place, (low, _) in zip(voxel, box, strict=True)]
    sides_mm = [(high - low) * side for (low, high), side in zip(box, spacing_mm, strict=True)]
    # Side by side are i, in the axial and the coronal plane, and j.
    per_mm = (_PLANES_PIXELS - 2 * _GAP_PIXELS) / (2 * sides_mm[0] + sides_mm[1])
    height = max(1, round(per_mm * max(sides_mm[1:])))
    lines = []
    for row in rows:
        panels = []
        for axis, (_, letters) in _PLANES.items():
            width_mm, height_mm = (sides_mm[other] for other in range(3) if other != axis)
            shape = max(1, round(per_mm * height_mm)), max(1, round(per_mm * width_mm))
            cut = (plane(boxes.crop(array, box), at, axis) for array in (row.grey, row.tissues))
            panel = _with_letters(_outlined(*cut, shape), letters)
            above = max(0, height - len(panel)) // 2
            below = max(0, height - len(panel)) - above
            panels.append(np.pad(panel, ((above, below), (0, 0 if axis == 0 else _GAP_PIXELS))))
        lines.append(np.pad(np.concatenate(panels, axis=1), ((_GAP_PIXELS // 2,) * 2, (0, 0))))
    return _png(np.concatenate(lines))


def _outlined(grey: np.ndarray, tissues: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A plane of that many pixels as places in the palette of `_png`: greys, each tissue's outline on them."""
    from scipy import ndimage

    steps = [(np.arange(side) + 0.5) * size / side - 0.5 for side, size in zip(shape, grey.shape, strict=True)]
    where = np.array(np.meshgrid(*steps, indexing="ij"))
    levels = ndimage.map_coordinates(grey, where, order=1, mode="nearest") * (_GREYS - 1)
    picture = np.round(levels).astype(np.uint8)
    labels = ndimage.map_coordinates(tissues, where, order=0, mode="nearest")
    for place, tissue in enumerate(COLOURS):
        inside = labels == tissue
        picture[inside & ~ndimage.binary_erosion(inside)] = _GREYS + place
    return picture


def _with_letters(picture: np.ndarray, letters: str) -> np.ndarray:
    """Which side is which, at the left, right, top and bottom of a plane; white on black, twice as large."""
    rows, columns = picture.shape
    for letter, place in zip(letters, ("left", "right", "top", "bottom"), strict=True):
        bits = [[line >> bit & 1 for bit in (4, 3, 2, 1, 0)] for line in _LETTERS[letter]]
        glyph = np.pad(np.kron(np.array(bits, np.uint8), np.ones((2, 2), np.uint8)), 2) * (_GREYS - 1)
        high, wide = glyph.shape
        if high > rows or wide > columns:
            continue
        top = {"top": 0, "bottom": rows - high}.get(place, (rows - high) // 2)
        left = {"left": 0, "right": columns - wide}.get(place, (columns - wide) // 2)
        picture[top : top + high, left : left + wide] = glyph
    return picture


def _png(places: np.ndarray) -> bytes:
    """A picture of places in our palette, uint8 [rows, columns], as a PNG: a third of one in full colour."""
    greys = [(round(255 * level / (_GREYS - 1)),) * 3 for level in range(_GREYS)]
    palette = [*greys, *(tuple(bytes.fromhex(colour[1:])) for colour in COLOURS.values())]
    rows, columns = places.shape
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0),
        b"PLTE": bytes(value for colour in palette for value in colour),
        b"IDAT": zlib.compress(
            np.pad(places, ((0, 0), (1, 0))).tobytes(), 9
        ),  # each line begins with its filter
        b"IEND": b"",
    }
    parts = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
