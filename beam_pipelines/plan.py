"""What a record set will be, before its job begins: which cases, in which shards, at which price. No Beam."""

import argparse
import dataclasses
from collections.abc import Sequence

from tfbrats.cases import dealing, split_files
from tfbrats.cases.split_files import SPLITS, Splits
from tfbrats.config import Config
from tfbrats.datasets.layouts import Dataset
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.records import folder, manifest, shards
from tfbrats.records.folder import RecordFolder
from tfbrats.records.manifest import Batch
from tfbrats.records.price import Price, measured_price
from tfbrats.records.shards import ShardTask
from tfbrats.terminal import style


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the record set will be.

    Attributes:
        new: split -> ids of the cases that are given now; of all, where none is new.
        splits: split -> ids of all cases, those of earlier batches too.
        batches: the same cases, as they were given.
        tasks: of all shards.
        price: of the new cases.
        notes: on how cases were dealt.
    """

    new: dict[str, list[str]]
    splits: dict[str, list[str]]
    batches: list[Batch]
    tasks: list[ShardTask]
    price: Price
    notes: Sequence[str]

    def shard_count(self) -> int:
        """Of the shards that hold new cases."""
        new = {case_id for ids in self.new.values() for case_id in ids}
        return sum(len(task.files) for task in self.tasks if new & {case.case_id for case in task.cases})


def planned(options: argparse.Namespace, config: Config, dataset: Dataset, records: RecordFolder) -> Plan:
    """Deals the cases, prices them, and plans the shards of all, those of earlier batches as they were."""
    if folds := _folds(options):
        return _planned_folds(options, config, dataset, records, folds)
    if options.add and not records.batches:
        raise InputError(f"{options.output}: --add, and there are no records yet. Leave --add away.")
    written = records.cases if options.add else None
    settings = config.records
    dealt, notes = dealing.deal(dataset, settings.split, settings.seed, options.splits, options.fold, written)
    has_cases = any(dealt.values())
    new = dealt if has_cases else records.cases
    # Records of other cases are refused before anything is written; the price is that of these.
    price = measured_price(dataset, new, config, options.output, with_n4=options.price)
    batches = list(records.batches) if options.add or records.cases == dealt else []
    if has_cases and (options.add or not batches):
        batches.append(Batch(cases=dealt, bytes_per_case=price.bytes_per_case))
    splits = folder.cases_of(batches) if options.add else dealt
    tasks = _tasks(dataset, config, options.output, batches)
    return Plan(new, splits, batches, tasks, price, notes)


def _folds(options: argparse.Namespace) -> list[Splits]:
    """The folds of --splits, where none of them is named: records for all of them are wanted."""
    source = options.splits
    if options.fold is not None or source is None or source in dealing.RECIPES or not files.exists(source):
        return []
    folds = split_files.read_folds(source)
    if folds and options.add:
        raise InputError(f"{source}: --add deals new cases to one split, and these are folds. Leave --add out.")
    if folds:
        split_files.check_cross_validation(folds, source)
    return folds


def _planned_folds(
    options: argparse.Namespace, config: Config, dataset: Dataset, records: RecordFolder, folds: list[Splits]
) -> Plan:
    """The shards of all folds: a batch for the cases that each holds out."""
    for fold in folds:
        try:
            dealing.split_cases(dataset, config.records.split, config.records.seed, fold)
        except InputError as error:
            raise InputError(f"{options.splits}: {error}") from error
    kind = config.records.kind
    splits = folder.cases_of(manifest.batches_of_folds(folds, kind, 0.0))
    price = measured_price(dataset, splits, config, options.output, with_n4=options.price)
    batches = manifest.batches_of_folds(folds, kind, price.bytes_per_case)
    if [batch.cases for batch in records.batches] == [batch.cases for batch in batches]:
        batches = list(records.batches)  # the same shards as before, whatever a case is measured to take now
    tasks = _tasks(dataset, config, options.output, batches)
    each = ", ".join(str(len(fold["validation"])) for fold in folds)
    return Plan(splits, splits, batches, tasks, price, [f"{len(folds)} folds, which hold out {each} cases"])


def _tasks(dataset: Dataset, config: Config, output: str, batches: Sequence[Batch]) -> list[ShardTask]:
    return [
        task
        for number, batch in enumerate(batches)
        for task in shards.plan(dataset, batch.cases, config, output, batch.bytes_per_case, number)
    ]


def tell(options: argparse.Namespace, dataset: Dataset, records: RecordFolder, plan: Plan) -> None:
    """What was found, and what will come of it; the whole price for who has asked for it."""
    print(f"{'; '.join(dataset.layouts)}\nedition {', '.join(dataset.editions)}")
    of_cases = (f"{case.case_id}: {note}" for case in dataset.cases for note in case.notes)
    for note in (*dataset.notes, *plan.notes, *of_cases):
        print(style.note(note))
    left_out = len(dataset.cases) - len({case_id for ids in plan.splits.values() for case_id in ids})
    if left_out:
        why = "test images, or not named in --splits"
        print(style.note(f"{left_out} cases are in no split and left out: {why}"))
    if options.price:
        print("\n".join(plan.price.lines(plan.shard_count())))
    else:
        print(f"records          {plan.price.line(plan.shard_count())}")
    print("split            " + ", ".join(f"{name} {len(ids)}" for name, ids in plan.new.items()))
    if options.add:
        kept = sum(len(batch.cases.get(name, ())) for batch in records.batches for name in SPLITS)
        print(f"added to         {kept} cases")
