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

from tfbrats import __version__, command, costs, files, model_card, run, tables
from tfbrats import config as configs
from tfbrats.command import InputError
from tfbrats.config import Config
from tfbrats.plans import Plan, plan
from tfbrats.steps import LOCK, Steps, alone, exported_since

STAMP = "reproduce.json"


def _check_stamp(wanted: Plan) -> None:
    """A folder is gone on with by the same data and configs alone; rows may be added.

    Raises:
        InputError: the folder holds something else.
    """
    path = wanted.output / STAMP
    if not path.exists() and {found.name for found in wanted.output.iterdir()} - {LOCK}:
        raise InputError(f"{wanted.output}: not empty, and not a reproduction. Choose another --output.")
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
    """Runs all of it under wanted.output, or what is left of it.

    Raises:
        InputError: a step failed.
    """
    steps.run(
        "Turn NIfTI into TFRecords with Beam, once for every row",
        *("beam_pipelines.nifti_to_tfrecord", "--config", wanted.path("configs", f"{wanted.main_row}.yaml")),
        *("--input", wanted.data, "--output", wanted.path("records")),
    )
    for row, config in wanted.configs.items():
        _train_and_score(wanted, row, config, steps)
    page = wanted.path("report.html")
    steps.run(
        "Draw it",
        *("tfbrats.report", "--metrics", wanted.path("scores", wanted.main_row)),
        *("--prediction", wanted.path("predictions", wanted.main_row), "--reference", wanted.test_data),
        *("--run", wanted.path("runs", wanted.main_row), *_beside(wanted)),
        *("--output", page, "--title", f"{tables.TABLES[wanted.table].title}, reproduced"),
        notes=[f"`{line}`" for line in steps.done],
    )
    print(f"\n{page}  the table beside the paper's, with pictures")
    print(f"{wanted.path('scores')}  for each row its scores, a line per case and region")


def _beside(wanted: Plan) -> list[str]:
    """What puts the main row beside the paper's rows and our others."""
    others = [row for row in wanted.configs if row != wanted.main_row]
    return ["--table", wanted.table, *(t for row in others for t in ("--compare", wanted.path("scores", row)))]


def _train_and_score(wanted: Plan, row: str, config: Config, steps: Steps) -> None:
    """One row, from the records to its scores."""
    trained = wanted.path("runs", row)
    model, predictions = wanted.path("models", row), wanted.path("predictions", row)
    # What is complete would only say so, after loading TensorFlow.
    is_trained = files.exists(files.join(trained, "config.yaml")) and not run.unfinished(config)
    steps.run(
        f"Train {row}",
        *("tfbrats.train", "--config", wanted.path("configs", f"{row}.yaml")),
        show=True,
        is_done=is_trained,
    )
    steps.run(
        f"Export {row}",
        *("tfbrats.export", "--run", trained, "--output", model),
        is_done=exported_since(trained, model),
    )
    found = [files.exists(files.join(predictions, f"{case_id}.nii.gz")) for case_id in wanted.case_ids]
    steps.run(
        f"Segment the {len(wanted.case_ids)} test cases with {row}",
        *("tfbrats.predict", "--model", _version(model, predictions), "--input", wanted.test_data),
        *(text for case_id in wanted.case_ids for text in ("--case", case_id)),
        *("--output", predictions),
        is_done=all(found),
    )
    is_main = row == wanted.main_row
    steps.run(f"Score {row}", *_evaluation(wanted, row), *(_beside(wanted) if is_main else ()), show=is_main)


def _version(model: str, predictions: str) -> str:
    """The version to segment with: the newest, or the one whose predictions are there already."""
    card = files.join(predictions, model_card.FILE)
    if files.exists(card):
        begun = files.join(model, str(model_card.parse(files.read_bytes(card), card).version))
        if files.exists(begun):
            return begun
    return files.join(model, str(max((int(one.name) for one in pathlib.Path(model).glob("[0-9]*")), default=1)))


def _evaluation(wanted: Plan, row: str) -> list[str]:
    """The command that scores a row, without what it is compared with."""
    arguments = ["tfbrats.evaluate", "--prediction", wanted.path("predictions", row)]
    arguments += ["--reference", wanted.test_data, "--row", row, "--output", wanted.path("scores", row)]
    if wanted.test_data == wanted.data:
        return [*arguments, "--splits", wanted.path("runs", row, "splits.json"), "--split", "test"]
    return [*arguments, "--cases", ",".join(wanted.case_ids)]


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("tfbrats.reproduce", __doc__)
    parser.add_argument("--table", required=True, choices=tuple(tables.TABLES))
    parser.add_argument("--data", required=True, metavar="DIR", help="data set to train on, and to test on")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for everything")
    parser.add_argument("--rows", metavar="ROW,ROW", help="only these (default: all of the table)")
    parser.add_argument("--settings", metavar="CONFIG", help="sizes and recipe, e.g. smoke_2d.yaml")
    parser.add_argument("--test", metavar="DIR", help="another data set to test on")
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
    counts = ", ".join(f"{name} {len(ids)}" for name, ids in wanted.splits.items())
    print(f"{tables.TABLES[wanted.table].title}: {', '.join(wanted.configs)}\ncases: {counts}", flush=True)
    if options.price:
        with tempfile.TemporaryDirectory() as folder:
            _print_price(wanted, pathlib.Path(folder))
        return
    with alone(wanted.output) as lock:
        _check_stamp(wanted)
        _print_price(wanted, wanted.output, lock)
        reproduce(wanted, Steps(wanted.output / "logs", lock))


def _print_price(wanted: Plan, folder: pathlib.Path, lock: int | None = None) -> None:
    found = costs.price(wanted, folder, lock)
    print("\n".join(costs.lines(found, list(wanted.configs), files.free_bytes(wanted.output))), flush=True)


if __name__ == "__main__":
    command.run(main)
