"""Thin doors from Beam into tfbrats: each DoFn is a few lines round a function that tests call without Beam."""

import dataclasses
import itertools
import logging
import os
import socket
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils import shared

from beam_pipelines import engine, result_folder, task_list
from tfbrats.datasets.layouts import CaseFiles
from tfbrats.predictions import results
from tfbrats.records import manifest, shards
from tfbrats.records.shards import ShardTask

# --- records --------------------------------------------------------------------------------------------


class WriteShard(beam.DoFn):
    """ShardTask -> the row (`manifest.Shard`) of each of its files, which are on disk by then.

    Args:
        config: of all tasks (`ShardTask.config`), which come without it.
        command_pid: of the command that starts the workers on its own machine and waits for them; a worker does
            not outlive it.
    """

    def __init__(self, config: Mapping[str, Any], command_pid: int | None = None):
        self._config = dict(config)
        self._command_pid = command_pid

    def setup(self):
        if self._command_pid not in (None, os.getpid()):
            engine.end_with(self._command_pid)

    def process(self, task: ShardTask):
        written = shards.write_shard(dataclasses.replace(task, config=self._config))
        Metrics.counter("tfbrats", "cases").inc(len({row.case_id for shard in written for row in shard.cases}))
        Metrics.counter("tfbrats", "rejected").inc(sum(len(shard.rejected) for shard in written))
        Metrics.counter("tfbrats", "examples").inc(sum(shard.examples for shard in written))
        Metrics.counter("tfbrats", "bytes").inc(sum(shard.bytes for shard in written))
        for seconds in manifest.seconds_by_case(written).values():
            for stage, of_stage in seconds.items():
                Metrics.distribution("tfbrats", f"{stage}_ms").update(round(1000 * of_stage))
            Metrics.distribution("tfbrats", "case_ms").update(round(1000 * sum(seconds.values())))
        yield from written


def list_shards(path: str, tasks: Iterable[ShardTask]) -> None:
    """Writes the list that `write_shards` takes: paths and settings, never voxels."""
    task_list.write(path, ShardTask, (dataclasses.replace(task, config={}) for task in tasks))


def write_shards(
    pipeline: beam.Pipeline, listed: str, config: Mapping[str, Any], command_pid: int | None = None
) -> beam.PCollection:
    """The shards of a list, which need not be written before the pipeline runs.

    Args:
        listed: path of the list.
        config: as `WriteShard`'s.
    """
    tasks = task_list.spread(pipeline, listed, ShardTask)
    return tasks | "write shards" >> beam.ParDo(WriteShard(config, command_pid))


# --- segmentations --------------------------------------------------------------------------------------

_loads = itertools.count(1)  # of models, in this process


class _Model:
    """An exported model in a worker process, for one case at a time.

    Attributes:
        load: the how-manieth that this process has loaded.
        alone: held while a case is worked on. The network uses all cores by itself, and memory is that of one.
    """

    def __init__(self, folder: str):
        # Here and not above: the command, and the workers of the other job, need no TensorFlow.
        from tfbrats.inference import saved_segmenter

        self.segmenter = saved_segmenter.SavedSegmenter(folder)
        self.load = next(_loads)
        self.alone = threading.Lock()
        Metrics.counter("tfbrats", "model_loads").inc()


class SegmentCase(beam.DoFn):
    """CaseFiles -> the case's row, when its results are on disk: worker, load, seconds, rejected, notes.

    Args:
        model: a version's folder.
        output: where the results go, and the rows (`result_folder`).
        with_provenance: also write <case_id>.json.
        command_pid: as `WriteShard`'s.
    """

    def __init__(self, model: str, output: str, with_provenance: bool, command_pid: int | None = None):
        self._folder, self._output, self._with_provenance = model, output, with_provenance
        self._command_pid = command_pid
        self._of_process = shared.Shared()

    def setup(self):
        if self._command_pid not in (None, os.getpid()):
            engine.end_with(self._command_pid)

    def process(self, entry: CaseFiles):
        model = self._of_process.acquire(lambda: _Model(self._folder))
        target = results.target(entry.case_id, self._output, with_provenance=self._with_provenance)
        with model.alone:
            segmenter = model.segmenter
            done = results.attempt(segmenter.segment, entry, segmenter.card, target)
        rejected = done.fault
        if rejected and rejected.traceback:
            logging.getLogger(__name__).error(rejected.traceback)
        row = {
            "case_id": entry.case_id,
            "worker": f"{socket.gethostname()}:{os.getpid()}",
            "load": model.load,
            "seconds": done.seconds,
            "rejected": rejected and rejected.model_dump(),
            "notes": list(done.notes),
        }
        result_folder.write_row(self._output, entry.case_id, row)
        Metrics.counter("tfbrats", "rejected" if rejected else "segmented").inc()
        for stage, seconds in done.seconds.items():
            Metrics.distribution("tfbrats", f"{stage}_ms").update(round(1000 * seconds))
        yield row


def list_cases(path: str, entries: Iterable[CaseFiles]) -> None:
    """Writes the list that `segment_cases` takes."""
    task_list.write(path, CaseFiles, entries)


def segment_cases(
    pipeline: beam.Pipeline,
    listed: str,
    model: str,
    output: str,
    with_provenance: bool,
    command_pid: int | None = None,
) -> beam.PCollection:
    """As `write_shards`, for the cases of a list."""
    entries = task_list.spread(pipeline, listed, CaseFiles)
    return entries | "segment" >> beam.ParDo(SegmentCase(model, output, with_provenance, command_pid))
