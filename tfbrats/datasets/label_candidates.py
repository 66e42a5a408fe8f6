"""Which tables label values could be written in, and what speaks for another than the one chosen. No I/O."""

import itertools
import os
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from tfbrats.labels import EDITIONS, REGIONS, LabelSchema, Tissue

# A reading that fits so well where the chosen one does not is worth a warning; chance alone does not make it.
_LEAST_DICE, _LEAST_GAIN = 0.6, 0.15


def candidates(present: Collection[int], like: LabelSchema) -> list[LabelSchema]:
    """The editions that hold these values, one for each different meaning of them, the likeliest kind alone.

    Those whose tissues `like` has too come before those that have others, which are the answer only where
    there is nothing else: a paediatric table explains no adult's labels as long as an adult's does.
    """
    fitting = [schema for schema in EDITIONS.values() if set(present) <= set(schema.tissue_of_value)]
    own = set(like.value_of_tissue)
    for tier in (
        [schema for schema in fitting if set(schema.value_of_tissue) <= own],
        [schema for schema in fitting if tissues_of(schema, present) <= own],
        fitting,
    ):
        if tier:
            return _distinct(tier, present)
    return []


def _distinct(schemas: Sequence[LabelSchema], present: Collection[int]) -> list[LabelSchema]:
    def rank(schema: LabelSchema) -> tuple:
        year = int(schema.edition) if schema.edition.isdigit() else 0
        return len(schema.values), not year, -year, schema.edition

    by_meaning: dict[tuple, LabelSchema] = {}
    for schema in sorted(schemas, key=rank):
        tissues = tuple(schema.tissue_of_value[value] for value in sorted(present))
        by_meaning.setdefault(tissues, schema)
    return list(by_meaning.values())


def advice(possible: Sequence[LabelSchema], present: Collection[int]) -> str:
    """What to do about predictions with these values, which the table tried does not have."""
    if not possible:
        return f"No edition has all of {listed(present)}. Write the files in the table of one."
    each = [f"--prediction-edition {schema.edition} ({meaning(schema, present)})" for schema in possible]
    if len(each) == 1:
        return f"If they are written so, pass {each[0]}."
    return f"Several tables have these values: pass {' or '.join(each)}, whichever they were written in."


def meaning(schema: LabelSchema, present: Collection[int]) -> str:
    return ", ".join(f"{value} {schema.tissue_of_value[value].name}" for value in sorted(present) if value)


def telling_values(present: Collection[int]) -> set[int]:
    """Those of the values by which tables differ: what every edition with labels has tells nothing."""
    return {value for value in present if any(value not in one.tissue_of_value for one in EDITIONS.values())}


def tissues_of(schema: LabelSchema, present: Collection[int]) -> set[Tissue]:
    return {schema.tissue_of_value[value] for value in present}


def union(values: Iterable[frozenset[int] | None]) -> frozenset[int]:
    return frozenset().union(*(one for one in values if one is not None))


def outside(values: Collection[int] | None, schema: LabelSchema) -> list[int]:
    return sorted(set(values or ()) - set(schema.tissue_of_value))


def listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values)))


def contradiction(given: LabelSchema, names_say: LabelSchema, present: Collection[int]) -> str:
    """How a table that was given reads values otherwise than the names' own table, which holds them all.

    Returns:
        e.g. "reads 4 as RC"; "" where the two agree on the values, or the names' table lacks one of them.
    """
    own, other = names_say.tissue_of_value, given.tissue_of_value
    if not set(present) <= set(own):
        return ""
    for value in sorted(present):
        if value not in other:
            return f"has no value {value}"
        if other[value] != own[value]:
            return f"reads {value} as {other[value].name}"
    return ""


# --- after scoring: another table that fits better ------------------------------------------------------


def doubts(
    written_in: Sequence[LabelSchema], voxels: Sequence[np.ndarray], prediction: str | os.PathLike
) -> list[str]:
    """Warnings where predictions hold one value alone, or where another table would explain the reference.

    Two tables may share their values and not their meaning (1 and 2 are swapped between BraTS and the
    Decathlon): such files fit, and whole tumour is right.

    Args:
        written_in: by which table each prediction was read.
        voxels: of each pair, `scoring.tissue_pairs`.
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
    value_of = {tissue: schema.value_of_tissue[tissue] for tissue in there}
    values = {0, *value_of.values()}
    readings: list[tuple[dict[int, Tissue], LabelSchema | None]] = [
        ({value: other.tissue_of_value[value] for value in values}, other)
        for other in _distinct([one for one in EDITIONS.values() if values <= set(one.tissue_of_value)], values)
    ]
    readings += [
        ({0: Tissue.BACKGROUND, **dict(zip(value_of.values(), order, strict=True))}, None)
        for order in itertools.permutations(there)
    ]
    now = _dice(counts)
    best, best_gain, then = None, 0.0, now
    for tissue_of, other in readings:  # editions first: of the same gain, the one with a name
        read = np.zeros_like(counts)
        for value, tissue in tissue_of.items():
            read[:, tissue] += counts[:, schema.tissue_of_value[value]]
        dice = _dice(read)
        gain = float(np.mean(list(dice.values())) - np.mean(list(now.values())))
        if gain > best_gain + 1e-9:
            best, best_gain, then = (tissue_of, other), gain, dice
    if best is None or min(then.values()) < _LEAST_DICE or best_gain < _LEAST_GAIN:
        return []
    texts = [", ".join(f"{region} {dice:.3f}" for region, dice in each.items()) for each in (then, now)]
    own = meaning(schema, values)
    held = f"over all voxels Dice {texts[0]}, and now, by {schema.edition} ({own}), Dice {texts[1]}"
    tissue_of, other = best
    if other is not None:
        return [
            f"{prediction}: read by the table of {other.edition} ({meaning(other, values)}) the predictions "
            f"would fit the reference far better: {held}. If they were written so, pass --prediction-edition "
            f"{other.edition}."
        ]
    moved = [value for value in sorted(values) if tissue_of[value] is not schema.tissue_of_value[value]]
    words = ", ".join(f"{value} {tissue_of[value].name}" for value in sorted(values) if value)
    return [
        f"{prediction}: the values {listed(moved[:-1])} and {moved[-1]} seem exchanged: read as {words}, "
        f"which no edition's table has, the predictions would fit the reference far better: {held}. Write the "
        f"files again in the table of {schema.edition}."
    ]


def _dice(counts: np.ndarray) -> dict[str, float]:
    """Of each region over all voxels; rows are the reference's tissues, columns the prediction's."""
    dice = {}
    for region, tissues in REGIONS.items():
        inside = np.isin(np.arange(len(counts)), tissues)
        both, either = counts[np.ix_(inside, inside)].sum(), counts[inside].sum() + counts[:, inside].sum()
        dice[region] = float(2 * both / either) if either else 1.0
    return dice
