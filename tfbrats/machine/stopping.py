"""A wish to stop (SIGTERM, Ctrl-C), kept until the work comes to a place where it can. No TensorFlow."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from tfbrats.machine import quiet


class Stopped(Exception):
    """Work was given up as asked, where there was nothing to save."""


class Stop:
    """Whether somebody has asked.

    Attributes:
        exit_code: of a command that has stopped as asked: 0 for SIGTERM, which schedulers send before they take
            the machine away; 130 for Ctrl-C.
    """

    def __init__(self):
        self.is_asked = False
        self.exit_code = 0

    def ask(self, number: int = signal.SIGTERM, _frame: object = None) -> None:
        """As a signal handler. A second Ctrl-C does not wait."""
        if number == signal.SIGINT and self.is_asked:
            raise KeyboardInterrupt
        if not self.is_asked:
            self.exit_code = 130 if number == signal.SIGINT else 0
        self.is_asked = True

    def check(self) -> None:
        """Raises Stopped if somebody has: for work that saves nothing on its way."""
        if self.is_asked:
            raise Stopped


@contextlib.contextmanager
def on_signals(notice: str) -> Iterator[Stop]:
    """In the block, SIGTERM and the first Ctrl-C are a wish; it prints `notice` when the first one comes.

    Signals reach the main thread alone: in another thread nothing is changed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def noted(number, frame):
        first = not stop.is_asked
        stop.ask(number, frame)
        if first:
            os.write(
                quiet.screen(), f"\n{notice}\n".encode()
            )  # print may be interrupted in the middle of a print

    before = {number: signal.signal(number, noted) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
