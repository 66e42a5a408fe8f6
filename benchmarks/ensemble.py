"""What a model of several runs costs beside one run: seconds and memory of a whole case, NIfTI to NIfTI.

    pip install -e .
    python benchmarks/ensemble.py --case BraTS2021/BraTS2021_00006 --run runs/a runs/b runs/c
    python benchmarks/ensemble.py --case BraTS2021/BraTS2021_00006 --network cun --width 8    # not trained
    python benchmarks/ensemble.py ... --flips --rounds 3 --json figures.json

one          the first run, exported alone
ensemble     all runs, exported as one model (`tfbrats export --runs`)
flips        the first run on mirrored inputs (`--flips`), where it is asked for

Each is `tfbrats predict` in a process of its own that has segmented the case once before; start-up is told
apart. They run in turn on all cores, --rounds times; figures are medians, and the peak of each process' memory.
N4 is part of all of them, once. Several single runs one after the other cost as often the first row.

With one run folder, or --network, the members are copies of it: their time and memory are those of different
weights, their answer is that of one. --network trains one step on a phantom: the boxes that such a cascade
finds mean nothing, so of a cascade give runs that are trained.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

from segment import NETWORKS, one_step
from train_step import Failed, Job, _processor

from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.predictions import model_card
from tfbrats.workflows import chain

MEMBERS = 3


def _runs(options: argparse.Namespace, work: pathlib.Path) -> list[str]:
    """The run folders; of one its copies."""
    given = options.run or [one_step(options.network, options.width, work)]
    if len(given) > 1:
        return given
    copies = [str(work / f"member{number}") for number in range(1, MEMBERS)]
    for copy in copies:
        shutil.copytree(given[0], copy)
    return [given[0], *copies]


def exported(runs: Sequence[str], flips: bool, work: pathlib.Path) -> dict[str, str]:
    """Name -> the version's folder; each exported by the command, in a process of its own."""
    asked = {"one": ("--run", runs[0]), "ensemble": ("--runs", *runs)}
    if flips:
        asked["flips"] = ("--run", runs[0], "--flips")
    models = {}
    for name, which in asked.items():
        chain.output_of("tfbrats.export", *which, "--output", str(work / "models" / name), "--plain")
        models[name] = str(work / "models" / name / "1")
    return models


def timed(models: dict[str, str], options: argparse.Namespace, work: pathlib.Path) -> dict[str, dict]:
    """Name -> start-up, first case, median of the others, peak memory."""
    with contextlib.ExitStack() as stack:
        jobs, rows = {}, {}
        for name, model in models.items():
            spec = {"side": "predict", "model": model, "case": options.case, "output": str(work / name)}
            began = time.monotonic()
            jobs[name] = stack.enter_context(Job(options.limit, "segment_jobs.py", **spec))
            rows[name] = {"start_s": time.monotonic() - began, "seconds": []}
        for number in range(1 + options.rounds):
            for name in list(jobs)[:: 1 if number % 2 == 0 else -1]:
                answer = jobs[name].run(1)
                rows[name]["peak_mib"] = answer["peak_mib"]
                rows[name]["seconds" if number else "first"] = (
                    [*rows[name]["seconds"], answer["seconds"][0]] if number else answer["seconds"][0]
                )
    return {name: {**row, "case_s": statistics.median(row["seconds"])} for name, row in rows.items()}


def show(rows: dict[str, dict], models: dict[str, str]) -> None:
    """The table."""
    one = rows["one"]
    columns = ("model", "passes", "weights MiB", "start-up s", "case s", "over one", "peak MiB", "over one")
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, row in rows.items():
        averaged = model_card.read(models[name]).averaged
        data = pathlib.Path(models[name], "variables").glob("*data*")
        print(
            f"| {name} | {averaged.passes if averaged else 1} "
            f"| {sum(path.stat().st_size for path in data) / 2**20:.1f} | {row['start_s']:.1f} "
            f"| {row['case_s']:.2f} | {row['case_s'] / one['case_s']:.2f} "
            f"| {row['peak_mib']:.0f} | {row['peak_mib'] / one['peak_mib']:.2f} |"
        )
    networks = model_card.read(models["ensemble"]).averaged.networks
    print(
        f"\nan ensemble of {networks}: {rows['ensemble']['case_s']:.2f} s; {networks} single runs one after "
        f"the other: {networks * one['case_s']:.2f} s"
    )


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--case", required=True, help="a case's folder")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--run", nargs="+", help="run folders of one row; of one, copies are the others")
    what.add_argument("--network", choices=NETWORKS, default="cun", help="without runs: weights of one step")
    parser.add_argument("--width", type=int, default=8, help="of that network")
    parser.add_argument("--flips", action="store_true", help="the first run on mirrored inputs too")
    parser.add_argument("--rounds", type=int, default=3, help="of each, after one that warms up")
    parser.add_argument("--limit", type=float, default=3600, help="seconds of a case")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least one is needed")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    try:
        (entry,) = layouts.select(layouts.find(options.case), None)
        with tempfile.TemporaryDirectory(prefix="tfbrats-ensemble-") as folder:
            work = pathlib.Path(folder)
            models = exported(_runs(options, work), options.flips, work)
            load = os.getloadavg()[0]
            rows = timed(models, options, work)
            print(
                f"{entry.case_id}; {_processor()}, {len(os.sched_getaffinity(0))} cores; load {load:.1f} "
                f"before, {os.getloadavg()[0]:.1f} after; medians of {options.rounds} rounds after one"
            )
            show(rows, models)
    except (Failed, InputError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps({"case": entry.case_id, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
