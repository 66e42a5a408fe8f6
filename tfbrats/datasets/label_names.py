"""What the label names in a data set's own dataset.json mean: tissues, or regions as nnU-Net trains on.

Refuses names that are no part of a brain tumour, and regions that do not lie in each other.
"""

import re
from collections.abc import Mapping, Sequence

from tfbrats.errors import InputError
from tfbrats.labels import PARENT, REGIONS, LabelSchema, Tissue

_BACKGROUND = "background"
_TISSUE_WORDS = {
    Tissue.RC: ("cavity", "resection", "rc"),
    Tissue.CC: ("cyst", "cc"),
    Tissue.NCR: ("necro", "ncr", "net", "netc"),
    Tissue.ED: ("edema", "oedema", "flair", "snfh", "ed"),
    Tissue.ET: ("enhancing", "et", "at"),
}
# "non-contrast-enhancing", "not enhancing", "unenhancing": what does not enhance.
_NOT_ENHANCING = re.compile(
    r"(?<![a-z])(?:non|not|un)[-_ ]*(?:(?:contrast|gadolinium|gad|gd|ce)[-_ ]*)?enhanc(?:ing|ed|ement)",
    re.IGNORECASE,
)
# Words that say where something lies, and not what it is: "necrosis in resection margin", "without enhancing".
_BESIDE = re.compile(
    r"(?:in|at|near|around|along)?[-_ ]*resection[-_ ]*(?:margins?|bed|edges?)|without[-_ ]*enhancing",
    re.IGNORECASE,
)
_REGION_WORDS = {"WT": ("whole", "wt"), "TC": ("core", "tc"), "ET": ("enhancing", "et")}
_IGNORE = "ignore"  # nnU-Net's word for voxels that nobody labelled


def _meanings(name: str, words_by_meaning: Mapping) -> list:
    """All that the words of a name mean."""
    text = name.lower()
    words = set(text.replace("-", " ").replace("_", " ").replace("/", " ").split())
    return [
        meaning
        for meaning, signs in words_by_meaning.items()
        if any(sign in words or (len(sign) > 3 and sign in text) for sign in signs)
    ]


def _tissue(name: str, where: str) -> Tissue | None:
    """The tissue that a name means; None if none.

    Raises:
        InputError: it may be two: "cystic or necrotic core".
    """
    if _BACKGROUND in name.lower():
        return Tissue.BACKGROUND
    rest, negated = _NOT_ENHANCING.subn(" ", _BESIDE.sub(" ", name))
    tissues = _meanings(rest, _TISSUE_WORDS)
    # "enhancing and non-enhancing tumour", "edema and non-enhancing tumour": both. But a cyst does not enhance
    # either, nor does ED by its newer name, "surrounding non-enhancing FLAIR hyperintensity".
    if negated and tissues and not _meanings(rest, {True: ("flair", "snfh", "cyst", "necro")}):
        tissues.insert(0, Tissue.NCR)
    tissues = list(dict.fromkeys(tissues))
    if len(tissues) > 1:
        either = " or ".join(tissue.name for tissue in tissues)
        raise InputError(f"{where}: label {name!r} may mean {either}. Name one tissue.")
    return tissues[0] if tissues else Tissue.NCR if negated else None


def _region(name: str, where: str) -> str | None:
    """The region that a name means: "tumor_core", but not "necrotic_core", which is a tissue of it."""
    regions = _meanings(name, _REGION_WORDS)
    if not regions:
        return None
    return regions[0] if regions[0] == "WT" or _tissue(name, where) in (None, Tissue.ET) else None


def _values(value: int | Sequence[int], name: str, where: str) -> list[int]:
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        numbers = [int(number) for number in several]
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: label {name!r} = {value!r}; expected a whole number or a list.") from error
    if not numbers or any(not 0 <= number <= 255 for number in numbers):
        raise InputError(f"{where}: label {name!r} = {value!r}; expected numbers from 0 to 255.")
    return numbers


def schema_of_table(labels: Mapping, where: str) -> LabelSchema:
    """The label schema that the entry `labels` of a dataset.json states: name -> value, or value -> name.

    Args:
        where: the file, named in errors.

    Raises:
        InputError: as `schema_from_names`.
    """
    if all(str(key).isdigit() for key in labels):  # the Decathlon's way: value -> name
        labels = {name: int(value) for value, name in labels.items()}
    return schema_from_names(labels, where)


def schema_from_names(names: Mapping[str, int | Sequence[int]], where: str) -> LabelSchema:
    """The label schema that a dataset.json of nnU-Net states.

    Args:
        names: label name -> value ({"edema": 1, ...}), or region name -> values as nnU-Net's region-based
            training has it ({"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}: a value
            alone is a list of one). "ignore" is the value of voxels that nobody labelled.
        where: the file, named in errors.

    Raises:
        InputError: a name that is no tissue or region of a brain tumour, or regions that contradict each other.
    """
    names = dict(names)
    ignored = next((names.pop(name) for name in list(names) if name.strip().lower() == _IGNORE), None)
    if ignored is not None:
        (ignored,) = _values(ignored, _IGNORE, where)
    # Where one is a list, all are regions: there "enhancing_tumor": 3 is the list [3].
    by_region = any(isinstance(value, Sequence) and not isinstance(value, str) for value in names.values())
    regions: dict[str, set[int]] = {}
    pairs: dict[int, Tissue] = {0: Tissue.BACKGROUND}
    for name, value in names.items():
        numbers = _values(value, name, where)
        region = _region(name, where) if by_region else None
        if region is not None:
            regions[region] = set(numbers)
            continue
        tissue = _tissue(name, where)
        if by_region and (tissue is None or len(numbers) > 1):
            raise InputError(f"{where}: region {name!r} is none of whole tumour, core, enhancing.")
        (number,) = numbers
        if tissue is None or (tissue is Tissue.BACKGROUND) != (number == 0):
            raise InputError(
                f"{where}: label {name!r} = {value} is not understood. Expected background = 0 and "
                "names for necrosis, edema, enhancing (and resection cavity, cystic component, ignore)."
            )
        if pairs.get(number, tissue) is not tissue:
            raise InputError(f"{where}: value {number} is both {pairs[number].name} and {name!r}. Correct it.")
        # Necrosis and what does not enhance are one tissue here; no other is written in two values.
        twice = next((other for other, its in pairs.items() if its is tissue and other != number), None)
        if twice is not None and tissue is not Tissue.NCR:
            raise InputError(
                f"{where}: values {twice} and {number} ({name!r}) both mean {tissue.name}. Name what they are, "
                "or give them one value."
            )
        pairs[number] = tissue
    if regions:
        pairs = _of_regions(regions, pairs, where)
    if ignored in pairs:
        raise InputError(f"{where}: value {ignored} is both {_IGNORE!r} and {pairs[ignored].name}. Correct it.")
    return LabelSchema("nnunet", tuple(sorted(pairs.items())), ignored)


def _of_regions(regions: Mapping[str, set[int]], named: Mapping[int, Tissue], where: str) -> dict[int, Tissue]:
    """Value -> tissue: of what regions a value is in; `named` are tissues that stand beside them."""
    if set(regions) != set(REGIONS):
        raise InputError(f"{where}: regions {sorted(regions)}; expected {sorted(REGIONS)}.")
    for region, parent in PARENT.items():
        if parent and not regions[region] <= regions[parent]:
            raise InputError(
                f"{where}: {region} has values {sorted(regions[region])}, which are not all in {parent} "
                f"({sorted(regions[parent])}). Each region lies in the one before it."
            )
    pairs = dict(named)
    for value in sorted(regions["WT"]):
        in_core, enhancing = value in regions["TC"], value in regions["ET"]
        tissue = Tissue.ET if enhancing else Tissue.NCR if in_core else Tissue.ED
        if value not in named:
            pairs[value] = tissue
        elif [named[value] in REGIONS[region] for region in REGIONS] != [True, in_core, enhancing]:
            raise InputError(
                f"{where}: value {value} is {named[value].name}, but its regions say {tissue.name}."
            )
    return pairs
