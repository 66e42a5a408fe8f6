"""A whole table of a paper with one command: records once, every row trained, scored, and one page.

    tfbrats reproduce --table paper_a --input BraTS2017/HGG --output paper_a --price
    tfbrats reproduce --table paper_a --input BraTS2017/HGG --output paper_a
    tfbrats reproduce --table paper_b --input BraTS2018 --output paper_b records.split=[4,0,1]
    tfbrats reproduce --table paper_b --input phantoms --output small --settings smoke_3d
    tfbrats reproduce --table paper_a --input BraTS2021 --output cross --folds 5

Says first what it will cost, by a short probe of each network and of one case. Each step is a command that you
could have typed; run again, the same command goes on where it was stopped. --settings takes sizes and recipe
from another config and keeps of each row what makes it that row. Every row sees the same records, and the
scores are those of the cases that none of them was trained or validated on; paper B trains on all, so that
some have to be held out, or --test names another data set. With --folds K every case is scored: each row is
trained K times, and a case is segmented by the network of the fold that held it out.

Each row answers as the paper says. Where five patients or more are held out for validation, tfbrats tune
chooses on them what makes the row better, and its tuned answer is scored too and stands below (ROW_tuned);
--plain leaves that away, and with --folds there is none.

OUTPUT/configs, runs, models, predictions, scores: a file or folder a row; OUTPUT/report.html: the page.
"""

import json
import pathlib
import tempfile
import typing
from collections.abc import Sequence

from tfbrats import __version__
from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.scoring import papers
from tfbrats.terminal import command, style
from tfbrats.workflows.chain import LOCK, Steps, alone, exported_since, is_current, without

if typing.TYPE_CHECKING:  # the rest is imported when it is needed: the options are checked first
    from tfbrats.config import Config
    from tfbrats.workflows.table_plan import Plan

STAMP = "reproduce.json"


def _check_folder(output: pathlib.Path) -> None:
    """Raises InputError if the folder holds something else; writes nothing into it."""
    if output.is_dir() and not (output / STAMP).exists() and {path.name for path in output.iterdir()} - {LOCK}:
        raise InputError(f"{output}: not empty, and not a reproduction. Choose another --output.")


def _check_stamp(plan: "Plan") -> None:
    """A folder is gone on with by the same data and configs alone; rows may be added.

    Raises:
        InputError: it holds a reproduction of other data or settings.
    """
    from tfbrats import config as configs

    path = plan.output / STAMP
    content = {
        "table": plan.table,
        "data": files.canonical(plan.data),
        "test_data": files.canonical(plan.test_data),
        "cases": plan.case_ids,
        "folds": len(plan.folds),
        "rows": {row: config.model_dump(mode="json") for row, config in plan.configs.items()},
    }
    content = json.loads(json.dumps(content))
    before = files.read_json(path) if path.exists() else {"rows": {}}
    rows = {row: _as_now(config) for row, config in before["rows"].items() if row in content["rows"]}
    differences = configs.differences(
        {**content, "rows": {row: content["rows"][row] for row in rows}},
        {**{key: before.get(key, content[key]) for key in content}, "rows": rows},
    )
    if differences:
        raise InputError(
            f"{plan.output}: holds a reproduction of other data or settings:\n  "
            + "\n  ".join(line[:160] for line in differences[:10])
            + "\nChoose another --output."
        )
    files.write_json(path, {"tfbrats": __version__, **content, "rows": {**before["rows"], **content["rows"]}})


def _as_now(config: dict) -> dict:
    """A config that another version may have written, with the keys that have come since."""
    from tfbrats import config_file

    try:
        return config_file.from_mapping(config, STAMP).model_dump(mode="json")
    except InputError:  # what differs is told
        return config


def reproduce(plan: "Plan", steps: Steps) -> None:
    """Runs all of it under plan.output, or what is left of it; rows scored there before stay on the page.

    Raises:
        InputError: a step failed.
    """
    from tfbrats.cases import split_files
    from tfbrats.workflows import folds, table_plan

    of_folds = ["--splits", plan.path(folds.FOLDS)] if plan.folds else []
    if plan.folds:
        split_files.write(plan.path(folds.FOLDS), plan.folds)
    steps.run(
        "Turn NIfTI into TFRecords with Beam, once for every row",
        *("beam_pipelines.nifti_to_tfrecord", "--config", plan.path("configs", f"{plan.main_row}.yaml")),
        *("--input", plan.data, "--output", plan.path("records"), *of_folds),
        log_name="records",
    )
    if plan.test_data != plan.data:
        steps.run("Look at the test cases", "tfbrats.inspect", plan.test_data, log_name="test_cases")
    shown = [
        row
        for row in table_plan.row_names(plan.table)
        if row in plan.configs or files.exists(plan.path("scores", row, "metrics.json"))
    ]
    *others, main_row = shown
    for row, config in plan.configs.items():
        _train_and_segment(plan, row, config, steps)
        if plan.is_tuned:
            _tune_and_score(plan, row, steps)
        if row != main_row:
            steps.run(f"Score {row}", *_evaluation(plan, row), log_name=f"{row}-score")
    tuned = [_tuned(row) for row in shown if files.exists(plan.path("scores", _tuned(row), "metrics.json"))]
    compared = [text for row in (*others, *tuned) for text in ("--compare", plan.path("scores", row))]
    beside = ("--table", plan.table, *compared)
    steps.run(
        f"Score {main_row}, beside the paper's rows" + (" and ours" if others or tuned else ""),
        *(*_evaluation(plan, main_row), *beside),
        show=True,
        log_name=f"{main_row}-score",
    )
    page = plan.path("report.html")
    steps.run(
        "Draw it",
        *("tfbrats.report", "--scores", plan.path("scores", main_row)),
        *("--prediction", plan.path("predictions", main_row), "--reference", plan.test_data),
        *("--run", _runs(plan, main_row)[0], *beside),
        *("--output", page, "--title", f"{papers.TABLES[plan.table].title}, reproduced"),
        notes=[f"`{line}`" for line in steps.done],
        log_name="report",
    )
    print(f"\n{page}  the table beside the paper's, with pictures")
    print(f"{plan.path('scores')}  for each row its scores, a line per case and region")
    print(style.following(f"look at {page} in a browser"))


def _runs(plan: "Plan", row: str) -> list[str]:
    """The run folders of a row: one, or one for each fold."""
    from tfbrats.workflows import folds

    home = plan.path("runs", row)
    return [folds.path_of(home, number) for number in range(len(plan.folds))] or [home]


def _train_and_segment(plan: "Plan", row: str, config: "Config", steps: Steps) -> None:
    """One row, from the records to the segmented test cases, or to those that each fold holds out."""
    from tfbrats.runs.folder import RunFolder
    from tfbrats.workflows import folds

    of_folds = ["--folds", plan.path(folds.FOLDS)] if plan.folds else []
    trained = _runs(plan, row)
    # What is complete would only say so, after loading TensorFlow.
    is_trained = all(run.is_run and not run.unfinished(config) for run in map(RunFolder, trained))
    steps.run(
        f"Train {row}" + (f", {len(trained)} folds" if plan.folds else ""),
        *("tfbrats.train", "--config", plan.path("configs", f"{row}.yaml"), *of_folds),
        show=True,
        is_done=is_trained,
        log_name=f"{row}-train",
    )
    for run in trained if not is_trained else ():
        RunFolder(run).check_finished()  # as it is now
    if not plan.folds:
        places = (trained[0], plan.path("models", row), plan.path("predictions", row))
        _export_and_segment(plan, row, f"the test cases with {row}", places, plan.case_ids, steps)
    for number, (run, fold) in enumerate(zip(trained, plan.folds, strict=False)):
        places = (run, plan.path("models", f"{row}_fold{number}"))
        places = (*places, plan.path("predictions", row, f"fold{number}"))
        name = f"{row}-fold{number}"
        what = f"what fold {number} of {row} holds out"
        _export_and_segment(plan, name, what, places, fold["validation"], steps)


def _tuned(row: str) -> str:
    """What a row's tuned answer is called, beside the one that is as the paper says."""
    return f"{row}_tuned"


def _tune_and_score(plan: "Plan", row: str, steps: Steps) -> None:
    """What is chosen for a row on its validation cases, and the test cases as it is then, if anything is."""
    from tfbrats.runs.folder import RunFolder
    from tfbrats.tuning import tuned_file

    name, trained = _tuned(row), plan.path("runs", row)
    if not plan.can_choose(RunFolder(trained).splits["validation"]):  # some have been rejected
        print(f"\n{style.note(f'{row}: too few validation cases in the records to tune by')}")
        return
    steps.run(
        f"Tune {row} on the validation cases ({len(plan.splits['validation'])})",
        *("tfbrats.tune", "--run", trained, "--input", plan.data),
        show=True,
        is_done=is_current(tuned_file.path_in(trained), pathlib.Path(trained).glob("**/best/checkpoint")),
        log_name=f"{row}-tune",
    )
    if tuned_file.read(trained).choices.is_plain:
        print(f"    {row} tuned is {row} as it is")
        files.remove(plan.path("scores", name))
        return
    places = (trained, plan.path("models", name), plan.path("predictions", name))
    _export_and_segment(plan, name, f"the test cases with {row} tuned", places, plan.case_ids, steps, True)
    steps.run(f"Score {row} tuned", *_evaluation(plan, row, name), log_name=f"{name}-score")


def _export_and_segment(
    plan: "Plan",
    name: str,
    what: str,
    places: tuple[str, str, str],
    case_ids: Sequence[str],
    steps: Steps,
    tuned: bool = False,
) -> None:
    """A trained network, from the run to its segmentations.

    Args:
        name: of the network, in the logs.
        what: it segments, in words.
        places: of the run, the model and its segmentations.
        tuned: with what was chosen on validation cases; else as the paper says.
    """
    from tfbrats.tuning import tuned_file

    trained, model, predictions = places
    versions = [path for path in pathlib.Path(model).glob("[0-9]*")]
    has_choices = not tuned or any(is_current(path, [tuned_file.path_in(trained)]) for path in versions)
    steps.run(
        f"Export {name}",
        *("tfbrats.export", "--run", trained, "--output", model, *(() if tuned else ("--plain",))),
        is_done=exported_since(trained, model) and has_choices,
        log_name=f"{name}-export",
    )
    version = max((int(path.name) for path in pathlib.Path(model).glob("[0-9]*")), default=1)
    segmented_by = _version_of(predictions)
    are_there = [files.exists(files.join(predictions, f"{case_id}.nii.gz")) for case_id in case_ids]
    steps.run(
        f"Segment {what} ({len(case_ids)})",
        *("tfbrats.predict", "--model", files.join(model, str(version)), "--input", plan.test_data),
        *(text for case_id in case_ids for text in ("--case", case_id)),
        *("--output", predictions),
        # A row trained again has a newer version, and its older one's segmentations go.
        *(() if segmented_by in (None, version) else ("--overwrite",)),
        is_done=all(are_there) and segmented_by == version,
        log_name=f"{name}-segment",
    )


def _version_of(predictions: str) -> int | None:
    """Which version of its model wrote a folder of segmentations; None where there is none yet."""
    from tfbrats.predictions import model_card

    card = files.join(predictions, model_card.FILE)
    return model_card.parse(files.read_bytes(card), card).version if files.exists(card) else None


def _evaluation(plan: "Plan", row: str, name: str = "") -> list[str]:
    """The command that scores a row, without what it is compared with.

    Args:
        name: of its folders; the row's own by default.
    """
    from tfbrats.runs.folder import RunFolder

    arguments = ["tfbrats.evaluate", "--prediction", plan.path("predictions", name or row)]
    arguments += ["--reference", plan.test_data, "--row", row, "--output", plan.path("scores", name or row)]
    if plan.test_data == plan.data and not plan.folds:
        return [*arguments, "--splits", RunFolder(plan.path("runs", row)).splits_path, "--split", "test"]
    return [*arguments, "--cases", ",".join(plan.case_ids)]


def _keys() -> Sequence[str]:
    from tfbrats import config_file

    return config_file.all_keys()


def parser() -> command.Parser:
    """The command's options."""
    parser = command.parser("tfbrats.reproduce", __doc__)
    parser.keys = _keys
    parser.allow_abbrev = False  # --price is taken out of the line that comes next
    parser.add_argument("--table", required=True, choices=tuple(papers.TABLES), help="which paper's")
    parser.add_argument(
        "--input",
        type=paths.argument,
        required=True,
        metavar="DIR",
        help="data set to train on, and to test on",
    )
    parser.renamed({"--data": "--input"})
    parser.add_argument(
        "--output", type=paths.argument, required=True, metavar="DIR", help="folder for everything"
    )
    parser.add_argument("--rows", metavar="ROW,ROW", help="only these (default: all of the table)")
    parser.add_argument(
        "--settings", type=paths.argument, metavar="CONFIG", help="sizes and recipe, e.g. smoke_2d"
    )
    parser.add_argument("--test", type=paths.argument, metavar="DIR", help="another data set to test on")
    parser.add_argument(
        "--folds", type=int, metavar="K", help="cross-validate: train each row K times, and score every case"
    )
    parser.add_argument("--plain", action="store_true", help="as the paper says alone, nothing tuned beside it")
    parser.add_argument("--price", action="store_true", help="say what it would cost, and stop")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="of every row alike")
    return parser


def main(arguments: Sequence[str]) -> None:
    asked = parser().parse_intermixed_args(arguments)
    for folder in filter(None, (asked.input, asked.test)):
        if not files.is_folder(folder):
            files.walk(folder)  # says what is there

    from tfbrats.workflows import table_plan

    plan = table_plan.plan(
        asked.table,
        asked.input,
        asked.output,
        asked.rows.split(",") if asked.rows else None,
        asked.settings,
        asked.test,
        asked.overrides,
        scored=not asked.price,
        folds=asked.folds,
        plain=asked.plain,
    )
    files.check_can_hold(plan.output)
    _check_folder(plan.output)
    counts = ", ".join(f"{name} {len(ids)}" for name, ids in plan.splits.items())
    if plan.folds:
        held_out = ", ".join(str(len(fold["validation"])) for fold in plan.folds)
        counts = f"{len(plan.case_ids)}, {len(plan.folds)} folds that hold out {held_out}"
    print(f"{papers.TABLES[plan.table].title}: {', '.join(plan.configs)}\ncases: {counts}", flush=True)
    if asked.price:
        with tempfile.TemporaryDirectory() as folder:
            _print_price(plan, pathlib.Path(folder))
        print(style.following(without("--price", "tfbrats.reproduce", arguments)))
        return
    with alone(plan.output) as lock:
        _check_stamp(plan)
        _print_price(plan, plan.output, lock)
        reproduce(plan, Steps(plan.output / "logs", lock))


def _print_price(plan: "Plan", folder: pathlib.Path, lock: int | None = None) -> None:
    from tfbrats.workflows import table_cost

    price = table_cost.price(plan, folder, lock)
    print("\n".join(table_cost.lines(price, list(plan.configs), files.free_bytes(plan.output))), flush=True)


if __name__ == "__main__":
    command.run(main)
