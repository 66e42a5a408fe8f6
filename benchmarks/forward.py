"""A network's forward pass on a CPU: ours as exported, and the same weights under other engines. Minutes.

    pip install -e . monai torch openvino onnxruntime onnx onnxscript
    python benchmarks/forward.py --networks cun,msm,msm_et --width 16
    python benchmarks/forward.py --networks cun --peers openvino,compile --rounds 9 --json figures.json

ours           TensorFlow, batch normalisation folded into the convolutions: what `tfbrats export` saves
ours unfolded  the same as it was trained
the others     `engines.py`; parameters and multiplications must be equal, outputs are held against ours

A pass is of 8 slices or of one patch, the batches of a whole case, in float32. All sides have all cores, each
in a process of its own, and run in turn, forwards and backwards; figures are medians of --rounds.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence

import engines
import numpy as np
from train_step import Failed, Job, _processor

OURS = ("ours", "ours unfolded")
GOAL = 0.8  # of the fastest peer's time
APART = 1e-3  # of the largest logit: in float32, by order of summation alone, they are far nearer
# As a case is run: `slice_segmenter` takes eight, cascade.tile_batch is one.
BATCHES = {"cun": 8, "unet2d": 8, "msm": 1, "msm_et": 1, "msm_noaspp": 1, "unet3d": 1}


def measured(network: str, options: argparse.Namespace, work: str) -> dict[str, dict]:
    """Side -> seconds and CPU seconds of a pass, peak memory, how far its outputs are from ours."""
    common = {
        "network": network,
        "width": options.width,
        "batch": BATCHES[network],
        "threads": len(os.sched_getaffinity(0)),
        "weights": os.path.join(work, f"{network}.npz"),
        "work": work,
    }
    jobs: dict[str, Job] = {}
    try:
        for side in (*OURS, *options.peers):
            jobs[side] = Job(options.limit, "forward_jobs.py", side=side, **common)
        ours = jobs[OURS[0]].about
        for side, job in jobs.items():
            if any(job.about[key] != ours[key] for key in ("parameters", "macs")):
                raise Failed(f"{network}: the networks differ: {ours} and of {side} {job.about}")
        answers: dict[str, list[dict]] = {side: [] for side in jobs}
        for number in range(1 + options.rounds):
            for side in list(jobs)[:: 1 if number % 2 == 0 else -1]:
                answers[side].append(jobs[side].run(options.passes))
    finally:
        for job in jobs.values():
            job.__exit__()
    with np.load(ours["outputs"]) as arrays:
        reference = dict(arrays)
    gaps = {side: gap(side, job.about["outputs"], reference) for side, job in jobs.items()}
    return {side: figures(answers[side], gaps[side]) for side in jobs}


def figures(answers: Sequence[Mapping], gap: float) -> dict:
    """Medians over the passes of the rounds after the first."""
    kept = answers[1:]
    found = {key: statistics.median(value for one in kept for value in one[key]) for key in ("seconds", "cpu")}
    return {**found, "peak_mib": kept[-1]["peak_mib"], "gap": gap}


def gap(side: str, path: str, reference: Mapping[str, np.ndarray]) -> float:
    """How far a side's outputs are from ours at most; raises Failed where they are another network's."""
    with np.load(path) as arrays:
        apart = max(float(np.abs(arrays[name] - array).max()) for name, array in reference.items())
    largest = max(float(np.abs(array).max()) for array in reference.values())
    if apart > APART * largest:
        raise Failed(f"{side}: logits {apart:.1e} from ours, the largest being {largest:.1e}: other weights?")
    return apart


def show(network: str, rows: Mapping[str, Mapping]) -> None:
    ours = rows[OURS[0]]
    print(f"\n| {network} | s | CPU s | peak MiB | ours over it | logits differ from ours by |\n|{'---|' * 6}")
    for side, row in rows.items():
        over = ours["seconds"] / row["seconds"]
        print(
            f"| {side} | {row['seconds']:.3f} | {row['cpu']:.3f} | {row['peak_mib']:.0f} | {over:.2f} "
            f"| {row['gap']:.1e} |"
        )
    peers = {side: row["seconds"] for side, row in rows.items() if side not in OURS}
    if peers:
        fastest = min(peers, key=peers.get)
        share = ours["seconds"] / peers[fastest]
        verdict = "met" if share <= GOAL else "NOT met"
        print(f"\nours over the fastest, {fastest}: {share:.2f}, goal {GOAL}: {verdict}")


def _versions() -> str:
    from importlib import metadata

    found = []
    for package in ("tensorflow", "torch", "openvino", "onnxruntime"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--networks", default="cun,msm,msm_et", help="with commas between them")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument(
        "--peers", default=",".join(engines.ENGINES), help="with commas between them; '' for none"
    )
    parser.add_argument("--rounds", type=int, default=7, help="of each side, after one that warms up")
    parser.add_argument("--passes", type=int, default=2, help="in a round")
    parser.add_argument("--limit", type=float, default=600, help="seconds until a side is ready")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_args(argv)
    options.networks, options.peers = options.networks.split(","), [p for p in options.peers.split(",") if p]
    for given, known, name in (
        (options.networks, BATCHES, "--networks"),
        (options.peers, engines.ENGINES, "--peers"),
    ):
        if unknown := set(given) - set(known):
            parser.error(f"{name}: {', '.join(sorted(unknown))} unknown; choose from {', '.join(known)}")
    for peer in options.peers:
        if what := engines.lacking(peer):
            parser.error(f"{peer} needs: {what}. Or leave it out of --peers.")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    load, found = os.getloadavg()[0], {}
    try:
        with tempfile.TemporaryDirectory(prefix="tfbrats-forward-") as work:
            for network in options.networks:
                found[network] = measured(network, options, work)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    cores = len(os.sched_getaffinity(0))
    print(
        f"{_processor()}, {cores} cores; load {load:.1f} before, {os.getloadavg()[0]:.1f} after; {_versions()}"
    )
    print(f"width {options.width}, float32; medians of {options.rounds} rounds of {options.passes} passes")
    for network, rows in found.items():
        show(network, rows)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
