"""What a segment is, in the codes of DICOM: CID 7168, brain lesions with necrosis, where it has the tissue.

A tissue that no terminology known here has gets a private code, whose scheme begins with 99, as the standard
asks.
"""

from typing import NamedTuple

from tfbrats.cases import overlays
from tfbrats.labels import LEARNED, LabelSchema, Tissue


class Code(NamedTuple):
    """A coded term: value, scheme, meaning."""

    value: str
    scheme: str
    meaning: str


class Segment(NamedTuple):
    """What one segment says of itself."""

    tissue: Tissue
    label: str
    type: Code
    colour: tuple[int, int, int]  # sRGB, that of our pictures


CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
BRAIN = Code("12738006", "SCT", "Brain")
ALGORITHM_FAMILY = Code("123110", "DCM", "Artificial Intelligence")
PRIVATE = "99TFBRATS"

# The codes; NCR of an edition that calls it NETC, non-enhancing core, is another concept.
_NETC = Code("C81175", "NCIt", "Non-Enhancing Lesion")
_TYPES = {
    Tissue.NCR: Code("6574001", "SCT", "Necrosis"),
    Tissue.ED: Code("79654002", "SCT", "Edema"),
    Tissue.ET: Code("C113842", "NCIt", "Enhancing Lesion"),
    Tissue.RC: Code("RC", PRIVATE, "Resection cavity"),
    Tissue.CC: Code("367643001", "SCT", "Cyst"),
}
_WORDS = {
    "NCR": "NCR: necrotic and non-enhancing tumour core",
    "NETC": "NETC: non-enhancing tumour core",
    "ED": "ED: oedema",
    "SNFH": "SNFH: non-enhancing FLAIR hyperintensity",
    "ET": "ET: enhancing tumour",
    "RC": "RC: resection cavity",
    "CC": "CC: cystic component",
}


def segments(schema: LabelSchema, present: set[Tissue]) -> list[Segment]:
    """The segments of a label map, in the order of their numbers.

    Those that a model learns are there also where they are empty: it looked for them. Others are not: no model
    here looks for them.

    Args:
        schema: whose words the labels have.
        present: tissues that occur.
    """
    tissues = [tissue for tissue in _TYPES if tissue in present or tissue in LEARNED]
    return [_segment(tissue, schema.word(tissue)) for tissue in tissues]


def _segment(tissue: Tissue, word: str) -> Segment:
    code = _NETC if word == "NETC" else _TYPES[tissue]
    return Segment(tissue, _WORDS[word], code, tuple(bytes.fromhex(overlays.COLOURS[tissue][1:])))
