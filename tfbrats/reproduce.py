"""A whole table of a paper with one command: records once, every row trained, scored, and one page.

    python -m tfbrats.reproduce --table paper_a --data BraTS2017/HGG --output paper_a --price
    python -m tfbrats.reproduce --table paper_a --data BraTS2017/HGG --output paper_a
    python -m tfbrats.reproduce --table paper_b --data BraTS2018 --output paper_b records.split=[4,0,1]
    python -m tfbrats.reproduce --table paper_b --data phantoms --output small --settings smoke_3d.yaml

Says first what it will cost, by a short probe of each network and of one case. Each step is a command that you
could have typed; run again, the same command goes on where it was stopped. --settings takes sizes and recipe
from another config and keeps of each row what makes it that row. Every row sees the same records, and the
scores are those of the cases that none of them was trained or validated on; paper B trains on all, so that
some have to be held out, or --test names another data set.

OUTPUT/configs, runs, models, predictions, scores: a file or folder a row; OUTPUT/report.html: the page.
"""

import json
import os
import pathlib
import tempfile
from collections.abc import Sequence

from tfbrats import __version__
from tfbrats import config as configs
from tfbrats.config import Config
from tfbrats.errors import InputError
from tfbrats.machine import command, files, paths
from tfbrats.predictions import model_card
from tfbrats.runs.folder import RunFolder
from tfbrats.scoring import papers
from tfbrats.workflows import table_cost
from tfbrats.workflows.chain import LOCK, Steps, alone, exported_since
from tfbrats.workflows.table_plan import Plan, plan, row_names

STAMP = "reproduce.json"


def _check_folder(output: pathlib.Path) -> None:
    """Raises InputError if the folder holds something else; writes nothing into it."""
    if output.is_dir() and not (output / STAMP).exists() and {one.name for one in output.iterdir()} - {LOCK}:
        raise InputError(f"{output}: not empty, and not a reproduction. Choose another --output.")


def _check_stamp(wanted: Plan) -> None:
    """A folder is gone on with by the same data and configs alone; rows may be added.

    Raises:
        InputError: it holds a reproduction of other data or settings.
    """
    path = wanted.output / STAMP
    ours = {
        "table": wanted.table,
        "data": files.canonical(wanted.data),
        "test_data": files.canonical(wanted.test_data),
        "cases": wanted.case_ids,
        "rows": {row: one.model_dump(mode="json") for row, one in wanted.configs.items()},
    }
    ours = json.loads(json.dumps(ours))
    theirs = files.read_json(path) if path.exists() else {"rows": {}}
    kept = {row: content for row, content in theirs["rows"].items() if row in ours["rows"]}
    found = configs.differences(
        {**ours, "rows": {row: ours["rows"][row] for row in kept}},
        {**{key: theirs.get(key, ours[key]) for key in ours}, "rows": kept},
    )
    if found:
        raise InputError(
            f"{wanted.output}: holds a reproduction of other data or settings:\n  "
            + "\n  ".join(line[:160] for line in found[:10])
            + "\nChoose another --output."
        )
    files.write_json(path, {"tfbrats": __version__, **ours, "rows": {**theirs["rows"], **ours["rows"]}})


def reproduce(wanted: Plan, steps: Steps) -> None:
    """Runs all of it under wanted.output, or what is left of it; rows scored there before stay on the page.

    Raises:
        InputError: a step failed.
    """
    steps.run(
        "Turn NIfTI into TFRecords with Beam, once for every row",
        *("beam_pipelines.nifti_to_tfrecord", "--config", wanted.path("configs", f"{wanted.main_row}.yaml")),
        *("--input", wanted.data, "--output", wanted.path("records")),
        log_name="records",
    )
    if wanted.test_data != wanted.data:
        steps.run("Look at the test cases", "tfbrats.inspect", wanted.test_data, log_name="test_cases")
    shown = [
        row
        for row in row_names(wanted.table)
        if row in wanted.configs or files.exists(wanted.path("scores", row, "metrics.json"))
    ]
    *others, main_row = shown
    for row, config in wanted.configs.items():
        _train_and_segment(wanted, row, config, steps)
        if row != main_row:
            steps.run(f"Score {row}", *_evaluation(wanted, row), log_name=f"{row}-score")
    compared = [text for row in others for text in ("--compare", wanted.path("scores", row))]
    beside = ("--table", wanted.table, *compared)
    steps.run(
        f"Score {main_row}, beside the paper's rows" + (" and ours" if others else ""),
        *(*_evaluation(wanted, main_row), *beside),
        show=True,
        log_name=f"{main_row}-score",
    )
    page = wanted.path("report.html")
    steps.run(
        "Draw it",
        *("tfbrats.report", "--metrics", wanted.path("scores", main_row)),
        *("--prediction", wanted.path("predictions", main_row), "--reference", wanted.test_data),
        *("--run", wanted.path("runs", main_row), *beside),
        *("--output", page, "--title", f"{papers.TABLES[wanted.table].title}, reproduced"),
        notes=[f"`{line}`" for line in steps.done],
        log_name="report",
    )
    print(f"\n{page}  the table beside the paper's, with pictures")
    print(f"{wanted.path('scores')}  for each row its scores, a line per case and region")


def _train_and_segment(wanted: Plan, row: str, config: Config, steps: Steps) -> None:
    """One row, from the records to the segmented test cases."""
    trained, model = wanted.path("runs", row), wanted.path("models", row)
    # What is complete would only say so, after loading TensorFlow.
    run = RunFolder(trained)
    is_trained = run.is_run and not run.unfinished(config)
    steps.run(
        f"Train {row}",
        *("tfbrats.train", "--config", wanted.path("configs", f"{row}.yaml")),
        show=True,
        is_done=is_trained,
        log_name=f"{row}-train",
    )
    if not is_trained:
        RunFolder(trained).check_finished()  # as it is now
    steps.run(
        f"Export {row}",
        *("tfbrats.export", "--run", trained, "--output", model),
        is_done=exported_since(trained, model),
        log_name=f"{row}-export",
    )
    version = max((int(one.name) for one in pathlib.Path(model).glob("[0-9]*")), default=1)
    predictions = wanted.path("predictions", row)
    theirs = _version_of(predictions)
    found = [files.exists(files.join(predictions, f"{case_id}.nii.gz")) for case_id in wanted.case_ids]
    steps.run(
        f"Segment the test cases with {row} ({len(wanted.case_ids)})",
        *("tfbrats.predict", "--model", files.join(model, str(version)), "--input", wanted.test_data),
        *(text for case_id in wanted.case_ids for text in ("--case", case_id)),
        *("--output", predictions),
        # A row trained again has a newer version, and its older one's segmentations go.
        *(() if theirs in (None, version) else ("--overwrite",)),
        is_done=all(found) and theirs == version,
        log_name=f"{row}-segment",
    )


def _version_of(predictions: str) -> int | None:
    """Which version of its model wrote a folder of segmentations; None where there is none yet."""
    card = files.join(predictions, model_card.FILE)
    return model_card.parse(files.read_bytes(card), card).version if files.exists(card) else None


def _evaluation(wanted: Plan, row: str) -> list[str]:
    """The command that scores a row, without what it is compared with."""
    arguments = ["tfbrats.evaluate", "--prediction", wanted.path("predictions", row)]
    arguments += ["--reference", wanted.test_data, "--row", row, "--output", wanted.path("scores", row)]
    if wanted.test_data == wanted.data:
        return [*arguments, "--splits", RunFolder(wanted.path("runs", row)).splits_path, "--split", "test"]
    return [*arguments, "--cases", ",".join(wanted.case_ids)]


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("tfbrats.reproduce", __doc__)
    parser.add_argument("--table", required=True, choices=tuple(papers.TABLES))
    parser.add_argument(
        "--data", type=paths.argument, required=True, metavar="DIR", help="data set to train on, and to test on"
    )
    parser.add_argument(
        "--output", type=paths.argument, required=True, metavar="DIR", help="folder for everything"
    )
    parser.add_argument("--rows", metavar="ROW,ROW", help="only these (default: all of the table)")
    parser.add_argument(
        "--settings", type=paths.argument, metavar="CONFIG", help="sizes and recipe, e.g. smoke_2d.yaml"
    )
    parser.add_argument("--test", type=paths.argument, metavar="DIR", help="another data set to test on")
    parser.add_argument("--price", action="store_true", help="say what it would cost, and stop")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="of every row alike")
    options = parser.parse_intermixed_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    wanted = plan(
        options.table,
        options.data,
        options.output,
        options.rows.split(",") if options.rows else None,
        options.settings,
        options.test,
        options.overrides,
        scored=not options.price,
    )
    files.check_can_hold(wanted.output)
    _check_folder(wanted.output)
    counts = ", ".join(f"{name} {len(ids)}" for name, ids in wanted.splits.items())
    print(f"{papers.TABLES[wanted.table].title}: {', '.join(wanted.configs)}\ncases: {counts}", flush=True)
    if options.price:
        with tempfile.TemporaryDirectory() as folder:
            _print_price(wanted, pathlib.Path(folder))
        return
    with alone(wanted.output) as lock:
        _check_stamp(wanted)
        _print_price(wanted, wanted.output, lock)
        reproduce(wanted, Steps(wanted.output / "logs", lock))


def _print_price(wanted: Plan, folder: pathlib.Path, lock: int | None = None) -> None:
    found = table_cost.price(wanted, folder, lock)
    print("\n".join(table_cost.lines(found, list(wanted.configs), files.free_bytes(wanted.output))), flush=True)


if __name__ == "__main__":
    command.run(main)
