"""Lesions matched one to one: the rules of the challenges of 2025 and 2026. Pure numpy and SciPy: no I/O.

A lesion is a 26-connected component of a group of labels. Nothing is dilated and nothing is too small to
count: every stray voxel of a prediction is a false lesion. Each lesion has one partner at most, chosen so that
the Dice of all pairs together is largest; a prediction that covers two lesions finds one of them.

Values and names are those of the challenge's program `BraTS-evaluation` 0.0.10, learned from what it answers;
none of it is here (it is AGPL). What one would not expect of it, and is as it is so that the numbers are those
of the leaderboard:
- HD95 and NSD of the whole region are in voxels, whatever the spacing, NSD at half a voxel;
- those of a pair of lesions are in mm, but the sides of a voxel are taken in reverse: the last axis of the
  file has the length of the first. Where voxels are cubes, as in most editions, both are what one expects.
"""

import dataclasses
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfbrats.cases import boxes
from tfbrats.labels import REGIONS, REWRITTEN, LabelSchema, Tissue
from tfbrats.metrics import components, lesion_pairs, one_grid, region_scores, surfaces

RULE = "2026"
MEANING = (
    "BraTS 2025 and 2026: every 26-connected component is a lesion, whatever its size; lesions are matched one "
    "to one for the largest sum of Dice; F1 = 2 tp / (2 tp + fp + fn); Dice, NSD and HD95 of the matched pairs "
    "alone (NSD within the smallest voxel side; the sides of oblong voxels in reverse, as in the challenge's "
    "program), and of the whole region (NSD within half a voxel, HD95 in voxels); HD95 is MedPy's; nothing "
    "matched, or one side empty: 0, 0 and 373; both empty: left out; a case without a prediction: 0, 0 and 373 "
    "in every region"
)

PENALTY = 373.0  # HD95 of what only one side has
LEAST_DICE = 1e-6  # pairs up to this are none
_REGION_TOLERANCE_VOXELS = 0.5
# Metastases alone: lesions from this volume on are large, and found from this Dice on.
_LARGE_FROM_MM3 = 20.0
_FOUND_FROM_DICE = 0.1

_CORE = {"TC": REGIONS["TC"], "WT": REGIONS["WT"]}
_GLIOMA = {"NETC": (Tissue.NCR,), "SNFH": (Tissue.ED,), "ET": (Tissue.ET,), "RC": (Tissue.RC,), **_CORE}
_THREE = {"ET": (Tissue.ET,), **_CORE}
_METASTASES, _CHILDREN = "met", "ped"
# Edition -> the groups that its challenge scores; any other edition has those of the glioma challenge.
_GROUPS: Mapping[str, Mapping[str, tuple[Tissue, ...]]] = types.MappingProxyType(
    {
        _CHILDREN: {"ET": (Tissue.ET,), "NETC": (Tissue.NCR,), "CC": (Tissue.CC,), "ED": (Tissue.ED,), **_CORE},
        _METASTASES: {"ET": (Tissue.ET,), "RC": (Tissue.RC,), **_CORE},
        "men": _THREE,
        "ssa": _THREE,
    }
)


@dataclass(frozen=True)
class MatchedScores:
    """One group of labels of one case: a row of lesions.csv, its fields the columns, named as the program's.

    Attributes:
        n_ref_instances: reference lesions.
        n_pred_instances: predicted lesions.
        tp: matched pairs.
        fp: predicted lesions without a partner.
        fn: reference lesions without a partner.
        prec: tp / (tp + fp); nan without predicted lesions.
        rec: tp / (tp + fn); nan without reference lesions.
        rq: F1 of the lesions ("recognition quality").
        sq_dsc: mean Dice of the matched pairs ("segmentation quality"); its population's standard deviation
            `sq_dsc_std`, and so on.
        pq_dsc: sq_dsc * rq ("panoptic quality").
        sq_hd95: mean HD95 of the matched pairs in mm, MedPy's; see the file's beginning.
        sq_nsd: mean surface Dice of the matched pairs, nnU-Net's, within the smallest voxel side.
        instance_voxel_count_ref: mean size of the matched reference lesions, in voxels.
        instance_volume_ref: the same in mm3.
        global_bin_volume_pred: voxels of the group in the prediction; `..._ref` in the reference.
        global_bin_dsc: Dice of the whole group; `global_bin_nsd` its surface Dice within half a voxel.
        global_bin_hd95: HD95 of the whole group, in voxels.
    """

    region: str
    n_ref_instances: int
    n_pred_instances: int
    tp: int
    fp: int
    fn: int
    prec: float
    rec: float
    rq: float
    sq_dsc: float
    sq_dsc_std: float
    pq_dsc: float
    sq_hd95: float
    sq_hd95_std: float
    sq_nsd: float
    sq_nsd_std: float
    instance_voxel_count_ref: float
    instance_volume_ref: float
    global_bin_volume_pred: int
    global_bin_volume_ref: int
    global_bin_dsc: float
    global_bin_hd95: float
    global_bin_nsd: float


@dataclass(frozen=True)
class SizedScores(MatchedScores):
    """Of metastases also large and small lesions apart, split at 20 mm3 (20 voxels of 1 mm).

    A lesion counts as found from Dice 0.1 on. The false lesions of the group count on both sides, as in the
    program, which knows no size of them. All are nan where the reference has no lesion of that size.

    Attributes:
        large_instance_tp: large lesions found, `..._fn` not found, `..._fp` all false lesions, of any size.
        large_instance_prec: tp / (tp + fp), 0 where that is 0 / 0; `..._rec`, `..._f1` accordingly.
        lesionwise_dsc_mean: over large lesions and all false ones, of which each that is not matched has 0
            (HD95 373); `..._std` the population's standard deviation.
    """

    large_instance_tp: float
    large_instance_fp: float
    large_instance_fn: float
    large_instance_prec: float
    large_instance_rec: float
    large_instance_f1: float
    lesionwise_dsc_mean: float
    lesionwise_dsc_std: float
    lesionwise_hd95_mean: float
    lesionwise_hd95_std: float
    lesionwise_nsd_mean: float
    lesionwise_nsd_std: float
    small_instance_tp: float
    small_instance_fp: float
    small_instance_fn: float
    small_instance_prec: float
    small_instance_rec: float
    small_instance_f1: float


@dataclass(frozen=True)
class Lesion:
    """One lesion of one group: a row of lesion_list.csv, its fields the columns.

    Attributes:
        outcome: "matched", "missed" (the reference's alone) or "false" (the prediction's alone).
        voxels: of the reference lesion; 0 of a false one.
        volume_mm3: of the reference lesion; of a false one the predicted volume.
        predicted_voxels: of the matched or false predicted lesion; 0 of a missed one.
        dice: of the pair, as are `nsd` and `hd95_mm`; nan where there is none.
        i: voxel of the file in the middle of the lesion's box, counted from 0; as j and k.
    """

    region: str
    outcome: str
    voxels: int
    volume_mm3: float
    predicted_voxels: int
    dice: float
    nsd: float
    hd95_mm: float
    i: int
    j: int
    k: int


def groups_of(schema: LabelSchema, named_edition: str | None = None) -> dict[str, tuple[Tissue, ...]]:
    """Group -> its tissues, as the challenge of this edition scores them.

    A table of nnU-Net's is no challenge: the case's name tells it there, or a tissue that one alone has.

    Of an edition that is not in the table: the glioma challenge's groups, without those of which its files hold
    nothing (the resection cavity until 2023).
    """
    writable = {tissue for _, tissue in schema.values}
    groups = _GROUPS.get(_challenge_of(schema, named_edition), _GLIOMA)
    return {group: tissues for group, tissues in groups.items() if writable.intersection(tissues)}


def _challenge_of(schema: LabelSchema, named_edition: str | None) -> str:
    """A key of `_GROUPS`, or another edition."""
    if schema.edition not in REWRITTEN:
        return schema.edition
    if named_edition is not None:
        return named_edition
    return _CHILDREN if Tissue.CC in schema.value_of_tissue else schema.edition


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Sequence[float],
    schema: LabelSchema,
    missing: bool = False,
    named_edition: str | None = None,
) -> tuple[list[MatchedScores], list[Lesion]]:
    """Scores of one case, a row per group, and every lesion of it: the reference's first, then false ones.

    Args:
        prediction: tissues (`labels.Tissue`) [I, J, K], the axes as they are in the file: their order decides
            which of two equally good partners is taken, and which side of an oblong voxel for which.
        reference: tissues of the same shape.
        spacing_mm: voxel size along i, j, k.
        schema: of the reference; its edition says which groups are scored.
        missing: there is no prediction: every score is 0 and every HD95 373. The counts stay what they are: the
            reference's lesions are missed (the program writes 0) [ours].
        named_edition: what the case's name tells, if anything: the challenge where the schema is nnU-Net's.

    Raises:
        InputError: the shapes differ.
    """
    one_grid.check(prediction, reference)
    box = one_grid.box_of_both(prediction, reference)
    corner = np.array([low for low, _ in box])
    prediction, reference = (np.ascontiguousarray(boxes.crop(side, box)) for side in (prediction, reference))
    rows, all_lesions = [], []
    for group, tissues in groups_of(schema, named_edition).items():
        masks = np.isin(prediction, tissues), np.isin(reference, tissues)
        lesions = list(_lesions(group, *masks, spacing_mm, corner))
        row = _group_scores(group, lesions, *masks)
        if _challenge_of(schema, named_edition) == _METASTASES:
            row = SizedScores(**dataclasses.asdict(row), **_by_size(lesions))
        rows.append(_as_missing(row) if missing else row)
        all_lesions += lesions
    return rows, all_lesions


# --- lesions and their pairs ----------------------------------------------------------------------------


def _lesions(
    group: str, prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], corner: np.ndarray
) -> Iterator[Lesion]:
    """Every lesion of one group; masks [I, J, K] whose first voxel is voxel `corner` of the file."""
    voxel_mm3 = float(np.prod(spacing_mm))
    # The program reads the file's last axis first; of equally good partners the first is taken.
    predicted, lesions = components.numbered(prediction.T).T, components.numbered(reference.T).T
    sizes, predicted_sizes = (np.bincount(each.ravel(order="K")) for each in (lesions, predicted))
    lesion_boxes, predicted_boxes = components.boxes_of(lesions), components.boxes_of(predicted)
    partner_of = lesion_pairs.one_to_one(predicted, lesions, LEAST_DICE)

    def middle(box: boxes.Box) -> list[int]:
        return [int(at) for at in corner + [(low + high - 1) // 2 for low, high in box]]

    for number, box in enumerate(lesion_boxes, 1):
        voxels = int(sizes[number])
        partner, dice = partner_of.get(number, (None, math.nan))
        if partner is None:
            scores, outcome, predicted_voxels = (math.nan,) * 3, "missed", 0
        else:
            near = boxes.around([box, predicted_boxes[partner - 1]])
            masks = boxes.crop(predicted, near) == partner, boxes.crop(lesions, near) == number
            distances = surfaces.voxel_distances(*masks, tuple(spacing_mm)[::-1])
            nsd = surfaces.voxels_within(distances, min(spacing_mm))
            scores = dice, nsd, surfaces.pooled_percentile_mm(distances, 95)
            outcome, predicted_voxels = "matched", int(predicted_sizes[partner])
        yield Lesion(group, outcome, voxels, voxels * voxel_mm3, predicted_voxels, *scores, *middle(box))
    taken = {partner for partner, _ in partner_of.values()}
    for number, box in enumerate(predicted_boxes, 1):
        if number not in taken:
            voxels = int(predicted_sizes[number])
            yield Lesion(group, "false", 0, voxels * voxel_mm3, voxels, *(math.nan,) * 3, *middle(box))


# --- scores ---------------------------------------------------------------------------------------------


def _group_scores(
    group: str, lesions: Sequence[Lesion], prediction: np.ndarray, reference: np.ndarray
) -> MatchedScores:
    matched = [lesion for lesion in lesions if lesion.outcome == "matched"]
    tp, fp, fn = (sum(lesion.outcome == name for lesion in lesions) for name in ("matched", "false", "missed"))
    rq = 2 * tp / (2 * tp + fp + fn) if lesions else math.nan
    nothing = math.nan if not lesions else 0.0
    values = {
        "dsc": [lesion.dice for lesion in matched],
        "hd95": [lesion.hd95_mm for lesion in matched],
        "nsd": [lesion.nsd for lesion in matched],
    }
    none = {"dsc": nothing, "hd95": nothing + PENALTY, "nsd": nothing}
    means = {name: float(np.mean(of)) if of else none[name] for name, of in values.items()}
    spreads = {name: float(np.std(of)) if of else math.nan for name, of in values.items()}

    def mean_size(sizes: Sequence[float]) -> float:
        return float(np.mean(sizes)) if sizes else math.nan

    return MatchedScores(
        region=group,
        n_ref_instances=tp + fn,
        n_pred_instances=tp + fp,
        tp=tp,
        fp=fp,
        fn=fn,
        prec=tp / (tp + fp) if tp + fp else math.nan,
        rec=tp / (tp + fn) if tp + fn else math.nan,
        rq=rq,
        pq_dsc=means["dsc"] * rq,
        **{f"sq_{name}": mean for name, mean in means.items()},
        **{f"sq_{name}_std": spread for name, spread in spreads.items()},
        instance_voxel_count_ref=mean_size([lesion.voxels for lesion in matched]),
        instance_volume_ref=mean_size([lesion.volume_mm3 for lesion in matched]),
        **_whole_group(prediction, reference),
    )


def _whole_group(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """The scores of all lesions as one mask, and both volumes in voxels."""
    overlap = region_scores.Overlap.of(prediction, reference, reference.size)
    nothing = math.nan if overlap.absent_from() == "both" else 0.0
    hd95, nsd = nothing + PENALTY, nothing
    if overlap.hits:
        distances = surfaces.voxel_distances(prediction, reference, (1.0, 1.0, 1.0))
        hd95 = surfaces.pooled_percentile_mm(distances, 95)
        nsd = surfaces.voxels_within(distances, _REGION_TOLERANCE_VOXELS)
    return {
        "global_bin_volume_pred": overlap.predicted,
        "global_bin_volume_ref": overlap.positives,
        "global_bin_dsc": overlap.dice("nan"),
        "global_bin_hd95": hd95,
        "global_bin_nsd": nsd,
    }


def _by_size(lesions: Sequence[Lesion]) -> dict[str, float]:
    """The fields that `SizedScores` adds."""
    false = [lesion for lesion in lesions if lesion.outcome == "false"]
    of_reference = [lesion for lesion in lesions if lesion.outcome != "false"]
    large = [lesion for lesion in of_reference if lesion.volume_mm3 >= _LARGE_FROM_MM3]
    small = [lesion for lesion in of_reference if lesion.volume_mm3 < _LARGE_FROM_MM3]
    scores = {}
    fp = len(false)
    for size, of_size in (("large", large), ("small", small)):
        tp = sum(lesion.dice >= _FOUND_FROM_DICE for lesion in of_size)  # nan is not
        fn = len(of_size) - tp
        values = (
            tp,
            fp,
            fn,
            tp / max(tp + fp, 1),
            tp / max(tp + fn, 1),
            2 * tp / max(2 * tp + fp + fn, 1),
        )
        for name, value in zip(("tp", "fp", "fn", "prec", "rec", "f1"), values, strict=True):
            scores[f"{size}_instance_{name}"] = float(value) if of_size else math.nan
    judged = large + false if large else []
    for name, field, penalty in (("dsc", "dice", 0.0), ("hd95", "hd95_mm", PENALTY), ("nsd", "nsd", 0.0)):
        values = [getattr(lesion, field) if lesion.outcome == "matched" else penalty for lesion in judged]
        scores[f"lesionwise_{name}_mean"] = float(np.mean(values)) if values else math.nan
        scores[f"lesionwise_{name}_std"] = float(np.std(values)) if values else math.nan
    return scores


def _as_missing(row: MatchedScores) -> MatchedScores:
    """The row of a case that nobody segmented: also where the reference has nothing to find."""
    counts = ("_tp", "_fp", "_fn")
    scores = {}
    for field in dataclasses.fields(row):
        if field.type is float and not field.name.startswith("instance_"):
            worst = PENALTY if "hd95" in field.name and not field.name.endswith("_std") else 0.0
            value = getattr(row, field.name)
            scores[field.name] = worst if math.isnan(value) or not field.name.endswith(counts) else value
    return dataclasses.replace(row, **scores)
