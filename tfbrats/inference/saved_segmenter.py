"""An exported model that segments: a Case in, tissues out, by `saved_model` and what the model's card says."""

import os
import re

import tensorflow as tf

from tfbrats.cases.case import Case
from tfbrats.errors import InputError
from tfbrats.inference.saved_model import SavedModel
from tfbrats.machine import files
from tfbrats.predictions import model_card
from tfbrats.predictions.model_card import ModelCard
from tfbrats.predictions.results import Segmentation


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

    def segment(self, loaded: Case, probabilities: bool = False, uncertainty: bool = False) -> Segmentation:
        """What the model makes of one case.

        Args:
            probabilities: ask for them too; a case's are 12 times its label map's bytes.
            uncertainty: ask for the entropy of each region too, of a model that is an average.

        Raises:
            InputError: the model refuses the case.
        """
        volumes = model_card.inputs(self.card, loaded)
        signature = model_card.signature_for(volumes)
        outputs = model_card.outputs(self.card, signature, probabilities, uncertainty)
        try:
            answer = self._saved(signature, volumes, outputs)
        except tf.errors.InvalidArgumentError as error:
            # What an Assert in the graph says stands between lines on its node.
            assertion = re.search(r"assertion failed: .*", error.message)
            raise InputError(
                f"{loaded.case_id}: the model refuses it: {assertion.group() if assertion else error.message}"
            ) from error
        tissues = model_card.tissues(self.card, answer["segmentation"], loaded.case_id)
        tiles = answer.get(model_card.TILES)
        entropy = answer.get(model_card.ENTROPY)
        return Segmentation(
            tissues, answer.get("probabilities"), tiles, self.card, case=loaded, entropy=entropy
        )
