"""The most memory that this process and its GPUs have held so far."""

import pathlib
import re
import resource
import sys

import tensorflow as tf


def peak_bytes() -> dict[str, int]:
    """By place: each GPU by its name ("GPU:0"), else "process"."""
    names = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
    if names:
        return {name: tf.config.experimental.get_memory_info(name)["peak"] for name in names}
    return {"process": _peak_resident_bytes()}


def _peak_resident_bytes() -> int:
    # Linux' ru_maxrss begins with what the process that started this one held, which may be more.
    status = pathlib.Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
