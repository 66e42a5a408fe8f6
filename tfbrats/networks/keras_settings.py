"""Keras as our networks need it, whatever this process has set for others. Any Keras backend.

A notebook, or a keras.json of another project, may ask for channels first, for float16 or for mixed precision.
Our networks are built in a scope of their own, and what was set stays set outside of it.
"""

import contextlib
from collections.abc import Iterator

import keras

from tfbrats.errors import InputError


@contextlib.contextmanager
def ours(precision: str) -> Iterator[None]:
    """In the block layers, variables and optimizers are made as ours are: float32 weights, channels last.

    Args:
        precision: Keras' policy, in which layers compute: "float32", "mixed_bfloat16" or "mixed_float16".
    """
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    data_format = keras.config.image_data_format()
    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_image_data_format(data_format)
        keras.config.set_floatx(floatx)


def has_gpu() -> bool:
    """Whether Keras' engine has one in this process; asking takes the devices."""
    try:
        return bool(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # JAX, where there is none
        return False


def check_backend() -> None:
    """Raises InputError where Keras runs on another engine than TensorFlow, with which alone we train."""
    if (engine := keras.config.backend()) != "tensorflow":
        raise InputError(
            f"Keras runs on {engine} in this process; training and export want TensorFlow. Set the environment "
            "variable KERAS_BACKEND=tensorflow before Keras is first imported."
        )
