"""Where the time of one piece of work goes, part by part. Knows nothing of what is timed."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator


class Stopwatch:
    """Seconds by part. A part inside another stops the outer one, so that the parts add up to the whole."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._open: list[str] = []
        self._since = clock()
        self._seconds: collections.Counter[str] = collections.Counter()

    def _charge(self) -> None:
        now = self._clock()
        if self._open:
            self._seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs in the block is time of `name`."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def over(self, name: str, items: Iterable) -> Iterator:
        """The items; making each is time of `name`, what is done with it is not."""
        iterator = iter(items)
        while True:
            with self.part(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def taken(self) -> dict[str, float]:
        """Seconds by part since this was last asked, or since the beginning; parts still running count too."""
        self._charge()
        seconds = dict(self._seconds)
        self._seconds.clear()
        return seconds
