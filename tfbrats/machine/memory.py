"""How much memory this process may still take, and the most it has held. No TensorFlow."""

import contextlib
import pathlib
import re
import resource
import sys
from collections.abc import Iterator

import psutil

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
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found:
        return int(found[1]) * 1024
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


def _groups() -> Iterator[tuple[pathlib.Path, str, str, str]]:
    """The groups that bound this process, and those round them. A container may see its own as the root."""
    found = {_VERSION_2: ["/"]}
    with contextlib.suppress(OSError):
        for line in _OURS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                found[_VERSION_2].append(path)
            elif "memory" in controllers.split(","):
                found.setdefault(_VERSION_1, ["/"]).append(path)
    for (folder, *names), paths in found.items():
        for path in paths:
            inside = pathlib.PurePosixPath(path.lstrip("/"))
            for group in (inside, *inside.parents):
                yield _GROUPS / folder / group, *names
