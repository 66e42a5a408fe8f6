"""BraTS conventions: modality names, tissues, label values per edition, regions. Nothing else knows "4".

Inside the package a label map holds tissues (`Tissue`), whatever the edition wrote in its files, and
modalities go by four canonical names. Values and synonyms are translated at the borders, by name.
"""

import enum
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfbrats.command import InputError

MODALITIES = ("flair", "t1", "t1ce", "t2")

# Every spelling seen in BraTS editions, MSD Task01 and nnU-Net data sets, in lower case.
MODALITY_SYNONYMS = types.MappingProxyType(
    {
        "flair": ("flair", "t2f", "fla", "t2flair", "t2-flair", "t2w-flair"),
        "t1": ("t1", "t1n", "t1w", "t1native"),
        "t1ce": ("t1ce", "t1c", "t1gd", "t1wce", "t1post", "t1ct"),
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


def region_mask(tissues: np.ndarray, region: str) -> np.ndarray:
    """Where `tissues` (any shape) belongs to `region` ("WT", "TC" or "ET"): bool, same shape."""
    return np.isin(tissues, REGIONS[region])


class UnknownLabelError(InputError):
    """A label map holds values that its edition does not have."""


@dataclass(frozen=True)
class LabelSchema:
    """Which value stands for which tissue in the files of one edition.

    Attributes:
        edition: name of the edition, e.g. "2020".
        values: (value in the file, tissue) pairs; 0 is always background.
    """

    edition: str
    values: tuple[tuple[int, Tissue], ...]

    def __post_init__(self):
        if len({value for value, _ in self.values}) != len(self.values):
            raise InputError(f"Label schema {self.edition}: a value is listed twice: {self.values}")

    @property
    def tissue_of_value(self) -> dict[int, Tissue]:
        return dict(self.values)

    @property
    def value_of_tissue(self) -> dict[Tissue, int]:
        return {tissue: value for value, tissue in self.values}

    def to_tissues(self, values: np.ndarray, where: str) -> np.ndarray:
        """File values (integers, any shape) to tissues (uint8, same shape).

        Args:
            values: label map as the file holds it.
            where: the file or case, named in the error.

        Raises:
            UnknownLabelError: a value is not in this edition's table.
        """
        found = np.unique(values)
        known = self.tissue_of_value
        unknown = [int(v) for v in found if int(v) not in known]
        if unknown:
            hint = ""
            if unknown == [4] and self.edition == "2023":
                hint = (
                    " Value 4 is the resection cavity of 2024 GLI (pass --edition 2024), or enhancing tumour "
                    "until 2021 (pass that year)."
                )
            elif unknown == [3] and Tissue.ET in self.value_of_tissue:
                hint = " Value 3 is enhancing tumour since 2023: pass --edition 2023."
            raise UnknownLabelError(
                f"{where}: label values {unknown} are not in edition {self.edition}, "
                f"which has {self.describe()}.{hint or ' Pass --edition if it was recognised wrongly.'}"
            )
        table = np.zeros(max(known) + 1, np.uint8)
        for value, tissue in known.items():
            table[value] = tissue
        return table[values.astype(np.int64)]

    def to_values(self, tissues: np.ndarray, where: str) -> np.ndarray:
        """Tissues (uint8, any shape) to this edition's file values (uint8, same shape).

        Raises:
            UnknownLabelError: a tissue has no value in this edition (RC outside 2024 GLI).
        """
        known = self.value_of_tissue
        missing = [Tissue(int(t)).name for t in np.unique(tissues) if int(t) not in known]
        if missing:
            raise UnknownLabelError(
                f"{where}: edition {self.edition} has no label value for {', '.join(missing)}; "
                f"it has {self.describe()}."
            )
        table = np.zeros(len(Tissue), np.uint8)
        for tissue, value in known.items():
            table[tissue] = value
        return table[tissues]

    def describe(self) -> str:
        return ", ".join(f"{value} {tissue.name}" for value, tissue in self.values)

    def to_json(self) -> dict:
        return {"edition": self.edition, "values": {str(v): t.name for v, t in self.values}}

    @classmethod
    def from_json(cls, content: Mapping) -> "LabelSchema":
        pairs = sorted((int(value), Tissue[name]) for value, name in content["values"].items())
        return cls(str(content["edition"]), tuple(pairs))


_UNTIL_2021 = ((0, Tissue.BACKGROUND), (1, Tissue.NCR), (2, Tissue.ED), (4, Tissue.ET))
_SINCE_2023 = ((0, Tissue.BACKGROUND), (1, Tissue.NCR), (2, Tissue.ED), (3, Tissue.ET))

# nnU-Net data sets bring their own table in dataset.json: `schema_from_names` below.
EDITIONS: Mapping[str, LabelSchema] = types.MappingProxyType(
    {
        **{year: LabelSchema(year, _UNTIL_2021) for year in ("2017", "2018", "2019", "2020", "2021")},
        "2023": LabelSchema("2023", _SINCE_2023),
        "2024": LabelSchema("2024", (*_SINCE_2023, (4, Tissue.RC))),
        # Medical Segmentation Decathlon, Task01: 1 and 2 are swapped against BraTS.
        "msd": LabelSchema("msd", ((0, Tissue.BACKGROUND), (1, Tissue.ED), (2, Tissue.NCR), (3, Tissue.ET))),
    }
)

_TISSUE_WORDS = {
    # The first tissue one of whose words occurs in the lower-case name; order matters:
    # "non-enhancing" holds "enhancing", and "background" must not be looked at further.
    Tissue.BACKGROUND: ("background",),
    Tissue.RC: ("cavity", "resection", "rc"),
    Tissue.NCR: ("non-enhancing", "non_enhancing", "nonenhancing", "necro", "ncr", "net", "netc"),
    Tissue.ED: ("edema", "oedema", "flair", "snfh", "ed"),
    Tissue.ET: ("enhancing", "et", "at"),
}
_REGION_WORDS = {"WT": ("whole", "wt"), "TC": ("core", "tc"), "ET": ("enhancing", "et")}


def schema_from_names(names: Mapping[str, int | Sequence[int]], where: str) -> LabelSchema:
    """The label schema that a dataset.json of nnU-Net states.

    Args:
        names: label name -> value ({"edema": 1, ...}), or region name -> values as nnU-Net's
            region-based training has it ({"whole tumor": [1, 2, 3], "tumor core": [2, 3], ...}).
        where: the file, named in errors.

    Raises:
        InputError: a name that is no tissue or region of a brain tumour.
    """

    def find(name: str, words_by_meaning: Mapping):
        text = name.lower()
        tokens = set(text.replace("-", " ").replace("_", " ").replace("/", " ").split())
        for meaning, words in words_by_meaning.items():
            if any(word in tokens or (len(word) > 3 and word in text) for word in words):
                return meaning
        return None

    regions: dict[str, set[int]] = {}
    pairs: dict[int, Tissue] = {0: Tissue.BACKGROUND}
    for name, value in names.items():
        if isinstance(value, Sequence) and not isinstance(value, str):
            region = find(name, _REGION_WORDS)
            if region is None:
                raise InputError(f"{where}: region {name!r} is none of whole tumour, core, enhancing.")
            regions[region] = {int(v) for v in value}
            continue
        tissue = find(name, _TISSUE_WORDS)
        if tissue is None or (tissue is Tissue.BACKGROUND) != (int(value) == 0):
            raise InputError(
                f"{where}: label {name!r} = {value} is not understood. Expected background = 0 and "
                "names for necrosis, edema, enhancing (and resection cavity)."
            )
        pairs[int(value)] = tissue
    if regions:
        if set(regions) != set(REGIONS):
            raise InputError(f"{where}: regions {sorted(regions)}; expected {sorted(REGIONS)}.")
        for value in regions["WT"]:
            in_core, enhancing = value in regions["TC"], value in regions["ET"]
            pairs[value] = Tissue.ET if enhancing else Tissue.NCR if in_core else Tissue.ED
    return LabelSchema("nnunet", tuple(sorted(pairs.items())))
