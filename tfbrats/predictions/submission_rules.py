"""What the challenge asks of an upload, edition by edition: grid, and how a file is named. Opens no file."""

import os
import re
import types
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tfbrats.errors import InputError

SUFFIX = ".nii.gz"

Matrix = tuple[tuple[float, ...], ...]

# SRI24, as all scans until 2023: 1 mm, axes to the left, back and head.
_SRI24 = ((240, 240, 155), ((-1, 0, 0, 0), (0, -1, 0, 239), (0, 0, 1, 0), (0, 0, 0, 1)))
# MNI152 at 1 mm, to the left, front and head: the post-treatment scans of 2024.
_MNI152 = ((182, 218, 182), ((-1, 0, 0, 90), (0, 1, 0, -126), (0, 0, 1, -72), (0, 0, 0, 1)))


@dataclass(frozen=True)
class SubmissionRules:
    """What the upload check of one edition asks of every file; its label values are `labels.EDITIONS`'.

    Attributes:
        shape: voxels, in the file's own order.
        qform: [4, 4] voxel -> mm.
        name: of a file without .nii.gz; its group is what the challenge knows the case by.
        example: of such a name.
    """

    edition: str
    shape: tuple[int, int, int]
    qform: Matrix
    name: str
    example: str

    def key(self, case_id: str) -> str | None:
        """What the challenge knows a case by, e.g. its number; None for a name that does not tell."""
        match = re.fullmatch(self.name, case_id)
        return match and match.group(1)


# 2017 to 2020: "a single multi-label file in nifti (.nii.gz) format", named by the case
# (med.upenn.edu/cbica/brats2019/tasks.html); how case ids look is read off the data [ours].
# Since 2021 the challenge's own validation scripts are public (Sage-Bionetworks-Challenges on GitHub:
# brats-dream-challenge-infra, Docker/validate.py; brats2023, evaluation/lesionwise/validate.py and
# validate2024.py). They know a case by the digits that end its name, whatever stands before. They refuse only
# where shape and qform are both wrong, though their message says "or"; here each has to be right [ours].
# PED, SSA and MEN of 2023 go through the same script; MET lies in native space since 2025: no rule here.
# Label values, data type and sform they leave to the scorer; here they are looked at before [ours].
RULES: Mapping[str, SubmissionRules] = types.MappingProxyType(
    {
        rules.edition: rules
        for rules in (
            SubmissionRules("2017", *_SRI24, r"(Brats17_\w+_1)", "Brats17_TCIA_192_1"),
            SubmissionRules("2018", *_SRI24, r"(Brats18_\w+_1)", "Brats18_TCIA01_192_1"),
            SubmissionRules("2019", *_SRI24, r"(BraTS19_\w+_1)", "BraTS19_TCIA01_192_1"),
            SubmissionRules("2020", *_SRI24, r"(BraTS20_[A-Za-z]+_\d{3})", "BraTS20_Validation_001"),
            SubmissionRules("2021", *_SRI24, r"(?:.*\D)?(\d{5})", "BraTS2021_00001"),
            SubmissionRules("2023", *_SRI24, r"(?:.*\D)?(\d{5}-\d{3})", "BraTS-GLI-00001-000"),
            SubmissionRules("2024", *_MNI152, r"(?:.*\D)?(\d{5}-\d{3})", "BraTS-GLI-00001-100"),
            SubmissionRules("ped", *_SRI24, r"(?:.*\D)?(\d{5}-\d{3})", "BraTS-PED-00001-000"),
            SubmissionRules("ssa", *_SRI24, r"(?:.*\D)?(\d{5}-\d{3})", "BraTS-SSA-00001-000"),
            SubmissionRules("men", *_SRI24, r"(?:.*\D)?(\d{5}-\d{3})", "BraTS-MEN-00001-000"),
        )
    }
)


def rules_for(editions: Collection[str], where: str | os.PathLike) -> SubmissionRules:
    """The rules of the one edition that files are of.

    Raises:
        InputError: of several, of none, or of one that nothing is uploaded to.
    """
    distinct = sorted(set(editions))
    if len(distinct) == 1 and distinct[0] in RULES:
        return RULES[distinct[0]]
    fault = (
        f"of several editions ({', '.join(distinct)}), which are uploaded apart"
        if len(distinct) > 1
        else f"edition {distinct[0]} has no upload check"
        if distinct
        else "the names do not tell the edition"
    )
    raise InputError(f"{where}: {fault}. Pass --edition with one of {', '.join(RULES)}.")
