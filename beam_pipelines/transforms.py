"""Thin doors from Beam into tfbrats: each DoFn is a few lines round a function that tests call without Beam."""

import os

import apache_beam as beam
from apache_beam.metrics import Metrics

from beam_pipelines import engine
from tfbrats import records, shards


class WriteShard(beam.DoFn):
    """ShardTask -> a records.Shard for each of its files, which are on disk when the rows are out.

    Args:
        command_pid: of the command that starts the workers on its own machine and waits for them; a worker does
            not outlive it.
    """

    def __init__(self, command_pid: int | None = None):
        self._command_pid = command_pid

    def setup(self):
        if self._command_pid not in (None, os.getpid()):
            engine.end_with(self._command_pid)

    def process(self, task: shards.ShardTask):
        written = shards.write_shard(task)
        Metrics.counter("tfbrats", "cases").inc(len({row.case_id for shard in written for row in shard.cases}))
        Metrics.counter("tfbrats", "rejected").inc(sum(len(shard.rejected) for shard in written))
        Metrics.counter("tfbrats", "examples").inc(sum(shard.examples for shard in written))
        Metrics.counter("tfbrats", "bytes").inc(sum(shard.bytes for shard in written))
        for seconds in records.seconds_by_case(written).values():
            for stage, of_stage in seconds.items():
                Metrics.distribution("tfbrats", f"{stage}_ms").update(round(1000 * of_stage))
            Metrics.distribution("tfbrats", "case_ms").update(round(1000 * sum(seconds.values())))
        yield from written


def write_shards(
    pipeline: beam.Pipeline, tasks: list[shards.ShardTask], command_pid: int | None = None
) -> beam.PCollection:
    """Only the tasks travel: paths and settings, never voxels. Reshuffle spreads them over the workers."""
    return (
        pipeline
        | "tasks" >> beam.Create(tasks, reshuffle=False)
        | "spread" >> beam.Reshuffle()
        | "write shards" >> beam.ParDo(WriteShard(command_pid))
    )
