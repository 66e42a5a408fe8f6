"""What a whole case costs from NIfTI files to NIfTI file: `predict`, client and server, MONAI beside them.

    pip install -e . monai
    python benchmarks/segment.py --case BraTS2021/BraTS2021_00006 --run budget/msm/run       # trained
    python benchmarks/segment.py --case BraTS2021/BraTS2021_00006 --network cun --width 32   # not trained
    python benchmarks/segment.py ... --runs 3 --precisions float32,mixed_bfloat16 --json figures.json

predict      `tfbrats predict` in a process that has segmented one case before; start-up is told apart
served       our client, which loads no TensorFlow, and the embedded server in a process of its own
monai        MONAI's reader, sliding_window_inference and writer (`segment_peer.py`) over the same networks in
             PyTorch (`torch_networks.py`) with the same weights; parameters and multiplications must be equal.
             Slices as batches; patches with the run's window and stride over the brain's box, all three
             networks on each, no boxes of ours
compile, onnxruntime, openvino  as monai, with the network under that engine (`engines.py`). `forward.py` times
             the network alone, in minutes

All sides have all cores and run in turn, once to warm up and then --runs times; figures are medians. What
everything but the network takes is measured where it runs, by a clock round every forward pass: round the
module in PyTorch; in ours inside the graph of a second export, run beside the first (`segment_jobs.py` says
why). Our network's share is the total less that. N4, where the run wants it, is left out of all sides. How far
the label maps agree is printed: a stage in a box cuts its windows elsewhere than one without, so those of a
cascade are near and not equal.

--run takes any run folder; that of `benchmarks/budget.py` trains in half an hour. --network trains one step on
a phantom: its time is right, but the boxes that it finds mean nothing. The goals stand in GOALS.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

import engines
import numpy as np
from train_step import Failed, Job, _processor

from tfbrats.cases import case
from tfbrats.datasets import layouts
from tfbrats.datasets.layouts import CaseFiles
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS, region_mask
from tfbrats.metrics import region_scores
from tfbrats.workflows import chain

NETWORKS = ("cun", "unet2d", "msm", "unet3d")  # as torch_networks has them
# The side's name -> what runs its network, of `engines.py`.
PEERS = {"monai": "torch", "compile": "compile", "onnxruntime": "onnxruntime", "openvino": "openvino"}
SIDES = ("predict", "served", *PEERS)
_USUAL_SIDES = ("predict", "served", "monai")
# At most: all but the network, of predict's total; served over predict; predict over MONAI without boxes.
GOALS = {"else": 0.10, "served": 1.05, "boxes": 0.5}
_PRECISIONS = ("float32", "mixed_bfloat16")
_SERVER_START_S = 120
# A run of one step on one small phantom.
_ONE_STEP = ("train.epochs=1", "train.steps_per_epoch=1", "train.batch_size=1", "preprocess.n4_modalities=[]")
_SMALL = {"patches": ("records.kind=volumes", "data.shuffle_buffer=1"), "slices": ("records.min_shards=1",)}


# --- what is run -----------------------------------------------------------------------------------------


def one_step(network: str, width: int, work: pathlib.Path) -> str:
    """Trains a network for one step on a simulated case; its run folder."""
    cases, records, run = (str(work / name) for name in ("cases", "records", "one_step"))
    kind = "patches" if network in ("msm", "unet3d") else "slices"
    own = (f"model.width={width}", "records.split=[1,0,0]", *_ONE_STEP, *_SMALL[kind])
    config = ("--config", f"{network}.yaml")
    chain.output_of(
        *("tfbrats.phantom", "--output", cases, "--cases", "1", "--edition", "2020", "--seed", "1"),
        *("--shape", "64", "64", "48"),
    )
    chain.output_of("beam_pipelines.nifti_to_tfrecord", *config, "--input", cases, "--output", records, *own)
    chain.output_of("tfbrats.train", *config, "--records", records, "--run", run, *own)
    return run


@contextlib.contextmanager
def server(model: str, work: pathlib.Path) -> Iterator[str]:
    """The embedded server in a process of its own, answering in bytes as compose.yaml has it: host:port."""
    log = work / "server.txt"
    command = [sys.executable, "-m", "serving.server", "--model_base_path", model, "--port", "0"]
    command.append("--enable_serialization_as_tensor_content=true")
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            limit, ready = time.monotonic() + _SERVER_START_S, None
            while not ready and process.poll() is None and time.monotonic() < limit:
                time.sleep(0.1)
                ready = re.search(r"^ready: .* on (\S+:\d+)", log.read_text(), re.MULTILINE)
            if not ready:
                raise Failed(f"the server did not start:\n{log.read_text()[-2000:]}")
            yield ready[1]
        finally:
            process.terminate()


class Side:
    """One contestant: its process, and what it took so far.

    Attributes:
        started_s: from the start of its process until it could take a case.
        output: folder of its label map.
    """

    def __init__(self, name: str, output: pathlib.Path, job: Job, started_s: float):
        self.name, self.output, self.started_s = name, output, started_s
        self._job, self._answers = job, []

    def run(self) -> None:
        self._answers.append(self._job.run(1))

    def figures(self) -> dict:
        """Medians of the runs after the first; `else_s` is all that is not under a clock."""
        first, *others = self._answers
        kept = others or [first]
        totals, networks = ([one[key][0] for one in kept] for key in ("seconds", "network"))
        parts = kept[0]["parts"][0]
        return {
            "start_s": self.started_s,
            "first_s": first["seconds"][0],
            "total_s": statistics.median(totals),
            "else_s": statistics.median(np.subtract(totals, networks).tolist()),
            "parts_s": {part: statistics.median(one["parts"][0][part] for one in kept) for part in parts},
            "peak_mib": kept[-1]["peak_mib"],
            "runs": [round(total, 3) for total in totals],
        }


def contest(options: argparse.Namespace, entry: CaseFiles, work: pathlib.Path) -> tuple[dict[str, Side], dict]:
    """Runs all sides in turn; the sides by name, and what was exported."""
    run = options.run or one_step(options.network, options.width, work)
    clock = str(work / "clock")
    common = {"case": options.case, "threads": len(os.sched_getaffinity(0))}
    export = {"side": "export", "run": run, "work": str(work), "precisions": options.precisions, "clock": clock}
    with Job(options.limit, "segment_jobs.py", **export) as job:
        exported = job.about
    sides: dict[str, Side] = {}
    with contextlib.ExitStack() as stack:

        def enter(name: str, script: str, **spec) -> Job:
            output = work / name
            began = time.monotonic()
            job = stack.enter_context(Job(options.limit, script, output=str(output), **common, **spec))
            sides[name] = Side(name, output, job, time.monotonic() - began)
            return job

        for made, model in exported["models"].items():
            name = "predict" if made == _PRECISIONS[0] else f"predict {made}"
            own = {"clock": clock} if made == "clocked" else {}
            enter(name, "segment_jobs.py", side="predict", model=model, **own)
        if "served" in options.sides:
            base = os.path.dirname(exported["models"][_PRECISIONS[0]])
            address = stack.enter_context(server(base, work))
            enter("served", "segment_jobs.py", side="client", server=address, model_name=os.path.basename(base))
        for peer in [side for side in options.sides if side in PEERS]:
            weights = {region: one["file"] for region, one in exported["networks"].items()}
            own = {"run": exported["run"], "weights": weights, "engine": PEERS[peer]}
            theirs = enter(peer, "segment_peer.py", **own).about
            ours = {
                region: {key: one[key] for key in ("parameters", "macs")}
                for region, one in exported["networks"].items()
            }
            if ours != theirs:
                raise Failed(f"the networks differ: {ours} and {theirs}")
        for number in range(1 + options.runs):
            for side in list(sides.values())[:: 1 if number % 2 == 0 else -1]:
                side.run()
    return sides, exported


# --- what came out ---------------------------------------------------------------------------------------


def rows_of(sides: Mapping[str, Side]) -> dict[str, dict]:
    """The sides' figures, with `network_s`: of ours by what the clocked model tells."""
    rows = {name: side.figures() for name, side in sides.items()}
    clocked = rows.pop("predict clocked")
    for name, row in rows.items():
        if name.startswith("predict"):
            row["else_s"] = clocked["else_s"]
        elif name == "served":
            row["else_s"] = clocked["else_s"] + row["total_s"] - rows["predict"]["total_s"]
        row["network_s"] = row["total_s"] - row["else_s"]
    return rows


def agreement(sides: Mapping[str, Side], entry: CaseFiles) -> dict[str, dict]:
    """How the other sides' label maps differ from predict's: voxels, and Dice of each region."""
    maps = {
        name: case.load_label(side.output / f"{entry.case_id}.nii.gz", entry.schema)[0]
        for name, side in sides.items()
    }
    ours = maps.pop("predict")
    found = {}
    for name, tissues in maps.items():
        found[name] = {
            "voxels": int(np.count_nonzero(tissues != ours)),
            "of": int(np.count_nonzero(tissues | ours)),
            **{r: region_scores.dice(region_mask(tissues, r), region_mask(ours, r)) for r in REGIONS},
        }
    return found


def verdicts(rows: Mapping[str, Mapping], cascade: bool) -> dict[str, tuple[float, float, bool]]:
    """Goal -> its figure, its limit, whether it is met; those that this run can tell."""
    ours = rows["predict"]
    found = {"else": ours["else_s"] / ours["total_s"]}
    if "served" in rows:
        found["served"] = rows["served"]["total_s"] / ours["total_s"]
    if "monai" in rows and cascade:
        found["boxes"] = ours["total_s"] / rows["monai"]["total_s"]
    return {goal: (value, GOALS[goal], value <= GOALS[goal]) for goal, value in found.items()}


_SAID = {
    "else": "everything but the network, of predict's total",
    "served": "served over predict",
    "boxes": "predict with boxes over MONAI without",
}


def show(rows: Mapping[str, Mapping], agreed: Mapping[str, Mapping], cascade: bool) -> None:
    ours = rows["predict"]
    columns = ("", "start-up s", "case s", "network s", "everything else s", "of the case")
    columns += ("read, segment, write s", "peak MiB", "over predict")
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, row in rows.items():
        parts = ", ".join(f"{seconds:.2f}" for seconds in row["parts_s"].values())
        print(
            f"| {name} | {row['start_s']:.1f} | {row['total_s']:.2f} | {row['network_s']:.2f} "
            f"| {row['else_s']:.2f} | {row['else_s'] / row['total_s']:.1%} | {parts} | {row['peak_mib']:.0f} "
            f"| {row['total_s'] / ours['total_s']:.2f} |"
        )
    print()
    for goal, (value, limit, met) in verdicts(rows, cascade).items():
        print(f"{_SAID[goal]}: {value:.3f}, goal {limit}: {'met' if met else 'NOT met'}")
    for name, one in agreed.items():
        dice = ", ".join(f"{region} {one[region]:.4f}" for region in REGIONS)
        print(f"{name} against predict: {one['voxels']} of {one['of']} tumour voxels differ; Dice {dice}")


# --- the run ---------------------------------------------------------------------------------------------


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--case", required=True, help="a case's folder")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--run", help="run folder of tfbrats train")
    what.add_argument("--network", choices=NETWORKS, default="cun", help="without a run: weights of one step")
    parser.add_argument("--width", type=int, default=32, help="of that network")
    parser.add_argument("--runs", type=int, default=3, help="of each side, after one that warms up")
    parser.add_argument("--sides", default=",".join(_USUAL_SIDES), help=f"of {', '.join(SIDES)}")
    parser.add_argument("--precisions", default=_PRECISIONS[0], help="of predict, with commas between them")
    parser.add_argument("--limit", type=float, default=3600, help="seconds of a case")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_args(argv)
    options.sides, options.precisions = options.sides.split(","), options.precisions.split(",")
    for given, known, name in (
        (options.sides, SIDES, "--sides"),
        (options.precisions, _PRECISIONS, "--precisions"),
    ):
        if set(given) - set(known) or known[0] not in given:
            parser.error(
                f"{name} {','.join(given)}: expected {known[0]}, and of {', '.join(known[1:])} what is wanted"
            )
    for peer in PEERS.keys() & set(options.sides):
        if what := engines.lacking(PEERS[peer]):
            parser.error(f"{peer} needs: {what}. Or leave it out: --sides predict,served")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    try:
        (entry,) = layouts.select(layouts.find(options.case), None)
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory(prefix="tfbrats-segment-") as folder:
            sides, exported = contest(options, entry, pathlib.Path(folder))
            rows = rows_of(sides)
            agreed = agreement(sides, entry)
    except (Failed, InputError) as error:
        print(error, file=sys.stderr)
        return 1
    networks = {
        region: {k: one[k] for k in ("parameters", "macs")} for region, one in exported["networks"].items()
    }
    cascade = len(networks) > 1
    print(
        f"{entry.case_id}; {_processor()}, {len(os.sched_getaffinity(0))} cores; load {load:.1f} before, "
        f"{os.getloadavg()[0]:.1f} after; medians of {options.runs} runs after one"
    )
    for region, one in networks.items():
        print(
            f"{region or 'network'}: {one['parameters']:,} parameters, {one['macs'] / 1e9:.2f} GMAC an example"
        )
    if exported["n4"]:
        print(f"N4 of {', '.join(exported['n4'])}, which this run wants, is left out everywhere")
    show(rows, agreed, cascade)
    if options.json:
        figures = {"case": entry.case_id, "networks": networks, "rows": rows, "agreement": agreed}
        figures["goals"] = verdicts(rows, cascade)
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
