"""BraTS conventions: modality names, tissues, label values per edition, regions. Nothing else knows "4".

Inside the package a label map holds tissues (`Tissue`), whatever the edition wrote in its files, and
modalities go by four canonical names. Values and synonyms are translated at the borders, by name.
"""

import enum
import types
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from tfbrats.errors import InputError

MODALITIES = ("flair", "t1", "t1ce", "t2")

# Every spelling seen in BraTS editions, MSD Task01 and nnU-Net data sets, in lower case.
MODALITY_SYNONYMS = types.MappingProxyType(
    {
        "flair": ("flair", "t2f", "fla", "t2flair", "t2-flair", "t2w-flair"),
        "t1": ("t1", "t1n", "t1w", "t1native"),
        "t1ce": ("t1ce", "t1c", "t1gd", "t1wce", "t1post", "t1ct", "ct1"),
        "t2": ("t2", "t2w"),
    }
)
_MODALITY_BY_SYNONYM = {synonym: name for name, synonyms in MODALITY_SYNONYMS.items() for synonym in synonyms}


def modality_named(text: str) -> str | None:
    """The canonical modality that `text` names in any letter case, or None."""
    return _MODALITY_BY_SYNONYM.get(text.strip().lower())


class Tissue(enum.IntEnum):
    """What a voxel of a label map is, inside the package."""

    BACKGROUND = 0
    NCR = 1  # necrotic and non-enhancing tumour core (NCR/NET; NETC in 2024)
    ED = 2  # oedema (SNFH in 2024)
    ET = 3  # enhancing tumour
    RC = 4  # resection cavity, in post-treatment data (2024 GLI) only; part of no region below
    CC = 5  # cystic component, in paediatric data (PED) only: of the core, and learned as NCR


_MOST_VALUE = 2**16 - 1  # of a label: a table is made of so many at most
LEARNED = (Tissue.NCR, Tissue.ED, Tissue.ET)  # the classes that a network tells apart beside the background

REGIONS: Mapping[str, tuple[Tissue, ...]] = types.MappingProxyType(
    {
        "WT": (Tissue.NCR, Tissue.ED, Tissue.ET, Tissue.CC),
        "TC": (Tissue.NCR, Tissue.ET, Tissue.CC),
        "ET": (Tissue.ET,),
    }
)

# Of each region, the classes that a network has for it.
LEARNED_OF: Mapping[str, tuple[Tissue, ...]] = types.MappingProxyType(
    {region: tuple(tissue for tissue in tissues if tissue in LEARNED) for region, tissues in REGIONS.items()}
)

# Each region lies in the one before it; WT's own parent is the brain.
PARENT: Mapping[str, str | None] = types.MappingProxyType({"WT": None, "TC": "WT", "ET": "TC"})
CHILD: Mapping[str, str | None] = types.MappingProxyType({"WT": "TC", "TC": "ET", "ET": None})


def region_mask(tissues: np.ndarray, region: str) -> np.ndarray:
    """Where `tissues` (any shape) belongs to `region` ("WT", "TC" or "ET"): bool, same shape."""
    first, *others = REGIONS[region]
    mask = tissues == first
    for tissue in others:  # several times as fast as np.isin
        mask |= tissues == tissue
    return mask


# A tumour is a hundredth of a volume: to sort or translate its voxels alone takes a tenth of the time.


def _marked(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a label map is not 0, bool of its shape; and what is there, [V]."""
    marked = values != 0
    return marked, values[marked]


def _present(values: np.ndarray, inside: np.ndarray) -> list[int]:
    """The values of a label map, ascending, given those of it that are not 0."""
    zero = [0] if inside.size < values.size else []
    return sorted([*zero, *map(int, np.unique(inside))])


def _put(marked: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The inverse of `_marked`, uint8."""
    values = np.zeros_like(marked, np.uint8)
    values[marked] = inside
    return values


class UnknownLabelError(InputError):
    """The values of a label map do not go with its edition."""


@dataclass(frozen=True)
class LabelSchema:
    """Which value stands for which tissue in the files of one edition.

    Attributes:
        edition: key of the table, e.g. "2020", "ped"; "nnunet" for a data set with a table of its own.
        values: (value in the file, tissue) pairs; 0 is always background.
        ignored: the value of voxels that nobody labelled (nnU-Net's "ignore"); None where there is no such.
        by_names: what the names tell where --edition says otherwise: values that fit it are not read by
            another table in silence. No part of what a schema is equal by.
    """

    edition: str
    values: tuple[tuple[int, Tissue], ...]
    ignored: int | None = None
    by_names: "LabelSchema | None" = field(default=None, compare=False, repr=False)

    def __post_init__(self):
        if len({value for value, _ in self.values}) != len(self.values):
            raise InputError(f"Label schema {self.edition}: a value is listed twice: {self.values}")

    @property
    def tissue_of_value(self) -> dict[int, Tissue]:
        return dict(self.values)

    @property
    def value_of_tissue(self) -> dict[Tissue, int]:
        """The value that is written for a tissue: the first, where a table has several."""
        return {tissue: value for value, tissue in reversed(self.values)}

    def to_tissues(self, values: np.ndarray, where: str) -> np.ndarray:
        """File values (integers, any shape) to tissues (uint8, same shape).

        Args:
            values: label map as the file holds it.
            where: the file or case, named in the error.

        Raises:
            UnknownLabelError: a value is not in this edition's table, or the values are those of the edition
                that the names tell and mean other tissues here.
        """
        marked, inside = _marked(values)
        present = _present(values, inside)
        if unknown := self.lacking(present):
            raise UnknownLabelError(
                f"{where}: label values {_listed(unknown)} are not in edition {self.edition}, "
                f"which has {self.describe()}. {advice(self, present)}"
            )
        if misread := self._misread(present):
            raise UnknownLabelError(f"{where}: {misread}")
        table = np.zeros(max(self.tissue_of_value) + 1, np.uint8)
        for value, tissue in self.values:
            table[value] = tissue
        return _put(marked, table[inside.astype(np.int64)])

    def _misread(self, present: Collection[int]) -> str | None:
        """What speaks against reading these values by this table, which has all of them; None if nothing."""
        own = self.by_names
        if own is None or self.edition in REWRITTEN or not own.has(present):
            return None
        differing = own.differing(self, present)
        if not differing:
            return None
        return (
            f"edition {self.edition} reads {self._words(differing)}, but its names tell edition {own.edition}, "
            f"which has all of its values and reads {own._words(differing)}. Leave {self.edition} out "
            "(--edition); if the file was rewritten in that table, rename it so that its name tells no edition."
        )

    def to_values(self, tissues: np.ndarray, where: str) -> np.ndarray:
        """Tissues (uint8, any shape) to this edition's file values (uint8, same shape).

        Raises:
            UnknownLabelError: a tissue has no value in this edition (RC before 2024, CC outside PED).
        """
        value_of = self.value_of_tissue
        marked, inside = _marked(tissues)
        missing = [Tissue(t).name for t in _present(tissues, inside) if t not in value_of]
        if missing:
            raise UnknownLabelError(
                f"{where}: edition {self.edition} has no label value for {', '.join(missing)}; "
                f"it has {self.describe()}."
            )
        table = np.zeros(len(Tissue), np.uint8)
        for tissue, value in value_of.items():
            table[tissue] = value
        return _put(marked, table[inside])

    def has(self, present: Iterable[int]) -> bool:
        """Whether all these values are in the table."""
        return not self.lacking(present)

    def lacking(self, values: Iterable[int]) -> list[int]:
        """Those of these values that are not in the table, in order."""
        return sorted(set(values) - set(self.tissue_of_value))

    def tissues(self, values: Iterable[int]) -> set[Tissue]:
        """What these values mean; all have to be in the table."""
        return {self.tissue_of_value[value] for value in values}

    def differing(self, other: "LabelSchema", values: Iterable[int]) -> list[int]:
        """Those of these values, all in this table, that another table reads otherwise or does not have."""
        here, there = self.tissue_of_value, other.tissue_of_value
        return [value for value in sorted(values) if there.get(value) is not here[value]]

    def holds(self, tissues: np.ndarray) -> bool:
        """Whether every tissue of a label map (any shape) has a value."""
        return {int(tissue) for tissue in np.unique(tissues)} <= set(self.value_of_tissue)

    def describe(self) -> str:
        """The table in words; the challenge's own word stands behind ours where it has another."""
        words = self._words(value for value, _ in self.values)
        return words if self.ignored is None else f"{words}, {self.ignored} ignore"

    def word(self, tissue: Tissue) -> str:
        """What the edition calls a tissue: NETC where it says so of NCR."""
        return _OWN_WORDS.get(self.edition, {}).get(tissue, tissue.name)

    def _words(self, values: Iterable[int]) -> str:
        own = _OWN_WORDS.get(self.edition, {})
        tissues = self.tissue_of_value
        return ", ".join(
            f"{value} {tissues[value].name}" + (f" ({own[tissues[value]]})" if tissues[value] in own else "")
            for value in values
        )

    def overruling(self, own: "LabelSchema | None") -> "LabelSchema":
        """The same table as given by hand where the names tell `own`: remembers it if it is another."""
        return self if own is None or own.values == self.values else replace(self, by_names=own)

    def to_json(self) -> dict:
        content = {"edition": self.edition, "values": {str(v): t.name for v, t in self.values}}
        return content if self.ignored is None else {**content, "ignored": self.ignored}

    @classmethod
    def from_json(cls, content: Mapping) -> "LabelSchema":
        """The inverse of `to_json`. Raises ValueError: it is no table of labels."""
        try:
            pairs = sorted((int(value), Tissue[name]) for value, name in content["values"].items())
            edition, ignored = str(content["edition"]), content.get("ignored")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no table of label values: {error!r}") from error
        if not pairs or not all(0 <= value <= _MOST_VALUE for value, _ in pairs):
            raise ValueError(f"label values from 0 to {_MOST_VALUE} are expected; found {pairs[:3]}")
        if not isinstance(ignored, int | None):
            raise ValueError(f"ignored: a label value is expected; found {ignored!r}")
        return cls(edition, tuple(pairs), ignored)


_UNTIL_2021 = ((0, Tissue.BACKGROUND), (1, Tissue.NCR), (2, Tissue.ED), (4, Tissue.ET))
_SINCE_2023 = ((0, Tissue.BACKGROUND), (1, Tissue.NCR), (2, Tissue.ED), (3, Tissue.ET))
_WITH_CAVITY = (*_SINCE_2023, (4, Tissue.RC))
_PED = ((0, Tissue.BACKGROUND), (1, Tissue.ET), (2, Tissue.NCR), (3, Tissue.CC), (4, Tissue.ED))
# Medical Segmentation Decathlon, Task01: 1 and 2 are swapped against BraTS.
_MSD = ((0, Tissue.BACKGROUND), (1, Tissue.ED), (2, Tissue.NCR), (3, Tissue.ET))

# A year alone is the challenge of gliomas (GLI). nnU-Net data sets bring their own table: `label_names`.
EDITIONS: Mapping[str, LabelSchema] = types.MappingProxyType(
    {
        key: LabelSchema(key, values)
        for keys, values in (
            (("2017", "2018", "2019", "2020", "2021"), _UNTIL_2021),
            (("2023",), _SINCE_2023),
            (("2024", "2025", "2026"), _WITH_CAVITY),
            (("ped",), _PED),
            (("ssa",), _SINCE_2023),
            (("met",), _WITH_CAVITY),  # as the scorer of 2025 has it; masks of 2023 have no cavity
            (("men",), _SINCE_2023),
            (("upenn", "ucsf"), _UNTIL_2021),  # UPenn-GBM and UCSF-PDGM, as TCIA has them
            (("msd",), _MSD),
        )
        for key in keys
    }
)

# Tables that masks of any challenge are rewritten in on purpose (nnU-Net's preparation of BraTS does), so that
# it is no mistake when the names tell another edition.
REWRITTEN = ("msd", "nnunet")

_NETC = {Tissue.NCR: "NETC"}
_NETC_SNFH = {Tissue.NCR: "NETC", Tissue.ED: "SNFH"}
_OWN_WORDS: Mapping[str, Mapping[Tissue, str]] = types.MappingProxyType(
    {**dict.fromkeys(("2024", "2025", "2026", "met", "men"), _NETC_SNFH), "ped": _NETC}
)


def _listed(values: Collection[int]) -> str:
    return str(values) if len(values) <= 10 else f"[{', '.join(map(str, list(values)[:10]))}, ...]"


def by_meaning(schemas: Iterable[LabelSchema], present: Collection[int]) -> list[list[LabelSchema]]:
    """The tables that have all these values, those together that mean the same by them; in their own order."""
    groups: dict[tuple[Tissue, ...], list[LabelSchema]] = {}
    for schema in schemas:
        if schema.has(present):
            meaning = tuple(schema.tissue_of_value[value] for value in sorted(present))
            groups.setdefault(meaning, []).append(schema)
    return list(groups.values())


def _is_unlikely(tissues: Collection[Tissue]) -> bool:
    """A mask can have a resection cavity and no enhancing tumour; but 4 was enhancing tumour until 2021."""
    return Tissue.RC in tissues and Tissue.ET not in tissues


def advice(schema: LabelSchema, present: Collection[int]) -> str:
    """What to do about a label map whose values `schema` does not have.

    Names every table that has them and what they mean in it, as values alone seldom tell which it is; the
    unlikely ones last. Of predictions `label_candidates.advice_on_predictions` says it.

    Args:
        schema: the table that was tried.
        present: all values of the file.
    """
    if schema.ignored in present:
        return (
            f"Value {schema.ignored} is what its dataset.json calls ignore: voxels that nobody labelled, which "
            "can be neither learned nor scored here. Complete the mask, or leave the case out."
        )
    own = schema.by_names
    if own is not None and own.has(present):
        return f"Its names tell edition {own.edition}, which has all of its values: leave --edition out."
    groups = by_meaning(EDITIONS.values(), present)
    tables = [
        f"--edition {table.edition} ({table._words(value for value in sorted(present) if value)}"
        + (f"; so do {', '.join(other.edition for other in others)})" if others else ")")
        for table, *others in sorted(groups, key=lambda group: _is_unlikely(group[0].tissues(present)))
    ]
    if not tables:
        return (
            f"No edition has all of its values, {_listed(sorted(present))}: give a mask of tumour tissues in "
            f"the values of one. Pass --edition if it was recognised wrongly."
        )
    return (
        f"These tables have its values: {', '.join(tables)}. Pass the one that this file was written in; the "
        "values alone do not tell which."
    )


MASKS_THAT_TELL = 3  # so many without any enhancing tumour are no chance


def doubts(schema: LabelSchema, present: Collection[Tissue]) -> list[str]:
    """What is strange about a whole data set whose masks hold these tissues, all taken together.

    Args:
        present: tissues, background left out, that occur in any mask.
    """
    remarks = []
    values = schema.value_of_tissue
    if Tissue.RC in present and Tissue.ET not in present:
        cavity = values[Tissue.RC]
        others = [
            key
            for key, table in EDITIONS.items()
            if table.has(values[tissue] for tissue in present) and table.tissue_of_value[cavity] is Tissue.ET
        ]
        if others:
            remarks.append(
                f"edition {schema.edition} reads value {cavity} as resection cavity, and no mask has enhancing "
                f"tumour; in edition {', '.join(others)} value {cavity} is enhancing tumour. Pass --edition if "
                "it is one of those"
            )
    if present and {values[tissue] for tissue in present} == {1}:
        remarks.append(
            f"all masks hold value 1 alone, read as {schema._words([1])}: a mask of the whole tumour, without "
            "its parts, would be read wrongly"
        )
    return remarks


class LwsRegion(enum.IntEnum):
    """The four regions of loss weighted sampling (paper A, Fig. 2 d), as stored in a region map."""

    S1 = 0  # black background: every modality is 0
    S2 = 1  # normal brain
    S3 = 2  # tumour inside the contour band
    S4 = 3  # contour band of the whole tumour
