r"""One page to look at: scores beside the paper's, boxes and points, cases as pictures, and what was run.

    tfbrats report --scores SCORES --prediction OUT --reference DATA --output report.html

--scores is the folder that tfbrats evaluate wrote; --prediction and --reference are the folders it compared.
With the run that trained the model, the paper's table, and other runs of the same cases:

    tfbrats report --scores SCORES --prediction OUT --reference DATA --output report.html \
        --run runs/cun_lws --table paper_a --compare SCORES_OF_CUN

The page is a single file: it holds its pictures and loads nothing. Sliders show every slice of the cases
pictured; without script there are three planes of each. What it could not show for want of a file it says.

One case as a picture for a README or a slide, with its scans, reference, prediction and where they differ:

    tfbrats report --scores SCORES --prediction OUT --reference DATA --hero hero.png --case BraTS2021_00005
"""

import dataclasses
import os
import sys
import typing
from collections.abc import Sequence

from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.reporting import options
from tfbrats.terminal import command, style

if typing.TYPE_CHECKING:  # what draws is imported when arguments and folders have been looked at
    from tfbrats.scoring.evaluation import Evaluation

PAGE = "report.html"  # in a folder that is given as --output


def write(
    scores: str | os.PathLike,
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    output: str | os.PathLike | None,
    title: str = "Segmentation report",
    pictures: int = 3,
    run_folder: str | os.PathLike | None = None,
    notes: Sequence[str] = (),
    table: str | None = None,
    compare: Sequence[str | os.PathLike] = (),
    case_ids: Sequence[str] = (),
    hero_file: str | os.PathLike | None = None,
) -> list[str]:
    """Writes the page, and the picture of one case.

    Args:
        scores: folder that `score_files.write` wrote.
        prediction: folder that was scored.
        reference: what it was scored against; a data set brings the images for the pictures.
        output: the HTML file; None for no page.
        pictures: how many cases to picture.
        run_folder: of the training, for its curves, config and environment.
        notes: see `page.Content`.
        table: a key of `papers.TABLES`, to stand beside.
        compare: folders that `score_files.write` wrote, of other runs on the same cases.
        case_ids: the cases to picture instead of those that their rank picks.
        hero_file: the PNG file of `hero_card.compose`; None for no such picture.

    Returns:
        What must not be overlooked: warnings of `score_text.warnings`, and that the run is not the model's.

    Raises:
        InputError: a folder or a chosen case's file is not there, cannot be read, or is not what was scored;
            there is no such table; another run was scored on other cases, references or by another rule; the
            page cannot be written there.
    """
    _check(scores, prediction, reference, run_folder, compare)
    _check_written(output, pictures, case_ids, hero_file)

    from tfbrats.pictures import case_pictures, hero, hero_card, ranked_cases
    from tfbrats.reporting import page, score_text
    from tfbrats.reporting.sampling_maps import sampling_of
    from tfbrats.reporting.training_section import training_of
    from tfbrats.reporting.uncertainty_section import uncertainty_of
    from tfbrats.scoring import comparison, papers, score_files

    comparison.check_once(compare)
    evaluation = _with_what_was_seen(score_files.read(scores), prediction)
    if table is not None:
        papers.table_named(table)
    others = [score_files.read(folder) for folder in compare]
    compared = [evaluation.compared_with(other, folder) for other, folder in zip(others, compare, strict=True)]
    training = training_of(run_folder, evaluation.model)
    if output is not None:
        by_rank = dict(ranked_cases.choose(evaluation.rows, pictures))
        chosen = ranked_cases.named(evaluation.rows, case_ids) if case_ids else by_rank
        pictured = case_pictures.pictures_of(evaluation, prediction, reference, chosen, scores)
        html = page.render(
            page.Content(
                title=title,
                runs=page.named([scores, *compare], [evaluation, *others]),
                compared=compared,
                table=table,
                pictured=pictured,
                by_rank=not case_ids,
                training=training,
                sampling=sampling_of(training.settings, pictured),
                uncertainty=uncertainty_of(evaluation, prediction, reference, scores),
                notes=notes,
            )
        )
        files.write_bytes(output, html.encode())
    if hero_file is not None:
        case_id = case_ids[0] if case_ids else None
        shown = hero.hero_of(evaluation, prediction, reference, case_id, scores)
        files.write_bytes(hero_file, hero_card.compose(shown))
    return [
        *(style.warning(text, sys.stderr) for text in score_text.warnings(evaluation, *others)),
        *(style.note(text, sys.stderr) for text in training.contradictions),
    ]


def _check(
    scores: str | os.PathLike,
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    run_folder: str | os.PathLike | None,
    compare: Sequence[str | os.PathLike],
) -> None:
    """Raises InputError for a folder that is not there."""
    named = [("--scores", scores), ("--prediction", prediction), ("--reference", reference)]
    named += [("--run", run_folder)] if run_folder is not None else []
    named += [("--compare", folder) for folder in compare]
    for option, folder in named:
        if not files.exists(folder):
            written = ". tfbrats evaluate --output writes it." if option in ("--scores", "--compare") else "."
            raise InputError(f"{option} {folder}: no such folder{written}")


def _check_written(
    output: str | os.PathLike | None,
    pictures: int,
    case_ids: Sequence[str],
    hero_file: str | os.PathLike | None,
) -> None:
    """Raises InputError for what makes no page and no picture."""
    if pictures < 0:
        raise InputError(f"--pictures {pictures}: expected how many cases to picture, 0 or more.")
    if hero_file is not None and not os.fspath(hero_file).lower().endswith(".png"):
        raise InputError(f"--hero {hero_file}: expected the name of a PNG file, e.g. {hero_file}.png.")
    if hero_file is not None and len(case_ids) > 1:
        raise InputError(f"--hero shows one case; --case names {len(case_ids)}: {', '.join(case_ids)}.")
    for path in (output, hero_file):
        if path is None:
            continue
        if files.is_folder(path):
            raise InputError(f"{path}: is a folder; name a file in it, e.g. {files.join(path, PAGE)}.")
        files.check_can_hold(files.parent(path) or ".")


def _with_what_was_seen(evaluation: "Evaluation", prediction: str | os.PathLike) -> "Evaluation":
    """Scores of an older version do not say which cases the model has seen; the card beside them may."""
    from tfbrats.scoring.origin import by_split_of, card_beside

    if evaluation.by_split is not None:
        return evaluation
    card, _ = card_beside(prediction)
    return dataclasses.replace(evaluation, by_split=by_split_of(card, evaluation.rows))


def parser() -> command.Parser:
    """The command's options."""
    parser = command.parser("tfbrats.report", __doc__)
    parser.add_argument(
        "--scores", type=paths.argument, required=True, metavar="DIR", help="what tfbrats evaluate wrote"
    )
    options.add_folders(parser)
    parser.add_argument(
        "--output",
        type=paths.argument,
        metavar="FILE",
        help=f"the page, e.g. {PAGE}; of any other name a folder, which holds {PAGE} then",
    )
    parser.add_argument(
        "--hero",
        type=paths.argument,
        metavar="FILE.png",
        help="one case as a picture: the one of --case, or the median one; instead of the page or beside it",
    )
    parser.add_argument("--title", default="Segmentation report", help="of the page (%(default)s)")
    parser.add_argument(
        "--pictures", type=int, default=3, metavar="N", help="how many cases to picture (%(default)s)"
    )
    parser.add_argument(
        "--case",
        action="append",
        default=[],
        metavar="ID",
        help="picture this case, not those that their rank picks; may be repeated",
    )
    parser.add_argument(
        "--run", type=paths.argument, metavar="RUN", help="run folder: training curves, config, environment"
    )
    parser.add_argument(
        "--note", action="append", default=[], metavar="TEXT", help="a line to show; may be repeated"
    )
    options.add_table(parser, "the paper's table to stand beside")
    options.add_compare(parser, "what tfbrats evaluate wrote of another run on the same cases; may be repeated")
    parser.renamed({"--metrics": "--scores", "--cases": "--pictures"})
    return parser


def _page_named(output: str | None) -> str | None:
    """The file that --output means: itself, or in the folder of that name."""
    if output is None or output.lower().endswith((".html", ".htm")):
        return output
    return files.join(output, PAGE)


def main(arguments: Sequence[str]) -> None:
    our_parser = parser()
    asked = our_parser.parse_args(arguments)
    output = _page_named(asked.output)
    if output is None and asked.hero is None:
        our_parser.error(
            "the following arguments are required: --output (the page), --hero (a picture), or both"
        )
    _check(asked.scores, asked.prediction, asked.reference, asked.run, asked.compare)
    _check_written(output, asked.pictures, asked.case, asked.hero)
    remarks = write(
        asked.scores,
        asked.prediction,
        asked.reference,
        output,
        title=asked.title,
        pictures=asked.pictures,
        run_folder=asked.run,
        notes=asked.note,
        table=asked.table,
        compare=asked.compare,
        case_ids=list(dict.fromkeys(asked.case)),
        hero_file=asked.hero,
    )
    for text in remarks:
        print(text, file=sys.stderr)
    written = [path for path in (output, asked.hero) if path is not None]
    print("\n".join(written))
    print(
        style.following(
            f"open {paths.absolute(written[0])} in a browser" if output else f"look at {asked.hero}"
        )
    )


if __name__ == "__main__":
    command.run(main)
