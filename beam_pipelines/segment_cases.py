"""NIfTI cases -> segmentations with an exported model, on a laptop or any Beam engine; scores on request.

    tfbrats segment --model models/cun --input BraTS2020 --output predictions
    tfbrats segment ... --reference BraTS2020 --splits runs/cun/splits.json
    tfbrats segment ... --runner=FlinkRunner ...

Writes what tfbrats predict writes, to the byte, but no volumes.csv; on this machine unless --runner says
otherwise; every option that is not listed here goes to Beam. Each worker process loads the model once. Run it
again after anything went wrong: finished cases are kept, the rest is done. A case that cannot be segmented goes
to rejected.jsonl; the exit code is 1 when more of them than --max-bad-fraction are. Engines:
docs/how-to/beam-engines.md.
"""

if __name__ == "__main__" and not __package__:  # a file run as a script sees neither its package nor tfbrats
    raise SystemExit("error: run it as python -m beam_pipelines.segment_cases from the folder above.")

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from beam_pipelines import options as job_options
from beam_pipelines.options import SCORES
from tfbrats.cases import split_files
from tfbrats.datasets import id_tables, layouts
from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.predictions import options as asking
from tfbrats.terminal import command, style, verbs, wording

if TYPE_CHECKING:
    from tfbrats.datasets.layouts import Dataset
    from tfbrats.predictions.results import Target


def parser() -> command.Parser:
    """The command's options; all that it does not know may be Beam's."""
    ours = command.parser("beam_pipelines.segment_cases", __doc__)
    asking.add_model(ours)
    ours.add_argument(
        "--input", type=paths.argument, required=True, help="a data set, in any layout; gs:// too"
    )
    ours.add_argument(
        "--output", type=paths.argument, required=True, help="folder for <case_id>.nii.gz; gs:// too"
    )
    ours.add_argument(
        "--reference",
        type=paths.argument,
        metavar="DIR",
        help=f"a data set or masks: score against them, into OUTPUT/{SCORES}",
    )
    ours.add_argument(
        "--splits",
        type=paths.argument,
        metavar="FILE",
        help="score only one split's cases: splits.json of the model's run",
    )
    ours.add_argument("--split", choices=split_files.SPLITS, help="which, of --splits (default: test)")
    ours.add_argument("--fold", type=int, metavar="N", help="which of the folds that --splits holds")
    ours.add_argument("--edition", help="overrides the edition that the names tell")
    id_tables.add_choice(ours)
    ours.add_argument(
        "--provenance", action="store_true", help="write <case_id>.json beside each: model, hashes, versions"
    )
    job_options.add_arguments(ours, "1, as the network uses all cores by itself")
    ours.add_argument("--overwrite", action="store_true", help="delete the cases' results first")
    return ours


def _arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our options and Beam's.

    Raises:
        InputError: what nobody knows; options that do not go together.
    """
    ours = parser()
    options, rest = job_options.parsed(ours, arguments, ("model", "input", "output"))
    beam_options = job_options.of_beam(ours, rest, has_overrides=False)
    if options.splits is None and options.fold is not None:
        raise InputError(f"--fold {options.fold} needs --splits: the file that holds the folds.")
    if options.splits is None and options.split is not None:
        raise InputError(f"--split {options.split} needs --splits: the file that says which cases it has.")
    if options.splits is not None and not options.reference:
        raise InputError("--splits says which cases to score, and needs --reference: what to score against.")
    return options, beam_options


def main(arguments: Sequence[str]) -> int:
    options, beam_options = _arguments(arguments)
    case_ids = id_tables.chosen(options)
    dataset = layouts.find(options.input, options.edition)
    for note in dataset.guesses:
        print(style.note(note))
    entries = {entry.case_id: entry for entry in layouts.select(dataset, case_ids)}

    from tfbrats.predictions import doubts, model_card, results

    targets = [results.target(name, options.output, with_provenance=options.provenance) for name in entries]
    _check_places(options, dataset, targets)
    given, options.model = options.model, model_card.version_folder(options.model)
    card = model_card.read(options.model)

    # Beam and SciPy, when all that can be wrong without them has been looked at: their import takes seconds.
    from beam_pipelines import engine, result_folder, segment_job, segment_scores

    engine.check_options(parser(), beam_options)
    split = segment_scores.split_of(options, card)
    if options.reference:
        segment_scores.check_references(options, list(entries))
    newest = "" if options.model == given else f", the newest of {options.given['model']}"
    print(f"model            {card.name} version {card.version}{newest}")
    if note := doubts.n4_note(card):
        print(style.note(note))
    if engine.is_dry_run(beam_options):
        engine.dry_run(beam_options, options.output, "cases", segment_job.built(options))
        return 0
    with result_folder.alone(options.output):
        segment_job.make_way(options, card, targets)
        rejected = segment_job.segmented(options, beam_options, entries, card)
        done = [name for name in entries if name not in rejected]
        print(f"segmentations of {wording.counted(len(done), 'case')} are in {options.output}")
        is_scored = bool(options.reference and done) and segment_scores.score(options, split)
    segment_job.check_rejected(options, rejected, len(entries))
    print(style.following(_judging(options, dataset, is_scored)))
    return 0


def _judging(options: argparse.Namespace, dataset: "Dataset", is_scored: bool) -> str:
    """The command that comes next: that of the scores, or of their page where there are scores."""
    output = options.given["output"]
    if is_scored:
        return verbs.command_line(
            *("tfbrats.report", "--scores", files.join(output, SCORES), "--prediction", output),
            *("--reference", options.reference, "--output", "report.html"),
        )
    has_masks = any(entry.label for entry in dataset.cases)
    reference = options.reference or (options.given["input"] if has_masks else "REFERENCE")
    edition = ("--edition", options.edition) if options.edition else ()
    return verbs.command_line(
        *("tfbrats.evaluate", "--prediction", output, "--reference", reference, *edition, "--output", "scores")
    )


def _check_places(options: argparse.Namespace, dataset: "Dataset", targets: Sequence["Target"]) -> None:
    """Raises InputError where the results would lie on a case's own files, or could not be written."""
    layouts.check_outputs(dataset.cases, [path for target in targets for path in target.all_paths])
    files.check_can_hold(options.output)
    if options.provenance:
        from tfbrats.predictions import provenance

        provenance.check([target.segmentation for target in targets])


if __name__ == "__main__":
    command.run(main)
