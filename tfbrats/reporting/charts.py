"""Curves, boxes and points as pictures that lie inside a page: matplotlib, drawn once light and once dark.

Every picture is small enough for a telephone: what belongs side by side on a desk is several pictures, and
the page sets them side by side. The same numbers give the same bytes.
"""

import io
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from tfbrats.cases.overlays import own_style
from tfbrats.labels import REGIONS
from tfbrats.pictures.encoding import flat
from tfbrats.scoring.summaries import Row

# Okabe and Ito's colours: told apart by colour-blind readers, on white and on black. Runs differ by marker too.
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
RUN_COLOURS_DARK = ("#3D9BD9", "#F0803C", "#2DBE96", "#DB93BB", "#E9B13A", "#7CC6F0")  # the same, lighter
MARKERS = ("o", "s", "^", "D", "v", "P")
_INK, _PAPER = {False: "#30353b", True: "#d8dce2"}, {False: "#ffffff", True: "#16191d"}
_WIDTH, _HEIGHT = 4.6, 3.1  # inches at _DPI: shrunk to a telephone's 360 pixels, text keeps some 8 points
_DPI = 160
BOX_CASES = 10  # quartiles of fewer say little
_OF_TRAINING = "training_"  # before the name of the same column of validation, in history.csv
_SAMPLED = "sampled_"  # before the names of its counts of pixels

Runs = Mapping[str, Sequence[Row]]  # a run's name -> its rows, keys as `score_files.COLUMNS`


@dataclass(frozen=True)
class Chart:
    """A picture twice, as data URIs: for light pages and paper, and for dark screens.

    Attributes:
        alt: what it shows, for whoever does not see it.
        remark: what a reader must know of its axes.
    """

    title: str
    light: str
    dark: str
    alt: str = ""
    remark: str = ""


def colours(dark: bool) -> tuple[str, ...]:
    """What the first, second, ... run is drawn in."""
    return RUN_COLOURS_DARK if dark else RUN_COLOURS


@own_style()
def _drawn(draw: Callable[[Axes, bool], None], width: float = _WIDTH) -> dict[str, str]:
    """Data URIs "light" and "dark" of what `draw(axes, dark)` draws."""
    pictures = {}
    for scheme, dark in (("light", False), ("dark", True)):
        ink = _INK[dark]
        figure = Figure(figsize=(width, _HEIGHT), layout="constrained", facecolor=_PAPER[dark], dpi=_DPI)
        axes = figure.subplots()
        axes.set_facecolor(_PAPER[dark])
        axes.spines[:].set_visible(False)
        axes.grid(color=ink, alpha=0.15)
        axes.set_axisbelow(True)
        draw(axes, dark)
        axes.tick_params(which="both", colors=ink, labelsize=11, length=0)
        axes.xaxis.label.set(color=ink, fontsize=11)
        axes.yaxis.label.set(color=ink, fontsize=11)
        buffer = io.BytesIO()
        # PNG's metadata names the library's version: left out, the same numbers give the same page.
        figure.savefig(buffer, format="png", metadata={"Software": None})
        pictures[scheme] = flat(buffer.getvalue())
    return pictures


def training_curves(history: Sequence[Mapping[str, str]]) -> list[Chart]:
    """Two losses, Dice, and the pixels that loss weighted sampling counted: a picture each.

    Dice of the training batches is dashed, that of the validation split is in the same colour and solid.

    Args:
        history: rows of history.csv; a column counts as far as it holds numbers.
    """
    columns = {name: [number(row.get(name)) for row in history] for name in (history[0] if history else ())}
    epochs = columns.get("epoch", list(range(1, len(history) + 1)))
    return [
        Chart(title, **_drawn(lambda axes, dark, names=names: _curves(axes, dark, epochs, columns, names)))
        for title, names in curve_columns(columns).items()
        if names
    ]


def curve_columns(columns: Collection[str]) -> dict[str, list[str]]:
    """Which columns of a history.csv are drawn: a picture's title -> their names, perhaps none."""
    dice = [name for name in columns if "dice" in name.lower()]
    trained = [name for name in dice if name.startswith(_OF_TRAINING)]
    validated = [name for name in dice if name not in trained]
    which = "validation; dashed: training" if trained and validated else "training" if trained else "validation"
    return {
        # Training's has terms that validation's has not, weight decay among them: no common axis.
        "Training loss": [name for name in ("loss",) if name in columns],
        "Validation loss": [name for name in ("validation_loss",) if name in columns],
        f"Dice ({which})": validated + trained,
        "Pixels that count in a step (U-Net1)": [name for name in columns if name.startswith(_SAMPLED)],
    }


def _curves(axes: Axes, dark: bool, epochs: Sequence[float], columns: Mapping, names: Sequence[str]) -> None:
    beside = {f"{_OF_TRAINING}{name}": name for name in names}  # dashed, in the colour of this one
    alone = [name for name in names if name not in beside]
    for name in names:
        number, dashed = alone.index(beside.get(name, name)), name in beside
        region = name.split("_")[-1].upper()
        title = region if region in REGIONS else name.removeprefix(_SAMPLED).replace("_", " ")
        axes.plot(
            epochs,
            columns[name],
            color=colours(dark)[number % len(RUN_COLOURS)],
            label=None if dashed else title,
            linestyle="--" if dashed else "-",
            # One epoch alone is no line: it needs its marker.
            marker="" if dashed and len(epochs) > 1 else MARKERS[number % len(MARKERS)],
            markersize=3.5,
            linewidth=1.6,
        )
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    row = {}
    if names[0].startswith(_SAMPLED):  # counts begin at 0; their names stand in a row above the lines
        axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
        row = {"loc": "upper center", "ncols": len(alone), "columnspacing": 1.2}
    if len(alone) > 1:
        axes.legend(frameon=False, labelcolor=_INK[dark], fontsize=11, **row)


def number(text: str | None) -> float:
    """A cell of history.csv; nan if it holds none."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def box_plot(runs: Runs, score: str, title: str = "", alt: str = "") -> Chart:
    """A box for each run in each region, with a point for each case: paper A's Fig. 4.

    Boxes hold the middle half, with the median; whiskers reach the last case within 1.5 times its width. Of
    fewer than `BOX_CASES` cases there are points and the median alone. Cases without a number are left out.

    Args:
        score: between 0 and 1, e.g. "dice".
    """
    values = {
        (region, name): np.array([row[score] for row in _of(rows, region)], float)
        for region in REGIONS
        for name, rows in runs.items()
    }
    values = {key: numbers[~np.isnan(numbers)] for key, numbers in values.items()}
    width = max(_WIDTH, 1 + 0.75 * len(runs))
    lowest = min((float(numbers.min()) for numbers in values.values() if numbers.size), default=0.0)
    bottom = max(math.floor(lowest * 10 - 0.2) / 10, 0)
    drawn = _drawn(lambda axes, dark: _boxes(axes, dark, values, list(runs), bottom), width)
    return Chart(title, **drawn, alt=alt, remark=f"axis cut at {bottom:.1f}" if bottom else "")


def _boxes(
    axes: Axes, dark: bool, values: Mapping[tuple[str, str], np.ndarray], names: list[str], bottom: float
) -> None:
    ink, wide = _INK[dark], 0.8 / len(names)
    for number, name in enumerate(names):
        colour = colours(dark)[number % len(RUN_COLOURS)]
        for place, region in enumerate(REGIONS):
            numbers = np.sort(values[region, name])
            middle = place + (number + 0.5) * wide - 0.4
            if not numbers.size:
                continue
            few = numbers.size < BOX_CASES
            if few:
                axes.hlines(np.median(numbers), middle - wide * 0.4, middle + wide * 0.4, ink, linewidth=1.8)
            else:
                _box(axes, numbers, middle, wide * 0.8, colour, ink)
            axes.plot(
                middle + wide * 0.28 * _spread(numbers.size),
                numbers,
                linestyle="none",
                marker=MARKERS[number % len(MARKERS)],
                markersize=5.5 if few else 3.2,
                color=colour if few else ink,
                alpha=0.9 if few else 0.6,
                markeredgewidth=0,
            )
    axes.set_xticks(range(len(REGIONS)), list(REGIONS))
    axes.set_xlim(-0.5, len(REGIONS) - 0.5)
    axes.grid(visible=False, axis="x")
    margin = 0.03 * (1 - bottom)
    axes.set_ylim(bottom - margin, 1 + margin)


def _box(axes: Axes, numbers: np.ndarray, middle: float, width: float, colour: str, ink: str) -> None:
    drawn = axes.boxplot(
        numbers,
        positions=[middle],
        widths=width,
        manage_ticks=False,
        showfliers=False,  # each case has its point
        patch_artist=True,
        boxprops={"facecolor": colour, "alpha": 0.45, "edgecolor": colour},
        medianprops={"color": ink, "linewidth": 1.8},
        whiskerprops={"color": ink, "linewidth": 1},
        capprops={"color": ink, "linewidth": 1},
    )
    drawn["boxes"][0].set_linewidth(1)


def _spread(number: int) -> np.ndarray:
    """Places from -1 to 1, so that neighbours in rank lie apart: [number]. No chance in it."""
    golden = (math.sqrt(5) - 1) / 2
    return 2 * ((np.arange(number) + 0.5) * golden % 1) - 1


def volume_plots(runs: Runs) -> list[Chart]:
    """The reference's volume (ml, log axis) against Dice: a picture for each region.

    Cases that have no Dice, or not the region in the reference, have no place on a log axis (`without_volume`).
    A region that no case has is left out.
    """
    pictures = []
    for region in REGIONS:
        points = {name: _points(rows, region) for name, rows in runs.items()}
        if any(len(ml) for ml, _ in points.values()):
            drawn = _drawn(lambda axes, dark, points=points: _volumes(axes, dark, points), 3.7)
            pictures.append(Chart(region, **drawn))
    return pictures


def error_rates(regions: Mapping[str, Sequence[tuple[int, float]]]) -> Chart:
    """Share of voxels that are wrong, by tenth of the scale of uncertainty, a line a region.

    Args:
        regions: region -> of each tenth voxels and share, as `metrics.uncertainty` gives them.
    """
    tenths = np.arange(next(len(each) for each in regions.values()))

    def draw(axes: Axes, dark: bool) -> None:
        for colour, marker, (region, each) in zip(colours(dark), MARKERS, regions.items(), strict=False):
            shares = [share for _, share in each]
            axes.plot(tenths + 0.5, shares, color=colour, marker=marker, label=region, linewidth=1.5)
        axes.set(xlabel="uncertainty, tenths of the scale", ylabel="voxels that are wrong")
        axes.set_xlim(0, len(tenths))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
        axes.legend(frameon=False, labelcolor=_INK[dark], fontsize=11)

    alt = "; ".join(
        f"{region} {', '.join('none' if math.isnan(share) else f'{share:.1%}' for _, share in each)}"
        for region, each in regions.items()
    )
    return Chart("Error rate by uncertainty", **_drawn(draw), alt=alt)


def without_volume(rows: Sequence[Row]) -> dict[str, int]:
    """Region -> how many cases `volume_plots` leaves out because the reference has nothing of it."""
    return {region: sum(not row["reference_volume_ml"] for row in _of(rows, region)) for region in REGIONS}


def _points(rows: Sequence[Row], region: str) -> tuple[list[float], list[float]]:
    shown = [row for row in _of(rows, region) if row["reference_volume_ml"] > 0 and not math.isnan(row["dice"])]
    return [row["reference_volume_ml"] for row in shown], [row["dice"] for row in shown]


def _volumes(axes: Axes, dark: bool, points: Mapping[str, tuple[list[float], list[float]]]) -> None:
    for number, (volumes_ml, dice) in enumerate(points.values()):
        axes.plot(
            volumes_ml,
            dice,
            linestyle="none",
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            color=colours(dark)[number % len(RUN_COLOURS)],
            fillstyle="none" if number else "full",
            markeredgewidth=1.2 if number else 0,
            zorder=3 - number / len(points),  # the first, filled, on top of the others' rings
        )
    everything = [volume for volumes_ml, _ in points.values() for volume in volumes_ml]
    # At least a decade, so that two labels stand on the axis.
    low, high = min(everything) / 1.3, max(everything) * 1.3
    middle = math.sqrt(low * high)
    axes.set_xscale("log")
    axes.set_xlim(min(low, middle / 3.3), max(high, middle * 3.3))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("reference volume, ml")
    axes.set_ylabel("Dice")


def _of(rows: Sequence[Row], region: str) -> Iterator[Row]:
    return (row for row in rows if row["region"] == region)
