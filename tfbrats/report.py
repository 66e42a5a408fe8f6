"""One page to look at: scores, and the worst, middle and best cases as pictures.

    python -m tfbrats.report --metrics REPORT --prediction OUT --reference DATA --output report.html

--metrics is the folder that python -m tfbrats.evaluate wrote; --prediction and --reference are the folders
it compared. The page is a single file: it holds its pictures, runs no script and loads nothing.

A picture that shows a good case proves little: cases are picked by rank, never by hand, and each is cut
through the thickest piece of its error.
"""

import base64
import dataclasses
import io
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from tfbrats import __version__, case, command, evaluate, files, run, stages
from tfbrats.command import InputError
from tfbrats.labels import REGIONS, Tissue, region_mask
from tfbrats.metrics import dice
from tfbrats.pairs import Pair, match

# Okabe and Ito's colours: told apart by colour-blind readers, and on grey.
COLOURS = {Tissue.NCR: "#D55E00", Tissue.ED: "#56B4E9", Tissue.ET: "#F0E442", Tissue.RC: "#009E73"}
NAMES = {
    Tissue.NCR: "NCR, necrotic and non-enhancing core",
    Tissue.ED: "ED, oedema",
    Tissue.ET: "ET, enhancing tumour",
    Tissue.RC: "RC, resection cavity",
}
SHOWN_MODALITIES = {"flair": "FLAIR", "t1ce": "T1ce"}
_FILL = 0.5  # opacity inside an outline
_THICK_MM = 3.0  # errors thinner than this either way are the two outlines' ordinary disagreement
_PICTURE_PIXELS = 400  # of the longest side, at least


# --- which cases, which planes --------------------------------------------------------------------------


def choose(rows: Sequence[Mapping[str, Any]], number: int) -> list[tuple[str, str]]:
    """(case id, what it stands for) of cases spread evenly by Dice of WT, worst first.

    Args:
        rows: keys as `evaluate.COLUMNS`.
        number: how many; 3 are the worst, the median and the best.
    """
    ranked = [row for row in rows if row["region"] == "WT" and not math.isnan(row["dice"])]
    ranked.sort(key=lambda row: (row["dice"], row["case_id"]))
    last = len(ranked) - 1
    places = sorted({round(place) for place in np.linspace(0, last, min(number, len(ranked)))})
    if number == 1 and ranked:
        places = [last // 2]
    names = {0: "worst", last: "best", last // 2: "median"} if last > 1 else {0: "worst", last: "best"}
    if last == 0:
        names = {0: "the only one"}
    return [(ranked[p]["case_id"], names.get(p, f"rank {p + 1} of {last + 1}")) for p in places]


def focus(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[tuple[int, int, int], str]:
    """The voxel to cut through, and what is there.

    Args:
        prediction: tissues [I, J, K].
        reference: same shape.
        spacing_mm: along i, j, k.

    Returns:
        (i, j, k) of the middle of the thickest error; of the thickest part of the tumour if no error is more
        than twice `_THICK_MM` thick; of the volume without tumour.
    """
    tumour = region_mask(reference, "WT") | region_mask(prediction, "WT")
    for where, least_mm, text in (
        (prediction != reference, _THICK_MM, "the thickest error"),
        (tumour, 0.0, "the middle of the tumour"),
    ):
        if where.any():
            box = ndimage.find_objects(where.astype(np.uint8))[0]
            depth_mm = ndimage.distance_transform_edt(np.pad(where[box], 1), sampling=spacing_mm)
            if depth_mm.max() > least_mm:
                deepest = np.unravel_index(depth_mm.argmax(), depth_mm.shape)
                return tuple(int(d) - 1 + s.start for d, s in zip(deepest, box, strict=True)), text
    return tuple(size // 2 for size in reference.shape), "the middle of the volume: there is no tumour"


# --- pictures -------------------------------------------------------------------------------------------


def plane(array: np.ndarray, voxel: Sequence[int], axis: int) -> np.ndarray:
    """One plane of [I, J, K] as rows x columns, the way a radiologist looks at it.

    i, j, k point to the patient's left, back and head: axial planes (`axis` 2) have the front on top,
    coronal (1) and sagittal (0) ones the head; left is on the viewer's right, sagittal planes face left.
    """
    rows_by_columns = np.take(array, voxel[axis], axis).T
    return rows_by_columns if axis == 2 else rows_by_columns[::-1]


def overlay(grey: np.ndarray, tissues: np.ndarray, pixel_mm: tuple[float, float]) -> np.ndarray:
    """A plane with its tissues in colour, outlined: uint8 [rows, columns, 3], square pixels.

    Args:
        grey: 0 to 1, [rows, columns].
        tissues: same shape.
        pixel_mm: height and width of a voxel in this plane.
    """
    extent_mm = np.multiply(grey.shape, pixel_mm)
    per_mm = max(_PICTURE_PIXELS / extent_mm.max(), 1 / min(pixel_mm))
    sides = np.maximum(1, np.round(extent_mm * per_mm).astype(int))
    rows, columns = (
        (np.arange(side) + 0.5) * size / side - 0.5 for side, size in zip(sides, grey.shape, strict=True)
    )
    where = np.meshgrid(rows, columns, indexing="ij")
    picture = ndimage.map_coordinates(grey, where, order=1, mode="nearest")[..., None].repeat(3, -1)
    labels = ndimage.map_coordinates(tissues, where, order=0, mode="nearest")
    for tissue, colour in COLOURS.items():
        inside = labels == tissue
        outline = inside & ~ndimage.binary_erosion(inside, iterations=2)
        rgb = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        picture[inside] = (1 - _FILL) * picture[inside] + _FILL * rgb
        picture[outline] = rgb
    return np.round(picture * 255).astype(np.uint8)


def _data_uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _png(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    # PNG's metadata names the library's version: left out, the same scores give the same page.
    matplotlib.image.imsave(buffer, picture, format="png", metadata={"Software": None})
    return _data_uri(buffer.getvalue())


def _greys(pair: Pair, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Modality's title -> [I, J, K] from 0 to 1; black without images, as where only masks were given."""
    images = pair.source.images if pair.source else ()
    wanted = tuple(image for image in images if image[0] in SHOWN_MODALITIES)
    if not wanted:
        return {"no image": np.zeros(shape, np.float32)}
    loaded = case.load(dataclasses.replace(pair.source, images=wanted), [image[0] for image in wanted])
    greys = {}
    for channel, modality in enumerate(loaded.modalities):
        image = loaded.image[..., channel].astype(np.float32)
        low, high = np.percentile(image[image != 0], (0.5, 99.5))
        grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
        greys[SHOWN_MODALITIES[modality]] = np.where(image == 0, 0, grey)
    return greys


def case_pictures(pair: Pair) -> dict[str, Any]:
    """What the page shows of one case: `through` (text), `tissues` seen, `planes` with their panels.

    Raises:
        InputError: a file of the case cannot be read.
    """
    prediction, reference, grid = evaluate.load_pair(pair)
    spacing_mm = grid.spacing_mm
    voxel, through = focus(prediction, reference, spacing_mm)
    greys = _greys(pair, reference.shape)
    # Only the head, with a small margin: the air around it is a third of a BraTS image.
    filled = np.any([grey > 0 for grey in greys.values()], axis=0) | (reference > 0) | (prediction > 0)
    box = ndimage.find_objects(filled.astype(np.uint8))[0] if filled.any() else (slice(None),) * 3
    box = tuple(slice(max(s.start - 2, 0), s.stop + 2) if s.start is not None else s for s in box)
    inner = [at - (s.start or 0) for at, s in zip(voxel, box, strict=True)]
    planes = []
    for axis, name in ((2, "axial"), (1, "coronal"), (0, "sagittal")):
        width_mm, height_mm = (spacing_mm[other] for other in range(3) if other != axis)
        panels = [
            {
                "title": f"{title}, {who}",
                "picture": _png(
                    overlay(
                        plane(grey[box], inner, axis), plane(tissues[box], inner, axis), (height_mm, width_mm)
                    )
                ),
            }
            for title, grey in greys.items()
            for who, tissues in (("reference", reference), ("prediction", prediction))
        ]
        planes.append({"name": f"{name}, {'ijk'[axis]} = {voxel[axis]}", "panels": panels})
    seen = [tissue for tissue in COLOURS if (reference == tissue).any() or (prediction == tissue).any()]
    return {"through": through, "tissues": seen, "planes": planes}


def training_curves(history: Sequence[Mapping[str, str]], dark: bool) -> str | None:
    """Losses and Dice over epochs as a data URI, or None when no column of either is there.

    Args:
        history: rows of history.csv; a column counts as far as it holds numbers.
        dark: for a dark page.
    """
    columns = {name: [_number(row.get(name)) for row in history] for name in (history[0] if history else ())}
    epochs = columns.get("epoch", list(range(1, len(history) + 1)))
    groups = {
        "loss": [name for name in ("loss", "validation_loss") if name in columns],
        "Dice (validation)": [name for name in columns if "dice" in name.lower()],
    }
    groups = {title: names for title, names in groups.items() if names}
    if not groups:
        return None
    ink, paper = ("#d8dce2", "#16191d") if dark else ("#30353b", "#ffffff")
    figure = Figure(figsize=(4.8 * len(groups), 3), layout="constrained", facecolor=paper, dpi=160)
    for axes, (title, names) in zip(
        figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True
    ):
        for name, colour in zip(names, ("#0072B2", "#D55E00", "#009E73", "#CC79A7") * len(names), strict=False):
            region = name.split("_")[-1].upper()
            label = region if region in REGIONS else name.replace("_", " ")
            axes.plot(epochs, columns[name], color=colour, label=label, marker=".", linewidth=1.6)
        axes.set_facecolor(paper)
        axes.set_title(title, color=ink, loc="left", fontsize=10)
        axes.set_xlabel("epoch", color=ink)
        axes.tick_params(colors=ink)
        axes.grid(color=ink, alpha=0.15)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[:].set_visible(False)
        axes.legend(frameon=False, labelcolor=ink)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return _data_uri(buffer.getvalue())


def curves_of(run_folder: str | os.PathLike) -> list[dict[str, str]]:
    """The training curves of a run: `title`, and data URIs "light" and "dark".

    One entry without a title for a network trained alone; for a cascade one for each region whose training
    has begun. None at all before the first epoch has ended.
    """
    histories = {"": run.read_history(run_folder)}
    for region in REGIONS:
        histories[region] = run.read_history(files.join(run_folder, region.lower()))
    drawn = []
    for title, history in histories.items():
        light = training_curves(history, dark=False)
        if light:
            drawn.append({"title": title, "light": light, "dark": training_curves(history, dark=True)})
    return drawn


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


# --- the page -------------------------------------------------------------------------------------------


def _marked_up(text: str) -> markupsafe.Markup:
    """A note as HTML: `code` and links, everything else as it stands."""
    html = str(markupsafe.escape(text))
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", html)
    return markupsafe.Markup(re.sub(r"(https?://[^\s<]+[^\s<.,;)])", r'<a href="\1">\1</a>', html))


def _figure(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"


def render(
    content: Mapping[str, Any],
    pictured: Sequence[Mapping[str, Any]],
    title: str,
    curves: Sequence[Mapping[str, str]] = (),
    notes: Sequence[str] = (),
) -> str:
    """The page's HTML.

    Args:
        content: as `evaluate.read` returns it.
        pictured: `case_pictures` of each case to show, with `case_id` and `stands_for`.
        curves: as `curves_of` returns them.
        notes: what was run; `code` between backticks and links are marked up.
    """
    by_case: dict[str, dict[str, Mapping]] = {}
    for row in content["rows"]:
        by_case.setdefault(row["case_id"], {})[row["region"]] = row
    ranked = sorted(by_case.items(), key=lambda item: (np.nan_to_num(item[1]["WT"]["dice"], nan=2), item[0]))
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["figure"] = _figure
    environment.filters["percent"] = _percent
    environment.filters["marked_up"] = _marked_up
    template = pathlib.Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    seen = [tissue for tissue in COLOURS if any(tissue in one["tissues"] for one in pictured)]
    return environment.from_string(template).render(
        title=title,
        content=content,
        regions=list(REGIONS),
        ranked=ranked,
        by_case=by_case,
        pictured=pictured,
        cascade=content["cascade"],
        losses=stages.ranked(content["cascade"]["rows"]) if content["cascade"] else (),
        share=stages.share,
        possible=stages.possible,
        legend=[(COLOURS[tissue], NAMES[tissue]) for tissue in seen],
        curves=curves,
        notes=notes,
        version=__version__,
    )


def _check_scored(rows: Sequence[Mapping[str, Any]], pair: Pair, where: str | os.PathLike) -> None:
    """Raises InputError unless the files are those that were scored, going by WT's Dice."""
    (row,) = (row for row in rows if (row["case_id"], row["region"]) == (pair.case_id, "WT"))
    ours, theirs = (region_mask(tissues, "WT") for tissues in evaluate.load_pair(pair)[:2])
    if row["empty"] or not (ours.any() and theirs.any()):
        return  # the empty-mask rule's number, not a measured one
    found = dice(ours, theirs)
    if abs(found - row["dice"]) > 1e-6:
        raise InputError(
            f"{pair.case_id}: {where} says Dice {row['dice']:.4f} of WT; {pair.prediction} has {found:.4f}. "
            "Give the folders that were scored, or score these with python -m tfbrats.evaluate."
        )


def write(
    metrics: str | os.PathLike,
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    output: str | os.PathLike,
    title: str = "Segmentation report",
    cases: int = 3,
    run_folder: str | os.PathLike | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Writes the page.

    Args:
        metrics: folder that `evaluate.write` wrote.
        prediction: folder that was scored.
        reference: what it was scored against; a data set brings the images for the pictures.
        output: the HTML file.
        cases: how many to picture.
        run_folder: of the training, for its curves.
        notes: see `render`.

    Raises:
        InputError: a folder or a chosen case's file is not there, cannot be read, or is not what was scored.
    """
    content = evaluate.read(metrics)
    chosen = choose(content["rows"], cases)
    pictured = []
    if chosen:
        names = [case_id for case_id, _ in chosen]
        matched = match(prediction, reference, content["edition_given"], names)
        if matched.faults:
            raise InputError("\n".join(matched.faults))
        pairs = {pair.case_id: pair for pair in matched.pairs}
        for case_id in names:
            _check_scored(content["rows"], pairs[case_id], metrics)
        pictured = [
            {"case_id": case_id, "stands_for": stands_for, **case_pictures(pairs[case_id])}
            for case_id, stands_for in chosen
        ]
    curves = curves_of(run_folder) if run_folder is not None else []
    files.write_bytes(output, render(content, pictured, title, curves, notes).encode())


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("tfbrats.report", __doc__)
    parser.add_argument("--metrics", required=True, metavar="REPORT", help="what tfbrats.evaluate wrote")
    parser.add_argument("--prediction", required=True, metavar="DIR", help="folder of CASE.nii.gz")
    parser.add_argument("--reference", required=True, metavar="DIR", help="data set, or folder of masks")
    parser.add_argument("--output", required=True, metavar="FILE", help="the page, e.g. report.html")
    parser.add_argument("--title", default="Segmentation report")
    parser.add_argument("--cases", type=int, default=3, help="how many to picture (%(default)s)")
    parser.add_argument("--run", metavar="RUN", help="run folder, for the training curves")
    parser.add_argument("--note", action="append", default=[], help="a line to show; may be repeated")
    given = parser.parse_args(arguments)
    write(
        given.metrics,
        given.prediction,
        given.reference,
        given.output,
        given.title,
        given.cases,
        given.run,
        given.note,
    )
    print(given.output)


if __name__ == "__main__":
    command.run(main)
