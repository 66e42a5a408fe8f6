"""A whole table of a paper with one command: records once, every row trained, scored, and one page.

    python -m tfbrats.reproduce --table paper_a --data BraTS2017/HGG --output paper_a --price
    python -m tfbrats.reproduce --table paper_a --data BraTS2017/HGG --output paper_a
    python -m tfbrats.reproduce --table paper_b --data phantoms --output small --settings smoke_3d.yaml

Says first what it will cost, by a short probe of each network and of one case. Each step is a command that you
could have typed; run again, the same command goes on where it was stopped. --settings takes sizes and recipe
from another config and keeps of each row what makes it that row. Every row sees the same records, and the
scores are those of the cases that none of them was trained or validated on.

OUTPUT/configs, runs, models, predictions, scores: a file or folder a row; OUTPUT/report.html: the page.
"""

import dataclasses
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from tfbrats import __version__, case, command, files, layouts, preprocess, run, shards, splits, tables
from tfbrats import config as configs
from tfbrats.command import InputError
from tfbrats.config import Config, PatchConfig
from tfbrats.layouts import Dataset
from tfbrats.steps import LOCK, Steps, alone, exported_since, output_of

STAMP = "reproduce.json"
PRICE = "price.json"
_CHECKPOINTS = 3  # a network's: the last two and the best
_FIXED_S = 120  # of a row: starting, exporting, scoring


def row_names(table: str) -> list[str]:
    """The configs of a table's rows, in the paper's order; the method itself comes last."""
    return [row.row for row in tables.TABLES[table].rows]


def row_config(table: str, row: str, settings: str | None, overrides: Sequence[str] = ()) -> Config:
    """A row's config: its own YAML, or `settings` with all that sets the row apart from the table's last row.

    Args:
        settings: a config of the same paper that brings sizes and recipe. A row's width keeps its ratio to the
            last row's.
        overrides: section.key=value, of every row alike.

    Raises:
        InputError: settings of another paper, or overrides of what makes a row.
    """
    method = configs.load(f"{row_names(table)[-1]}.yaml")
    own = configs.load(f"{row}.yaml")
    wanted = configs.load(settings) if settings else method
    if type(wanted) is not type(method):
        raise InputError(
            f"--settings {settings}: {wanted.model.name} is not of {tables.TABLES[table].title}. Take a config "
            f"of {method.model.name}'s kind."
        )
    identity = {key: value for key, value in _apart(own, method).items() if key != "run.dir"}
    for override in overrides:
        key = override.partition("=")[0]
        if key in ("model.name", "lws.enabled", "run.dir", "data.records", "region"):
            raise InputError(f"{override}: {key} is settled by the table's row.")
    if "model.width" in identity:
        identity["model.width"] = max(2, identity["model.width"] * wanted.model.width // method.model.width)
    put_over = [f"{key}={json.dumps(value)}" for key, value in identity.items()]
    return configs.overridden(wanted, [*put_over, *overrides])


def _apart(own: Config, other: Config) -> dict[str, Any]:
    """section.key -> own value, wherever two configs differ."""
    found = {}
    ours, theirs = own.model_dump(mode="json"), other.model_dump(mode="json")
    for section, content in ours.items():
        for key, value in content.items() if isinstance(content, Mapping) else ():
            if (theirs.get(section) or {}).get(key) != value:
                found[f"{section}.{key}"] = value
    return found


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        configs: by row, in the table's order.
        test_data: where the scored cases lie: `data`, or a folder of its own.
        case_ids: of the scored cases.
    """

    table: str
    configs: dict[str, Config]
    data: str
    dataset: Dataset
    splits: dict[str, list[str]]
    test_data: str
    case_ids: list[str]
    output: pathlib.Path

    @property
    def main_row(self) -> str:
        """The one that the others are compared with: the method itself, if it is among them."""
        return list(self.configs)[-1]

    @property
    def records_config(self) -> Config:
        """Any row's: they share the records."""
        return self.configs[self.main_row]

    def path(self, *parts: str) -> str:
        return str(self.output.joinpath(*parts))


def plan(
    table: str,
    data: str,
    output: str,
    rows: Sequence[str] | None = None,
    settings: str | None = None,
    test_data: str | None = None,
    overrides: Sequence[str] = (),
) -> Plan:
    """Settles what is to be done; reads names alone and writes nothing.

    Args:
        rows: only these.
        settings: as for `row_config`, and so are `overrides`.
        test_data: a data set to score on; else the test split of `data`.

    Raises:
        InputError: an unknown row, data that cannot be used, no case to score on.
    """
    if not files.is_local(output):
        raise InputError(f"{output}: reproduce into a local folder.")
    known = row_names(table)
    unknown = [row for row in rows or () if row not in known]
    if unknown:
        raise InputError(f"--rows {','.join(unknown)}: {table} has the rows {', '.join(known)}.")
    chosen = [row for row in known if not rows or row in rows]
    home = pathlib.Path(os.path.abspath(output))
    all_configs = {}
    for row in chosen:
        places = {"data.records": home / "records", "run.dir": home / "runs" / row}
        own = [f"{key}={json.dumps(str(place))}" for key, place in places.items()]
        all_configs[row] = configs.overridden(row_config(table, row, settings, overrides), own)
    first = all_configs[chosen[-1]]
    differing = [row for row, one in all_configs.items() if one.records_identity() != first.records_identity()]
    if differing:
        raise InputError(f"the rows {', '.join(differing)} would need records of their own.")
    dataset = layouts.find(data)
    dealt = splits.split_cases(dataset, first.records.split, first.records.seed)
    case_ids = dealt["test"]
    if test_data:
        case_ids = [one.case_id for one in layouts.find(test_data).cases if one.label or one.label_expected]
    if not case_ids and test_data:
        raise InputError(f"{test_data}: no case with a segmentation to score against.")
    if not case_ids:
        raise InputError(
            f"no case to score on: records.split={list(first.records.split)} keeps none of {data} for testing. "
            "(Paper B trains on all cases, and its test cases are not public.) Hold some out, e.g. "
            "records.split=[4,0,1], or name another data set with --test."
        )
    seen = {one for name in ("train", "validation") for one in dealt[name]} & set(case_ids)
    if seen:
        raise InputError(f"--test {test_data}: these cases are trained on too: {', '.join(sorted(seen)[:5])}.")
    return Plan(table, all_configs, data, dataset, dealt, test_data or data, sorted(case_ids), home)


# --- what it will cost ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class RowPrice:
    """What a row costs: hours, and bytes of checkpoints and model."""

    row: str
    parameters: int
    train_hours: float
    predict_hours: float
    bytes: int


def _examples(wanted: Plan, split: str) -> int:
    """Of one epoch and one network, about: counted in the first sound case."""
    config, ids = wanted.records_config, wanted.splits[split]
    if isinstance(config, PatchConfig):
        return len(ids) * config.sampling.patches_per_case
    return shards.price(wanted.dataset, {split: ids}, config, str(wanted.output), False).examples if ids else 0


def _tiles(wanted: Plan) -> int:
    """How many tiles of a whole brain a stage of the cascade looks at."""
    config = wanted.records_config
    loaded = case.load(wanted.dataset.cases[0], config.data.modalities, read_label=False)
    box = preprocess.brain_box_ijk(preprocess.brain_mask(loaded.image))
    size, stride = config.sampling.patch_size, config.cascade.stride
    return math.prod(1 + max(0, math.ceil((high - low - size) / stride)) for low, high in box)


def row_price(wanted: Plan, row: str, probed: Sequence[Mapping[str, Any]], prepare_s: float) -> RowPrice:
    """From the seconds an example that `probe` found (its rows) and those that one case takes to prepare."""
    config = wanted.configs[row]
    train = config.train
    examples, checked = _examples(wanted, "train"), _examples(wanted, "validation")
    if train.steps_per_epoch:
        examples = train.steps_per_epoch * train.batch_size
    of_patches = isinstance(config, PatchConfig)
    test_cases = len(wanted.case_ids)
    looked_at = test_cases * _tiles(wanted) if of_patches else _test_slices(wanted)
    trained = sum(
        train.epochs * (examples * one["train_seconds"] + checked * one["forward_seconds"]) for one in probed
    )
    predicted = sum(looked_at * one["forward_seconds"] for one in probed) + test_cases * prepare_s + _FIXED_S
    parameters = sum(one["parameters"] for one in probed)
    kept = sum(4 * one["parameters"] * ((1 + one["slots"]) * _CHECKPOINTS + 1) for one in probed)
    return RowPrice(row, parameters, trained / 3600, predicted / 3600, kept)


def _test_slices(wanted: Plan) -> int:
    """Slices with brain of all scored cases, as many a case as in the first sound one."""
    config, first = wanted.records_config, wanted.splits["train"][:1]
    each = shards.price(wanted.dataset, {"test": first}, config, str(wanted.output), False).examples
    return each * len(wanted.case_ids)


def price(wanted: Plan, folder: pathlib.Path) -> dict[str, Any]:
    """What all of it will cost on this machine: content of price.json, which is kept and found out once.

    Args:
        folder: for price.json, and for the configs that are probed.
    """
    _write_configs(wanted, folder)
    path = folder / PRICE
    content = files.read_json(path) if path.exists() else {"rows": {}}
    if "records" not in content:
        found = shards.price(wanted.dataset, wanted.splits, wanted.records_config, str(wanted.output), True)
        content["records"] = {"bytes": found.bytes, "hours": found.seconds / 3600, "cases": found.cases}
    prepare_s = 3600 * content["records"]["hours"] / content["records"]["cases"]
    for row in wanted.configs:
        if row not in content["rows"]:
            print(f"probing {row} ...", flush=True)
            probed = output_of("tfbrats.probe", "--config", str(folder / "configs" / f"{row}.yaml"), "--json")
            content["rows"][row] = dataclasses.asdict(row_price(wanted, row, json.loads(probed), prepare_s))
            files.write_json(path, content)
    return content


def price_lines(content: Mapping[str, Any], rows: Sequence[str], free_bytes: int | None) -> list[str]:
    """The price tag as a table."""
    kept = content["records"]
    lines = [f"{'':12}{'parameters':>12}{'training':>12}{'prediction':>12}{'disk':>12}"]
    lines.append(
        f"{'records':12}{'':>12}{_hours(kept['hours']):>12}{'':>12}{shards.in_units(kept['bytes']):>12}"
    )
    for row in rows:
        one = content["rows"][row]
        lines.append(
            f"{row:12}{one['parameters'] / 1e6:>10.2f} M{_hours(one['train_hours']):>12}"
            f"{_hours(one['predict_hours']):>12}{shards.in_units(one['bytes']):>12}"
        )
    all_rows = [content["rows"][row] for row in rows]
    hours = kept["hours"] + sum(one["train_hours"] + one["predict_hours"] for one in all_rows)
    size = kept["bytes"] + sum(one["bytes"] for one in all_rows)
    lines.append(
        f"in all about {_hours(hours)} and {shards.in_units(size)}"
        + ("" if free_bytes is None else f"; {shards.in_units(free_bytes)} are free")
    )
    lines.append("By a few steps on this machine as busy as it is now; a training that stops early takes less.")
    return lines


def _hours(hours: float) -> str:
    if hours < 2:
        return f"{hours * 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


# --- doing it -------------------------------------------------------------------------------------------


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


def _write_configs(wanted: Plan, folder: pathlib.Path) -> None:
    for row, one in wanted.configs.items():
        files.write_bytes(folder / "configs" / f"{row}.yaml", one.to_yaml().encode())


def reproduce(wanted: Plan, steps: Steps) -> None:
    """Runs all of it under wanted.output, or what is left of it.

    Raises:
        InputError: a step failed, or the folder holds something else.
    """
    steps.run(
        "Turn NIfTI into TFRecords with Beam, once for every row",
        *("beam_pipelines.nifti_to_tfrecord", "--config", wanted.path("configs", f"{wanted.main_row}.yaml")),
        *("--input", wanted.data, "--output", wanted.path("records")),
    )
    for row, config in wanted.configs.items():
        _train_and_score(wanted, row, config, steps)
    others = [row for row in wanted.configs if row != wanted.main_row]
    beside = [text for row in others for text in ("--compare", wanted.path("scores", row))]
    if others:
        steps.run(
            f"Put {wanted.main_row} beside the others",
            *_evaluation(wanted, wanted.main_row),
            *("--table", wanted.table, *beside),
            show=True,
        )
    page = wanted.path("report.html")
    steps.run(
        "Draw it",
        *("tfbrats.report", "--metrics", wanted.path("scores", wanted.main_row)),
        *("--prediction", wanted.path("predictions", wanted.main_row), "--reference", wanted.test_data),
        *("--run", wanted.path("runs", wanted.main_row), "--table", wanted.table, *beside),
        *("--output", page, "--title", f"{tables.TABLES[wanted.table].title}, reproduced"),
        notes=[f"`{line}`" for line in steps.done],
    )
    print(f"\n{page}  the table beside the paper's, with pictures")
    print(f"{wanted.path('scores')}  for each row its scores, a line per case and region")


def _train_and_score(wanted: Plan, row: str, config: Config, steps: Steps) -> None:
    """One row, from the records to its scores."""
    kept, trained = wanted.path("configs", f"{row}.yaml"), wanted.path("runs", row)
    model, predictions = wanted.path("models", row), wanted.path("predictions", row)
    # A complete run would only say so, after loading TensorFlow.
    if not files.exists(files.join(trained, "config.yaml")) or run.unfinished(config):
        steps.run(f"Train {row}", "tfbrats.train", "--config", kept, show=True)
    if not exported_since(trained, model):
        steps.run(f"Export {row}", "tfbrats.export", "--run", trained, "--output", model)
    version = max((int(path.name) for path in pathlib.Path(model).glob("[0-9]*")), default=1)
    todo = [one for one in wanted.case_ids if not files.exists(files.join(predictions, f"{one}.nii.gz"))]
    if todo:
        steps.run(
            f"Segment the {len(wanted.case_ids)} test cases with {row}",
            *("tfbrats.predict", "--model", files.join(model, str(version)), "--input", wanted.test_data),
            *(text for one in wanted.case_ids for text in ("--case", one)),
            *("--output", predictions),
        )
    steps.run(f"Score {row}", *_evaluation(wanted, row), show=len(wanted.configs) == 1)


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
        _print_price(wanted, wanted.output)
        reproduce(wanted, Steps(wanted.output / "logs", lock))


def _print_price(wanted: Plan, folder: pathlib.Path) -> None:
    found = price(wanted, folder)
    print("\n".join(price_lines(found, list(wanted.configs), files.free_bytes(wanted.output))), flush=True)


if __name__ == "__main__":
    command.run(main)
