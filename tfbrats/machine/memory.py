"""Cores and memory: what this process may take of them, how many workers fit, and the most it has held."""

import contextlib
import os
import pathlib
import re
import resource
import sys
from collections.abc import Iterator

import psutil

SHARE = 0.8  # of the free memory: the rest is for what is not counted, and for other people
_GROUPS = pathlib.Path("/sys/fs/cgroup")  # Linux' control groups, by which containers and schedulers share out
_OURS = pathlib.Path("/proc/self/cgroup")
# Folder, limit, used, and what counts as used until someone needs the room (files that were read), of each
# version of control groups.
_VERSION_2 = ("", "memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def peak_resident_bytes() -> int:
    """The most that this process has held of the machine's memory."""
    # Linux' ru_maxrss begins with what the process that started this one held, which may be more.
    status = pathlib.Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if peak:
        return int(peak[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_bytes() -> int:
    """What this process may still take, in bytes: the least of the machine's and of every group's it is in."""
    free = psutil.virtual_memory().available
    for group, limit_name, used_name, files_name in _groups():
        with contextlib.suppress(OSError, ValueError):  # no such group seen from here; no limit ("max")
            limit, used = (int((group / name).read_text()) for name in (limit_name, used_name))
            lines = map(str.split, (group / "memory.stat").read_text().splitlines())
            free = min(free, limit - used + sum(int(size) for name, size in lines if name == files_name))
    return max(free, 0)


def spendable_bytes() -> float:
    """The share of the free memory that we plan with."""
    return SHARE * free_bytes()


def cores() -> int:
    """How many cores this process may run on, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fitting_workers(worker_bytes: int) -> int:
    """How many processes of so many bytes each fit into the free memory; 0 where not even one does."""
    return int(spendable_bytes() // worker_bytes)


def _groups() -> Iterator[tuple[pathlib.Path, str, str, str]]:
    """The groups that bound this process, and those round them. A container may see its own as the root."""
    paths_by_version = {_VERSION_2: ["/"]}
    with contextlib.suppress(OSError):
        for line in _OURS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                paths_by_version[_VERSION_2].append(path)
            elif "memory" in controllers.split(","):
                paths_by_version.setdefault(_VERSION_1, ["/"]).append(path)
    for (folder, *names), paths in paths_by_version.items():
        for path in paths:
            inside = pathlib.PurePosixPath(path.lstrip("/"))
            for group in (inside, *inside.parents):
                yield _GROUPS / folder / group, *names
