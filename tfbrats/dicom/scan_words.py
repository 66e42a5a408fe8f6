"""Which scan the words of a file's name, or of a series' description, tell."""

import re
from collections.abc import Sequence

from tfbrats.datasets import references
from tfbrats.labels import modality_named

_CONTRAST = {
    *("ce", "c", "gd", "gad", "gado", "gadolinium", "post", "postcontrast", "postgd", "postgad"),
    *("contrast", "enhanced", "enh", "cm", "km", "pc"),
}
_NATIVE = {
    *("pre", "precontrast", "pregd", "n", "nat", "native", "nativ", "non", "noncontrast", "no"),
    *("nocontrast", "without", "wo", "ohne", "plain", "unenhanced"),
}
_OF_TREATMENT = {"op", "operative", "surgery", "treatment", "therapy", "rt", "radiation", "radiotherapy"}
_T1_SEQUENCES = {"mprage", "spgr", "fspgr", "bravo", "mp2rage"}
_UPTO = {"to", "in", "on", "onto", "into"}  # flair_to_t1ce: what stands before it is what the file is
_OTHER = {
    *("adc", "dwi", "dti", "dsc", "dce", "asl", "swi", "swan", "perf", "perfusion", "rcbv", "cbv", "cbf"),
    *("mtt", "ttp", "trace", "fa", "md", "bold", "fmri", "rest", "mra", "tof", "pd", "stir", "gre", "star"),
    *("angio", "venogram", "loc", "localizer", "localiser", "scout", "survey", "phase", "warp", "transform"),
}
_COMPOUND = re.compile(r"(?:[23]d)?(t[12])(?:wi|weighted|w)?(\w*)")


def modality_in(stem: str) -> str | None:
    """The modality that the words of a file's name tell; None where they tell none, or more than one."""
    words = references.words_of(stem)
    if references.is_mask_like(words) or _OTHER & set(words):
        return None
    before = next((n for n, word in enumerate(words) if word in _UPTO), len(words))
    return _modality(words[:before]) or _modality(words)


def _modality(words: Sequence[str]) -> str | None:
    named = {modality for word in words if (modality := modality_named(word))}
    if any("flair" in word or "darkfluid" in word for word in (*words, "".join(words))) or "flair" in named:
        return "flair"
    families, rest = set(), []
    for word in words:
        parts = _COMPOUND.fullmatch(word)
        if parts and parts[2] in ("s", "star"):  # T2*: bleeding, no tumour
            return None
        if parts:
            families.add(parts[1])
        elif modality_named(word) == "t1ce" or word in _T1_SEQUENCES:  # ct1
            families.add("t1")
        rest.append(parts[2] if parts else word)
    if families != {"t1"}:
        return "t2" if families == {"t2"} else None
    has_contrast = "t1ce" in named or _says(rest, _CONTRAST, _NATIVE)
    if has_contrast and _says(rest, _NATIVE, set()):
        return None
    return "t1ce" if has_contrast else "t1"


def _says(words: Sequence[str], meant: set[str], negations: set[str]) -> bool:
    """Whether one of these words is there, and is neither said away nor about an operation or a treatment."""
    for before, word, after in zip(("", *words), words, (*words[1:], ""), strict=False):
        is_negated = before in negations and word != "post"  # T1_pre_post: both
        if word in meant and not is_negated and after not in _OF_TREATMENT:
            return True
    return False


def tells_another(text: str) -> bool:
    """Whether the words are of another scan than the four, or of a mask."""
    words = references.words_of(text)
    return references.is_mask_like(words) or bool(_OTHER & set(words))


def tells_native(text: str) -> bool:
    """Whether the words say that there was no contrast agent."""
    return _says(references.words_of(text), _NATIVE, set())
