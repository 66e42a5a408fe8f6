"""What is read of a GPU while `gpu_jobs.py` works on it: how busy it is, its memory, its name."""

import contextlib
import gc
import os
import subprocess
import threading

import keras
import numpy as np

from tfbrats.machine.memory import peak_resident_bytes
from tfbrats.networks import keras_settings

_ENGINE = keras.config.backend()
_GPU = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0] or "0"  # that the figures are of
_QUERY = ("--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100")


class Utilisation:
    """In the block `nvidia-smi` is asked ten times a second how busy the GPU is; where there is one.

    Attributes:
        percent: the mean; None where nobody answers.
    """

    percent: float | None = None

    def __enter__(self) -> "Utilisation":
        self._process = None
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                ["nvidia-smi", "-i", _GPU, *_QUERY],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        self._found: list[float] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        for line in self._process.stdout if self._process else ():
            with contextlib.suppress(ValueError):
                self._found.append(float(line))

    def __exit__(self, *_) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
        self._reader.join(1)
        if self._found:
            self.percent = float(np.mean(self._found))


def peak_mib() -> float:
    """The most that the GPU's memory held since `forget_peak`; without a GPU, what the process ever held."""
    if not keras_settings.has_gpu():
        return peak_resident_bytes() / 2**20
    if _ENGINE == "tensorflow":
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    import jax

    return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20


def forget_peak() -> None:
    """Of JAX there is no way: a cell of JAX has a process of its own."""
    gc.collect()
    if _ENGINE == "tensorflow" and keras_settings.has_gpu():
        import tensorflow as tf

        tf.config.experimental.reset_memory_stats("GPU:0")


def device_name() -> str:
    """What the GPU calls itself, with its compute capability where TensorFlow tells it; "CPU" without one."""
    if not keras_settings.has_gpu():
        return "CPU"
    if _ENGINE == "tensorflow":
        import tensorflow as tf

        details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
        capability = ".".join(map(str, details.get("compute_capability", ())))
        return f"{details.get('device_name', 'GPU')} {capability}".strip()
    import jax

    return jax.local_devices()[0].device_kind
