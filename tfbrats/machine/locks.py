"""Locks, so that of several commands only one works in a folder at a time.

On a disk it is the disk's own lock, which goes with the process that holds it, however that ends. An object
store (gs://) knows no locks: there the holder writes a file again every few seconds, and whoever finds such a
file waits to see whether it changes. Two machines' clocks are never compared.

Who asks for one: `records.folder`, `beam_pipelines.result_folder`, `train`, `workflows.chain`; and `volumes`,
for a moment, which waits.
"""

import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from tfbrats.errors import InputError
from tfbrats.machine import files

RENEWED_EVERY_S = 10.0
GIVEN_UP_AFTER_S = 35.0  # a lock that has not changed for so long is a dead command's
SETTLED_AFTER_S = 2.0  # of two that come together, both have written by then


def job_at_work(folder: str) -> str:
    """What a second job is told: for `alone`, of a folder that one job at a time writes."""
    return (
        f"{folder}: another job is writing into this folder. Wait for its end (the same command then goes on "
        "from there), or choose another --output."
    )


@contextlib.contextmanager
def alone(path: str | os.PathLike, busy: str) -> Iterator[int | None]:
    """Holds the lock file `path` until the block ends. Its folder is made if need be; the file stays.

    Args:
        busy: what to tell the person when another command holds it, and what to do.

    Yields:
        A file descriptor that keeps the lock in a child too, if handed on (`pass_fds`); None where there is
        none (gs://).

    Raises:
        InputError: another command holds it.
    """
    if files.is_local(path):
        with _flocked(files.canonical(path), busy) as held:
            yield held
    else:
        with _leased(path, busy):
            yield None


@contextlib.contextmanager
def in_turn(path: str | os.PathLike) -> Iterator[None]:
    """Holds the lock file `path` for the moment of the block; waits while another holds it. The file goes then.

    In a store nothing is locked: a lease takes seconds, and what is written in the block, a moment.
    """
    if not files.is_local(path):
        yield
        return
    path = files.canonical(path)
    with _flocked(path, None), contextlib.ExitStack() as afterwards:
        afterwards.callback(files.remove, path)  # still held: who waits for it finds another, or none
        yield


@contextlib.contextmanager
def _flocked(path: str, busy: str | None) -> Iterator[int]:
    """Args: busy: what to tell when another holds it; None waits."""
    while True:
        with files.explained(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            lock = open(path, "a")  # noqa: SIM115
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if busy is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(busy) from error
            try:
                is_current = os.path.samestat(os.fstat(lock.fileno()), os.stat(path))
            except FileNotFoundError:
                is_current = False
            if not is_current:  # its holder deleted it between our opening and our locking
                continue
            yield lock.fileno()
            return


@contextlib.contextmanager
def _leased(path: str | os.PathLike, busy: str) -> Iterator[None]:
    own = {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex}

    def renew() -> None:
        files.write_bytes(path, json.dumps({**own, "renewed": uuid.uuid4().hex}).encode())

    looked = _wait_until_dead(path, busy)
    renew()
    # Another that came at the same moment has written over ours, or we over its: the last one holds it. But if
    # we were slow, it may have looked again before we wrote, and hold the lock: then it will write once more.
    took = time.monotonic() - looked
    time.sleep(SETTLED_AFTER_S if took < SETTLED_AFTER_S / 2 else RENEWED_EVERY_S + SETTLED_AFTER_S + took)
    content = _content(path)
    if content is None or json.loads(content)["id"] != own["id"]:
        raise InputError(busy)
    try:
        with _renewed(renew):
            yield
    finally:
        with contextlib.suppress(OSError, InputError):
            files.remove(path)


def _content(path: str | os.PathLike) -> bytes | None:
    """What the lock file holds; None without one."""
    try:
        return files.read_bytes(path)
    except InputError:
        return None


def _wait_until_dead(path: str | os.PathLike, busy: str) -> float:
    """Returns when nobody holds the lock: its file is not there, or has not changed for long.

    Returns:
        when it was last looked at, as `time.monotonic` tells it.

    Raises:
        InputError: its holder lives.
    """
    looked = time.monotonic()
    content = _content(path)
    waited_until = time.monotonic() + GIVEN_UP_AFTER_S
    if content is not None:
        print(f"{path}: looking for up to {GIVEN_UP_AFTER_S:.0f} s whether its holder lives", file=sys.stderr)
    while content is not None and time.monotonic() <= waited_until:
        time.sleep(min(1.0, RENEWED_EVERY_S))
        looked = time.monotonic()
        newer = _content(path)
        if newer is not None and newer != content:
            holder = json.loads(newer)
            raise InputError(f"{busy} (host {holder['host']}, process {holder['pid']})")
        content = newer
    return looked


@contextlib.contextmanager
def _renewed(renew: Callable[[], None]) -> Iterator[None]:
    """Calls `renew` every few seconds while the block runs."""
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(RENEWED_EVERY_S):
            with contextlib.suppress(OSError, InputError):  # the next round may succeed
                renew()

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
