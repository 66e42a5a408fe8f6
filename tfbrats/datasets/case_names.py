"""What a case's id says: of which edition it is, and whose it is. By names alone; opens nothing.

A date or a year in a path tells nothing of labels: only an id does, or a folder whose own name is that of a
published data set. What has no WT, TC and ET is refused by name.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, LabelSchema

# The challenges of BraTS beside the gliomas' (GLI), by the word in an id or a folder's name.
_CHALLENGES = {
    **{word: "ped" for word in ("ped", "peds", "pediatric", "pediatrics")},
    **{word: "ssa" for word in ("ssa", "africa")},
    **{word: "met" for word in ("met", "mets", "metastasis", "metastases")},
    **{word: "men" for word in ("men", "meningioma")},
}
_GLIOMA = ("gli", "glioma", "gliomas")
_REFUSED = {
    "men-rt": "has the scan t1c alone and one label, the target volume",
    "path": "has pictures of tissue sections, and no MRI",
    "pathology": "has pictures of tissue sections, and no MRI",
    "synthesis": "is about scans to fill in or to make, and has no masks of tumour tissues",
    "inpainting": "is about scans to fill in, and has no masks of tumour tissues",
}
_POST_TREATMENT = 100  # the first time point after treatment in ids of the gliomas' challenge

# Of ids whose edition is the whole of what they tell.
_IDS = (
    (re.compile(r"brats17_", re.I), "2017"),
    (re.compile(r"brats18_", re.I), "2018"),
    (re.compile(r"brats19_", re.I), "2019"),
    (re.compile(r"brats20_", re.I), "2020"),
    (re.compile(r"brats2021[-_]?(?:[a-z]+[-_])?\d{5}(?!\d)", re.I), "2021"),
    (re.compile(r"upenn[-_]gbm[-_]\d+", re.I), "upenn"),
    (re.compile(r"ucsf[-_]pdgm[-_]\d+", re.I), "ucsf"),
)


@dataclass(frozen=True)
class Telling:
    """What names tell of an edition.

    Attributes:
        folder: the name of the folder that told it: a guess; None where the case's own id does.
    """

    schema: LabelSchema
    folder: str | None = None


def tell(case_id: str, folder: str) -> Telling | None:
    """What the names of a case and of the folders that it lies in say; None if nothing.

    Args:
        folder: whole path; the innermost folder with the name of a published data set counts.

    Raises:
        InputError: the case is of a challenge that does not have WT, TC and ET.
    """
    for pattern, edition in _IDS:
        if pattern.match(case_id):
            return Telling(EDITIONS[edition])
    in_id = re.match(r"brats[-_]([a-z]+)(?:[-_](rt)(?![a-z0-9]))?(?:[-_]|$)", case_id, re.I)
    published = _published(folder)
    if in_id is None:
        if published is None:
            return None
        name, challenge, edition = published
        _refuse(case_id, challenge, f" (its folder's name is {name})")
        return Telling(EDITIONS[edition], name) if edition else None
    challenge = "-".join(word.lower() for word in in_id.groups() if word)
    _refuse(case_id, challenge)
    if challenge in _CHALLENGES:
        return Telling(EDITIONS[_CHALLENGES[challenge]])
    if challenge not in _GLIOMA:
        return None  # of a challenge that is not known here: its folder cannot tell more
    point = re.match(r"brats[-_][a-z]+[-_]\d+[-_](\d+)", case_id, re.I)
    edition = "2024" if point and int(point.group(1)) >= _POST_TREATMENT else "2023"
    if published is not None and published[1] in (None, *_GLIOMA):
        # Both tables agree where both have a value; the folder tells whether there may be cavities.
        year = published[2] or _glioma_edition(published[0])
        if year and year > edition:
            return Telling(EDITIONS[year], published[0])
    return Telling(EDITIONS[edition])


def spelt_alike(name: str) -> str:
    """What names share that differ in letter case, or in how an accent is stored (NFC and NFD)."""
    return unicodedata.normalize("NFC", name).casefold()


def edition_of(case_id: str, folder: str) -> LabelSchema | None:
    """What the names of a case and of its folders say; None if nothing. Raises as `tell`."""
    telling = tell(case_id, folder)
    return telling and telling.schema


def edition_by_id(case_id: str) -> LabelSchema | None:
    """What an id tells without any folder, also one that is longer than the case's; None if nothing.

    Of a challenge that is refused: None too.
    """
    try:
        return edition_of(case_id, "")
    except InputError:
        return None


def _refuse(case_id: str, challenge: str | None, why: str = "") -> None:
    if challenge in _REFUSED:
        raise InputError(
            f"{case_id}{why}: the challenge BraTS-{challenge.upper()} {_REFUSED[challenge]}: there is no WT, "
            "TC and ET to learn or to score. Leave its cases out."
        )


# --- folders --------------------------------------------------------------------------------------------

_SPONSORS = r"(?:(?:asnr|rsna|miccai|lh|sno)-)*"
_YEAR = r"(?:20)?(17|18|19|20|21|23|24|25|26)"
_PUBLISHED = re.compile(rf"{_SPONSORS}brats-?{_YEAR}(?:-?([a-z].*))?")
_WITHOUT_YEAR = re.compile(rf"{_SPONSORS}brats-([a-z].*)")
_PARTS = {
    *("data", "dataset", "set", "challenge", "challengedata", "brats", "training", "trainingdata"),
    *(
        "trainingset",
        "train",
        "validation",
        "validationdata",
        "validationset",
        "val",
        "testing",
        "testingdata",
        "testingset",
    ),
    *("test", "testdata", "testset", "additional", "additionaltraining", "additionaltrainingdata", "task1"),
    *("pre", "post", "local", "segmentation"),
}
_LAST = re.compile(r"v\d+(?:\.\d+)*|[1-9]|\d{1,2}[a-z]+20\d\d|(?:data)?[1-9]")


def _published(folder: str) -> tuple[str, str | None, str | None] | None:
    """Name, challenge and edition of the innermost folder that is named like a published data set.

    The challenge is None for a year alone, the edition where the name does not tell it.
    """
    for name in reversed(re.split(r"[/\\]", folder)):
        read = _read_folder(name)
        if read is not None:
            return name, *read
    return None


def _words(name: str) -> str:
    return re.sub(r"[-_ ]+", "-", name.strip().lower())


def _read_folder(name: str) -> tuple[str | None, str | None] | None:
    """Challenge and edition by one folder's name; None for a name that no published data set has."""
    text = _words(name)
    dated = _PUBLISHED.fullmatch(text)
    undated = None if dated else _WITHOUT_YEAR.fullmatch(text)
    if not dated and not undated:
        return None
    challenge = _challenge_in((dated.group(2) if dated else undated.group(1)) or "")
    if challenge is None:
        return None
    if not challenge:  # a year alone: until 2021 there was one challenge
        return (None, f"20{dated.group(1)}" if int(dated.group(1)) <= 21 else None) if dated else None
    if challenge in _GLIOMA:
        return (challenge, _glioma_edition(name)) if dated else None
    return challenge, _CHALLENGES.get(challenge)


def _glioma_edition(name: str) -> str | None:
    year = _PUBLISHED.fullmatch(_words(name))
    return f"20{year.group(1)}" if year and int(year.group(1)) >= 23 else None


def _challenge_in(rest: str) -> str | None:
    """The challenge among the words behind the year; "" for none, None where a word is not a data set's."""
    words = [word for word in rest.split("-") if word]
    challenge = ""
    for place, word in enumerate(words):
        if word == "rt" and challenge in ("men", "meningioma"):
            challenge = "men-rt"
        elif word in _CHALLENGES or word in _GLIOMA or word in _REFUSED or word == "goat":
            challenge = word
        elif word not in _PARTS and not (place == len(words) - 1 and _LAST.fullmatch(word)):
            return None
    return challenge


def told_by_folders(tellings: Iterable[Telling]) -> list[str]:
    """Notes: what was guessed from a folder's name, once each, with the count of cases."""
    counts: dict[tuple[str, str], int] = {}
    for telling in tellings:
        if telling.folder is not None:
            key = (telling.schema.edition, telling.folder)
            counts[key] = counts.get(key, 0) + 1
    return [
        f"edition {edition} is taken from the folder's name {name} (cases: {count}); --edition overrides it"
        for (edition, name), count in counts.items()
    ]


_WITHHELD_ID = re.compile(r"(?:brats|fets)[-_]?(?:20)?\d\d[-_](?:validation|testing|test)[-_]?\d", re.I)
_WITHHELD = re.compile(r"validation|testing|(?:^|[^a-z])(?:val|test)(?:[^a-z]|$)")


def is_withheld(case_id: str, folder: str) -> bool:
    """Whether a case is of a challenge's validation or testing data, published without masks: by names."""
    if _WITHHELD_ID.match(case_id):
        return True
    published = _published(folder)
    name = published[0].lower() if published else ""
    return "train" not in name and bool(_WITHHELD.search(name))


# --- patients -------------------------------------------------------------------------------------------


# Published data sets whose ids tell patient and time point, each by a rule of its own.
_OF_A_DATA_SET = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(brats(?:-[a-z]+)+-\d+)-\d+",  # of GLI, SSA, MET, MEN, PED
        r"(brats1[789]_.+)_\d+",
        r"(bratsreg_\d+)_\d\d_\d{4}",  # before and after surgery, with the days between
        r"((?:upenn-gbm|ucsd-ptgbm|rhuh|rhuh-gbm)-\d+)_\d+",
        r"(ucsf-pdgm-\d+)(?:_fu\d+d)?(?:_nifti)?",
        r"(tcga-[0-9a-z]{2}-[0-9a-z]{4})(?:[-_. ].*)?",
        r"(c3[ln]-\d{5})(?:[-_. ].*)?",  # CPTAC-GBM
        r"(sub-[0-9a-z]+)(?:[_/][a-z]+-[0-9a-z]+)*",  # BIDS: sub-007_ses-01_run-2
    )
]
_DATE = (
    r"(?:19|20)\d\d[-._]?(?:0[1-9]|1[0-2])[-._]?(?:0[1-9]|[12]\d|3[01])(?:[-_t]\d{1,6})?"
    r"|(?:0[1-9]|[12]\d|3[01])[-._](?:0[1-9]|[12]\d|3[01])[-._](?:19|20)\d\d"
)
_STAGE = (
    r"(?:baseline|bl|initial|follow[-_]?up|fu|repeat|rescan|retest|progression|recurrence|relapse"
    r"|first|second|third"
    r"|(?:pre|post|intra)(?:[-_]?(?:op|operative|operation|surgery|rt|radiation|treatment|tx|chemo))?)\d*"
)
_VISIT = (
    r"(?:ses|sess|session|visit|time|time[-_]?point|tp|scan|exam|study|mri|run|week|month|day|year|wk|mr"
    r"|follow[-_]?up|fu)[-_ ]?\d+(?:[-_]\d+)?[dwmy]?"
)
_COUNTED = (
    rf"(?:ses|sess|session)-[0-9a-z]+|{_VISIT}|[tvdwmy]\d{{1,4}}|\d+(?:d|days?|w|weeks?|mo?|months?|y|years?)"
)
_TIME_POINT = rf"(?:{_DATE}|{_STAGE}|{_COUNTED})"
_YEAR_ALONE = r"(?:19[89]|20[0-3])\d(?:[-._](?:0[1-9]|1[0-2]))?"  # or with its month
# The shortest beginning behind which nothing but a time point stands; a word of one needs no separator behind
# a number (P02preop, Patient03Scan1), and a year alone counts behind an id alone.
_SCAN = re.compile(rf"(.+?)[-_./ ]+(?:{_TIME_POINT}|{_YEAR_ALONE})|(.*?\d)(?:{_STAGE}|{_VISIT})", re.IGNORECASE)
# Beginnings that name a place or a collection, no patient, whatever number they have.
_GROUP = re.compile(
    r"(?:.*[-_. ])?(?:brats|fets|msd|task|site|cent(?:er|re)|cohort|hospital|group|fold|batch|part|release|"
    r"version|project|dataset|data|train|training|test|validation|val)[-_ ]?\d*",
    re.IGNORECASE,
)
# Beginnings that say of what kind a thing is, and are no name of a person.
_KIND = re.compile(
    r"(?:.*[-_. ])?(?:brats(?:-[a-z]+)*|case|subject|subj?|patient(?:[-_ ]?id)?|pat|pt|id|"
    r"mri?|scan|image|img|brain|vol|volume|tumou?r|glioma|gbm|hgg|lgg)",
    re.IGNORECASE,
)


def patient_of(case_id: str) -> str:
    """The part of a case id that is the patient: what is left without a time point (session, date, visit).

    Where a name does not tell whether its last number is a patient or a scan, the whole id is the patient;
    `patients.notes` tells such names.
    """
    for pattern in _OF_A_DATA_SET:
        if match := pattern.fullmatch(case_id):
            return match.group(1)
    patient = case_id
    while (beginning := _before_time_point(patient)) and is_id(beginning):
        patient = beginning
    return patient


def _before_time_point(text: str) -> str | None:
    match = _SCAN.fullmatch(text)
    return match and (match.group(1) or match.group(2))


def is_time_point(text: str) -> bool:
    """Whether a name is nothing but a date, a stage or a counted visit, e.g. of a folder within a patient's.

    2019-01-01, baseline1, ses-01, week-000-1; T1 too, which may as well be a scan's name: its place tells.
    """
    return re.fullmatch(_TIME_POINT, text.strip(), re.IGNORECASE) is not None


def id_of_visit(visit: str, above: str) -> str:
    """The id of a case that is named by a time point alone: with the folder above, if that can be a patient.

    A letter and a number (D01, M3) may as well be a patient: it is a visit where the folder has a number too.
    """
    together = f"{above}_{visit}"
    is_plain = re.fullmatch(rf"{_DATE}|{_STAGE}", visit, re.IGNORECASE) and not _GROUP.fullmatch(above)
    return together if above and (is_plain or patient_of(together) == above) else visit


def is_id(text: str) -> bool:
    """Whether the beginning of an id can be a patient of its own: it has a number, and names no collection."""
    return any(letter.isdigit() for letter in text) and not _GROUP.fullmatch(text)


def is_published(case_id: str) -> bool:
    """Whether the id is one of a challenge or of a published collection, whose rule is known."""
    is_of_a_challenge = re.match(r"brats(?:1[789]|20|2021)_", case_id, re.IGNORECASE)
    return bool(is_of_a_challenge) or any(pattern.fullmatch(case_id) for pattern in _OF_A_DATA_SET)


def scan_of(case_id: str) -> str | None:
    """The beginning that `case_id` may share with other scans of one patient, where the name does not tell.

    E.g. P001 of P001_2 and of P001b, MRI of MRI_20200131; None where there is no doubt.
    """
    if is_published(case_id) or patient_of(case_id) != case_id:
        return None
    if beginning := _before_time_point(case_id):  # behind a beginning without a number
        return None if _GROUP.fullmatch(beginning) else beginning
    match = re.fullmatch(r"(.*\d.*?)[-_. ](?:\d{1,3}|[a-z])|(.*\d)[a-d]", case_id, re.IGNORECASE)
    beginning = match and (match.group(1) or match.group(2))
    return beginning if beginning and is_id(beginning) else None


def beginnings_of(case_id: str) -> list[str]:
    """What is left of an id without a short tail: the names that a few scans of one patient may share.

    E.g. JohnDoe of JohnDoe_1, P7 of P7x2, X7_pre and X7 of X7_pre_lo; none where a rule tells.
    """
    if is_published(case_id) or patient_of(case_id) != case_id:
        return []
    tails = (r"[-_. ]+[0-9a-z]{1,8}", r"(?<=\d)[a-z]+\d{0,3}", r"(?<=[a-z]{3})\d{1,3}")
    beginnings = [re.fullmatch(rf"(.+?){tail}", case_id, re.IGNORECASE) for tail in tails]
    shared = [match.group(1) for match in beginnings if match]
    if match := re.fullmatch(r"(.+?)(?:[-_. ]+[0-9a-z]{1,8}){2}", case_id, re.IGNORECASE):
        shared += [match.group(1)] * is_id(match.group(1))
    return [text for text in shared if _may_be_a_person(text)]


def _may_be_a_person(text: str) -> bool:
    is_name = re.search(r"[a-z]{3}", text, re.IGNORECASE) and not _KIND.fullmatch(text)
    return not _GROUP.fullmatch(text) and bool(is_name or is_id(text))


def person_of(patient_id: str) -> str:
    """What two patient ids share that are one person in two editions of the challenge; else the id itself.

    The 2023 names keep the numbers of 2021, and 2017 to 2019 hospital and number of each other.
    """
    text = patient_id.lower()
    if match := re.fullmatch(r"(?:brats2021_|brats-gli-)(\d+)", text):
        return f"brats gli {int(match.group(1))}"
    if match := re.fullmatch(r"brats1[789]_(.+)", text):
        return f"brats 2017-19 {match.group(1)}"
    return text
