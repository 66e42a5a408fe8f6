"""Thin doors from Beam into tfbrats: each DoFn is a few lines round a function that tests call without Beam."""

import apache_beam as beam
from apache_beam.metrics import Metrics

from tfbrats import shards


class WriteShard(beam.DoFn):
    """ShardTask -> records.Shard; the file is on disk when the row is out."""

    def process(self, task: shards.ShardTask):
        shard = shards.write_shard(task)
        Metrics.counter("tfbrats", "cases").inc(len(shard.cases))
        Metrics.counter("tfbrats", "rejected").inc(len(shard.rejected))
        Metrics.counter("tfbrats", "examples").inc(shard.examples)
        yield shard


def write_shards(pipeline: beam.Pipeline, tasks: list[shards.ShardTask]) -> beam.PCollection:
    """Only the tasks travel: paths and settings, never voxels. Reshuffle spreads them over the workers."""
    return (
        pipeline
        | "tasks" >> beam.Create(tasks, reshuffle=False)
        | "spread" >> beam.Reshuffle()
        | "write shards" >> beam.ParDo(WriteShard())
    )
