"""What reproducing a table will cost: hours by a probe of each network and of one case, and bytes."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tfbrats.cases import case, preprocess
from tfbrats.config import PatchConfig
from tfbrats.errors import InputError
from tfbrats.machine import files, wording
from tfbrats.records.price import measured_price
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


def _examples(wanted: Plan, split: str) -> int:
    """Of one epoch and one network, about: counted in the first sound case."""
    config, ids = wanted.records_config, wanted.splits[split]
    if isinstance(config, PatchConfig):
        return len(ids) * config.sampling.patches_per_case
    return (
        measured_price(wanted.dataset, {split: ids}, config, str(wanted.output), False).examples if ids else 0
    )


def _slices_a_case(wanted: Plan) -> float:
    """Slices with brain of the first sound training case."""
    config, known = wanted.records_config, wanted.splits["train"]
    # As if all were tested: training would drop some.
    found = measured_price(wanted.dataset, {"test": known}, config, str(wanted.output), False)
    return found.examples / found.cases


def _tiles_a_case(wanted: Plan) -> int:
    """How many tiles the whole brain of the first sound case takes, which the first stage looks at.

    Raises:
        InputError: no case is sound.
    """
    config, faults = wanted.records_config, []
    size, stride = config.sampling.patch_size, config.cascade.stride
    for one in wanted.dataset.cases:
        try:
            image = case.load(one, config.data.modalities, read_label=False).image
        except InputError as error:
            faults.append(str(error))
            continue
        box = preprocess.brain_box_ijk(preprocess.brain_mask(image))
        return math.prod(1 + max(0, math.ceil((high - low - size) / stride)) for low, high in box)
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


def amounts(wanted: Plan) -> Amounts:
    """Counted in the first sound case."""
    of_patches = isinstance(wanted.records_config, PatchConfig)
    return Amounts(
        trained=_examples(wanted, "train"),
        validated=_examples(wanted, "validation"),
        seen_a_case=_tiles_a_case(wanted) if of_patches else _slices_a_case(wanted),
    )


def row_price(
    wanted: Plan, row: str, probed: Sequence[Mapping[str, Any]], prepare_s: float, looked_at: Amounts
) -> RowPrice:
    """A row's price, the later stages of a cascade counted as if they looked at the whole brain too.

    Args:
        probed: what `trial` says of the row's networks.
        prepare_s: seconds that one case takes to read and to prepare.
        looked_at: `amounts` of the table.
    """
    train = wanted.configs[row].train
    trained = train.steps_per_epoch * train.batch_size if train.steps_per_epoch else looked_at.trained
    train_s = sum(
        train.epochs * (trained * one["train_seconds"] + looked_at.validated * one["forward_seconds"])
        for one in probed
    )
    case_s = prepare_s + sum(looked_at.seen_a_case * one["forward_seconds"] for one in probed)
    return RowPrice(
        row=row,
        parameters=sum(one["parameters"] for one in probed),
        train_hours=train_s / 3600,
        predict_hours=(len(wanted.case_ids) * case_s + _FIXED_S) / 3600,
        bytes=sum(4 * one["parameters"] * ((1 + one["slots"]) * _CHECKPOINTS + 1) for one in probed),
    )


def price(wanted: Plan, folder: pathlib.Path, lock: int | None = None) -> dict[str, Any]:
    """What all of it will cost on this machine: content of price.json, which is kept and found out once.

    Args:
        folder: for price.json, and for the configs that are probed, configs/ROW.yaml.
        lock: as `steps.alone` yields it.
    """
    for row, one in wanted.configs.items():
        files.write_bytes(folder / "configs" / f"{row}.yaml", one.to_yaml().encode())
    path = folder / PRICE
    content = files.read_json(path) if path.exists() else {"rows": {}}
    if "records" not in content:
        found = measured_price(wanted.dataset, wanted.splits, wanted.records_config, str(wanted.output), True)
        content["records"] = {"bytes": found.bytes, "hours": found.seconds / 3600, "cases": found.cases}
    prepare_s = 3600 * content["records"]["hours"] / content["records"]["cases"]
    unknown = [row for row in wanted.configs if row not in content["rows"]]
    looked_at = amounts(wanted) if unknown else None
    for row in unknown:
        print(f"probing {row} ...", flush=True)
        config = str(folder / "configs" / f"{row}.yaml")
        batch = min(wanted.configs[row].train.batch_size, _MOST_EXAMPLES)
        few = ("--batch", str(batch), "--steps", str(_STEPS))
        probed = json.loads(output_of("tfbrats.workflows.trial", "--config", config, *few, lock=lock))
        content["rows"][row] = dataclasses.asdict(row_price(wanted, row, probed, prepare_s, looked_at))
        files.write_json(path, content)
    return content


def lines(content: Mapping[str, Any], rows: Sequence[str], free_bytes: int | None) -> list[str]:
    """The price tag as a table."""
    kept = content["records"]
    table = [
        ("", "parameters", "training", "prediction", "disk"),
        ("records", "", _hours(kept["hours"]), "", wording.in_units(kept["bytes"])),
    ]
    all_rows = [content["rows"][row] for row in rows]
    for row, one in zip(rows, all_rows, strict=True):
        hours = (_hours(one["train_hours"]), _hours(one["predict_hours"]))
        table.append((row, f"{one['parameters'] / 1e6:.2f} M", *hours, wording.in_units(one["bytes"])))
    text = wording.columns(table, ("<12", *([">12"] * 4)))
    hours = kept["hours"] + sum(one["train_hours"] + one["predict_hours"] for one in all_rows)
    size = kept["bytes"] + sum(one["bytes"] for one in all_rows)
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
