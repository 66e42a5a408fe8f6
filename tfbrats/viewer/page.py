"""One case as one HTML file: scans, label maps, numbers, and the code that draws them. Nothing is loaded.

What the page says stands in page.html.jinja, how it looks in viewer.css, what it does in viewer.js. The page's
own content policy forbids it the network; a page that embeds it (an iframe) has to allow blob: scripts.
"""

import functools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
import markupsafe
import numpy as np

from tfbrats import __version__
from tfbrats.cases import overlays
from tfbrats.cases.boxes import Box
from tfbrats.cases.case import Case, is_simulated, volumes_ml
from tfbrats.cases.nifti import Grid
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS, Tissue
from tfbrats.metrics import region_scores
from tfbrats.pictures import differences
from tfbrats.predictions import provenance, seen
from tfbrats.predictions.model_card import ModelCard
from tfbrats.viewer import eight_bit, lesion_table, niivue

REGION_NAMES = {"WT": "whole tumour", "TC": "tumour core", "ET": "enhancing tumour"}


@dataclass(frozen=True)
class Numbers:
    """A region's row of the page's table; None where there is no such side.

    Attributes:
        hd95_mm: as surface-distance has it; nan where a side lacks the region.
    """

    region: str
    name: str
    prediction_ml: float | None
    reference_ml: float | None
    dice: float | None
    hd95_mm: float | None


def html(
    case: Case,
    prediction: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    card: ModelCard | None = None,
    notes: Sequence[str] = (),
    scores: bool = True,
) -> str:
    """The page, to be written as UTF-8.

    Args:
        case: with any number of scans; its own segmentation is shown where it is given as `reference`.
        prediction: tissues [I, J, K] on the case's grid.
        reference: the same.
        card: of the model that predicted.
        notes: sentences to stand at the end.
        scores: False leaves Dice and HD95 out, which cost a second or more.

    Raises:
        InputError: a label map is not on the case's grid; or NiiVue's package is not there.
    """
    shape = case.image.shape[:3]
    for name, label_map in (("prediction", prediction), ("reference", reference)):
        if label_map is not None and label_map.shape != shape:
            raise InputError(f"{case.case_id}: its {name} has shape {label_map.shape}; expected {shape}.")
    code = niivue.installed()
    box = eight_bit.head_box(case, prediction, reference)
    if any(low == high for low, high in box):
        raise InputError(f"{case.case_id}: every scan is 0 everywhere: nothing to show.")
    packed = eight_bit.scans(case, box)
    lesions = lesion_table.lesions(prediction, reference, case.spacing_mm)
    numbers = _numbers(case, prediction, reference, scores)
    data = _data(case, box, packed, prediction, reference, lesions)
    return _template().render(
        case=case,
        simulated=is_simulated(case.grid),
        titles={name: overlays.MODALITY_TITLES.get(name, name) for name in case.modalities},
        has_prediction=prediction is not None,
        has_reference=reference is not None,
        numbers=numbers,
        has_scores=any(row.dice is not None for row in numbers),
        lesions=lesions,
        legend=_legend(prediction, reference),
        difference=[
            (colour, differences.NAMES[kind], differences.MEANINGS[kind])
            for kind, colour in differences.COLOURS.items()
        ],
        regions=REGION_NAMES,
        card=card,
        seen_in_training=_is_seen(card, case.case_id),
        trained_on=_trained_on(card),
        levels=packed.levels,
        notes=[*case.notes, *notes],
        data=_script_json(data),
        scans=packed.scans,
        codes=eight_bit.label_codes(prediction, reference, box),
        module=_packed_module(),
        niivue=code,
        style=_asset("viewer.css"),
        script=_asset("viewer.js"),
        mark=markupsafe.Markup(provenance.PAGE_MARK.decode()),
        version=__version__,
    )


def _data(
    case: Case,
    box: Box,
    packed: eight_bit.Packed,
    prediction: np.ndarray | None,
    reference: np.ndarray | None,
    lesions: lesion_table.Lesions,
) -> dict:
    """What viewer.js has to know beside the volumes."""
    low = [side[0] for side in box]
    first = prediction if reference is None else reference
    start, _ = (None, "") if first is None else overlays.focus(first, first, case.spacing_mm)
    if lesions.rows:
        start = lesions.rows[0].voxel
    return {
        "modalities": list(case.modalities),
        "titles": overlays.MODALITY_TITLES,
        "levels": packed.levels,
        "shape": [high - low for low, high in box],
        "whole": list(case.image.shape[:3]),
        "low": low,
        "spacing": list(case.spacing_mm),
        "affine": _affine(case.grid, low).tolist(),
        "start": start or [size // 2 for size in case.image.shape[:3]],
        "prediction": prediction is not None,
        "reference": reference is not None,
        "tissues": len(Tissue),
        "names": [tissue.name for tissue in Tissue],
        "colours": {int(tissue): colour for tissue, colour in overlays.COLOURS.items()},
        "regions": {region: [int(tissue) for tissue in parts] for region, parts in REGIONS.items()},
        "difference": {differences.NAMES[kind]: colour for kind, colour in differences.COLOURS.items()},
    }


def _affine(grid: Grid, low: Sequence[int]) -> np.ndarray:
    """[4, 4] voxel of a box along i, j, k -> mm of the file.

    Args:
        low: the box's first voxel.
    """
    to_file = np.zeros((4, 4))
    to_file[3, 3] = 1
    for axis, (target, flip) in enumerate(grid.to_axes):
        to_file[axis, int(target)] = flip
        to_file[axis, 3] = 0 if flip > 0 else grid.file_shape[axis] - 1
    to_whole = np.eye(4)
    to_whole[:3, 3] = low
    return grid.affine @ to_file @ to_whole


def _numbers(
    case: Case, prediction: np.ndarray | None, reference: np.ndarray | None, scores: bool
) -> list[Numbers]:
    if prediction is None and reference is None:
        return []
    volumes = [
        None if label_map is None else volumes_ml(label_map, case.spacing_mm)
        for label_map in (prediction, reference)
    ]
    by_region: Mapping[str, region_scores.RegionScores] = {}
    if scores and prediction is not None and reference is not None:
        by_region = {
            row.region: row for row in region_scores.score_case(prediction, reference, case.spacing_mm)
        }
    rows = []
    for region in REGIONS:
        score = by_region.get(region)
        sides = [None if volume is None else volume[region] for volume in volumes]
        hd95 = None if score is None else math.nan if score.empty else score.hd95_mm
        dice = None if score is None else math.nan if score.empty == "both" else score.dice
        rows.append(Numbers(region, REGION_NAMES[region], *sides, dice, hd95))
    return rows


def _legend(*label_maps: np.ndarray | None) -> list[tuple[str, str]]:
    """(colour, name) of the tissues that a side has."""
    return [
        (colour, overlays.NAMES[tissue])
        for tissue, colour in overlays.COLOURS.items()
        if any(label_map is not None and (label_map == tissue).any() for label_map in label_maps)
    ]


def _is_seen(card: ModelCard | None, case_id: str) -> bool:
    """Whether the model learned from this case or patient, going by its card: its scores are too good then."""
    kinds = seen.kinds_of(card.training_data, [case_id]) if card else None
    return bool(kinds) and kinds[case_id] in seen.KNOWN_TO_THE_MODEL


def _trained_on(card: ModelCard | None) -> str:
    """What a card says of the cases that its model learned from: "12 training, 4 validation"."""
    examples = (card.training_data if card else {}).get("examples")
    if not isinstance(examples, Mapping):
        return ""
    return ", ".join(f"{count} {name}" for name, count in examples.items())


def _script_json(data: Mapping) -> markupsafe.Markup:
    """JSON that cannot end the script that it stands in."""
    text = json.dumps(data, allow_nan=False)
    return markupsafe.Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@functools.cache
def _packed_module() -> str:
    return eight_bit.packed_text(niivue.installed().module)


@functools.cache
def _asset(name: str) -> markupsafe.Markup:
    return markupsafe.Markup(pathlib.Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["figure"] = _figure
    return environment.from_string(_asset("page.html.jinja"))
