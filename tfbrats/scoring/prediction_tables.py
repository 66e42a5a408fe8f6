"""In which table predictions are written: by an option, by the files beside them, or by their values.

Values that fit only one other meaning than the reference's are read by that. What several tables could mean is
a fault, which tells how well each would agree; so is a table that contradicts the files.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

from tfbrats.cases import case
from tfbrats.datasets.label_candidates import (
    advice_on_predictions,
    candidates,
    listed,
    telling_values,
    union,
)
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, LabelSchema
from tfbrats.machine import files
from tfbrats.predictions import model_card, provenance
from tfbrats.scoring import masks_alone
from tfbrats.scoring.pairs import Pair

_LOOKED_AT = 5  # pairs that say how well each of several possible tables agrees


def stated(pairs: Sequence[Pair], prediction: str | os.PathLike) -> dict[str, tuple[LabelSchema, str]]:
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


class Predictions:
    """Predictions that are read by one table, once it is known which: it is given, stated, or told by values.

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
