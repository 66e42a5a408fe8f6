"""In which table each side of a comparison is written: found or given, and held against the values themselves.

A reference is read by `--edition` or by what its names tell, a prediction by `--prediction-edition`, by what
lies beside it (CASE.json of --provenance, nnU-Net's dataset.json), else by the reference's table, if its values
fit. Values that fit only one other meaning are read by that, with a note. What several tables could mean is
asked, and what contradicts the files is refused: a wrong table is a score of 0 that looks like a result.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfbrats.cases import nifti
from tfbrats.datasets import case_names
from tfbrats.datasets.label_candidates import contradiction, listed, union
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MASKS_THAT_TELL, REWRITTEN, LabelSchema, Tissue, doubts
from tfbrats.machine import memory
from tfbrats.predictions import model_card
from tfbrats.scoring import prediction_tables
from tfbrats.scoring.pairs import Pair
from tfbrats.scoring.prediction_tables import Predictions

_READERS = 4  # files in memory at a time, 9 MB each as uint8 and 71 MB as float64
_MOST_VALUES = 20  # more are no labels: reading the pair tells what is wrong with such a file


@dataclass(frozen=True)
class Settled:
    """Pairs with both tables, and what stands against them.

    Attributes:
        pairs: those that can be read, `prediction_schema` set.
        found_by: of each of these pairs, what told the prediction's table.
        notes: references that are read otherwise than their names tell.
        warnings: what is strange about the references' values, read so.
        faults: values that no table explains, or that contradict the table given.
    """

    pairs: tuple[Pair, ...]
    found_by: Mapping[str, str]
    notes: tuple[str, ...]
    faults: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def values_of(path: str) -> frozenset[int] | None:
    """Which whole numbers a file holds; None of one that cannot be read or holds no labels."""
    try:
        array = nifti.read(path).array
    except InputError:
        return None
    if array.dtype.kind not in "iufb":
        return None
    flat = array.ravel(order="K")
    tumour = flat[flat != 0]  # a hundredth of the voxels: what is left to sort
    values = np.unique(tumour)
    if values.size > _MOST_VALUES or not np.isfinite(values).all():
        return None
    background = {0} if tumour.size < flat.size else set()
    return frozenset(np.round(values.astype(np.float64)).astype(np.int64).tolist()) | background


def settle(
    pairs: Sequence[Pair],
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    edition: str | None = None,
    prediction_edition: str | None = None,
    card: model_card.ModelCard | None = None,
) -> Settled:
    """Gives each pair the table of its prediction, and checks that of its reference; reads every file's values.

    Args:
        pairs: as `pairs.match` found them.
        edition: that the references were said to be of; None if their names told.
        prediction_edition: that the predictions are said to be of.
        card: of the model that wrote the predictions.

    Raises:
        InputError: there is no such prediction edition.
    """
    if prediction_edition is not None and prediction_edition not in EDITIONS:
        raise InputError(
            f"prediction edition {prediction_edition!r} is unknown; choose from {', '.join(EDITIONS)}."
        )
    values = _values([path for pair in pairs for path in (pair.reference, pair.prediction) if path is not None])
    checked, notes, faults = _references(pairs, values, reference, edition)
    strange, warnings = _strange(checked, values, reference, edition)
    faults += strange
    stated = prediction_tables.stated(checked, prediction)
    settled: list[Pair] = []
    found_by: dict[str, str] = {}
    groups: dict[tuple, list[Pair]] = {}
    for pair in checked:
        table, where = stated.get(pair.case_id, (None, ""))
        groups.setdefault((pair.schema, table, where), []).append(pair)
    for (schema, table, where), members in groups.items():
        side = Predictions(os.fspath(prediction), members, schema, values)
        if prediction_edition is not None:
            side.read_by_option(prediction_edition)
        elif table is not None and side.fit(table):
            side.take(table, where)
        else:
            side.read_by_values(card)
            if table is not None:
                lacking = listed(table.lacking(union(side.values)))
                notes.append(
                    f"{where} that the predictions are written as {table.describe()}, but they hold {lacking}: "
                    "passed over"
                )
        settled += side.pairs
        found_by |= dict.fromkeys((pair.case_id for pair in side.pairs), side.found_by)
        faults += side.faults
    order = {pair.case_id: place for place, pair in enumerate(pairs)}
    settled.sort(key=lambda pair: order[pair.case_id])
    return Settled(tuple(settled), found_by, tuple(notes), tuple(faults), tuple(warnings))


def check_references(pairs: Sequence[Pair], reference: str | os.PathLike, edition: str | None = None) -> None:
    """Raises InputError, before there are predictions, where values of references contradict their table."""
    values = _values([pair.reference for pair in pairs])
    checked, _, faults = _references(pairs, values, reference, edition)
    faults += _strange(checked, values, reference, edition)[0]
    if faults:
        raise InputError("\n".join(faults))


def _values(paths: Sequence[str]) -> dict[str, frozenset[int] | None]:
    with concurrent.futures.ThreadPoolExecutor(min(_READERS, memory.cores())) as pool:
        return dict(zip(paths, pool.map(values_of, paths), strict=True))


def as_json(pairs: Iterable[Pair], found_by: Mapping[str, str]) -> list[dict[str, Any]]:
    """For metrics.json: `reference`, `prediction`, `prediction_told_by` and `cases` of each two tables."""
    entries: list[dict[str, Any]] = []
    for pair in pairs:
        entry = {
            "reference": pair.schema.to_json(),
            "prediction": pair.written_in.to_json(),
            "prediction_told_by": found_by[pair.case_id],
        }
        for earlier in entries:
            if {**earlier, "cases": None} == {**entry, "cases": None}:
                earlier["cases"].append(pair.case_id)
                break
        else:
            entries.append({**entry, "cases": [pair.case_id]})
    return entries


def with_tables(pairs: Iterable[Pair], tables: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """Pairs to be read as they were scored.

    Args:
        tables: of metrics.json; empty of an older version's, which had one table for both sides.
    """
    written_in = {
        case_id: LabelSchema.from_json(entry["prediction"]) for entry in tables for case_id in entry["cases"]
    }
    return [dataclasses.replace(pair, prediction_schema=written_in.get(pair.case_id)) for pair in pairs]


# --- the reference --------------------------------------------------------------------------------------


def _references(
    pairs: Sequence[Pair],
    values: Mapping[str, frozenset[int] | None],
    reference: str | os.PathLike,
    edition: str | None,
) -> tuple[list[Pair], list[str], list[str]]:
    """Pairs whose references can be read, notes, and faults; a contradicted table gives way to the names'."""
    checked: list[Pair] = []
    notes: list[str] = []
    faults: list[str] = []
    groups: dict[tuple, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.schema, pair.names_say), []).append(pair)
    for (schema, names_say), members in groups.items():
        present = union(values[pair.reference] for pair in members)
        differs = contradiction(schema, names_say, present) if edition and names_say else ""
        if differs:
            what = f"{reference}: --edition {edition} {differs}, but the names say {names_say.edition}"
            fits = f"and the values found ({listed(present)}) fit its table: {names_say.describe()}"
            if edition not in REWRITTEN:
                faults.append(f"{what}, {fits}. Leave --edition out.")
                checked += [dataclasses.replace(pair, schema=names_say) for pair in members]
                continue
            notes.append(f"{what}, {fits}; read as given")
        checked += members  # reading them tells of values that their table lacks
    return checked, notes, faults


def _strange(
    pairs: Sequence[Pair],
    values: Mapping[str, frozenset[int] | None],
    reference: str | os.PathLike,
    edition: str | None,
) -> tuple[list[str], list[str]]:
    """What speaks against the table of all references whose ids do not tell it: faults and warnings.

    Of a mask or two it is a warning, as they may be so; of more in a table that was given it is a fault.
    """
    groups: dict[LabelSchema, list[Pair]] = {}
    for pair in pairs:
        own = case_names.edition_by_id(pair.case_id)
        if pair.schema.edition in EDITIONS and (own is None or own.values != pair.schema.values):
            groups.setdefault(pair.schema, []).append(pair)
    faults: list[str] = []
    warnings: list[str] = []
    for schema, members in groups.items():
        present = union(values[pair.reference] for pair in members)
        if not schema.has(present):  # reading them tells
            continue
        remarks = doubts(schema, schema.tissues(present) - {Tissue.BACKGROUND})
        masks = sum(bool(values[pair.reference]) for pair in members)
        where = faults if edition is not None and masks >= MASKS_THAT_TELL else warnings
        where += [f"{reference}: {remark}." for remark in remarks]
    return faults, warnings
