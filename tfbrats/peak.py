"""The most memory that this process and its GPUs have held so far."""

import tensorflow as tf

from tfbrats.memory import peak_resident_bytes


def peak_bytes() -> dict[str, int]:
    """By place: each GPU by its name ("GPU:0"), else "process"."""
    names = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
    if names:
        return {name: tf.config.experimental.get_memory_info(name)["peak"] for name in names}
    return {"process": peak_resident_bytes()}
