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

from tfbrats.cases import case, nifti
from tfbrats.datasets import naming
from tfbrats.datasets.label_candidates import (
    advice_on_predictions,
    candidates,
    contradiction,
    listed,
    telling_values,
    union,
)
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MASKS_THAT_TELL, REWRITTEN, LabelSchema, Tissue, doubts
from tfbrats.machine import files
from tfbrats.predictions import model_card, provenance
from tfbrats.scoring import masks_alone
from tfbrats.scoring.pairs import Pair

_READERS = 4  # files in memory at a time, 9 MB each as uint8 and 71 MB as float64
_MOST_VALUES = 20  # more are no labels: reading the pair tells what is wrong with such a file
_LOOKED_AT = 5  # pairs that say how well each of several possible tables agrees


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
    stated = _stated(checked, prediction)
    settled: list[Pair] = []
    found_by: dict[str, str] = {}
    groups: dict[tuple, list[Pair]] = {}
    for pair in checked:
        table, where = stated.get(pair.case_id, (None, ""))
        groups.setdefault((pair.schema, table, where), []).append(pair)
    for (schema, table, where), members in groups.items():
        side = _Predictions(os.fspath(prediction), members, schema, values)
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
    with concurrent.futures.ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as pool:
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
        own = naming.edition_by_id(pair.case_id)
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


# --- the prediction -------------------------------------------------------------------------------------


class _Predictions:
    """Predictions that are read by one table, once it is known which.

    Args:
        folder: of the predictions, named in faults.
        pairs: whose predictions they are.
        schema: of their references.
        values: by path, as `values_of` found them.

    Attributes:
        pairs: those that can be read, with the table.
        found_by: what told the table.
        faults: what stands against it.
    """

    def __init__(
        self,
        folder: str,
        pairs: Sequence[Pair],
        schema: LabelSchema,
        values: Mapping[str, frozenset[int] | None],
    ):
        self._folder, self._schema, self._members = folder, schema, pairs
        self._values = {pair.case_id: values.get(pair.prediction) for pair in pairs}
        self._present = union(self._values.values())
        self._reference_fits = all(schema.has(values[pair.reference] or ()) for pair in pairs)
        self._is_given = False
        self.pairs: list[Pair] = []
        self.found_by = ""
        self.faults: list[str] = []

    @property
    def values(self) -> list[frozenset[int] | None]:
        """The values of each prediction; None of one that could not be read."""
        return list(self._values.values())

    def fit(self, schema: LabelSchema) -> bool:
        """Whether a table has the values of all these predictions."""
        return schema.has(self._present)

    def take(self, schema: LabelSchema, found_by: str) -> None:
        """Reads them by this table; a file whose values it lacks is a fault."""
        self.found_by = found_by
        for pair in self._members:
            if strange := schema.lacking(self._values[pair.case_id] or ()):
                self.faults.append(
                    f"{pair.case_id}: {pair.prediction}: label values {strange} are not in edition "
                    f"{schema.edition}, by which the predictions are read: {schema.describe()}. "
                    + self._cure(pair, schema)
                )
            else:
                self.pairs.append(dataclasses.replace(pair, prediction_schema=schema))

    def _cure(self, pair: Pair, schema: LabelSchema) -> str:
        """What to do about a prediction that a table does not fit: it may be the only one written so."""
        files_with_labels = [values for values in self._values.values() if values]
        fitting = [values for values in files_with_labels if schema.has(values)]
        failing = len(files_with_labels) - len(fitting)
        # A file of the values that all tables have fits any of them.
        if any(map(telling_values, fitting)) and failing <= len(fitting):
            return (
                f"Others fit it: write this one in that table, or score it apart, with --cases {pair.case_id} "
                "and --prediction-edition."
            )
        if self._is_given and self.fit(self._schema):
            return (
                f"The values found ({listed(self._present)}) fit the reference's own table: "
                f"{self._schema.describe()}. Leave --prediction-edition out."
            )
        return advice_on_predictions(candidates(self._present, self._schema), self._present)

    def read_by_option(self, edition: str) -> None:
        """Reads them by --prediction-edition, unless that has tissues that the reference cannot hold."""
        schema = EDITIONS[edition]
        self._is_given = True
        foreign = [
            value
            for value in sorted(self._present)
            if value in schema.tissue_of_value
            and schema.tissue_of_value[value] not in self._schema.value_of_tissue
        ]
        if foreign and self.fit(self._schema):
            names = ", ".join(f"{value} as {schema.tissue_of_value[value].name}" for value in foreign)
            self.faults.append(
                f"{self._folder}: --prediction-edition {edition} reads {names}, which the reference "
                f"({self._schema.edition}) cannot hold, and the values found ({listed(self._present)}) fit "
                f"its own table: {self._schema.describe()}. Leave --prediction-edition out."
            )
            schema = self._schema
        self.take(schema, f"--prediction-edition {edition} says")

    def read_by_values(self, card: model_card.ModelCard | None) -> None:
        """Reads them by the reference's table, else by their model's, else by the only one that is possible.

        What several tables could mean is a fault, with what each would make of it.
        """
        if self.fit(self._schema):
            self.take(self._schema, "")
            return
        of_the_model = card.schema_of_labels if card is not None else None
        if of_the_model is not None and self.fit(of_the_model):
            self.take(of_the_model, f"the card of their model {card.name} says")
            return
        possible = candidates(self._present, self._schema)
        tissues = set(self._schema.value_of_tissue)
        like = [table for table in possible if table.tissues(self._present) <= tissues]
        if len(like) == 1:
            self.take(like[0], f"no other table that the reference could share holds {listed(self._present)}")
        elif not like and any(self._schema.has(values) for values in self._values.values() if values):
            self.take(self._schema, "")  # a file or two among many
        elif not possible:
            self.take(self._schema, "")
        else:
            # For all other faults of these files, which are listed together.
            self.pairs = [dataclasses.replace(pair, prediction_schema=possible[0]) for pair in self._members]
            if not self._reference_fits:  # its table has to be told first, and may be the prediction's
                return
            self.faults.append(
                f"{self._folder}: the predictions hold the values {listed(self._present)}, which edition "
                f"{self._schema.edition} of the reference does not: {self._schema.describe()}. "
                + advice_on_predictions(possible, self._present)
                + self._agreement(possible)
            )

    def _agreement(self, possible: Sequence[LabelSchema]) -> str:
        """How often both sides call a voxel the same tissue, by each table: who asks may not know either."""
        same, both = dict.fromkeys(range(len(possible)), 0), 0
        for pair in [pair for pair in self._members if pair.prediction is not None][:_LOOKED_AT]:
            try:
                expert, _ = case.load_label(pair.reference, self._schema)
                read = [case.load_label(pair.prediction, schema)[0] for schema in possible]
            except InputError:
                continue
            if expert.shape != read[0].shape:
                continue
            tumour = (expert != 0) & (read[0] != 0)
            both += int(tumour.sum())
            for place, tissues in enumerate(read):
                same[place] += int((tissues[tumour] == expert[tumour]).sum())
        if not both or len(possible) < 2:
            return ""
        shares = ", ".join(f"{same[n] / both:.1%} by {schema.edition}" for n, schema in enumerate(possible))
        return f" Of the voxels that both sides call tumour, they agree on the tissue of {shares}."


def _stated(pairs: Sequence[Pair], prediction: str | os.PathLike) -> dict[str, tuple[LabelSchema, str]]:
    """Case id -> table and who tells it, by the files beside predictions."""
    listing = set(files.walk(prediction))
    beside = files.join(prediction, "dataset.json")
    of_all = masks_alone.of_dataset_json(beside) if beside in listing else None
    tables = {pair.case_id: (of_all, f"{beside} says") for pair in pairs if of_all is not None}
    for pair in pairs:
        path = provenance.path_of(pair.prediction) if pair.prediction is not None else ""
        if path not in listing:
            continue
        try:
            table = LabelSchema.from_json(files.read_json(path)["labels"])
        except (InputError, KeyError, TypeError, ValueError, AttributeError):  # another program's JSON
            continue
        tables[pair.case_id] = (table, "the files of --provenance beside them say")
    return tables
