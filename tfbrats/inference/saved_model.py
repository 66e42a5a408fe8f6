"""An exported model in a Session, as TensorFlow Serving runs it. Knows no network.

`predict`, the check at export and the embedded server all run a SavedModel in this way, so that they answer
alike.
"""

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfbrats.cases.case import Case
from tfbrats.errors import InputError
from tfbrats.machine import files, literal
from tfbrats.predictions import model_card
from tfbrats.predictions.model_card import ModelCard
from tfbrats.predictions.results import Segmentation

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
        options = tf.compat.v1.ConfigProto()
        options.gpu_options.allow_growth = True  # others work on the desk's GPU too
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=options)
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


class SavedSegmenter:
    """An exported model, loaded: a Case in, tissues out.

    Args:
        model_dir: one version's folder, e.g. models/cun/1; gs:// too.

    Raises:
        InputError: no model here, or a damaged one.
    """

    def __init__(self, model_dir: str | os.PathLike):
        self.card: ModelCard = model_card.read(model_dir)
        try:
            with files.on_disk(model_dir) as folder:
                self._saved = SavedModel(folder)
        except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
            first_line = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(
                f"{model_dir}: the SavedModel cannot be loaded ({first_line}). Copy or export it again."
            ) from error

        for signature in ("serving_default", "int16"):
            offered = self._saved.signatures.get(signature)
            if offered is None or set(model_card.outputs(self.card, signature)) - set(offered.outputs):
                raise InputError(
                    f"{model_dir}: signature {signature} is not what {model_card.FILE} says: they belong to "
                    "different models. Copy or export it again."
                )

    def segment(self, loaded: Case, probabilities: bool = False) -> Segmentation:
        """What the model makes of one case.

        Args:
            probabilities: ask for them too; a case's are 12 times its label map's bytes.

        Raises:
            InputError: the model refuses the case.
        """
        volumes = model_card.inputs(self.card, loaded)
        signature = model_card.signature_for(volumes)
        try:
            answer = self._saved(signature, volumes, model_card.outputs(self.card, signature, probabilities))
        except tf.errors.InvalidArgumentError as error:
            # What an Assert in the graph says stands between lines on its node.
            assertion = re.search(r"assertion failed: .*", error.message)
            raise InputError(
                f"{loaded.case_id}: the model refuses it: {assertion.group() if assertion else error.message}"
            ) from error
        tissues = model_card.tissues(self.card, answer["segmentation"], loaded.case_id)
        return Segmentation(tissues, answer.get("probabilities"), answer.get(model_card.TILES), self.card)
