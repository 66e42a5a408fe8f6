"""The server that is measured: an embedded one on some of the cores; any server's memory and CPU time."""

import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Set

import psutil

from tfbrats.errors import InputError
from tfbrats.machine import memory

_START_S = 600
_EVERY_S = 0.05
_WAIT = 1000  # calls that may wait: the server must queue them, not we
_READY = re.compile(r"^ready: (\S+) version .* on (\S+:\d+)$", re.MULTILINE)
# The cores that this command may use, before any thread of it was kept to some.
_HERE = frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


@contextlib.contextmanager
def on(cores: Set[int]) -> Iterator[None]:
    """Keeps this thread, and what it starts, to these cores until the block ends."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def shared_out(count: int) -> tuple[set[int], set[int]]:
    """The server's cores and the callers': others where there are others.

    Raises:
        InputError: there are not so many, or the system cannot give a process some of its cores.
    """
    if not hasattr(os, "sched_getaffinity"):
        everything = set(range(memory.cores()))
        if count != len(everything):
            raise InputError("--cores: only Linux gives a process some of the cores. Leave it out.")
        return everything, everything
    here = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(here):
        raise InputError(f"--cores {count}: this command may use {len(here)}.")
    server = set(here[:count])
    return server, (set(here) - server) or server


@contextlib.contextmanager
def embedded(model: str, cores: Set[int], calls: int) -> Iterator[tuple[str, int]]:
    """The embedded server on these cores until the block ends: host:port/MODEL, and its process' number.

    Args:
        model: folder of its versions.
        calls: that run at once.

    Raises:
        InputError: it does not start.
    """
    arguments = [sys.executable, "-m", "serving.server", "--model_base_path", model, "--port", "0"]
    arguments += ["--max_workers", str(calls), "--max_enqueued", str(_WAIT)]
    arguments += ["--enable_serialization_as_tensor_content"]
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder) / "server.txt"
        with log.open("w") as file, on(cores):
            process = subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT)
        with process:
            try:
                name, address = _ready(process, log)
                yield f"{address}/{name}", process.pid
            finally:
                process.terminate()


def _ready(process: subprocess.Popen, log: pathlib.Path) -> tuple[str, str]:
    """The model's name and the server's address, once it answers."""
    limit = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < limit:
        if found := _READY.search(log.read_text(errors="replace")):
            return found.groups()
        time.sleep(0.1)
    raise InputError(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")


@dataclasses.dataclass
class Seen:
    """What a server took while it was watched; None where its process is not seen."""

    ready_bytes: int | None = None
    peak_bytes: int | None = None
    cpu_s: float | None = None
    others_cores: float | None = None


@contextlib.contextmanager
def watched(pid: int | None) -> Iterator[Seen]:
    """Yields what is filled in when the block ends.

    Args:
        pid: of the server, if it runs here.
    """
    seen, stop = Seen(), threading.Event()
    server = None if pid is None else _process(pid)
    us = psutil.Process()

    def look() -> None:
        while not stop.wait(_EVERY_S):
            with contextlib.suppress(psutil.NoSuchProcess):
                seen.peak_bytes = max(seen.peak_bytes, server.memory_info().rss)

    began, busy, ours = time.monotonic(), _busy_s(), _cpu_s(us)
    if server is not None:
        seen.ready_bytes = seen.peak_bytes = server.memory_info().rss
        before = _cpu_s(server)
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        known = _cpu_s(us) - ours
        if server is not None:
            thread.join()
            seen.cpu_s = _cpu_s(server) - before
            known += seen.cpu_s
        if server is not None:  # else the server itself may be among the others
            seen.others_cores = max(0.0, (_busy_s() - busy - known) / (time.monotonic() - began))


def _process(pid: int) -> psutil.Process:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess as error:
        raise InputError(f"--pid {pid}: no such process on this machine.") from error


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _busy_s() -> float:
    """Seconds for which the cores that we may use were not idle; a large machine's others do not matter."""
    each = psutil.cpu_times(percpu=True)
    seconds = 0.0
    for times in (each[core] for core in _HERE if core < len(each)):
        # What a guest got is in the user's time already.
        idle = times.idle + getattr(times, "iowait", 0) + getattr(times, "guest", 0)
        seconds += sum(times) - idle - getattr(times, "guest_nice", 0)
    return seconds
