"""Say whether the challenge would take a folder or a ZIP archive of segmentations, before it is uploaded.

    tfbrats check UPLOAD.zip --expected BraTS2021_ValidationData
    tfbrats check predictions --expected BraTS2021_ValidationData --pack UPLOAD.zip

Lists all faults of all files, each with its cure, and exits with 1 when there is one; --json names every file.
What the challenge takes but a person should know is a warning. Extracts and repairs nothing.
`tfbrats predict --submission UPLOAD.zip` ends with this check.
"""

import argparse
import json
import typing
from collections.abc import Sequence

from tfbrats.datasets import case_names, id_tables, layouts
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS
from tfbrats.machine import files, paths
from tfbrats.predictions.submission_rules import RULES, SUFFIX
from tfbrats.terminal import command, style, verbs
from tfbrats.terminal.wording import columns, counted, grouped

if typing.TYPE_CHECKING:  # what opens images is imported when the arguments have been looked at
    from tfbrats.predictions.submission import Member, Verdict


def _cases_to_submit(source: str, edition: str | None) -> tuple[list[str], list[str]]:
    """The case ids that `--expected` names, and the editions of those that are a data set."""
    if files.is_folder(source):
        dataset = layouts.find(source, edition)
        return [entry.case_id for entry in dataset.cases], dataset.editions
    return [name.removesuffix(SUFFIX) for name in id_tables.case_ids_of(source, "--expected")], []


def _checked(location: str, edition: str | None, expected: str | None) -> "tuple[list[Member], Verdict]":
    """The files of an upload, and whether the challenge would take them."""
    from tfbrats.predictions import submission, submission_files, submission_rules

    members = submission_files.members(location)
    case_ids, editions = _cases_to_submit(expected, edition) if expected else (None, [])
    if edition:
        editions = [edition]
    if not editions:
        stems = [stem for file in members if (stem := layouts.nifti_stem(files.name(file.name))) is not None]
        if not stems and not case_ids:
            raise InputError(
                f"{location}: no segmentation among {counted(len(members), 'file')}; expected CASE{SUFFIX}."
            )
        schemas = (case_names.edition_of(stem, str(location)) for stem in [*stems, *(case_ids or ())])
        editions = [schema.edition for schema in schemas if schema is not None]
    rules = submission_rules.rules_for(editions, location)
    return members, submission.check(members, rules, case_ids, packed=not files.is_folder(location))


def _print(asked: argparse.Namespace, verdict: "Verdict") -> None:
    """The rules, what was found against them, and what to do next."""
    from tfbrats.predictions import model_card, submission

    rules = verdict.rules
    heads = [
        ("edition", f"{rules.edition}: {EDITIONS[rules.edition].describe()}"),
        ("asked", f"{' x '.join(map(str, rules.shape))} voxels, qform {submission.rows(rules.qform)},"),
        ("", f"named like {rules.example}{SUFFIX}"),
    ]
    if verdict.ignored:
        outside = f"; pack without {model_card.FILE}" if model_card.FILE in verdict.ignored else ""
        heads.append(("ignored", f"{', '.join(verdict.ignored)}{outside}"))
    print("\n".join(columns(heads, ("<9", ""))))
    for title, texts in (("warnings", verdict.warnings), ("faults", verdict.faults)):
        if texts:
            print(f"\n{style.heading(title)}")
            for text in grouped(texts, lambda name: "file" if "." in name else "case"):
                print("  " + text.replace("\n", "\n  "))
    if verdict.accepted:
        unasked = "" if asked.expected else "; whether these are the cases wanted only --expected can tell"
        print(f"\naccepted: {counted(len(verdict.segmentations), 'file')}{unasked}")
    else:
        print(f"\nrefused: {counted(len(verdict.faults), 'fault')} in {asked.submission}")
    if asked.pack:
        print(f"written: {asked.pack}" if verdict.accepted else f"not written: {asked.pack}")
    print(style.following(_next_step(asked, verdict.accepted)))


def _next_step(asked: argparse.Namespace, accepted: bool) -> str:
    again = ["tfbrats.check_submission", asked.submission]
    again += ["--edition", asked.edition] if asked.edition else []
    again += ["--expected", asked.expected] if asked.expected else []
    if not accepted:
        return f"mend what is listed, then {verbs.command_line(*again)}"
    if not asked.expected:
        return verbs.command_line(*again, "--expected", "DATASET")
    if asked.pack or not files.is_folder(asked.submission):
        return f"upload {asked.pack or asked.submission} to the challenge"
    return verbs.command_line(*again, "--pack", f"{files.name(asked.submission)}.zip")


def _to_json(location: str, verdict: "Verdict") -> dict:
    return {
        "submission": location,
        "edition": verdict.rules.edition,
        "segmentations": list(verdict.segmentations),
        "ignored": list(verdict.ignored),
        "warnings": list(verdict.warnings),
        "faults": list(verdict.faults),
        "accepted": verdict.accepted,
    }


def parser() -> command.Parser:
    """The command's options."""
    parser = command.parser("tfbrats.check_submission", __doc__)
    parser.add_argument(
        "submission", type=paths.argument, help="a folder of <case_id>.nii.gz, or a .zip of them; gs:// too"
    )
    parser.add_argument(
        "--expected",
        type=paths.argument,
        metavar="DATASET|FILE",
        help="all cases wanted: a data set, or a file with a case id a line",
    )
    parser.renamed({"--cases": "--expected"})
    parser.add_argument("--edition", choices=tuple(RULES), help="overrides what the names say")
    parser.add_argument(
        "--pack",
        type=paths.argument,
        metavar="FILE.zip",
        help="if accepted, write the archive to upload; one that exists is replaced",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser


def main(arguments: Sequence[str]) -> int:
    asked = parser().parse_args(arguments)
    location = asked.submission
    try:
        for path in filter(None, (location, asked.expected)):
            if not files.exists(path):
                raise InputError(f"{path}: no such file or folder.")

        from tfbrats.predictions import submission_files

        if asked.pack:
            submission_files.check_target(asked.pack, location)
        members, verdict = _checked(location, asked.edition, asked.expected)
        if asked.pack and verdict.accepted:
            submission_files.pack(members, verdict, asked.pack)
    except InputError as error:
        if not asked.json:
            raise
        print(json.dumps({"submission": location, "faults": [str(error)], "accepted": False}, indent=2))
        return 1
    if asked.json:
        print(json.dumps(_to_json(location, verdict), indent=2))
    else:
        _print(asked, verdict)
    return 0 if verdict.accepted else 1


if __name__ == "__main__":
    command.run(main)
