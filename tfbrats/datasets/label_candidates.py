"""Which tables label values could be written in, and what speaks for another than the one chosen. No I/O."""

import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfbrats.labels import EDITIONS, REGIONS, LabelSchema, Tissue, by_meaning

# A reading that fits so well where the chosen one does not is worth a warning; chance alone does not make it.
_LEAST_DICE, _LEAST_GAIN = 0.6, 0.15


def candidates(present: Collection[int], like: LabelSchema) -> list[LabelSchema]:
    """The editions that hold these values, one for each different meaning of them, the likeliest kind alone.

    Those whose tissues `like` has too come before those that have others, which are the answer only where
    there is nothing else: a paediatric table explains no adult's labels as long as an adult's does.
    """
    fitting = [schema for schema in EDITIONS.values() if schema.has(present)]
    own = set(like.value_of_tissue)
    for tier in (
        [schema for schema in fitting if set(schema.value_of_tissue) <= own],
        [schema for schema in fitting if schema.tissues(present) <= own],
        fitting,
    ):
        if tier:
            return _distinct(tier, present)
    return []


def _distinct(schemas: Sequence[LabelSchema], present: Collection[int]) -> list[LabelSchema]:
    """One table for each meaning of these values: the shortest, then the newest year."""

    def rank(schema: LabelSchema) -> tuple:
        year = int(schema.edition) if schema.edition.isdigit() else 0
        return len(schema.values), not year, -year, schema.edition

    return [group[0] for group in by_meaning(sorted(schemas, key=rank), present)]


def advice_on_predictions(possible: Sequence[LabelSchema], present: Collection[int]) -> str:
    """What to do about predictions with these values, which the table tried does not have.

    Args:
        possible: as `candidates` returns them.
    """
    if not possible:
        return f"No edition has all of {listed(present)}. Write the files in the table of one."
    each = [f"--prediction-edition {schema.edition} ({meaning(schema, present)})" for schema in possible]
    if len(each) == 1:
        return f"If they are written so, pass {each[0]}."
    return f"Several tables have these values: pass {' or '.join(each)}, whichever they were written in."


def meaning(schema: LabelSchema, present: Collection[int]) -> str:
    """What values but the background mean, e.g. "1 NCR, 2 ED"."""
    return ", ".join(f"{value} {schema.tissue_of_value[value].name}" for value in sorted(present) if value)


def telling_values(present: Collection[int]) -> set[int]:
    """The values that some edition does not have: those that all have tell nothing."""
    return {value for schema in EDITIONS.values() for value in schema.lacking(present)}


def union(values_of_files: Iterable[frozenset[int] | None]) -> frozenset[int]:
    """All values that some file holds; None is a file that could not be read."""
    return frozenset().union(*(values for values in values_of_files if values is not None))


def listed(values: Iterable[int]) -> str:
    """E.g. "0, 1, 4"."""
    return ", ".join(map(str, sorted(values)))


def contradiction(chosen: LabelSchema, by_names: LabelSchema, present: Collection[int]) -> str:
    """How the table that a person chose reads values otherwise than the names' own table, which holds them all.

    Returns:
        e.g. "reads 4 as RC"; "" where the two agree on the values, or the names' table lacks one of them.
    """
    differing = by_names.differing(chosen, present) if by_names.has(present) else []
    if not differing:
        return ""
    value = differing[0]
    return (
        f"has no value {value}"
        if chosen.lacking([value])
        else f"reads {value} as {chosen.tissue_of_value[value].name}"
    )


# --- after scoring: another table that fits better ------------------------------------------------------


def doubts(
    written_in: Sequence[LabelSchema], voxels: Sequence[np.ndarray], prediction: str | os.PathLike
) -> list[str]:
    """Warnings where predictions hold one value alone, or where another table would explain the reference.

    Two tables may share their values and not their meaning (1 and 2 are swapped between BraTS and the
    Decathlon): such files fit, and whole tumour is right.

    Args:
        written_in: by which table each prediction was read.
        voxels: counts of each pair of tissues in each pair of files, `case_scores.tissue_pairs`.
    """
    groups: dict[LabelSchema, np.ndarray] = {}
    for schema, counts in zip(written_in, voxels, strict=True):
        groups[schema] = groups.get(schema, 0) + counts
    warnings = []
    for schema, counts in groups.items():
        drawn = [tissue for tissue in Tissue if tissue and counts[tissue].any()]
        there = [tissue for tissue in schema.value_of_tissue if tissue and counts[:, tissue].any()]
        if len(there) == 1 < len(drawn):
            value = schema.value_of_tissue[there[0]]
            warnings.append(
                f"{prediction}: all predictions hold the value {value} alone, read as {there[0].name} by the "
                f"table of {schema.edition}; the reference has {', '.join(tissue.name for tissue in drawn)}. A "
                "mask of one region would be read wrongly."
            )
        elif len(there) > 2:  # of one or two tissues any exchange may look better
            warnings += _better_readings(schema, counts, there, prediction)
    return warnings


def _better_readings(
    schema: LabelSchema, counts: np.ndarray, there: Sequence[Tissue], prediction: str | os.PathLike
) -> list[str]:
    """A warning where the best other meaning of these values makes all regions agree well, and far better.

    The meanings are those of other editions, and each exchange of the values among their own tissues: a
    conversion done by half leaves files in no edition's table.
    """
    values = {0, *(schema.value_of_tissue[tissue] for tissue in there)}
    dice_now = _dice(counts)
    best, best_gain, best_dice = None, 0.0, dice_now
    for reading in _readings(schema, there):
        read = np.zeros_like(counts)
        for value, tissue in reading.tissue_of.items():
            read[:, tissue] += counts[:, schema.tissue_of_value[value]]
        dice = _dice(read)
        gain = float(np.mean(list(dice.values())) - np.mean(list(dice_now.values())))
        if gain > best_gain + 1e-9:
            best, best_gain, best_dice = reading, gain, dice
    if best is None or min(best_dice.values()) < _LEAST_DICE or best_gain < _LEAST_GAIN:
        return []
    texts = [
        ", ".join(f"{region} {dice:.3f}" for region, dice in each.items()) for each in (best_dice, dice_now)
    ]
    held = (
        f"over all voxels Dice {texts[0]}, and now, by {schema.edition} ({meaning(schema, values)}), "
        f"Dice {texts[1]}"
    )
    return [f"{prediction}: {_told_of_reading(best, schema, values, held)}"]


class _Reading(NamedTuple):
    """What values may mean: `tissue_of` each; `table` is the edition that has it so, None for none."""

    tissue_of: Mapping[int, Tissue]
    table: LabelSchema | None


def _readings(schema: LabelSchema, there: Sequence[Tissue]) -> Iterator[_Reading]:
    """Those of the editions first: of two that explain as much, the one with a name is told."""
    values = [schema.value_of_tissue[tissue] for tissue in there]
    for other in _distinct(list(EDITIONS.values()), {0, *values}):
        yield _Reading({value: other.tissue_of_value[value] for value in {0, *values}}, other)
    for order in itertools.permutations(there):
        yield _Reading({0: Tissue.BACKGROUND, **dict(zip(values, order, strict=True))}, None)


def _told_of_reading(best: _Reading, schema: LabelSchema, values: Collection[int], held: str) -> str:
    """What a person is told of a reading that fits better, and what to do.

    Args:
        schema: by which the predictions are read now.
        held: the scores by both.
    """
    tissue_of, table = best
    if table is not None:
        return (
            f"read by the table of {table.edition} ({meaning(table, values)}) the predictions "
            f"would fit the reference far better: {held}. If they were written so, pass --prediction-edition "
            f"{table.edition}."
        )
    moved = [value for value in sorted(values) if tissue_of[value] is not schema.tissue_of_value[value]]
    words = ", ".join(f"{value} {tissue_of[value].name}" for value in sorted(values) if value)
    return (
        f"the values {listed(moved[:-1])} and {moved[-1]} seem exchanged: read as {words}, "
        f"which no edition's table has, the predictions would fit the reference far better: {held}. Write the "
        f"files again in the table of {schema.edition}."
    )


def _dice(counts: np.ndarray) -> dict[str, float]:
    """Dice of each region over all voxels.

    Args:
        counts: voxels by the reference's tissue (rows) and the prediction's (columns).
    """
    dice = {}
    for region, tissues in REGIONS.items():
        inside = np.isin(np.arange(len(counts)), tissues)
        both, either = counts[np.ix_(inside, inside)].sum(), counts[inside].sum() + counts[:, inside].sum()
        dice[region] = float(2 * both / either) if either else 1.0
    return dice
