"""Thin doors from Beam into tfbrats: each DoFn is a few lines round a function that tests call without Beam."""

import apache_beam as beam
from apache_beam.metrics import Metrics

from tfbrats import shards


class WriteShard(beam.DoFn):
    """ShardTask -> a records.Shard for each of its files, which are on disk when the rows are out."""

    def process(self, task: shards.ShardTask):
        written = shards.write_shard(task)
        Metrics.counter("tfbrats", "cases").inc(len(written[0].cases))
        Metrics.counter("tfbrats", "rejected").inc(len(written[0].rejected))
        Metrics.counter("tfbrats", "examples").inc(sum(shard.examples for shard in written))
        yield from written


def write_shards(pipeline: beam.Pipeline, tasks: list[shards.ShardTask]) -> beam.PCollection:
    """Only the tasks travel: paths and settings, never voxels. Reshuffle spreads them over the workers."""
    return (
        pipeline
        | "tasks" >> beam.Create(tasks, reshuffle=False)
        | "spread" >> beam.Reshuffle()
        | "write shards" >> beam.ParDo(WriteShard())
    )
