"""One command at a time at one place: by the disk's own lock, elsewhere (gs://) by a file that is renewed.

On a disk the lock goes with the process that holds it, however that ends. An object store knows no locks:
there the holder writes the file again every few seconds, and whoever finds one waits to see whether it
changes. Two machines' clocks are never compared.
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
from collections.abc import Iterator

from tfbrats.errors import InputError
from tfbrats.machine import files

RENEWED_EVERY_S = 10.0
GIVEN_UP_AFTER_S = 35.0  # a lock that has not changed for so long is a dead command's
SETTLED_AFTER_S = 2.0  # of two that come together, both have written by then


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
def _flocked(path: str, busy: str) -> Iterator[int]:
    while True:
        with files.explained(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            lock = open(path, "a")  # noqa: SIM115
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex}

    def renew() -> None:
        files.write_bytes(path, json.dumps({**mine, "renewed": uuid.uuid4().hex}).encode())

    def seen() -> bytes | None:
        try:
            return files.read_bytes(path)
        except InputError:
            return None

    looked = time.monotonic()
    found = seen()
    waited_until = time.monotonic() + GIVEN_UP_AFTER_S
    if found is not None:
        print(f"{path}: looking for up to {GIVEN_UP_AFTER_S:.0f} s whether its holder lives", file=sys.stderr)
    while found is not None:
        if time.monotonic() > waited_until:
            break
        time.sleep(min(1.0, RENEWED_EVERY_S))
        looked = time.monotonic()
        now = seen()
        if now is not None and now != found:
            raise InputError(f"{busy} (host {json.loads(now)['host']}, process {json.loads(now)['pid']})")
        found = now
    renew()
    # Another that came at the same moment has written over ours, or we over its: the last one holds it. But if
    # we were slow, it may have looked again before we wrote, and hold the lock: then it will write once more.
    took = time.monotonic() - looked
    time.sleep(SETTLED_AFTER_S if took < SETTLED_AFTER_S / 2 else RENEWED_EVERY_S + SETTLED_AFTER_S + took)
    found = seen()
    if found is None or json.loads(found)["id"] != mine["id"]:
        raise InputError(busy)
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
        with contextlib.suppress(OSError, InputError):
            files.remove(path)
