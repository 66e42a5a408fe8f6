"""Which file is the expert's mask of the tumour: by the words in its name, and never because it is alone.

Refuses masks of other things (brain, tissues, structures), what a program drew, and names that leave open what
was drawn: a mask that is not taken is told, a wrong one that is taken is not seen.
"""

import re
from collections.abc import Sequence

from tfbrats.labels import modality_named

# What a mask of a tumour is called, behind a case's id or alone in the case's folder.
SEGMENTATION = ("seg", "segm", "segmentation")
BIDS_SEGMENTATION = "dseg"  # BIDS' word for it
PREDICTION = ("pred", "preds", "predicted", "prediction")  # what a model's answer is called
NAMELESS_MASK = ("mask", "label", "labels", "gt")  # alone in a case's folder, beside `SEGMENTATION`

_SEGMENTATION = {*SEGMENTATION, "segmentations", "segs"}
_TUMOUR = {"tumor", "tumour", "tumors", "tumours", "lesion", "lesions", "glioma", "glioblastoma"}
_MASK = {BIDS_SEGMENTATION, "mask", "masks", "label", "labels", "roi", "labelmap", "annotation", "annotations"}
_EXPERT = {
    *("manual", "manually", "corrected", "expert", "final", "reference"),
    *("gt", "groundtruth", "ground", "truth", "revised", "approved"),
}
_PROGRAM = {
    *PREDICTION,
    *("auto", "autoseg", "automated", "automatic", "approx", "approximate", "predictions", "output"),
    *("outputs", "out", "result", "results", "inference", "inferred", "probability", "probabilities", "prob"),
    *("probseg", "model", "ai", "cnn", "dl", "ensemble", "staple", "fused", "fusion", "majority", "simple"),
    *("nnunet", "unet", "deepmedic", "monai", "swinunetr", "tfbrats", "hdglio", "brainles", "synthseg"),
    *("fastsurfer", "freesurfer", "samseg", "fmriprep", "smriprep", "derived", "sam", "medsam"),
}
_ELSE = {
    *("brain", "brainmask", "bet", "hdbet", "skull", "head", "parenchyma", "tissue", "tissues", "aseg"),
    *("aparc", "wmparc", "parc", "parcellation", "ventricle", "ventricles", "csf", "wm", "gm", "wmh"),
    *("cortex", "cortical", "subcortical", "hippocampus", "cerebellum", "brainstem", "lobe", "lobes"),
    *("vessel", "vessels", "atlas", "structure", "structures", "anat", "healthy", "unhealthy", "bone", "eye"),
    *("eyes", "optic", "background"),
}
# A region or a tissue of the tumour, or what is irradiated: a mask of it alone is not the mask of all tissues.
_PART = {
    *("wt", "tc", "et", "ed", "ncr", "net", "netc", "snfh", "rc", "cc", "gtv", "ctv", "ptv", "edema"),
    *("oedema", "core", "necrosis", "necrotic", "enhancing", "cavity", "whole"),
}
_VERSION = {"v", "ver", "rev", "r", "old", "new"}
_CHALLENGE = "brats"  # whose values a mask has: CASE_BraTS_tumor_seg.nii.gz
_DRAFT = {"glistr", "boost"}  # a program whose masks experts corrected: BraTS 2017, and TCGA's sets at TCIA
_TOGETHER = {"glistrboost": ["glistr", "boost"], "manuallycorrected": ["manually", "corrected"]}


def words_of(text: str) -> list[str]:
    """Lower-case words of a name: parted at marks, and where small letters turn to capital ones."""
    text = re.sub(r"BraTS|FeTS", lambda match: match.group().lower(), text)  # one word each
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return [word.lower() for word in re.split(r"[\W_]+", parted) if word]


def _stems(word: str) -> list[str]:
    """Parts of words that are written together: tumorseg -> tumor, seg."""
    if word in _TOGETHER:
        return _TOGETHER[word]
    for start in _TUMOUR | _ELSE | {"whole"}:
        rest = word.removeprefix(start)
        if rest != word and rest in _SEGMENTATION | _MASK | _TUMOUR:
            return [start, rest]
    return [word]


def is_mask_like(words: Sequence[str]) -> bool:
    """Whether a name speaks of a mask of anything."""
    return any(
        word in _SEGMENTATION | _MASK | _TUMOUR | _DRAFT or word.endswith(("seg", "segm", "mask"))
        for whole in words
        for word in _stems(whole)
    )


def tells_program(word: str) -> bool:
    """Whether a word says that a program drew a mask."""
    return word in _PROGRAM


def tells_tumour(word: str) -> bool:
    """Whether a word says that a mask is of a tumour."""
    return any(part in _TUMOUR for part in _stems(word))


def tells_other(words: Sequence[str]) -> str | None:
    """What a word says against an expert's tumour mask: that a program drew it, or something else is on it."""
    parts = [part for word in words for part in _stems(word)]
    for part in parts:
        if part in _PROGRAM:
            return f"{part!r} in its name says that a program drew it"
    for part in parts:
        if part in _ELSE:
            return f"{part!r} in its name says that it is no mask of the tumour"
    return None


def tells_part(words: Sequence[str]) -> str | None:
    """What a word says of a mask that is not of the whole tumour."""
    parts = [part for word in words for part in _stems(word) if part in _PART]
    return f"{parts[0]!r} in its name says that it is of one region alone" if parts else None


def objection(words: Sequence[str]) -> str | None:
    """Why these words are not those of an expert's tumour mask; None if they are.

    Args:
        words: of the name, lower case, without the case's id.
    """
    parts = [part for word in words for part in _stems(word)]
    drafted = [part for part in parts if part in _DRAFT]
    if drafted and "corrected" in parts:
        parts = [*(part for part in parts if part not in _DRAFT), "seg"]
    elif drafted:
        return f"{' '.join(drafted)!r} in its name says that a program drew it"
    other = tells_other(parts)
    if other is not None:
        return other
    for part in parts:
        if one_region := tells_part([part]):
            return one_region
        if part not in _SEGMENTATION | _TUMOUR | _MASK | _EXPERT | {_CHALLENGE}:
            return f"its name does not say that {part!r} is the whole tumour"
    if not _TUMOUR.union(_SEGMENTATION).intersection(parts):
        return "its name does not say what it is a mask of"
    return None


def foreign_objection(words: Sequence[str]) -> str | None:
    """As `objection`, for a name that does not begin with the case's id: another id or a date is passed over.

    BraTS20_Training_355 came with its mask named W39_1998.09.19_Segm.nii.
    """
    if not any(_is_other_id(word) for word in words):
        return objection(words)
    return objection([word for word in words if not (_is_other_id(word) or re.fullmatch(r"\d", word))])


def _is_other_id(word: str) -> bool:
    """Whether a word is part of another id or of a date: W39, 1998, 09.

    A version (v02) is none, nor is a word that means something with a number behind it (sam22).
    """
    match = re.fullmatch(r"([a-z]{0,3})\d{2,}", word)
    if match is None or modality_named(word) is not None:
        return False
    letters = match.group(1)
    speaking = _SEGMENTATION | _TUMOUR | _MASK | _EXPERT | _PROGRAM | _ELSE | _DRAFT | _PART | _VERSION
    return not letters or (letters not in speaking and modality_named(letters) is None)


def is_own_record(content: object) -> bool:
    """Whether a JSON file beside a segmentation is what tfbrats writes there (`provenance`)."""
    model = content.get("model") if isinstance(content, dict) else None
    return isinstance(model, dict) and "tfbrats_json_sha256" in model
