"""A job while it runs, as the person at the command sees it: a bar, and one message where it fails."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from tqdm import tqdm

from beam_pipelines import engine
from tfbrats.errors import InputError


class _Progress(threading.Thread):
    """A bar over what is done on disk: runners block until the end, so the disk is what tells."""

    def __init__(self, done: Callable[[], int], total: int, **bar):
        super().__init__(daemon=True)
        self._done, self._total, self._bar = done, total, bar
        self._ended = threading.Event()

    def run(self):
        if not sys.stderr.isatty():
            return
        with tqdm(total=self._total, **self._bar) as bar:
            ended = False
            while not ended:
                ended = self._ended.wait(1.0)
                with contextlib.suppress(InputError, OSError):  # a file was renamed while it was looked at
                    found = self._done()
                    bar.total = max(bar.total, found)
                    bar.update(found - bar.n)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self.join()


@contextlib.contextmanager
def job(
    beam_options: Sequence[str], output: str, what: str, done: Callable[[], int], total: int, **bar
) -> Iterator[tuple[beam.Pipeline, int | None]]:
    """A pipeline that is run to its end when the block ends.

    Args:
        what: finished pieces are called, in messages.
        done: how much there is by now, in the bar's unit.
        total: how much there will be, roughly.
        bar: options of `tqdm`.

    Yields:
        The pipeline, and the process that its workers must not outlive: this one, where they are its own.

    Raises:
        InputError: it stopped for a reason that the person can mend.
    """
    options = PipelineOptions(list(beam_options))
    is_local = options.view_as(StandardOptions).runner == engine.LOCAL
    several = options.view_as(DirectOptions).direct_running_mode == "multi_processing"
    with (
        engine.explained(output, what),
        engine.ended_with_its_workers(output, what) if several else contextlib.nullcontext(),
        _Progress(done, total, **bar),
        beam.Pipeline(options=options) as pipeline,
    ):
        yield pipeline, os.getpid() if is_local else None
