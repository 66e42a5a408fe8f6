"""What a training step costs: by precision and compilation, and beside PyTorch with the same network.

    python benchmarks/train_step.py                                  # the table of precision and compilation
    python benchmarks/train_step.py --networks cun,msm --width 8 --batch 2
    pip install monai torch
    python benchmarks/train_step.py --peer torch,torch-compile --width 16 --batch 4 --output figures.json

Made-up batches, the same weights and seed everywhere, this machine's CPU. Every cell of a table is measured in
a process of its own (`step_jobs.py`), so that its peak memory is its own; a line is printed when it is known
and --output is written anew with each.

The table: seconds of a step (median, the first two left out), peak memory, the loss of step 20, and how far
that is from float32 without XLA. A cell that fails, or has not made its steps when --limit is over, says so.

The peers: `torch_networks.py` holds the same networks in PyTorch with MONAI's blocks, in channels_last, which
is faster here than PyTorch's own order: `torch` eager, `torch-compile` with network and loss through
torch.compile (which wants a C++ compiler); both update by PyTorch's fused optimizer. Parameters and
multiplications must be equal, all start from our weights, and the losses of the first step must agree. Ours and
theirs run in turn on as many threads; figures are medians. A side's first step, which compiles or traces, is
told apart, and PyTorch's caches of what it compiled are off. A training step is forward, loss with all heads,
backward and update; inference leaves out the heads that only training needs. CPU seconds sum over threads.
Beside other programs PyTorch's threads lose much time waiting for one another: there, --threads 1 and CPU
seconds compare best. The goals stand in GOALS.

FLOP/s: two for each multiplication of a forward pass, three times as many for a training step; the limit is
the fastest of a large matrix product and two plain convolutions, in TensorFlow and PyTorch, of the same
precision.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import metadata

from step_jobs import NETWORKS

_HERE = pathlib.Path(__file__).parent
_PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
_OF_PEER = ("cun", "unet2d", "msm", "msm_et", "unet3d")  # as torch_networks has them
# Ours over theirs, at most: a training step's time by precision, and memory.
GOALS = {"float32": 0.8, "mixed_bfloat16": 1.0, "memory": 1.0}
PEERS = ("torch", "torch-compile")
# Of the first step's losses, at most, over ours.
_APART = {"float32": 1e-4, "mixed_bfloat16": 0.02}
_ENVIRONMENT = {
    **os.environ,
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONWARNINGS": "ignore",
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",  # a compilation takes what it takes the first time
}


class Failed(Exception):
    """A cell has no figures; the message says why."""


class Job:
    """One process, which waits between rounds; a context manager.

    Args:
        script: `step_jobs.py`, or another of this folder that reads and answers as it does.

    Raises:
        Failed: it ended early, or an answer took longer than `limit_s`.
    """

    def __init__(self, limit_s: float, script: str = "step_jobs.py", **spec):
        self._limit_s, self._late = limit_s, False
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, str(_HERE / script), json.dumps(spec)],
            env=_ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self.about = self._answer()
        except Failed:
            self.__exit__()
            raise

    def _answer(self):
        timer = threading.Timer(self._limit_s, self._give_up)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            if self._late:
                raise Failed(f"over {self._limit_s:g} s")
            said = [text for text in self._errors.read().splitlines() if text.strip()]
            raise Failed(said[-1][:200] if said else f"ended with code {code}")
        return json.loads(line)

    def _give_up(self) -> None:
        self._late = True
        self._process.kill()

    def run(self, steps: int) -> dict:
        """Runs as many steps -> seconds, CPU seconds and loss of each, peak memory so far."""
        try:
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why
        return self._answer()

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def settings(network: str, precision: str, compiled: bool, options: argparse.Namespace) -> list[str]:
    """Overrides of the network's config."""
    chosen = [f"train.precision={precision}", f"train.jit_compile={str(compiled).lower()}"]
    chosen.append(f"train.batch_size={options.batch}")
    if options.width:
        chosen.append(f"model.width={options.width}")
    if options.size:
        of_patches = NETWORKS[network][1]
        if of_patches:
            chosen += [f"sampling.patch_size={options.size}", f"cascade.stride={options.size // 2}"]
        else:
            chosen.append(f"records.slice_shape={[options.size] * 2}")
    return chosen


def _spec(side: str, network: str, precision: str, options: argparse.Namespace, **more) -> dict:
    plain = {"mode": "train", "weights": None, "threads": options.threads}
    chosen = settings(network, precision, more.pop("compiled", False), options)
    return {"side": side, "network": network, "settings": chosen, **plain, **more}


# --- precision and compilation ---------------------------------------------------------------------------


def cell(answers: Sequence[Mapping], options: argparse.Namespace) -> dict:
    """A cell's figures from a job's answers; a loss where all steps were made.

    The first two steps, which compile and warm up, are no part of the median.
    """
    seconds = [taken for answer in answers for taken in answer["seconds"]]
    step_s = statistics.median(seconds[2:] or seconds)
    return {
        "step_s": step_s,
        "per_second": options.batch / step_s,
        "peak_mib": answers[-1]["peak_mib"],
        "steps": len(seconds),
        "loss": answers[-1]["losses"][-1] if len(seconds) == options.steps else None,
    }


def _answers(network: str, precision: str, compiled: bool, options: argparse.Namespace) -> list[dict]:
    """Of each step, until all are made or the time of a cell is over."""
    ends, found = time.monotonic() + options.limit, []
    with Job(options.limit, **_spec("ours", network, precision, options, compiled=compiled)) as job:
        while len(found) < options.steps and (time.monotonic() < ends or not found):
            found.append(job.run(1))
    return found


def table(options: argparse.Namespace, figures: dict) -> None:
    """Prints, a line a cell, what precision and XLA do to each network."""
    print(f"training steps of {options.batch}, {options.threads} threads; losses of step {options.steps}")
    head = f"{'step s':>9}{'per s':>9}{'speed-up':>10}{'peak MiB':>10}{'loss':>12}{'difference':>12}"
    print(f"{'':12}{'precision':16}{'XLA':5}{head}", flush=True)
    rows = figures.setdefault("table", [])
    for network in options.networks:
        plain = None
        for precision in options.precisions:
            for compiled in (False, True):
                row = {"network": network, "precision": precision, "jit_compile": compiled}
                rows.append(row)
                start = f"{network:12}{precision:16}{'on' if compiled else 'off':5}"
                try:
                    row |= cell(_answers(network, precision, compiled, options), options)
                except Failed as failed:
                    row["failed"] = str(failed)
                    print(f"{start}   failed: {failed}", flush=True)
                    _write(options, figures)
                    continue
                if precision == "float32" and not compiled:
                    plain = row
                known = plain is not None and None not in (plain["loss"], row["loss"])
                row["difference"] = row["loss"] - plain["loss"] if known else None
                row["speed_up"] = plain["step_s"] / row["step_s"] if plain else None
                print(start + _shown(row, options), flush=True)
                _write(options, figures)


def _shown(row: Mapping, options: argparse.Namespace) -> str:
    columns = (("step_s", "9.3f"), ("per_second", "9.2f"), ("speed_up", "10.2f"), ("peak_mib", "10.0f"))
    columns += (("loss", "12.5f"), ("difference", "+12.1e"))
    widths = {name: int(form.strip("+").partition(".")[0]) for name, form in columns}
    text = "".join("-".rjust(widths[n]) if row[n] is None else format(row[n], form) for n, form in columns)
    return text if row["steps"] == options.steps else f"{text}   {row['steps']} steps in {options.limit:g} s"


# --- beside PyTorch --------------------------------------------------------------------------------------


def alternate(sides: Mapping, rounds: int, steps: int) -> dict[str, dict]:
    """Runs all jobs in turn -> of each: medians of seconds and CPU seconds, peak memory, its first step."""
    warm = {name: job.run(2) for name, job in sides.items()}
    found = {name: {"seconds": [], "cpu": []} for name in sides}
    names = list(sides)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            answer = sides[name].run(steps)
            for key in ("seconds", "cpu"):
                found[name][key] += answer[key]
            warm[name]["peak_mib"] = answer["peak_mib"]
    return {
        name: {
            "step_s": statistics.median(found[name]["seconds"]),
            "cpu_s": statistics.median(found[name]["cpu"]),
            "peak_mib": warm[name]["peak_mib"],
            "first_s": warm[name]["seconds"][0],
            "first_loss": warm[name]["losses"][0],
        }
        for name in sides
    }


def compared(ours: Mapping, theirs: Mapping, precision: str, mode: str) -> dict:
    """Ratios ours over theirs, and whether the goals are met; a goal of time is of training alone."""
    ratios = {key: ours[key] / theirs[key] for key in ("step_s", "cpu_s", "peak_mib")}
    met = {"memory": ratios["peak_mib"] <= GOALS["memory"]}
    if mode == "train":
        met["time"] = ratios["step_s"] <= GOALS[precision]
    return {"ratios": ratios, "met": met}


def flops(macs: int, batch: int, mode: str, step_s: float) -> float:
    """A second: two for each multiplication of the forward pass, three times as many to train."""
    return 2 * macs * batch * (3 if mode == "train" else 1) / step_s


def limits(precision: str, options: argparse.Namespace) -> dict[str, float]:
    """FLOP/s of plain products and convolutions on this machine, the better of TensorFlow and PyTorch."""
    best: dict[str, float] = {}
    for side in ("tensorflow limit", "torch limit"):
        with Job(options.limit, side=side, precision=precision, threads=options.threads) as job:
            for name, value in job.about.items():
                best[name] = max(best.get(name, 0.0), value)
    return best


def beside_peers(options: argparse.Namespace, figures: dict) -> None:
    """Prints, a line for each side of a comparison, ours and the peers'."""
    print(
        f"steps of {options.batch}, {options.threads} threads, medians of {options.rounds} alternating rounds "
        f"of {options.round_steps}; load {os.getloadavg()[0]:.1f}; ratios are ours over theirs; {_versions()}"
    )
    rows, limit = figures.setdefault("peer", []), figures.setdefault("limit", {})
    for precision in options.precisions:
        limit[precision] = limits(precision, options)
        shown = ", ".join(f"{name} {value / 1e9:.0f}" for name, value in limit[precision].items())
        print(f"{precision}: this machine's limit in GFLOP/s: {shown}", flush=True)
        for network in options.networks:
            for mode in ("train", "inference"):
                row = {"network": network, "precision": precision, "mode": mode}
                rows.append(row)
                try:
                    row |= _compared(network, precision, mode, options)
                except Failed as failed:
                    row["failed"] = str(failed)
                    print(f"{network} {precision} {mode} failed: {failed}", flush=True)
                else:
                    _print(row, max(limit[precision].values()), options.batch)
                _write(options, figures)


def _compared(network: str, precision: str, mode: str, options: argparse.Namespace) -> dict:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tfbrats-step-"))
        more = {"mode": mode, "weights": f"{folder}/weights.npz"}
        sides = {}
        for name in ("ours", *options.peer):  # ours writes the weights that theirs take
            job = stack.enter_context(Job(options.limit, **_spec(name, network, precision, options, **more)))
            sides[name] = job
            if job.about != sides["ours"].about:
                raise Failed(f"the networks differ: {sides['ours'].about} and {name}'s {job.about}")
        load = os.getloadavg()[0]
        found = alternate(sides, options.rounds, options.round_steps)
    beside = {}
    for name in options.peer:
        check_losses(found["ours"]["first_loss"], found[name]["first_loss"], name, precision)
        beside[name] = compared(found["ours"], found[name], precision, mode)
    return {**sides["ours"].about, "load": [load, os.getloadavg()[0]], "sides": found, "beside": beside}


def check_losses(ours: float | None, theirs: float | None, peer: str, precision: str) -> None:
    """Raises Failed where a peer's first step has another loss than ours: it is not the same step."""
    if ours is not None and abs(theirs - ours) > _APART[precision] * abs(ours):
        raise Failed(f"the first losses differ: {ours:.6f} and {peer}'s {theirs:.6f}")


def _print(row: Mapping, limit: float, batch: int) -> None:
    print(
        f"{row['network']} {row['precision']} {row['mode']}: {row['parameters']:,} parameters, "
        f"{row['macs'] / 1e9:.2f} GMAC an example, load {row['load'][0]:.1f} to {row['load'][1]:.1f}"
    )
    for name, side in row["sides"].items():
        rate = flops(row["macs"], batch, row["mode"], side["step_s"])
        loss = "" if side["first_loss"] is None else f", loss {side['first_loss']:.6f}"
        print(
            f"  {name:14}{side['step_s']:9.3f} s{side['cpu_s']:9.3f} CPU s{side['peak_mib']:8.0f} MiB"
            f"{rate / 1e9:9.0f} GFLOP/s, {rate / limit:4.0%} of the limit; "
            f"first step {side['first_s']:.1f} s{loss}"
        )
    for name, one in row["beside"].items():
        ratios, met = one["ratios"], one["met"]
        goals = {"memory": f"memory <= {GOALS['memory']}"}
        if "time" in met:
            goals["time"] = f"time <= {GOALS[row['precision']]}"
        verdicts = "; ".join(f"{text}: {'met' if met[key] else 'NOT met'}" for key, text in goals.items())
        print(
            f"  {'over ' + name:14}{ratios['step_s']:9.2f}  {ratios['cpu_s']:9.2f}      "
            f"{ratios['peak_mib']:8.2f}      {verdicts}",
            flush=True,
        )


def _versions() -> str:
    """Of the libraries compared, without loading them."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("tensorflow", "keras", "torch", "monai"))


# --- the run ---------------------------------------------------------------------------------------------


def _write(options: argparse.Namespace, figures: dict) -> None:
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1) + "\n")


def _processor() -> str:
    """Its name where the system tells (Linux), else its kind."""
    known = pathlib.Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _peers(text: str) -> list[str]:
    chosen = text.split(",")
    if set(chosen) - set(PEERS):
        raise argparse.ArgumentTypeError(f"{text}: expected some of {', '.join(PEERS)}")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--peer", type=_peers, help="compare with PyTorch rather than precisions: torch, torch-compile or both"
    )
    parser.add_argument("--networks", help="with commas between them; all unless given")
    parser.add_argument("--precisions", help="with commas between them; all unless given")
    parser.add_argument("--width", type=int, help="channels at full resolution; the config's unless given")
    parser.add_argument("--batch", type=int, default=2, help="examples in a step")
    parser.add_argument("--size", type=int, help="pixels or voxels along an edge; the config's unless given")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=20, help="of a cell of the table")
    parser.add_argument("--rounds", type=int, default=5, help="beside the peer")
    parser.add_argument("--round-steps", type=int, default=2, help="steps of one side in a round")
    parser.add_argument("--limit", type=float, default=1200, help="seconds of a cell")
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE", help="write the figures here too (JSON)")
    options = parser.parse_args(argv)
    known = _OF_PEER if options.peer else tuple(NETWORKS)
    options.networks = options.networks.split(",") if options.networks else known
    kinds = _PRECISIONS[:2] if options.peer else _PRECISIONS
    options.precisions = options.precisions.split(",") if options.precisions else kinds
    for given, allowed, name in (
        (options.networks, known, "--networks"),
        (options.precisions, kinds, "--precisions"),
    ):
        if set(given) - set(allowed):
            parser.error(f"{name} {','.join(given)}: expected some of {', '.join(allowed)}")
    figures = {
        "processor": _processor(),
        "settings": {name: value for name, value in vars(options).items() if name not in ("output", "limit")},
    }
    (beside_peers if options.peer else table)(options, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
