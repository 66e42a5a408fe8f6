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


def patient_of(case_id: str) -> str:
    """The part of a case id that is the patient: the last number of these editions is a time point."""
    match = re.match(r"(brats-[a-z]+-\d+)-\d+$|(brats1[789]_.+)_\d+$", case_id, re.IGNORECASE)
    return (match.group(1) or match.group(2)) if match else case_id
