"""What reproducing a table will cost: hours by a probe of each network and of one case, and bytes."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tfbrats.cases import boxes, case, preprocess
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.records.price import measured_price
from tfbrats.terminal import wording
from tfbrats.workflows.chain import output_of
from tfbrats.workflows.table_plan import Plan

PRICE = "price.json"
_CHECKPOINTS = 4  # a network's: the last two and the best two
_FIXED_S = 120  # of a row: starting, exporting, scoring
_STEPS = 3  # of a network, that are timed
_MOST_EXAMPLES = 2  # in one of them: paper B's batch of 24 patches would take minutes, and an example no less


@dataclasses.dataclass(frozen=True)
class RowPrice:
    """What a row costs: hours, and bytes of checkpoints and model."""

    row: str
    parameters: int
    train_hours: float
    predict_hours: float
    bytes: int


def _examples(plan: Plan, split: str) -> int:
    """Of one epoch and one network, about: counted in the first sound case."""
    config, ids = plan.records_config, plan.splits[split]
    if config.examples_per_case is not None or not ids:
        return len(ids) * (config.examples_per_case or 0)
    return measured_price(plan.dataset, {split: ids}, config, str(plan.output), False).examples


def _slices_a_case(plan: Plan) -> float:
    """Slices with brain of the first sound training case."""
    config, ids = plan.records_config, plan.splits["train"]
    # As if all were tested: training would drop some.
    measured = measured_price(plan.dataset, {"test": ids}, config, str(plan.output), False)
    return measured.examples / measured.cases


def _tiles_a_case(plan: Plan) -> int:
    """How many tiles the whole brain of the first sound case takes, which the first stage looks at.

    Raises:
        InputError: no case is sound.
    """
    config, faults = plan.records_config, []
    size, stride = config.sampling.patch_size, config.cascade.stride
    for case_files in plan.dataset.cases:
        try:
            image = case.load(case_files, config.data.modalities, read_label=False).image
        except InputError as error:
            faults.append(str(error))
            continue
        brain = preprocess.brain_mask(image)
        preprocess.check(None, brain)
        sides = (high - low for low, high in boxes.box_of(brain))
        return math.prod(1 + max(0, math.ceil((side - size) / stride)) for side in sides)
    raise InputError("no case can be used:\n" + "\n".join(faults[:10]))


@dataclasses.dataclass(frozen=True)
class Amounts:
    """What every row of a table looks at, as its records are the same.

    Attributes:
        trained: examples of an epoch of one network, about.
        validated: the same of a validation.
        seen_a_case: slices or tiles of one test case.
    """

    trained: int
    validated: int
    seen_a_case: float


def amounts(plan: Plan) -> Amounts:
    """Counted in the first sound case."""
    seen_a_case = {"slices": _slices_a_case, "patches": _tiles_a_case}[plan.records_config.unit]
    return Amounts(
        trained=_examples(plan, "train"),
        validated=_examples(plan, "validation"),
        seen_a_case=seen_a_case(plan),
    )


def row_price(
    plan: Plan, row: str, trials: Sequence[Mapping[str, Any]], prepare_s: float, looked_at: Amounts
) -> RowPrice:
    """A row's price, the later stages of a cascade counted as if they looked at the whole brain too.

    Args:
        trials: what `workflows.trial` says of the row's networks.
        prepare_s: seconds that one case takes to read and to prepare.
        looked_at: `amounts` of the table.
    """
    train = plan.configs[row].train
    trained = train.steps_per_epoch * train.batch_size if train.steps_per_epoch else looked_at.trained
    train_s = sum(
        train.epochs * (trained * trial["train_seconds"] + looked_at.validated * trial["forward_seconds"])
        for trial in trials
    )
    times = max(1, len(plan.folds))  # that the row is trained
    case_s = prepare_s + sum(looked_at.seen_a_case * trial["forward_seconds"] for trial in trials)
    return RowPrice(
        row=row,
        parameters=sum(trial["parameters"] for trial in trials),
        train_hours=times * train_s / 3600,
        predict_hours=(len(plan.case_ids) * case_s + times * _FIXED_S) / 3600,
        bytes=times
        * sum(4 * trial["parameters"] * ((1 + trial["slots"]) * _CHECKPOINTS + 1) for trial in trials),
    )


def price(plan: Plan, folder: pathlib.Path, lock: int | None = None) -> dict[str, Any]:
    """What all of it will cost on this machine: content of price.json, which is kept and found out once.

    Args:
        folder: for price.json, and for the configs that are probed, configs/ROW.yaml.
        lock: as `chain.alone` yields it.
    """
    for row, config in plan.configs.items():
        files.write_bytes(folder / "configs" / f"{row}.yaml", config.to_yaml().encode())
    path = folder / PRICE
    content = files.read_json(path) if path.exists() else {"rows": {}}
    if "records" not in content:
        records = measured_price(plan.dataset, plan.stored, plan.records_config, str(plan.output), True)
        content["records"] = {"bytes": records.bytes, "hours": records.seconds / 3600, "cases": records.cases}
    prepare_s = 3600 * content["records"]["hours"] / content["records"]["cases"]
    unknown = [row for row in plan.configs if row not in content["rows"]]
    looked_at = amounts(plan) if unknown else None
    for row in unknown:
        print(f"probing {row} ...", flush=True)
        config_path = str(folder / "configs" / f"{row}.yaml")
        batch = min(plan.configs[row].train.batch_size, _MOST_EXAMPLES)
        few = ("--batch", str(batch), "--steps", str(_STEPS))
        trials = json.loads(output_of("tfbrats.workflows.trial", "--config", config_path, *few, lock=lock))
        content["rows"][row] = dataclasses.asdict(row_price(plan, row, trials, prepare_s, looked_at))
        files.write_json(path, content)
    return content


def lines(content: Mapping[str, Any], rows: Sequence[str], free_bytes: int | None) -> list[str]:
    """The price tag as a table."""
    records = content["records"]
    table = [
        ("", "parameters", "training", "prediction", "disk"),
        ("records", "", _hours(records["hours"]), "", wording.in_units(records["bytes"])),
    ]
    costs = [content["rows"][row] for row in rows]
    for row, cost in zip(rows, costs, strict=True):
        hours = (_hours(cost["train_hours"]), _hours(cost["predict_hours"]))
        table.append((row, f"{cost['parameters'] / 1e6:.2f} M", *hours, wording.in_units(cost["bytes"])))
    text = wording.columns(table, ("<12", *([">12"] * 4)))
    hours = records["hours"] + sum(cost["train_hours"] + cost["predict_hours"] for cost in costs)
    size = records["bytes"] + sum(cost["bytes"] for cost in costs)
    text.append(
        f"in all about {_hours(hours)} and {wording.in_units(size)}"
        + ("" if free_bytes is None else f"; {wording.in_units(free_bytes)} are free")
    )
    if free_bytes is not None and size > free_bytes:
        text.append("The disk is short. Free some, or choose another --output.")
    text.append(
        "By a few steps on this machine, as busy as it was then; a training that stops early takes less."
    )
    text.append("Segmentations, scores and logs come on top: a few MiB a row.")
    return text


def _hours(hours: float) -> str:
    if hours < 2:
        return f"{hours * 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
