"""The processes of ours that `segment.py` times: `predict`, and a server's client. Exports what they run, too.

    python benchmarks/segment_jobs.py '{"side": "predict", "model": "models/cun/1", ...}'

As `step_jobs.py` does it: one process a measurement; it makes itself ready, answers a line of JSON, and for
each number on its standard input segments the case as often and answers with what it took.

Exported are the run's model, in each precision, and the same with a clock round its networks, which appends
the seconds of every forward pass to a file. The clocked one tells what all but the network takes; a whole case
is timed without a clock. The networks' weights go into files for the peer. N4, where a run wants it, is left
out of all sides.
"""

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from unittest import mock

import numpy as np
import step_jobs

from tfbrats.config import Config, PatchConfig
from tfbrats.config_file import overridden
from tfbrats.datasets import layouts
from tfbrats.labels import REGIONS
from tfbrats.machine import files
from tfbrats.machine.memory import peak_resident_bytes
from tfbrats.predictions import results
from tfbrats.predictions.model_card import ModelCard
from tfbrats.runs.folder import CONFIG, RunFolder


class Clock:
    """The file that clocked networks write to, from whichever process."""

    def __init__(self, path: str):
        self._path = pathlib.Path(path)
        self._path.touch()
        self._from = self._path.stat().st_size

    def taken(self) -> float:
        """Seconds of the networks since the last call."""
        with self._path.open() as file:
            file.seek(self._from)
            lines = file.read()
            self._from = file.tell()
        return sum(map(float, lines.split()))


# --- export ----------------------------------------------------------------------------------------------


def _clocked(network, path: str):
    """The network; each of its runs in a graph appends its seconds to a file."""
    import tensorflow as tf

    class Clocked:
        def __call__(self, batch, training):
            with tf.control_dependencies([batch]):
                began = tf.timestamp()
            with tf.control_dependencies([began]):
                outputs = network(tf.identity(batch), training=training)
            with tf.control_dependencies(list(outputs.values())):
                took = tf.timestamp() - began
            tf.print(took, output_stream=f"file://{path}")
            return outputs

        def __getattr__(self, name):
            return getattr(network, name)

    return Clocked()


def without_n4(run_dir: str, folder: str) -> Config:
    """A run folder beside the run's, with all that is the run's but N4; its config."""
    os.makedirs(folder)
    for name in os.listdir(run_dir):
        if name != CONFIG:
            os.symlink(os.path.abspath(os.path.join(run_dir, name)), os.path.join(folder, name))
    copy = RunFolder(folder)
    copy.write_config(overridden(RunFolder(run_dir).config, ["preprocess.n4_modalities=[]"]))
    return copy.config


def _exported(spec: Mapping, folder: str) -> dict[str, str]:
    """Precision, or "clocked" -> the version's folder."""
    from tfbrats.exports import next_version, saving
    from tfbrats.inference.slice_segmenter import SliceSegmenter

    plain = saving.folded

    def clocked(*arguments, **options):
        segmenter, said = plain(*arguments, **options)
        if isinstance(segmenter, SliceSegmenter):
            segmenter.network = _clocked(segmenter.network, spec["clock"])
        else:
            segmenter.networks = {
                region: _clocked(one, spec["clock"]) for region, one in segmenter.networks.items()
            }
        return segmenter, said

    def to(name: str) -> str:
        return os.path.join(spec["work"], "models", name)

    found = {each: next_version.export(folder, to(each), precision=each) for each in spec["precisions"]}
    with mock.patch.object(saving, "folded", clocked):
        return found | {"clocked": next_version.export(folder, to("clocked"))}


def _weights(config: Config, work: str) -> dict[str, dict]:
    """Region ("" for a network of slices) -> parameters, multiplications of an example, file of the weights."""
    from tfbrats import networks
    from tfbrats.training import best_weights

    found = {}
    of_patches = isinstance(config, PatchConfig)
    for region in REGIONS if of_patches else ("",):
        network = best_weights.best_networks(config, [region])[region]
        path = os.path.join(work, f"weights{region}.npz")
        arrays = {
            f"{name} {n}": array
            for name, of in step_jobs.weights_of(network).items()
            for n, array in enumerate(of)
        }
        np.savez(path, **arrays)
        side = (config.sampling.patch_size,) * 3 if of_patches else config.records.slice_shape
        answering = network if of_patches else networks.without_training_heads(network)
        found[region] = {
            "parameters": network.count_params(),
            "macs": step_jobs.macs(answering, (*side, network.inputs[0].shape[-1])),
            "file": path,
        }
    return found


def export_all(spec: Mapping) -> dict:
    """Exports a run in each precision; what the peer needs to carry the same networks."""
    folder = os.path.join(spec["work"], "run")
    left_out = RunFolder(spec["run"]).config.preprocess.n4_modalities
    config = without_n4(spec["run"], folder)
    with contextlib.redirect_stdout(sys.stderr):
        return {
            "run": folder,
            "models": _exported(spec, folder),
            "networks": _weights(config, spec["work"]),
            "n4": list(left_out),
        }


# --- ours ------------------------------------------------------------------------------------------------


def _one_case(spec: Mapping, segment: Callable, card: ModelCard) -> Callable:
    """Files to file with either of the two below -> seconds by part."""
    entry = layouts.find(spec["case"]).cases[0]

    def once():
        done = results.attempt(segment, entry, card, results.target(entry.case_id, spec["output"]))
        if done.fault is not None:
            raise SystemExit(done.fault.reason)
        return done.seconds

    return once


def predict(spec: Mapping) -> Callable:
    """Segments the case in this process -> seconds by part."""
    from tfbrats.inference import saved_segmenter

    segmenter = saved_segmenter.SavedSegmenter(spec["model"])
    return _one_case(spec, segmenter.segment, segmenter.card)


def client(spec: Mapping) -> Callable:
    """As `predict`, through a server; imports no TensorFlow."""
    from serving.client import Client

    asked = Client(spec["server"], spec["model_name"])
    return _one_case(spec, asked.segment, asked.card())


# --- the process -----------------------------------------------------------------------------------------


def answer(content: Mapping) -> None:
    print(json.dumps(content), flush=True)


def serve(once: Callable[[], Mapping[str, float]], network_seconds: Callable[[], float]) -> None:
    """For each number on the standard input: that many cases, and what each took."""
    network_seconds()
    for line in sys.stdin:
        found: dict[str, list] = {"seconds": [], "cpu": [], "network": [], "parts": []}
        for _ in range(int(line)):
            began, cpu_began = time.perf_counter(), time.process_time()
            parts = dict(once())
            found["seconds"].append(time.perf_counter() - began)
            found["cpu"].append(time.process_time() - cpu_began)
            found["network"].append(network_seconds())
            found["parts"].append(parts)
        answer({**found, "peak_mib": peak_resident_bytes() / 2**20})


def main(spec: Mapping) -> None:
    if spec["side"] == "export":
        answer(export_all(spec))
        return
    files.check_can_hold(spec["output"])
    once = {"predict": predict, "client": client}[spec["side"]](spec)
    answer({})
    serve(once, Clock(spec["clock"]).taken if "clock" in spec else lambda: 0.0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
