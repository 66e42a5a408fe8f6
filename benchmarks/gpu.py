"""What a GPU makes of the networks, in one command of at most eight minutes.

    python benchmarks/gpu.py --output gpu.json                      # the most telling figures first
    python benchmarks/gpu.py --networks drn --minutes 20            # what the eight minutes left out
    KERAS_BACKEND=jax python benchmarks/gpu.py --output jax.json    # Keras on JAX; needs no TensorFlow
    python benchmarks/gpu.py --ops                                  # needs no GPU
    python benchmarks/gpu.py --rehearse                             # small sizes: whether all of it works

For each network in float32, TF32, float16 and bfloat16, with and without XLA: steps and examples a second,
the GPU's utilisation (by nvidia-smi), peak memory, seconds to the first step. A whole case, from files to file,
in float32 as TensorFlow has it (TF32). How far each precision on the GPU is from float32 on the CPU. Batches,
width and sizes are the configs'; where they do not fit, half of the batch. A line is printed when it is known,
and --output is written anew with each; what the time did not suffice for is named at the end. The two networks
named first come first, with their case and their distance from the CPU. JAX always compiles, and segments no
whole case.

--ops lists what TensorFlow has no GPU kernel for in each training step and in the models of the two networks
named first, and what the kernel does in the host's memory, by TensorFlow's own registry.
"""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

_HERE = pathlib.Path(__file__).parent
_NETWORKS = ("cun_lws", "msm", "unet2d", "unet3d", "bfcn", "drn", "msm_et", "msm_noaspp", "cun")
_REHEARSED = ("unet2d", "msm", "cun_lws", "unet3d", "bfcn", "drn")
_PRECISIONS = ("bfloat16", "tf32", "float32", "float16")
_POLICIES = ("float32", "mixed_float16", "mixed_bfloat16")
_ENGINE = os.environ.get("KERAS_BACKEND") or "tensorflow"
_ENVIRONMENT = {
    **os.environ,
    "KERAS_BACKEND": _ENGINE,
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "PYTHONWARNINGS": "ignore",
}
_FULL = (240, 240, 155)
_SMALL = (64, 64, 32)
_NO_ROOM, _NO_TIME = "out of memory", "no time left"
_SHORTEST_S = 5  # a process that has less left is not started


# --- what is measured, in which order --------------------------------------------------------------------


def plan(networks: Sequence[str], engine: str, rehearsed: bool = False) -> list[dict]:
    """The jobs, the most telling first: each a process with its cells.

    Args:
        networks: whose; of the first two all is asked.
        engine: Keras'.
        rehearsed: as few cells as go every way; XLA on the first network alone.
    """
    first, others = networks[:2], networks[2:]  # unless others are asked for, one of each paper
    if engine == "jax":
        # Its memory has one peak a process.
        cells = [[cell] for cell in _cells(xla=True)]
        if rehearsed:
            return [_job("steps", first[0], cells[1]), _job("differences", first[0], _cells()[1:2])]
        of_steps = [_job("steps", name, each) for name in first for each in cells]
        apart = [_job("differences", name, _cells()) for name in first]
        return [*of_steps, *apart, *(_job("steps", name, each) for each in cells for name in others)]
    if rehearsed:
        jobs = [_job("steps", first[0], [*_cells(xla=False), *_cells(xla=True)[1:2]])]
        jobs += [_job("case", name, []) for name in first]
        jobs.append(_job("differences", first[0], _cells()[1:2]))
        return jobs + [_job("steps", name, _cells(xla=False)[1:2]) for name in networks[1:]]
    jobs = [_job("steps", name, _cells(xla=False)) for name in first]
    jobs += [_job("case", name, []) for name in first]
    jobs += [_job("differences", name, _cells()) for name in first]
    jobs += [_job("steps", name, _cells(xla=True)[:2]) for name in first]
    jobs += [_job("steps", name, _cells(xla=False)) for name in others]
    jobs += [_job("steps", name, _cells(xla=True)[2:]) for name in first]
    jobs += [_job("steps", name, _cells(xla=True)) for name in others]
    return jobs + [_job("differences", name, _cells()) for name in others]


def _job(job: str, network: str, cells: list[dict]) -> dict:
    return {"job": job, "network": network, "cells": cells or [{}]}


def _cells(**more) -> list[dict]:
    return [{"precision": precision, **more} for precision in _PRECISIONS]


def _settings(job: Mapping, options: argparse.Namespace, batch: int | None) -> list[str]:
    """Overrides of the network's config."""
    chosen = [f"model.width={options.width}"] if options.width else []
    if options.size:
        of_patches = not job["network"].startswith(("cun", "unet2d", "bfcn", "drn"))
        if of_patches:
            chosen += [f"sampling.patch_size={options.size}", f"cascade.stride={options.size // 2}"]
        else:
            chosen.append(f"records.slice_shape={[options.size] * 2}")
    if job["job"] == "differences":
        batch = 2  # the CPU does it too
    return [*chosen, f"train.batch_size={batch}"] if batch else chosen


# --- processes -------------------------------------------------------------------------------------------


def answers(spec: Mapping, ends: float) -> Iterator[dict]:
    """A line of JSON for each cell of a job of `gpu_jobs.py`, until the time is over.

    Where the process dies, or the time is over, the last answer is {"failed": ...}.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, str(_HERE / "gpu_jobs.py"), json.dumps(spec)],
            env=_ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        late = threading.Event()

        def end_it() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(max(0.0, ends - time.monotonic()), end_it)
        timer.start()
        try:
            count = 0
            for line in process.stdout:
                with contextlib.suppress(json.JSONDecodeError):
                    yield json.loads(line)
                    count += 1
            code = process.wait()
            if count < len(spec.get("cells", [{}])):
                errors.seek(0)
                said = [text for text in errors.read().splitlines() if text.strip()]
                ended = f"ended with code {code}: {said[-1][:200] if said else ''}"
                yield {"failed": _NO_TIME if late.is_set() else ended}
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            process.stdout.close()


def run(job: Mapping, ends: float, options: argparse.Namespace) -> Iterator[dict]:
    """A row for each cell of a job, as `answers` gives them; where memory ran out, with half of the batch."""
    cells, batch = list(job["cells"]), options.batch
    while cells and time.monotonic() < ends - _SHORTEST_S:
        spec = {
            **job,
            "cells": cells,
            "settings": _settings(job, options, batch),
            "seconds": options.seconds,
            "shape": options.shape,
        }
        for answer in answers(spec, ends):
            row = {"job": job["job"], "network": job["network"], **cells[0], **answer}
            if row.get("failed") == _NO_ROOM and row.get("batch", 1) > 1:
                batch = row["batch"] // 2
                break
            if row.get("failed") == _NO_TIME:
                break
            cells = cells[1:]
            yield row
    yield from ({"job": job["job"], "network": job["network"], **cell, "left_out": True} for cell in cells)


# --- what is shown ---------------------------------------------------------------------------------------

_HEADS = {
    "steps": f"{'network':12}{'precision':10}{'XLA':5}{'batch':>6}{'steps/s':>9}{'per s':>9}{'GPU %':>7}"
    f"{'peak MiB':>10}{'first s':>9}{'first loss':>12}{'last':>9}",
    "case": f"{'network':12}{'load s':>8}{'first s':>9}{'again s':>9}{'read':>7}{'segment':>9}{'write':>7}"
    f"{'peak MiB':>10}",
    "differences": f"{'network':12}{'precision':10}{'probability':>13}{'labels':>10}{'of':>11}{'loss':>10}"
    f"{'gradient':>10}",
}


def shown(row: Mapping) -> str:
    """A line of a table."""
    start = f"{row['network']:12}"
    if "precision" in row:
        start += f"{row['precision']:10}"
    if "xla" in row:
        start += f"{'on' if row['xla'] else 'off':5}"
    if "failed" in row:
        return f"{start}  failed: {row['failed']}"
    if row["job"] == "steps":
        busy = row["utilisation_percent"]
        return (
            f"{start}{row['batch']:6}{row['steps_per_second']:9.2f}{row['examples_per_second']:9.1f}"
            f"{'-' if busy is None else format(busy, '.0f'):>7}{row['peak_mib']:10.0f}{row['ready_s']:9.1f}"
            f"{row['first_loss']:12.5f}{row['last_loss']:9.4f}"
        )
    if row["job"] == "case":
        return (
            f"{start}{row['load_s']:8.2f}{row['first_s']:9.2f}{row['whole_s']:9.2f}{row['read_s']:7.2f}"
            f"{row['segment_s']:9.2f}{row['write_s']:7.2f}{row['peak_mib']:10.0f}"
        )
    return (
        f"{start}{row['probability']:13.1e}{row['labels']:10}{row['voxels']:11}{row['loss']:10.1e}"
        f"{row['gradient']:10.1e}"
    )


def measure(options: argparse.Namespace, ends: float) -> dict:
    """All rows, printed as they come and written to --output."""
    figures: dict = {"settings": {name: str(value) for name, value in vars(options).items()}, "rows": []}
    figures["about"] = about = next(answers({"job": "about"}, ends))
    if "failed" in about:
        sys.exit(f"error: {about['failed']}")
    print(f"{about['device']}; Keras {about['keras']} on {about['engine']} {about['engine_version']}")
    if not about["has_gpu"]:
        print("no GPU: these figures are the CPU's, which is compared with itself")
    table = None
    for job in plan(options.networks, about["engine"], options.rehearse):
        for row in run(job, ends, options):
            figures["rows"].append(row)
            if options.output:
                options.output.write_text(json.dumps(figures, indent=1) + "\n")
            if "left_out" in row:
                continue
            if table != row["job"]:
                table = row["job"]
                print("", _HEADS[table], sep="\n")
            print(shown(row), flush=True)
    if left := [_named(row) for row in figures["rows"] if "left_out" in row]:
        print(f"\nleft out, for want of time: {', '.join(dict.fromkeys(left))}")
    return figures


def _named(row: Mapping) -> str:
    what = row["job"] if row["job"] != "steps" else f"steps{' with XLA' if row.get('xla') else ''}"
    return f"{row['network']} {what}"


# --- kernels ---------------------------------------------------------------------------------------------


def list_kernels(options: argparse.Namespace) -> dict:
    """Prints and returns what costs a GPU a copy, by training step and by model."""
    import device_ops

    if not device_ops.knows_gpu_kernels():
        sys.exit("error: this TensorFlow was built without GPU kernels; take the wheel `tensorflow` for Linux.")
    found = {}
    graphs = ((f"{name} {policy} step", name, policy) for name in options.networks for policy in _POLICIES)
    for title, name, policy in graphs:
        found[title] = _listed(title, device_ops.operations(device_ops.step_graph(name, policy)))
    for name in options.networks[:2]:
        title = f"{name} serving_default"
        found[title] = _listed(title, device_ops.operations(device_ops.model_graph(name)))
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    return found


def _listed(title: str, operations: Iterator) -> list:
    import device_ops

    every = list(operations)
    rows = [[*kind, count] for kind, count in sorted(device_ops.counted(every).items())]
    print(f"{title}: {len(every)} operations, {sum(row[-1] for row in rows)} cost a copy")
    for op, dtype, why, count in rows:
        print(f"  {count:4} {op} {dtype}: {why}")
    sys.stdout.flush()
    return rows


# --- the command -----------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    began = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--networks", help=f"of {','.join(_NETWORKS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=8, help="no longer than this (default: 8)")
    parser.add_argument("--seconds", type=float, default=2, help="of timed steps in a cell (default: 2)")
    parser.add_argument("--batch", type=int, help="examples in a step (default: the config's)")
    parser.add_argument("--width", type=int, help="channels at full resolution (default: the config's)")
    parser.add_argument("--size", type=int, help="pixels or voxels along an edge (default: the config's)")
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE", help="write the figures here too (JSON)")
    parser.add_argument("--ops", action="store_true", help="list what has no GPU kernel; measure nothing")
    parser.add_argument("--rehearse", action="store_true", help="small sizes, few cells: does all of it work?")
    options = parser.parse_args(argv)
    shipped = _REHEARSED if options.rehearse else _NETWORKS
    options.networks = options.networks.split(",") if options.networks else shipped
    if strange := set(options.networks) - set(_NETWORKS):
        parser.error(f"--networks {','.join(strange)}: expected some of {', '.join(_NETWORKS)}")
    options.shape = _FULL
    if options.rehearse:
        options.width, options.size, options.batch = options.width or 2, options.size or 16, options.batch or 2
        options.seconds, options.shape = 0.1, _SMALL
        # To compile fast, not to run fast.
        _ENVIRONMENT["XLA_FLAGS"] = (
            "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        )
    if options.ops:
        list_kernels(options)
        return 0
    figures = measure(options, began + 60 * options.minutes)
    failed = [row for row in figures["rows"] if "failed" in row]
    print(f"\n{len(figures['rows'])} cells, {len(failed)} failed, {time.monotonic() - began:.0f} s")
    return 1 if options.rehearse and failed else 0


if __name__ == "__main__":
    sys.exit(main())
