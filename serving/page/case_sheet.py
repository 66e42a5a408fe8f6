"""One case on one sheet of A4, as PDF and PNG: planes bare and outlined, volumes, lesions, which model.

The planes go through the thickest part of the tumour. Colours are `overlays`', letters and scales `marks`'.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfbrats.cases import boxes, overlays
from tfbrats.pictures import marks
from tfbrats.predictions.results import Segmentation

ENDINGS = ("pdf", "png")
_A4 = (8.27, 11.69)  # inches
_DPI = 130
_MARGIN = 0.06  # of the sheet's width
_TOP, _FOOT = 0.905, 0.29  # between which the pictures stand, of its height
_GAP, _BETWEEN = 0.01, 0.028  # between pictures, and between rows of them
_HEAD_MARGIN = 3  # voxels round the head
_ROWS = 8  # lesions in the table
_SOFT = "#555555"
_drawing = threading.Lock()  # matplotlib's settings are one for all threads


def write(found: Segmentation, result: Mapping[str, Any], paths: Mapping[str, str]) -> None:
    """Draws the sheet, and writes it once for each ending.

    Args:
        found: with its case.
        result: as `segmenting` tells it to the page.
        paths: ending -> where.
    """
    from matplotlib.figure import Figure

    with _drawing, overlays.own_style():
        figure = Figure(figsize=_A4, dpi=_DPI, facecolor="white")
        _pictures(figure, found)
        _words(figure, found, result)
        for ending, path in paths.items():
            metadata = {"Title": f"{result['case']}, by {found.card.name}"} if ending == "pdf" else None
            figure.savefig(path, format=ending, metadata=metadata)


def _pictures(figure, found: Segmentation) -> None:
    """Three planes in columns; above bare, below outlined; one scale for all."""
    case, tissues = found.case, found.tissues
    greys = overlays.scans_shown(case.image, case.modalities)
    title, grey = next(iter(greys.items()))
    bare = tuple(greys.items())[:2]
    voxel, _ = overlays.focus(tissues, tissues, case.spacing_mm)
    filled = case.image.any(axis=-1)
    box = boxes.grown(boxes.box_of(filled), _HEAD_MARGIN, filled.shape)
    sides_mm = [(high - low) * side for (low, high), side in zip(box, case.spacing_mm, strict=True)]
    widths = [sides_mm[0], sides_mm[0], sides_mm[1]]
    rows = [(f"{name}, bare", image, None) for name, image in bare] + [(f"{title}, outlined", grey, tissues)]
    high = (_TOP - _FOOT) / len(rows) - _BETWEEN  # of the sheet's height
    # Of the sheet's width, a mm: as large as both its width and its rows allow.
    per_mm = min(
        (1 - 2 * _MARGIN - 2 * _GAP) / sum(widths), high * _A4[1] / _A4[0] / max(sides_mm[1], sides_mm[2])
    )
    top = _TOP
    for caption, image, labels in rows:
        height = per_mm * max(sides_mm[1], sides_mm[2]) * _A4[0] / _A4[1]
        left = _MARGIN
        figure.text(left, top + 0.004, caption, fontsize=8, color=_SOFT)
        for axis, width in zip((2, 1, 0), widths, strict=True):
            at = marks.Slice(axis, voxel[axis], case.image.shape[axis], case.spacing_mm)
            axes = figure.add_axes((left, top - height, per_mm * width, height), facecolor="black")
            _panel(
                axes, at, [boxes.crop(array, box) for array in (image, tissues)], box, voxel, labels is not None
            )
            if labels is not None:
                slice_of = f"{at.plane} slice {at.index + 1} of {at.count}"
                figure.text(left, top - height - 0.012, slice_of, fontsize=7, color=_SOFT)
            left += per_mm * width + _GAP
        top -= height + _BETWEEN


def _panel(axes, at: marks.Slice, cut: Sequence[np.ndarray], box, voxel: Sequence[int], outlined: bool) -> None:
    from matplotlib.patches import Rectangle

    places = [place - low for place, (low, _) in zip(voxel, box, strict=True)]
    image, tissues = (overlays.plane(array, places, at.axis) for array in cut)
    rows, columns = image.shape
    height_mm, width_mm = at.pixel_mm
    extent = (0, columns * width_mm, rows * height_mm, 0)
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="bilinear")
    if outlined:
        for tissue, colour in overlays.COLOURS.items():
            inside = (tissues == tissue).astype(np.float32)
            if inside.any() and not inside.all():
                x = (np.arange(columns) + 0.5) * width_mm
                y = (np.arange(rows) + 0.5) * height_mm
                axes.contour(x, y, inside, levels=[0.5], colors=[colour], linewidths=0.9)
    axes.set_xlim(0, extent[1])
    axes.set_ylim(extent[2], 0)
    axes.set_aspect("equal", anchor="NW")
    axes.set_xticks([])
    axes.set_yticks([])
    letters = at.letters
    style = {"color": "white", "fontsize": 7, "fontweight": "bold", "transform": axes.transAxes}
    axes.text(0.02, 0.5, letters.left, va="center", **style)
    axes.text(0.98, 0.5, letters.right, va="center", ha="right", **style)
    axes.text(0.5, 0.98, letters.top, va="top", ha="center", **style)
    axes.text(0.5, 0.02, letters.bottom, ha="center", **style)
    length, words = marks.scale_bar(0.6 * extent[1])
    low = extent[2] - 0.06 * extent[2]
    left = 0.05 * extent[1]
    axes.add_patch(Rectangle((left, low), length, 0.008 * extent[2], color="white"))
    axes.text(left, low - 0.01 * extent[2], words, color="white", fontsize=6)


def _words(figure, found: Segmentation, result: Mapping[str, Any]) -> None:
    card = found.card
    kind = "Simulated case" if result["simulated"] else "Case"
    figure.text(_MARGIN, 0.955, f"{kind} {result['case']}", fontsize=15, fontweight="bold")
    by = f"segmented by {card.name} version {card.version}. For research only, not for diagnosis."
    figure.text(_MARGIN, 0.937, by, fontsize=9, color="#a03000")
    legend = _MARGIN
    top = 0.262
    for tissue, colour in overlays.COLOURS.items():
        if (found.tissues == tissue).any():
            figure.text(legend, top, "\u25a0", fontsize=11, color=colour)
            figure.text(legend + 0.02, top, overlays.NAMES[tissue], fontsize=7.5)
            legend += 0.04 + 0.0085 * len(overlays.NAMES[tissue])
    _table(figure, _MARGIN, top - 0.03, *_volumes(result))
    _table(figure, 0.42, top - 0.03, *_lesions(result))
    origin = result["provenance"]
    scans = ", ".join(f"{scan['modality']} {scan['file']}" for scan in origin["inputs"])
    card_sum = origin["model"]["tfbrats_json_sha256"][:16]
    lines = [
        f"Segmentation: {origin['segmentation']['file']}, sha256 {origin['segmentation']['sha256']}",
        f"Label values: {result['values']}. {origin['written_by']}, model exported by "
        f"{origin['model']['exported_by']}, tfbrats.json sha256 {card_sum}...",
        f"Scans: {scans}"[:150],
        "Radiological view: the patient's left is on the right. " + (result["known"] or ""),
    ]
    for number, line in enumerate(lines):
        figure.text(_MARGIN, 0.062 - 0.012 * number, line, fontsize=6, color=_SOFT)


def _volumes(result: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    names = {"WT": "whole tumour, WT", "TC": "tumour core, TC", "ET": "enhancing, ET"}
    dice = result["dice"]
    rows = [
        [names[r], f"{ml:.1f}", *([f"{dice[r]:.2f}"] if dice else [])] for r, ml in result["volumes_ml"].items()
    ]
    return "Volumes", ["region", "ml", *(["Dice"] if dice else [])], rows


def _lesions(result: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    rows = [
        [str(n), *(f"{ml:.2f}" for ml in lesion["ml"].values()), " ".join(map(str, lesion["voxel"]))]
        for n, lesion in enumerate(result["lesions"][:_ROWS], 1)
    ]
    total = len(result["lesions"]) + result["other_lesions"]["count"]
    title = f"Lesions: {total}" + (f", the {len(rows)} largest" if total > len(rows) else "")
    return title, ["lesion", "WT ml", "TC ml", "ET ml", "voxel i j k"], rows


def _table(
    figure, left: float, top: float, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    figure.text(left, top, title, fontsize=9, fontweight="bold")
    step = 0.1 if len(heads) > 3 else 0.14
    places = [left, *(left + 0.06 + step * n for n in range(len(heads) - 1))]
    if len(heads) <= 3:
        places = [left, *(left + 0.2 + 0.07 * n for n in range(len(heads) - 1))]
    for number, row in enumerate([heads, *rows]):
        for place, text in zip(places, row, strict=True):
            color = _SOFT if number == 0 else "black"
            figure.text(place, top - 0.018 - 0.0145 * number, text, fontsize=7.5, color=color)
