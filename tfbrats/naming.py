"""What a case's id says: of which edition it is, and whose it is. By names alone; opens nothing."""

import re

from tfbrats.labels import EDITIONS, LabelSchema


def edition_of(case_id: str, folder: str) -> LabelSchema | None:
    """What the names of a case and of its folder say; None if nothing."""
    text = case_id.lower()
    # The year of "BraTS 2024", "ASNR-MICCAI-BraTS2023-GLI-..."; of several in a path the innermost.
    years = re.findall(r"brats\D{0,12}(20(?:1[789]|2[0134]))", folder, re.IGNORECASE)
    for year in ("17", "18", "19", "20"):
        if re.match(rf"brats{year}_", text):
            return EDITIONS[f"20{year}"]
    if text.startswith("brats2021"):
        return EDITIONS["2021"]
    challenge = re.match(r"brats-(gli|ssa)-(\d+)-(\d+)$", text)
    if challenge:
        # Post-treatment scans (2024) count their time points from 100; folders say so too.
        later = years[-1:] == ["2024"] or int(challenge.group(3)) >= 100
        return EDITIONS["2024" if later else "2023"]
    return EDITIONS[years[-1]] if years else None


# Published data sets whose ids tell patient and time point, each by a rule of its own.
_OF_A_DATA_SET = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(brats(?:-[a-z]+)+-\d+)-\d+",  # of GLI, SSA, MET, MEN, PED
        r"(brats1[789]_.+)_\d+",
        r"((?:upenn-gbm|ucsd-ptgbm|rhuh|rhuh-gbm)-\d+)_\d+",
        r"(ucsf-pdgm-\d+)(?:_fu\d+d)?(?:_nifti)?",
        r"(tcga-[0-9a-z]{2}-[0-9a-z]{4})(?:[-_. ].*)?",
        r"(sub-[0-9a-z]+)(?:[_/][a-z]+-[0-9a-z]+)*",  # BIDS: sub-007_ses-01_run-2
    )
]
_DATE = (
    r"(?:19|20)\d\d[-._]?(?:0[1-9]|1[0-2])[-._]?(?:0[1-9]|[12]\d|3[01])(?:[-_t]\d{1,6})?"
    r"|(?:0[1-9]|[12]\d|3[01])[-._](?:0[1-9]|[12]\d|3[01])[-._](?:19|20)\d\d"
)
_STAGE = (
    r"baseline|bl|initial|follow[-_]?up|fu|repeat|rescan|retest|progression|recurrence|relapse"
    r"|(?:pre|post|intra)(?:[-_]?(?:op|operative|operation|surgery|rt|radiation|treatment|tx|chemo))?"
)
_COUNTED = (
    r"(?:ses|session)-[0-9a-z]+"
    r"|(?:ses|session|visit|time|time[-_]?point|tp|scan|exam|study|mri|run|week|month|day|year|follow[-_]?up|fu)"
    r"[-_]?\d+(?:[-_]\d+)?[dwmy]?"
    r"|[tvdwmy]\d{1,4}|\d+(?:d|days?|w|weeks?|mo?|months?|y|years?)"
)
# The shortest beginning behind which nothing but a time point stands.
_SCAN = re.compile(rf"(.+?)[-_./ ]+(?:{_DATE}|(?:{_STAGE})\d*|{_COUNTED})", re.IGNORECASE)
# Beginnings that name a place or a collection, no patient, whatever number they have.
_GROUP = re.compile(
    r"(?:.*[-_. ])?(?:brats|msd|task|site|cent(?:er|re)|cohort|hospital|group|fold|batch|part|release|version|"
    r"project|dataset|data|train|training|test|validation|val)[-_ ]?\d*",
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
    while (match := _SCAN.fullmatch(patient)) and is_id(match.group(1)):
        patient = match.group(1)
    return patient


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
    if match := _SCAN.fullmatch(case_id):  # behind a beginning without a number
        return None if _GROUP.fullmatch(match.group(1)) else match.group(1)
    match = re.fullmatch(r"(.*\d.*?)[-_. ](?:\d{1,3}|[a-z])|(.*\d)[a-d]", case_id, re.IGNORECASE)
    beginning = match and (match.group(1) or match.group(2))
    return beginning if beginning and is_id(beginning) else None


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
