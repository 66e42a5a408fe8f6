"""Real cases, out of fold, in equal minutes: our networks plain, tuned, ensembled; SegResNet; nnU-Net.

    pip install -e . monai nnunetv2
    python benchmarks/real.py --cases FOLDER [FOLDER ...] --minutes 30 --output real
    python benchmarks/real.py --rehearse --output rehearsal

Every patient is scored by networks that have not seen him: of K folds each is held out once.

cun_lws, msm               trained on all others
*_ensembled                the others in three parts; three networks, each without one of them and with a seed
                           of its own, a third of the minutes each; one model by `tfbrats export --runs`
*_tuned                    the first, with what `tfbrats tune` chooses on the scored cases of the other folds,
                           each answered by the network of its own fold. No case chooses for itself; the
                           networks that chose for it have learned from it, as with nnU-Net's rule
segresnet                  MONAI's, as its tutorial of BraTS trains it (real_segresnet.py), on all others
nnunet                     nnU-Net's 3d_fullres from its own parts (real_nnunet.py), likewise; its rule of
                           largest components where the scored cases of the other folds say that it helps
--overrides "KEY=VALUE"    one more row of our chosen networks, plain but for these keys; may be repeated.
                           With train.select it learns without the first part, which then is its validation

All train on the same cores, in turn, and end their schedules when the minutes end.
Counted is training, from the start of its process: loading, tracing, reading and augmentation too; records,
pace, export and segmentation are not. --clock cpu counts the CPU seconds of a training over the cores: for a
machine on which others work. What keeps both cores busy loses nothing by it, what waits gains. Scores are
those of `tfbrats evaluate` for all alike; differences are paired, with 95 % bootstrap intervals over cases.
Killed at any moment, the same command goes on: a training from its last checkpoint, with the seconds that it
has used.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
from collections.abc import Sequence

import real_ours
import real_plan
import real_table
from real_ours import Clock, Training
from real_plan import OURS, PEERS, ROWS, Fold, Plan, Row

from tfbrats import config as configs
from tfbrats import config_file
from tfbrats.cases import split_files
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.phantoms import data_sets
from tfbrats.terminal import command
from tfbrats.workflows import chain as steps

_HERE = pathlib.Path(__file__).parent
_STAMP = "settings.json"


def _check_stamp(plan: Plan) -> None:
    """Raises InputError if the folder holds something else, or results of other settings."""
    ours = json.loads(json.dumps({**dataclasses.asdict(plan), "output": "", "cases": ""}))
    path = plan.output / _STAMP
    if not path.exists():
        files.write_json(path, ours)
    elif found := configs.differences(ours, files.read_json(path)):
        raise InputError(
            f"{plan.output}: holds results of other settings:\n  "
            + "\n  ".join(found)
            + "\nChoose another --output."
        )


# --- ours -----------------------------------------------------------------------------------------------


def _training(plan: Plan, fold: Fold, part: int | None, row: Row, chain: steps.Steps) -> Training:
    """How a row's network is trained without one part; its records are made if need be."""
    config = plan.configs[row.network]
    place, overrides = plan.part(fold, part), plan.overrides[row.network]
    left_out = [] if part is None else list(fold.parts[part])
    # Validation costs minutes: only a row that chooses its epoch by it has it.
    validation = left_out if row.is_validated else []
    split = {"train": fold.training(part), "validation": validation}
    split["test"] = sorted({*fold.scored, *left_out} - set(validation))
    name = "validated" if validation else "unvalidated"
    place.mkdir(parents=True, exist_ok=True)
    split_files.write(place / f"{name}.json", split_files.named(split))
    kind = config_file.load(config, [*overrides]).records.kind
    records = place / "records" / f"{kind}-{name}"
    chain.run(
        f"Make the records of {kind}",
        *("beam_pipelines.nifti_to_tfrecord", "--config", config, *overrides, "--input", plan.cases),
        *("--output", str(records), "--splits", str(place / f"{name}.json")),
        is_done=(records / "dataset.json").exists(),
    )
    return Training(config, (*overrides, *row.overrides, f"train.seed={part or 0}"), str(records))


def _trained(plan: Plan, fold: Fold, row: Row, chain: steps.Steps, part: int | None, share: float = 1.0):
    """The run of a row's network, trained without one part for its share of the time; and its notes."""
    training = _training(plan, fold, part, row, chain)
    name = Row(" ".join((row.network, *row.overrides)), row.network).folder
    notes = plan.output / "pace" / f"{name}.json"
    first = Training(training.config, (*plan.overrides[row.network], *row.overrides), training.records)
    pace = real_ours.pace(first, notes, chain, plan.clock)
    folder = plan.part(fold, part) / (name if share == 1 else f"{name}_member")
    real_ours.train(training, share * plan.seconds, folder, chain, plan.clock, pace)
    return folder / "run", files.read_json(folder / real_ours.NOTES)


def _ours(plan: Plan, fold: Fold, row: Row, folder: pathlib.Path, chain: steps.Steps) -> dict:
    """A row of ours on one fold, to its segmentations -> what is known of its training."""
    if row.kind == "ensembled":
        members = [
            _trained(plan, fold, row, chain, part, 1 / real_plan.PARTS) for part in range(real_plan.PARTS)
        ]
        runs, notes = [run for run, _ in members], [one for _, one in members]
        note = {
            **notes[0],
            **{key: sum(one[key] for one in notes) for key in ("parameters", "steps", "examples")},
        }
        note["seconds"] = round(sum(one["seconds"] for one in notes), 1)
    else:
        run, note = _trained(plan, fold, row, chain, 0 if row.is_validated else None)
        runs = [run]
    if row.kind == "tuned":
        by_fold = {one.number: _trained(plan, one, row, chain, None)[0] for one in plan.folds}
        others = [one for other in plan.folds if other.number != fold.number for one in other.scored]
        real_ours.tune(list(by_fold.values()), by_fold[fold.number], plan.cases, others, folder, chain)
        model = real_ours.export(runs, folder, chain)
    else:
        model = real_ours.export(runs, folder, chain, "--plain")
    real_ours.predict(model, plan.cases, fold.scored, folder, chain)
    return note


# --- the peers ------------------------------------------------------------------------------------------


def _peer(plan: Plan, fold: Fold, row: Row, folder: pathlib.Path, chain: steps.Steps) -> dict:
    """A peer on one fold, to its segmentations -> what is known of its training."""
    prepared, way = plan.output / "prepared" / row.network, plan.output / "pace" / f"{row.network}.json"
    run, ids = folder / "run", fold.training(None)
    of_peer = (
        "--peer",
        row.network,
        "--prepared",
        str(prepared),
        "--size",
        json.dumps(plan.sizes[row.network]),
    )
    of_clock = ("--clock", plan.clock.which, "--cores", str(plan.clock.cores))
    of_run = ("--cases", plan.cases, "--trained", str(run), "--way", str(way))
    chain.run("Prepare the cases", "real_peers", "prepare", *of_peer, *of_clock, "--cases", plan.cases)
    chain.run(
        "Find the fastest way to train",
        *("real_peers", "try", *of_peer, *of_clock, "--ids", ids[0], "--way", str(way)),
        is_done=way.exists(),
    )
    chain.run(
        f"Train for {plan.seconds / 60:g} minutes",
        *("real_peers", "train", *of_peer, *of_clock, *of_run, "--ids", ",".join(ids)),
        *("--seconds", str(plan.seconds)),
        is_done=(run / real_ours.NOTES).exists(),
        show=True,
    )
    chain.run(
        f"Segment {', '.join(fold.scored)}",
        *("real_peers", "predict", *of_peer, *of_clock, *of_run, "--ids", ",".join(fold.scored)),
        *("--output", str(folder / "predictions")),
    )
    return files.read_json(run / real_ours.NOTES)


# --- all of it ------------------------------------------------------------------------------------------


def _contest(plan: Plan, fold: Fold, row: Row, lock: int) -> None:
    """One row on one fold, or what is left of it."""
    folder = plan.output / f"fold-{fold.number}" / "rows" / row.folder
    if (folder / real_table.RESULT).exists():
        print(f"\nfold {fold.number}, {row.name}: done already", flush=True)
        return
    print(f"\n== fold {fold.number}, {row.name} ==", flush=True)
    chain = steps.Steps(folder / "logs", lock)
    found = (_peer if row.network in PEERS else _ours)(plan, fold, row, folder, chain)
    files.write_json(folder / real_table.RESULT, {**found, "load_after": round(os.getloadavg()[0], 2)})


def _cores(wanted: int) -> int:
    """Keeps this process, and all that it starts, to so many cores where the system can; how many there are."""
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:wanted])
    return len(os.sched_getaffinity(0))


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("real", __doc__)
    parser.prog = "python benchmarks/real.py"
    parser.add_argument(
        "--cases", nargs="+", type=pathlib.Path, default=[], metavar="DIR", help="folders of cases"
    )
    parser.add_argument(
        "--output", required=True, type=pathlib.Path, metavar="DIR", help="folder for everything"
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="of each training (%(default)s)")
    parser.add_argument("--folds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--fold", type=int, action="append", help="only this one; may be repeated")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument(
        "--overrides", action="append", default=[], metavar="'KEY=VALUE ...'", help="one more row"
    )
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="what counts (%(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="that all of them have (%(default)s)")
    parser.add_argument(
        "--rehearse", action="store_true", help="tiny sizes and simulated cases: does it all work?"
    )
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    cores, output, rehearsed = _cores(options.cores), options.output.absolute(), options.rehearse
    if rehearsed:
        output.mkdir(parents=True, exist_ok=True)
        folders = [output / "phantoms"]
        data_sets.write_dataset(folders[0], 12, "2021", seed=2, shape=(40, 44, 32))
    else:
        folders = options.cases
    if not folders:
        raise InputError("--cases: say where the cases lie, or --rehearse.")
    if missing := [str(one) for one in folders if not one.is_dir()]:
        raise InputError(f"--cases {missing[0]}: no such folder.")
    cases = real_plan.linked(folders, output / "cases")
    return Plan(
        output,
        cases,
        real_plan.dealt(cases, 2 if rehearsed else options.folds),
        60 * (1.0 if rehearsed else options.minutes),
        Clock(options.clock, cores),
        dict(
            zip(
                OURS,
                ("smoke_2d.yaml", "smoke_3d.yaml") if rehearsed else ("cun_lws.yaml", "msm.yaml"),
                strict=True,
            )
        ),
        real_plan.REHEARSED if rehearsed else real_plan.OVERRIDES,
        real_plan.REHEARSED_SIZES if rehearsed else real_plan.SIZES,
    )


def _check(options: argparse.Namespace) -> None:
    """Raises InputError, before anything is written, for what cannot be run."""
    if options.minutes <= 0 or options.cores < 1 or options.folds < 2:
        raise InputError("--minutes and --cores: expected more than 0; --folds: 2 or more.")
    missing = [one for one in ("torch", "monai", "nnunetv2") if not importlib.util.find_spec(one)]
    if missing and set(PEERS) & set(options.only):
        raise InputError(
            f"{' and '.join(missing)} missing. pip install monai nnunetv2, or leave {' and '.join(PEERS)} out "
            "with --only."
        )


def main(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    _check(options)
    places = [str(_HERE), *filter(None, [os.environ.get("PYTHONPATH")])]  # of real_peers
    os.environ.update(CUDA_VISIBLE_DEVICES="", PYTHONPATH=os.pathsep.join(places))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    files.check_can_hold(options.output)
    with steps.alone(options.output.absolute()) as lock:
        plan = _plan(options)
        _check_stamp(plan)
        rows = real_plan.rows_of(options.only, options.overrides, plan)
        folds = [one for one in plan.folds if options.fold is None or one.number in options.fold]
        if not folds:
            raise InputError(f"--fold: the folds are 0 to {len(plan.folds) - 1}.")
        for fold in folds:
            for row in rows:
                _contest(plan, fold, row, lock)
            print(f"\nfold {fold.number} scored {', '.join(fold.scored)}", flush=True)
        real_table.report(plan, rows, folds, steps.Steps(plan.output / "logs", lock))


if __name__ == "__main__":
    command.run(main)
