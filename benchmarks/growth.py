"""Seconds and memory of every command by the number of cases: what bends, grows faster than its work.

    python benchmarks/growth.py
    python benchmarks/growth.py --cases 100,1000 --commands prepare,resume --keep /tmp/growth
    python benchmarks/growth.py --cases 10,100 --full FOLDER_OF_CASES --commands inspect,split,price
    python benchmarks/growth.py --cases 20,40 --masks FOLDER_OF_MASKS --commands evaluate,lesions,report

A data set is made of links to the files of one simulated case, 32 x 32 x 20 voxels, under names of their own
(hard links; symbolic ones where the disk has none): a case is work, and costs no disk. It is prepared in shards
of seven cases, as `cun` has them at full size. With --full the links are to real cases in turn; with --masks to
pairs of masks, <case>_seg.nii.gz and <case>_pred_<model>.nii.gz, which can only be scored.

A command's figures are of its process and of those that it started and waited for: seconds, CPU seconds and
the largest one's peak of memory. The exponent is the slope of the CPU seconds in a log-log plot, between the
two largest numbers of cases: 1 is straight, and start-up makes it less. Over 1.15 it bends, and so does memory
that grows by more than 4 kB a case. "each" is the CPU seconds of one case more.

`graph` (`growth_graph.py`) is the job that Dataflow would be sent, without a run: bytes in place of seconds, at
100,000 cases too.
"""

import argparse
import contextlib
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from growth_graph import graph

SHAPE = (32, 32, 20)
CASES_A_SHARD = 7
BENDS = 1.15
KB_A_CASE, NOISE_MB = 4.0, 20.0
MANY = 100_000  # cases, of the graph
OVERRIDES = ("records.slice_shape=[32,32]", "records.split=[98,1,1]", "preprocess.n4_modalities=[]")


@dataclass(frozen=True)
class Taken:
    """What one command took."""

    seconds: float
    cpu_seconds: float
    megabytes: float
    note: str = ""


@dataclass(frozen=True)
class Sources:
    """What the cases are links to, in turn: modality or "seg" -> file, and a prediction of each."""

    cases: Sequence[dict[str, pathlib.Path]]
    predictions: Sequence[pathlib.Path] = ()


@dataclass
class Place:
    """Where the files of one number of cases lie, and what its commands share."""

    folder: pathlib.Path
    count: int
    sources: "Sources"
    model: pathlib.Path

    def __getattr__(self, name: str) -> str:
        """`place.cases`, `place.records`, ...: folders that the commands write."""
        return str(self.folder / name)


# --- data sets of links ----------------------------------------------------------------------------------


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:
        target.symlink_to(source.resolve())


def _id(number: int) -> str:
    return f"BraTS2021_{number:05d}"


def link_cases(sources: Sources, folder: pathlib.Path, numbers: Sequence[int]) -> None:
    """A data set whose cases are links."""
    for number in numbers:
        inside = folder / _id(number)
        inside.mkdir(parents=True)
        for kind, path in sources.cases[number % len(sources.cases)].items():
            _link(path, inside / f"{_id(number)}_{kind}.nii.gz")


def link_predictions(place: Place) -> None:
    """A folder of predictions that are links."""
    pathlib.Path(place.predictions).mkdir()
    of = place.sources.predictions
    for number in range(place.count) if of else ():
        _link(of[number % len(of)], pathlib.Path(place.predictions, f"{_id(number)}.nii.gz"))


def _files_of(case: pathlib.Path) -> dict[str, pathlib.Path]:
    return {path.name.removesuffix(".nii.gz").rpartition("_")[2]: path for path in case.glob("*.nii.gz")}


def tiny(scratch: pathlib.Path) -> Sources:
    """One simulated case, and the tumour of another as what was predicted."""
    shape = ("--shape", *map(str, SHAPE))
    _run("phantom", "--output", scratch / "simulated", "--count", "2", "--seed", "3", *shape)
    first, second = map(_files_of, sorted((scratch / "simulated").glob("BraTS*")))
    return Sources([first], [second["seg"]])


def full(folder: str) -> Sources:
    """Real cases, and the tumour of the next as what was predicted of each."""
    cases = [_files_of(case) for case in sorted(pathlib.Path(folder).iterdir()) if case.is_dir()]
    return Sources(cases, [case["seg"] for case in (*cases[1:], cases[0])])


def masks(folder: str) -> Sources:
    """Pairs of real masks."""
    pairs = [
        ({"seg": reference}, prediction)
        for reference in sorted(pathlib.Path(folder).glob("*_seg.nii.gz"))
        for prediction in sorted(reference.parent.glob(reference.name.replace("_seg.nii.gz", "_pred_*")))
    ]
    return Sources([reference for reference, _ in pairs], [prediction for _, prediction in pairs])


# --- commands --------------------------------------------------------------------------------------------


def _run(*arguments: str, codes: Sequence[int] = (0,), name: str = "tfbrats") -> Taken:
    """Runs a command of ours to its end, and says what it took."""
    command = [sys.executable, "-m", name, *map(str, arguments)]
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in codes:
            said.seek(0)
            sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{said.read().decode()[-3000:]}")
    return Taken(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000)


def _prepare(place: Place, *more: str) -> Taken:
    shards = max(1, place.count // CASES_A_SHARD)
    return _run(
        *("prepare", "--config", "smoke_2d.yaml", "--input", place.cases, "--output", place.records),
        *("--workers", "1", f"records.min_shards={shards}", *OVERRIDES, *more),
    )


def _resume(place: Place) -> Taken:
    """All shards are there but two."""
    for path in sorted(pathlib.Path(place.records).glob("train-*.tfrecord"))[:2]:
        path.unlink()
    return _prepare(place)


def _add(place: Place) -> Taken:
    """A hundredth more cases, and at least five; the records are the larger for it, and are put back."""
    kept = place.folder / "records_before"
    shutil.copytree(place.records, kept, copy_function=os.link)
    added = range(place.count, place.count + max(5, place.count // 100))
    link_cases(place.sources, pathlib.Path(place.cases), added)
    taken = _prepare(place, "--add")
    for number in added:
        shutil.rmtree(pathlib.Path(place.cases, _id(number)))
    shutil.rmtree(place.records)
    kept.rename(place.records)
    return taken


def _train(place: Place) -> Taken:
    """From the command to the end of one step and of a validation: of a hundredth of the cases."""
    return _run(
        *("train", "--config", "smoke_2d.yaml", "--records", place.records, "--run", place.run),
        *("--overwrite", "model.width=4", "train.epochs=1", "train.steps_per_epoch=1"),
        *(f"records.min_shards={max(1, place.count // CASES_A_SHARD)}", *OVERRIDES),
    )


def _segment(place: Place) -> Taken:
    output = place.folder / "segmented"
    return _run("segment", "--model", place.model, "--input", place.cases, "--output", output, "--workers", "1")


def _segment_resume(place: Place) -> Taken:
    for path in sorted((place.folder / "segmented").glob("*.nii.gz"))[:2]:
        path.unlink()
    return _segment(place)


def _evaluate(place: Place, *more: str) -> Taken:
    folders = ("--prediction", place.predictions, "--reference", place.cases, "--output", place.scores)
    return _run("evaluate", *folders, "--workers", "1", *more)


def _report(place: Place) -> Taken:
    folders = ("--prediction", place.predictions, "--reference", place.cases)
    taken = _run("report", "--scores", place.scores, *folders, "--output", place.page)
    size = sum(path.stat().st_size for path in pathlib.Path(place.page).glob("*")) / 1e6
    return Taken(taken.seconds, taken.cpu_seconds, taken.megabytes, f"page {size:.2f} MB")


def _runs(place: Place) -> Taken:
    """A tenth as many runs as cases: links to the run that was trained."""
    runs = place.folder / "runs"
    for number in range(max(1, place.count // 10)):
        shutil.copytree(place.run, runs / f"{number:04d}", copy_function=os.link)
    taken = _run("runs", runs)
    return Taken(taken.seconds, taken.cpu_seconds, taken.megabytes, f"{max(1, place.count // 10)} runs")


COMMANDS: dict[str, Callable[[Place], Taken]] = {
    "inspect": lambda place: _run("inspect", place.cases, codes=(0, 1)),
    "split": lambda place: _run("split", "--input", place.cases, "--output", place.splits),
    "price": lambda place: _prepare(place, "--price"),
    "prepare": _prepare,
    "prepared": _prepare,  # again: nothing is left to do
    "resume": _resume,
    "add": _add,
    "records": lambda place: _run("records", "show", place.records),
    "train": _train,
    "runs": _runs,
    "segment": _segment,
    "segment-resume": _segment_resume,
    "evaluate": _evaluate,
    "lesions": lambda place: _evaluate(place, "--lesions", "2023"),
    "report": _report,
}
# What a command goes on from: without it, it would do another work, or none.
AFTER = {
    **dict.fromkeys(("prepared", "resume", "add", "records", "train"), "prepare"),
    **dict.fromkeys(("runs", "segment"), "train"),
    "segment-resume": "segment",
    "report": "evaluate",
}


# --- table and plot --------------------------------------------------------------------------------------


def exponent(counts: Sequence[int], values: Sequence[float]) -> float:
    """The slope of a log-log plot between the two largest; nan of one point."""
    if len(counts) < 2:
        return math.nan
    return math.log(values[-1] / values[-2]) / math.log(counts[-1] / counts[-2])


def _bends(counts: Sequence[int], taken: Sequence[Taken]) -> list[str]:
    """What grows faster than it should."""
    if len(counts) < 2:
        return []
    slope = exponent(counts, [one.cpu_seconds for one in taken])
    rise = taken[-1].megabytes - taken[-2].megabytes
    kilobytes = 1000 * rise / (counts[-1] - counts[-2])
    bends = [f"time bends: {slope:.2f}"] if slope > BENDS else []
    return bends + (
        [f"memory grows: {kilobytes:.0f} kB a case"] if kilobytes > KB_A_CASE and rise > NOISE_MB else []
    )


def _each(by_count: dict[int, Taken]) -> float:
    """CPU seconds of one case more, between the two largest."""
    if len(by_count) < 2:
        return math.nan
    (few, less), (many, more) = list(by_count.items())[-2:]
    return (more.cpu_seconds - less.cpu_seconds) / (many - few)


def _cell(one: Taken | None) -> str:
    return f"{one.seconds:.1f} / {one.cpu_seconds:.1f} / {one.megabytes:.0f}" if one else "-"


def print_table(results: dict[str, dict[int, Taken]], counts: Sequence[int]) -> None:
    """Seconds, CPU seconds and MB of each command by the number of cases, and the exponent."""
    print("\nseconds / CPU seconds / MB")
    print(f"{'':16}" + "".join(f"{count:>22,}" for count in counts) + f"{'exponent':>10}{'each':>8}")
    for name, by_count in results.items():
        taken = list(by_count.values())
        cells = (_cell(by_count.get(count)) for count in counts)
        slope = exponent(list(by_count), [one.cpu_seconds for one in taken])
        told = "; ".join([*_bends(list(by_count), taken), taken[-1].note]).strip("; ")
        print(
            f"{name:16}"
            + "".join(f"{cell:>22}" for cell in cells)
            + f"{slope:>10.2f}{_each(by_count):>8.4f}  {told}"
        )


def plot(results: dict[str, dict[int, Taken]], path: str) -> None:
    """CPU seconds and memory over the number of cases, both axes logarithmic, a line for each command."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams.update({"svg.hashsalt": "growth", "font.size": 8, "svg.fonttype": "none"})
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.4), layout="constrained")
    colours = plt.get_cmap("tab20").colors
    for n, (name, by_count) in enumerate(results.items()):
        counts, taken = list(by_count), list(by_count.values())
        style = {"marker": "o", "markersize": 2.5, "linewidth": 1.1, "color": colours[n % 20]}
        axes[0].plot(counts, [one.cpu_seconds for one in taken], label=name, **style)
        axes[1].plot(counts, [one.megabytes for one in taken], **style)
    counts = sorted({count for by_count in results.values() for count in by_count})
    for axis, title in zip(axes, ("CPU seconds", "memory, MB"), strict=True):
        axis.set(xscale="log", yscale="log", title=title, xlabel="cases", xticks=counts)
        axis.set_xticklabels([f"{count:,}" for count in counts])
        axis.minorticks_off()
        axis.yaxis.set_major_formatter("{x:,g}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(which="major", color="#dddddd", linewidth=0.5)
    low, high = axes[0].get_ylim()
    straight = [low * 3, low * 3 * counts[-1] / counts[0]]
    axes[0].plot(
        [counts[0], counts[-1]], straight, color="#999999", linewidth=0.8, linestyle=":", label="straight"
    )
    axes[0].set_ylim(low, high)
    axes[1].set_ylim(50, 5000)
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)
    plt.close(figure)


# --- the run ---------------------------------------------------------------------------------------------


def _model(place: Place) -> None:
    """A model for `segment`, of the first run that was trained."""
    if not place.model.exists():
        _run("export", "--run", place.run, "--output", place.model)


def measure(options: argparse.Namespace, scratch: pathlib.Path) -> dict[str, dict[int, Taken]]:
    """Runs the commands on every number of cases, in order."""
    sources = full(options.full) if options.full else masks(options.masks) if options.masks else tiny(scratch)
    results: dict[str, dict[int, Taken]] = {name: {} for name in options.commands}
    for count in options.cases:
        place = Place(scratch / f"{count}", count, sources, scratch / "model")
        link_cases(sources, pathlib.Path(place.cases), range(count))
        link_predictions(place)
        for name in options.commands:
            if name.startswith("segment"):
                _model(place)
            results[name][count] = taken = COMMANDS[name](place)
            print(f"{count:>8,} {name:16}{taken.seconds:8.1f} s{taken.cpu_seconds:8.1f} s CPU"
                  f"{taken.megabytes:7.0f} MB  {taken.note}", flush=True)  # fmt: skip
        if not options.keep and count != options.cases[-1]:
            shutil.rmtree(place.folder)
    return results


@contextlib.contextmanager
def _scratch(keep: str | None) -> Iterator[pathlib.Path]:
    if keep:
        pathlib.Path(keep).mkdir(parents=True)
        yield pathlib.Path(keep).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        yield pathlib.Path(folder)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="100,1000", help="numbers of cases (default: %(default)s)")
    parser.add_argument("--commands", help=f"of {','.join(COMMANDS)},graph (default: all)")
    parser.add_argument("--full", metavar="FOLDER", help="link to its real cases in place of a small one")
    parser.add_argument("--masks", metavar="FOLDER", help="link to its pairs of masks")
    parser.add_argument("--keep", metavar="FOLDER", help="where the files stay; must not exist")
    parser.add_argument("--plot", metavar="FILE", help="an SVG or PNG of seconds and memory")
    parser.add_argument("--figures", metavar="FILE", help="figures as JSON; those that it holds join in")
    options = parser.parse_args(argv)
    options.cases = sorted({int(text) for text in options.cases.split(",")})
    chosen = options.commands.split(",") if options.commands else [*COMMANDS, "graph"]
    if unknown := [name for name in chosen if name not in (*COMMANDS, "graph")]:
        parser.error(f"--commands: there is no {', '.join(unknown)}")
    for n, name in enumerate(chosen):
        if AFTER.get(name, name) not in chosen[: n + 1]:
            parser.error(f"--commands: {name} goes on from {AFTER[name]}. Name that before it.")
    options.commands = [name for name in chosen if name != "graph"]
    with _scratch(options.keep) as scratch:
        results = measure(options, scratch) if options.commands else {}
        if "graph" in chosen:
            graph([*options.cases, MANY], scratch)
    if options.figures:
        results = _joined(options.figures, results)
    if results:
        print_table(results, sorted({count for by_count in results.values() for count in by_count}))
    if options.plot:
        plot(results, options.plot)
    return 0


def _joined(path: str, results: dict[str, dict[int, Taken]]) -> dict[str, dict[int, Taken]]:
    """The figures of earlier runs with these, in one file."""
    before = json.loads(pathlib.Path(path).read_text()) if os.path.exists(path) else {}
    joined = {name: {int(n): Taken(**one) for n, one in of.items()} for name, of in before.items()}
    for name, by_count in results.items():
        joined[name] = dict(sorted({**joined.get(name, {}), **by_count}.items()))
    content = {name: {n: vars(one) for n, one in of.items()} for name, of in joined.items()}
    pathlib.Path(path).write_text(json.dumps(content, indent=1) + "\n")
    return joined


if __name__ == "__main__":
    sys.exit(main())
