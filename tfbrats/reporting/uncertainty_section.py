"""Whether the maps of uncertainty that lie beside predictions point at errors: for the page."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfbrats.cases import case, nifti
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS, region_mask
from tfbrats.machine import files
from tfbrats.metrics import uncertainty
from tfbrats.metrics.uncertainty import Histogram
from tfbrats.pictures import ranked_cases
from tfbrats.predictions.results import UNCERTAINTY
from tfbrats.reporting import charts
from tfbrats.reporting.charts import Chart
from tfbrats.scoring.evaluation import Evaluation
from tfbrats.scoring.pairs import Pair


@dataclass(frozen=True)
class UncertaintySection:
    """What is told of uncertainty.

    Attributes:
        cases: with maps of all regions.
        of: cases scored.
        in_brain: whether each case's brain was known; else true negatives are counted in the whole volume.
        auroc: region -> how often a wrong voxel is less sure than a right one, over all cases.
        quality: region -> mean over the cases, as `Histogram.quality`.
        chart: error rate by tenth of the scale.
    """

    cases: int
    of: int
    in_brain: bool
    auroc: Mapping[str, float]
    quality: Mapping[str, Mapping[str, float]]
    chart: Chart


def uncertainty_of(
    evaluation: Evaluation,
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    scores: str | os.PathLike,
) -> UncertaintySection | None:
    """What the maps beside the predictions are worth; None where no case has them.

    Args:
        prediction: the folder that was scored.
        reference: what it was scored against; a data set brings the brains.
        scores: folder of the evaluation, for errors.

    Raises:
        InputError: a map cannot be read, lies on another grid, or is none.
    """
    if not files.is_folder(prediction):
        return None
    endings = tuple(f"{ending}.nii.gz" for ending in UNCERTAINTY.values())
    maps_there = {path for path in map(os.fspath, files.walk(prediction)) if path.endswith(endings)}
    if not maps_there:
        return None
    scored = sorted({row["case_id"] for row in evaluation.rows} - set(evaluation.missing))
    pairs = ranked_cases.pairs_of(evaluation, prediction, reference, scored, scores)
    told = [(pair, maps) for pair in pairs if (maps := _maps_of(pair, maps_there))]
    if not told:
        return None
    total: dict[str, Histogram] = {}
    qualities: dict[str, list[dict[str, float]]] = {region: [] for region in REGIONS}
    in_brain = True
    for pair, maps in told:
        of_case, has_brain = _histograms(evaluation, pair, maps, scores)
        in_brain &= has_brain
        for region, found in of_case.items():
            total[region] = total[region] + found if region in total else found
            qualities[region].append(found.quality())
    return UncertaintySection(
        cases=len(told),
        of=len(scored),
        in_brain=in_brain,
        auroc={region: found.auroc for region, found in total.items()},
        quality={region: uncertainty.mean_quality(each) for region, each in qualities.items()},
        chart=charts.error_rates({region: found.error_rates for region, found in total.items()}),
    )


def _maps_of(pair: Pair, there: set[str]) -> dict[str, str] | None:
    """Region -> its map's file beside the prediction, in whichever folder; None unless all are there."""
    stem = os.fspath(pair.prediction).removesuffix(".gz").removesuffix(".nii")
    found = {region: f"{stem}{ending}.nii.gz" for region, ending in UNCERTAINTY.items()}
    return found if there >= set(found.values()) else None


def _histograms(
    evaluation: Evaluation, pair: Pair, maps: Mapping[str, str], scores: str | os.PathLike
) -> tuple[dict[str, Histogram], bool]:
    """Region -> histogram of a case, and whether its brain was known."""
    predicted, expert, grid = ranked_cases.scored_pair(evaluation.rows, pair, scores)
    brain = _brain(pair)
    found = {}
    for region, path in maps.items():
        values = _read(path, predicted.shape, grid)
        masks = (region_mask(tissues, region) for tissues in (predicted, expert))
        found[region] = uncertainty.histogram(*masks, values, brain)
    return found, brain is not None


def _read(path: str, shape: Sequence[int], grid: nifti.Grid) -> np.ndarray:
    """A map, uint8 [I, J, K]."""
    volume = nifti.read(path)
    values = volume.grid.from_file(volume.array)
    if values.shape != tuple(shape) or case.grid_differences(volume.grid, grid):
        raise InputError(f"{path}: lies on another grid than the segmentation. Predict both again, together.")
    if values.min() < 0 or values.max() > uncertainty.MOST:
        raise InputError(
            f"{path}: holds values outside 0 to {uncertainty.MOST}; expected a map of uncertainty."
        )
    return np.round(values).astype(np.uint8)


def _brain(pair: Pair) -> np.ndarray | None:
    """Where one of the scans is not 0, bool [I, J, K]; None without scans."""
    images = pair.source.images if pair.source else ()
    if not images:
        return None
    loaded = case.load(dataclasses.replace(pair.source, images=images[:1]), [images[0][0]], read_label=False)
    return loaded.image[..., 0] != 0
