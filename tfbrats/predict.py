r"""Segment cases, or one's own scans, with an exported model, no server needed.

    tfbrats predict --model models/cun --input BraTS2020 --output predictions
    tfbrats predict --model models/cun --input patient1 --output out
    tfbrats predict --model models/cun --flair a.nii.gz --t1 b.nii.gz --t1ce c.nii.gz --t2 d.nii.gz \
        --output seg.nii.gz
    tfbrats predict ... --view
    tfbrats predict --model models/cun --input DICOM_STUDY --output out --dicom-seg
    tfbrats predict ... --submission UPLOAD.zip

Writes CASE.nii.gz for each case, on the case's own grid, in the label values that the case's name tells, else
in the model's; and volumes.csv, the regions' volumes in ml. Run again, it goes on with the cases that have no
result yet. With --view also CASE.html, to look at it in a browser (tfbrats view). Scans have to be stripped of
the skull and lie on one grid: docs/start/your-own-case.md.

With --submission all of them are then held against the challenge's upload rules (tfbrats check); the archive
is written only if it would take every one.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.predictions import options as asking
from tfbrats.terminal import command, style

if TYPE_CHECKING:  # what takes long to import comes after the options
    from tfbrats.datasets.layouts import Dataset
    from tfbrats.predictions.model_card import ModelCard
    from tfbrats.predictions.submission_rules import SubmissionRules
    from tfbrats.predictions.wanted import Wanted


def predict(
    model: str,
    dataset: "Dataset",
    output: str,
    case_ids: Sequence[str] | None = None,
    probabilities: bool = False,
    overwrite: bool = False,
    rules: "SubmissionRules | None" = None,
    with_provenance: bool = False,
    uncertainty: bool = False,
    view: bool = False,
    dicom_seg: str | bool = False,
) -> list[str]:
    """Segments the cases of a data set into `output`, and says where they are and what comes next.

    Args:
        model: one version's folder.
        output: a folder, or one case's file.
        case_ids: only these.
        probabilities: also write CASE_probabilities.nii.gz, float32 [I, J, K, 3].
        overwrite: segment again what has a result already.
        rules: of the upload it is for; the first case whose scans would make it refused is said at once.
        with_provenance: also write CASE.json (`provenance`).
        uncertainty: also write CASE_unc_whole, _unc_core, _unc_enhance .nii.gz, of a model that is an average.
        view: also write CASE.html, the page of `tfbrats view`.
        dicom_seg: also write CASE.dcm, as `wanted.wanted`.

    Returns:
        the faults of the cases that could not be segmented.

    Raises:
        InputError: no model, no such case, or an output that cannot be written or must not be.
    """
    from tfbrats.predictions import model_card, one_by_one, wanted

    card = model_card.read(model)
    if uncertainty:
        model_card.check_is_average(card)
    more = probabilities, with_provenance, overwrite, uncertainty, dicom_seg
    asked = wanted.wanted(dataset, case_ids, output, *more)
    asked, notes = asked.by(card)
    for note in notes:
        print(style.note(note))

    def load() -> one_by_one.Segmenter:
        from tfbrats.inference import saved_segmenter  # TensorFlow

        return saved_segmenter.SavedSegmenter(model)

    fresh = [entry for entry, _ in asked.todo(overwrite)]
    faults = one_by_one.segment_all(asked, card, load, overwrite, rules)
    if view:
        _write_pages(asked, card)
    if not faults:
        by = f"{card.name} version {card.version}"
        for line in wanted.ending(asked, by, fresh, uploads=rules is not None):
            print(line)
    return faults


def _write_pages(asked: "Wanted", card: "ModelCard") -> None:
    """The page of each case that has a result, in the place of an older one."""
    from tfbrats.predictions import provenance
    from tfbrats.terminal import bars
    from tfbrats.viewer import sources

    done = [(entry, target) for entry, target in asked.pairs if files.exists(target.segmentation)]
    for entry, target in bars.bar(done, desc="pages", unit="page", hidden=len(done) == 1):
        output = provenance.page_of(target.segmentation)
        sources.write(output, entry, entry.case_id in asked.dataset.untold, target.segmentation, card=card)
        bars.write(f"{entry.case_id}: {output} shows it in a browser")


# --- the upload -----------------------------------------------------------------------------------------


def _rules(dataset: "Dataset", case_ids: Sequence[str] | None, archive: str) -> "SubmissionRules":
    """The upload rules for these cases; refuses, before hours of work, what names alone forbid."""
    from tfbrats.datasets import layouts
    from tfbrats.predictions import submission_files, submission_rules

    submission_files.check_target(archive)
    entries = layouts.select(dataset, case_ids)
    rules = submission_rules.rules_for([entry.schema.edition for entry in entries], dataset.root)
    strangers = [entry.case_id for entry in entries if rules.key(entry.case_id) is None]
    if strangers:
        raise InputError(
            f"{dataset.root}: the challenge of {rules.edition} knows no cases named like "
            f"{', '.join(strangers[:3])} ({len(strangers)} such); expected e.g. {rules.example}. Rename them, "
            "or leave --submission out."
        )
    return rules


def submit(output: str, case_ids: Sequence[str], rules: "SubmissionRules", archive: str) -> None:
    """Packs the segmentations of these cases as one archive to upload, if the challenge would take it.

    Raises:
        InputError: it would not; says why, and writes nothing.
    """
    from tfbrats.predictions import submission, submission_files, submission_rules

    members = [
        submission_files.member(files.join(output, f"{case_id}{submission_rules.SUFFIX}"))
        for case_id in case_ids
    ]
    verdict = submission.check(members, rules, case_ids)
    for text in verdict.warnings:
        print(f"warning: {text}")
    if not verdict.accepted:
        older = " (the one that lies there is older)" if files.exists(archive) else ""
        raise InputError(
            f"{archive}: not written{older}; the challenge would refuse it:\n" + "\n".join(verdict.faults)
        )
    submission_files.pack(members, verdict, archive)
    print(f"accepted: {len(members)} files, packed as {archive}")


# --- the command ----------------------------------------------------------------------------------------


def parser() -> command.Parser:
    """The options."""
    options = command.parser("tfbrats.predict", __doc__)
    asking.add_model(options)
    asking.add_input(options)
    asking.add_output(options)
    options.add_argument(
        "--probabilities", action="store_true", help="write those of WT, TC and ET as 4-D files too"
    )
    options.add_argument("--view", action="store_true", help="write CASE.html too, to look at it in a browser")
    options.add_argument(
        "--submission", type=paths.argument, metavar="FILE.zip", help="check and pack them for the challenge"
    )
    return options


def main(arguments: Sequence[str]) -> None:
    options = parser().parse_args(arguments)
    from tfbrats.predictions import model_card

    asking.check_there(options)
    model = model_card.version_folder(options.model)
    from tfbrats.datasets import id_tables, layouts
    from tfbrats.predictions import wanted

    dataset = wanted.dataset_of(options)
    for note in dataset.guesses:
        print(style.note(note))
    case_ids = id_tables.chosen(options)
    rules = None
    if options.submission:
        if wanted.is_file(options.output):
            raise InputError(f"--submission packs a folder of results; --output {options.output} is one file.")
        rules = _rules(dataset, case_ids, options.submission)
    if model != options.model:
        print(f"{options.model}: its newest version is taken, {files.name(model)}")
    faults = predict(
        model,
        dataset,
        options.output,
        case_ids,
        options.probabilities,
        options.overwrite,
        rules,
        options.provenance,
        options.uncertainty,
        options.view,
        options.dicom_seg,
    )
    if faults:
        unpacked = f"\n{options.submission}: not written" if rules else ""
        raise InputError("these cases could not be segmented:\n" + "\n".join(faults) + unpacked)
    if rules:
        entries = layouts.select(dataset, case_ids)
        submit(options.output, [entry.case_id for entry in entries], rules, options.submission)
        print(style.following(f"upload {options.submission} to the challenge"))


if __name__ == "__main__":
    command.run(main)
