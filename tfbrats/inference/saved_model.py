"""An exported model in a Session, as TensorFlow Serving runs it. Knows no network.

`predict`, the check at export and the embedded server all run a SavedModel in this way, so that they answer
alike.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfbrats.machine import literal, surroundings

# In a version's folder: the requests that the server answers before it serves the version.
WARM_UP = "assets.extra/tf_serving_warmup_requests"


@contextlib.contextmanager
def _without_deprecation_notes() -> Iterator[None]:
    """Spares the person at the desk what TensorFlow says about a function that its own server rests on."""

    def keep(record: logging.LogRecord) -> bool:
        return "is deprecated and will be removed" not in str(record.msg)

    tf.get_logger().addFilter(keep)
    try:
        yield
    finally:
        tf.get_logger().removeFilter(keep)


class SavedModel:
    """One version, loaded.

    Args:
        folder: of the version, on the local disk.

    Attributes:
        signatures: name -> SignatureDef.

    Raises:
        OSError, ValueError, RuntimeError, tf.errors.OpError: what TensorFlow raises on what it cannot load.
    """

    def __init__(self, folder: str | os.PathLike):
        surroundings.share_gpus()  # a worker of Beam may be nobody's command
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        try:
            # Not tf.saved_model.load: the real server reads the graph, not the Python objects.
            with self._session.graph.as_default(), _without_deprecation_notes():
                meta_graph = tf.compat.v1.saved_model.load(
                    self._session, [tf.saved_model.SERVING], literal.folder(folder)
                )
        except BaseException:
            self._session.close()
            raise
        self.signatures = dict(meta_graph.signature_def)
        # Plain ones: a protobuf map makes an entry for whatever it is asked for.
        self._inputs = {name: dict(signature.inputs) for name, signature in self.signatures.items()}
        self._outputs = {name: dict(signature.outputs) for name, signature in self.signatures.items()}

    def __call__(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] | None = None,
        seconds: float | None = None,
    ) -> dict[str, np.ndarray]:
        """What the named outputs of a signature are, None: all of them; within `seconds`, if a limit is given.

        Raises:
            KeyError: no such signature, input or output.
            tf.errors.OpError: the graph refuses the inputs, or takes longer.
            TypeError, ValueError: they are of another type or shape.
            RuntimeError: it is closed.
        """
        tensors = self._inputs[signature]
        for name, array in inputs.items():
            # A Session would cut fractions off without a word.
            dtype = tf.as_dtype(tensors[name].dtype)
            if dtype != tf.string and np.asarray(array).dtype != dtype.as_numpy_dtype:
                raise TypeError(f"input {name}: expected {dtype.name}, found {np.asarray(array).dtype}")
        feeds = {tensors[name].name: array for name, array in inputs.items()}
        names = self._outputs[signature] if outputs is None else outputs
        fetches = {name: self._outputs[signature][name].name for name in names}
        options = tf.compat.v1.RunOptions()
        if seconds is not None:
            options.timeout_in_ms = max(1, int(seconds * 1000))
        return self._session.run(fetches, feeds, options=options)

    def close(self) -> None:
        self._session.close()
