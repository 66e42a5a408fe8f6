"""What the label names in a data set's own dataset.json mean: tissues, or regions as nnU-Net trains on.

Refuses names that are no part of a brain tumour, and regions that do not lie in each other.
"""

from collections.abc import Mapping, Sequence

from tfbrats.command import InputError
from tfbrats.labels import PARENT, REGIONS, LabelSchema, Tissue

_TISSUE_WORDS = {
    # The first tissue one of whose words occurs in the lower-case name; order matters:
    # "non-enhancing" holds "enhancing", and "background" must not be looked at further.
    Tissue.BACKGROUND: ("background",),
    Tissue.RC: ("cavity", "resection", "rc"),
    Tissue.CC: ("cyst", "cc"),
    Tissue.NCR: (
        "non-enhancing",
        "non_enhancing",
        "non enhancing",
        "nonenhancing",
        "necro",
        "ncr",
        "net",
        "netc",
    ),
    Tissue.ED: ("edema", "oedema", "flair", "snfh", "ed"),
    Tissue.ET: ("enhancing", "et", "at"),
}
_REGION_WORDS = {"WT": ("whole", "wt"), "TC": ("core", "tc"), "ET": ("enhancing", "et")}
_IGNORE = "ignore"  # nnU-Net's word for voxels that nobody labelled


def _meaning(name: str, words_by_meaning: Mapping):
    text = name.lower()
    words = set(text.replace("-", " ").replace("_", " ").replace("/", " ").split())
    for meaning, signs in words_by_meaning.items():
        if any(sign in words or (len(sign) > 3 and sign in text) for sign in signs):
            return meaning
    return None


def _region(name: str) -> str | None:
    """The region that a name means: "tumor_core", but not "necrotic_core", which is a tissue of it."""
    region = _meaning(name, _REGION_WORDS)
    return region if region == "WT" or _meaning(name, _TISSUE_WORDS) in (None, Tissue.ET) else None


def _values(value: int | Sequence[int], name: str, where: str) -> list[int]:
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        numbers = [int(number) for number in several]
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: label {name!r} = {value!r}; expected a whole number or a list.") from error
    if not numbers or any(not 0 <= number <= 255 for number in numbers):
        raise InputError(f"{where}: label {name!r} = {value!r}; expected numbers from 0 to 255.")
    return numbers


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
        region = _region(name) if by_region else None
        if region is not None:
            regions[region] = set(numbers)
            continue
        tissue = _meaning(name, _TISSUE_WORDS)
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
