"""Records to augmented batches: our reader, MONAI's and TorchIO's loaders, on the same cases, in one run.

    pip install -e . monai torchio
    python benchmarks/input.py                      # six simulated cases of full size, about seven minutes
    python benchmarks/input.py --cases BraTS2021 --only slices,step

slices    paper A (cun.yaml): 240 x 240 x 4, turned, flipped, with region map and draws
patches   paper B (msm.yaml): 64^3 at three scales, stored as patches
volumes   the same, cut afresh from stored volumes
step      what a training step waits for our reader, both on the same cores

`loaders.py` says what each loader does and how it is set up; `reader.py` measures ours stage by stage. The
loaders run in processes of their own, one at a time in alternating rounds, so that a busy moment of the machine
meets every one; a figure is the median over the rounds. CPU milliseconds sum over all threads and worker
processes (Linux): they vary less than wall time where other programs run. The ratio is our rate over the faster
peer's. N4 is left out: no loader sees it. A peer that is missing is named and left out.
"""

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

_HERE = pathlib.Path(__file__).parent
_PARTS = ("slices", "patches", "volumes", "step")
_SETTINGS = ("preprocess.n4_modalities=[]", "records.split=[1, 0, 0]")
_OF_PATCHES = ("region=wt", "sampling.patches_per_case=40")
# part: config, what is set in it
_PLANS = {
    "slices": ("cun.yaml", _SETTINGS),
    "patches": ("msm.yaml", (*_SETTINGS, *_OF_PATCHES)),
    "volumes": ("msm.yaml", (*_SETTINGS, *_OF_PATCHES, "records.kind=volumes")),
}
# Networks that a training step is timed with: name, part, further settings, steps.
_STEPS = (
    ("cun", "slices", (), 3),
    ("cun, an eighth of its width", "slices", ("model.width=4",), 12),
    ("msm, an eighth of its width", "patches", ("model.width=4", "train.batch_size=8"), 8),
    ("the same from volumes", "volumes", ("model.width=4", "train.batch_size=8"), 8),
)
_ENVIRONMENT = {
    **os.environ,
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONWARNINGS": "ignore",
}


def _run(*command: str) -> str:
    """Runs a Python module or file to its end -> its last line of output."""
    ended = subprocess.run(
        [sys.executable, *command], env=_ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{ended.stderr[-2000:]}")
    return ended.stdout.strip().rpartition("\n")[2]


def prepare(cases: pathlib.Path, folder: pathlib.Path, part: str) -> str:
    """The record set of a part, made by the Beam job unless it is there."""
    output = folder / part
    config, overrides = _PLANS[part]
    if not (output / "dataset.json").exists():
        where = ("--config", config, "--input", str(cases), "--output", str(output))
        _run("-m", "beam_pipelines.nifti_to_tfrecord", *where, *overrides)
    return str(output)


class Loader:
    """One loader in a process of its own, which waits between rounds."""

    def __init__(self, name: str, part: str, folder: str, batch: int, disk: bool):
        config, overrides = _PLANS[part]
        command = [sys.executable, str(_HERE / "loaders.py"), name, part, "--records", folder]
        command += ["--config", config, "--batch", str(batch), *(["--disk"] if disk else []), *overrides]
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            command,
            env=_ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        self.setup = self._answer()
        self.rates: list[float] = []  # examples a second
        self.cpu: list[float] = []  # CPU seconds an example

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            sys.exit(f"{self.name} ended with code {self._process.wait()}:\n{self._errors.read()[-2000:]}")
        return json.loads(line)

    def _cpu_seconds(self) -> float:
        """Of the process and its workers so far; nan where there is no /proc."""
        total = 0
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # ended meanwhile
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self._process.pid:
                    total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK") if total else math.nan

    def measure(self, seconds: float) -> None:
        before = self._cpu_seconds()
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        found = self._answer()
        self.rates.append(found["examples"] / found["seconds"])
        self.cpu.append((self._cpu_seconds() - before) / found["examples"])

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def compare(part: str, folder: str, options: argparse.Namespace) -> dict:
    """Measures all loaders of a part in alternating rounds and prints them -> figures by loader."""
    loaders = []
    for name in ("tfbrats", "monai", "torchio"):
        loader = Loader(name, part, folder, options.batch, options.disk)
        if "missing" in loader.setup:
            print(
                f"{name} is left out: {loader.setup['missing']}. To have it: pip install {name}",
                file=sys.stderr,
            )
        else:
            loaders.append(loader)
    sizes = {loader.name: loader.setup["contents"] for loader in loaders}
    if len({json.dumps(size, sort_keys=True) for size in sizes.values()}) > 1:
        sys.exit(f"{part}: the loaders' batches differ: {sizes}")
    load_before = os.getloadavg()[0]
    for number in range(options.rounds):
        for loader in loaders[:: 1 if number % 2 == 0 else -1]:
            loader.measure(options.seconds)
    load_after = os.getloadavg()[0]
    for loader in loaders:
        loader.close()

    figures = {}
    print(f"\n{part}: batches of {options.batch}, medians of {options.rounds} alternating rounds", end="; ")
    print(f"load {load_before:.1f} before, {load_after:.1f} after, {os.cpu_count()} cores")
    print(f"{'':28}{f'{part}/s'.replace('volumes', 'patches'):>12}{'CPU ms each':>14}   fastest with")
    for loader in loaders:
        rate, cpu = statistics.median(loader.rates), statistics.median(loader.cpu)
        figures[loader.name] = {"per_second": rate, "cpu_seconds": cpu, **loader.setup}
        shown = f"{loader.name} {importlib.metadata.version(loader.name)}"
        print(f"{shown:28}{rate:12.1f}{1000 * cpu:14.2f}   {loader.setup['form']}")
    ours, peers = figures["tfbrats"], [figures[name] for name in figures if name != "tfbrats"]
    if peers:
        wall = ours["per_second"] / max(peer["per_second"] for peer in peers)
        cpu = min(peer["cpu_seconds"] for peer in peers) / ours["cpu_seconds"]
        figures["ratio"] = {"wall": wall, "cpu": cpu}
        print(f"ours against the faster peer: {wall:.1f} times the rate, 1/{cpu:.1f} of the CPU time")
    return figures


def _stages(part: str, folder: str, options: argparse.Namespace) -> dict:
    config, overrides = _PLANS[part]
    count = {"slices": 600, "patches": 120, "volumes": 120}[part]
    found = json.loads(
        _run(
            *(str(_HERE / "reader.py"), "stages", "--records", folder, "--config", config),
            *("--batch", str(options.batch), "--examples", str(count), *overrides),
        )
    )
    total = sum(found.values())
    shares = (f"{name} {value / total:.0%} ({1000 * value:.2f} ms)" for name, value in found.items())
    print(f"stages of ours, by CPU time: {', '.join(shares)}; together {1000 * total:.2f} ms")
    return found


def _steps(folders: dict[str, str]) -> dict:
    print("\nstep: seconds of a training step; the reader is what the step waits for in `next`")
    print(f"{'':30}{'step alone':>11}{'reader alone':>14}{'in the loop':>13}{'waits':>9}{'share':>8}")
    figures = {}
    for name, part, settings, steps in _STEPS:
        config, overrides = _PLANS[part]
        command = (str(_HERE / "reader.py"), "step", "--records", folders[part], "--config", config)
        found = json.loads(_run(*command, "--steps", str(steps), *overrides, *settings))
        figures[name] = found
        shown = "".join(
            f"{found[key]:{width}.3f}" for key, width in (("step", 11), ("reader", 14), ("loop", 13))
        )
        print(f"{name:30}{shown}{found['wait']:9.4f}{found['wait'] / found['loop']:8.1%}", flush=True)
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--cases", type=pathlib.Path, metavar="DIR", help="cases, in any layout; else simulated"
    )
    parser.add_argument("--only", default=",".join(_PARTS), help="parts, with commas between them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a round of one loader")
    parser.add_argument("--batch", type=int, default=8, help="examples in a batch; a multiple of 8")
    parser.add_argument("--disk", action="store_true", help="MONAI reads from the disk too, not from memory")
    parser.add_argument(
        "--records", type=pathlib.Path, metavar="DIR", help="keep the record sets here, or take them"
    )
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_args(argv)
    parts = options.only.split(",")
    if set(parts) - set(_PARTS):
        parser.error(f"--only {options.only}: the parts are {', '.join(_PARTS)}")
    if options.batch % 8:
        parser.error(f"--batch {options.batch}: MONAI cuts eight patches of a volume, so a multiple of 8")

    figures: dict[str, dict] = {}
    with contextlib.ExitStack() as stack:
        temporary = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tfbrats-input-")))
        cases, kept = options.cases, options.records or temporary
        needed = [part for part in _PLANS if part in parts or "step" in parts]
        if cases is None and not all((kept / part / "dataset.json").exists() for part in needed):
            cases = temporary / "cases"
            _run("-m", "tfbrats.phantom", "--output", str(cases), "--cases", "6", "--seed", "1")
        folders = {part: prepare(cases, kept, part) for part in needed}
        for part in parts:
            if part == "step":
                figures[part] = _steps(folders)
            else:
                figures[part] = compare(part, folders[part], options)
                figures[part]["stages"] = _stages(part, folders[part], options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
