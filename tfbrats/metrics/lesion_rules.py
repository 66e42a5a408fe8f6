"""Every lesion-wise rule by name: what it means, and one case scored by it. Pure numpy and SciPy: no I/O.

The rules themselves stand in `lesions` (2023, 2024) and `matched_lesions` (2025 and 2026).
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfbrats.cases.nifti import Grid
from tfbrats.errors import InputError
from tfbrats.labels import LabelSchema
from tfbrats.metrics import lesions, matched_lesions

MEANINGS: Mapping[str, str] = types.MappingProxyType(
    {
        **{name: rule.meaning for name, rule in lesions.RULES.items()},
        matched_lesions.RULE: matched_lesions.MEANING,
    }
)


def check(rule: str) -> None:
    """Raises InputError unless there is such a rule."""
    if rule not in MEANINGS:
        raise InputError(f"lesion rule {rule!r} is unknown; choose from {', '.join(MEANINGS)}.")


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    grid: Grid,
    schema: LabelSchema,
    rule: str,
    missing: bool = False,
    named_edition: str | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row per region of the rule, and a row per lesion where the rule tells them apart (2026).

    Args:
        prediction: tissues (`labels.Tissue`) [I, J, K].
        reference: tissues of the same shape.
        grid: of both.
        schema: of the reference. Regions of which its edition has no tissue are left out.
        rule: a key of `MEANINGS`.
        missing: there is no prediction, and `prediction` is empty.
        named_edition: what the case's name tells, if anything: the challenge where the schema is nnU-Net's.

    Returns:
        Fields of `lesions.LesionScores`, or of `matched_lesions.MatchedScores` and of `matched_lesions.Lesion`.

    Raises:
        InputError: the shapes differ, or the rule is unknown.
    """
    check(rule)
    listed: Sequence = ()
    if rule == matched_lesions.RULE:
        # In the file's axes, as the challenge's program reads them.
        prediction, reference = grid.to_file(prediction), grid.to_file(reference)
        spacing_mm = _file_spacing_mm(grid)
        rows, listed = matched_lesions.score_case(
            prediction, reference, spacing_mm, schema, missing, named_edition
        )
    else:
        # Of a tissue that the edition's files cannot hold both sides are empty, which would be a perfect score.
        writable = {tissue for _, tissue in schema.values}
        tissues = lesions.RULES[rule].tissues
        scores = lesions.score_case(prediction, reference, grid.spacing_mm, rule)
        rows = [row for row in scores if writable.intersection(tissues[row.region])]
    return [dataclasses.asdict(row) for row in rows], [dataclasses.asdict(lesion) for lesion in listed]


def _file_spacing_mm(grid: Grid) -> tuple[float, ...]:
    """Voxel size along the file's axes: its header's, unless the affine says otherwise."""
    # The same to the last digit where both say one thing: a tolerance of one voxel side sees the difference.
    lengths = np.linalg.norm(grid.affine[:3, :3], axis=0)
    zooms = np.asarray(grid.header.get_zooms()[:3], float)
    return tuple(np.where(np.isclose(lengths, zooms, rtol=1e-4), zooms, lengths).tolist())
