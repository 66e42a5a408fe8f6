"""What a job is to do, as a file in its output that its workers read: the graph stays small.

`beam.Create` writes its elements into the graph, and Dataflow refuses a graph of more than 10 MB: 100,000 cases
of `msm` were 33 MB, and more with longer ids. Of gs:// the workers read what they write beside anyway.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

import apache_beam as beam
import pydantic

from tfbrats.errors import InputError
from tfbrats.machine import files

Task = TypeVar("Task")


def write(path: str, kind: type[Task], tasks: Iterable[Task]) -> None:
    """Writes the tasks, dataclasses of one kind, a line each.

    By the standard library's JSON: a path whose name is not UTF-8 comes back as it was.
    """
    adapter = pydantic.TypeAdapter(kind)
    with files.writing(path) as file, gzip.GzipFile("", "wb", 1, file, mtime=0) as packed:
        for task in tasks:
            content = adapter.dump_python(task, mode="json")
            packed.write(json.dumps(content, separators=(",", ":")).encode() + b"\n")


def read(path: str, kind: type[Task]) -> Iterator[Task]:
    """The tasks that `write` wrote, one in memory at a time.

    Raises:
        InputError: there is no such file, or not all of it.
    """
    adapter, unpacking, begun = pydantic.TypeAdapter(kind), zlib.decompressobj(wbits=31), b""
    for piece in files.read_chunks(path, 2**16):
        *lines, begun = (begun + unpacking.decompress(piece)).split(b"\n")
        yield from (adapter.validate_python(json.loads(line)) for line in lines)
    if not unpacking.eof:
        raise InputError(f"{path}: cut short: not all tasks are in it. Run the same command again.")


class _Read(beam.DoFn):
    """A list's path -> its tasks."""

    def __init__(self, kind: type):
        self._kind = kind

    def process(self, path: str):
        yield from read(path, self._kind)


def spread(pipeline: beam.Pipeline, path: str, kind: type) -> beam.PCollection:
    """The tasks of a list, spread over the workers. Nothing is read before the pipeline runs."""
    return (
        pipeline
        | "list" >> beam.Create([path], reshuffle=False)
        | "tasks" >> beam.ParDo(_Read(kind))
        | "spread" >> beam.Reshuffle()
    )
