"""A SavedModel with the signatures of an exported one and a rule in place of a network.

`python tests/tiny_model.py DIR` writes DIR/1, to be served as `tiny` by a real TensorFlow Serving that
TFBRATS_SERVING_ENDPOINT names (tests/test_serving_server.py).
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf

from tfbrats import labels, model_card
from tfbrats.labels import EDITIONS, MODALITIES, Tissue

# Brighter than this, later ones win. Of the phantoms' voxels each marks some.
RULES = (("flair", 700, Tissue.ED), ("t1", 650, Tissue.NCR), ("t1ce", 850, Tissue.ET))
TOO_BRIGHT = 30000  # of t2: the graph raises


def tissues_by_rule(images) -> np.ndarray:
    """What the model must answer, without TensorFlow: modality -> [I, J, K] gives uint8 [I, J, K]."""
    tissues = np.zeros(images["flair"].shape, np.uint8)
    for name, threshold, tissue in RULES:
        tissues[images[name] > threshold] = tissue
    return tissues


def card(version: int = 1, edition: str = "2020", n4_modalities=()) -> model_card.ModelCard:
    return model_card.ModelCard(
        name="tiny",
        version=version,
        description="thresholds, for tests",
        tfbrats_version="0",
        modalities=MODALITIES,
        axes="LPS",
        n4_modalities=n4_modalities,
        n4_shrink=4,
        normalisation="none",
        spacing_mm=(1, 1, 1),
        label_schema=EDITIONS[edition].to_json(),
        regions={name: tuple(t.name for t in parts) for name, parts in labels.REGIONS.items()},
        signatures={"serving_default": {}, "int16": {}, "slices": {}, "describe": {}},
        training_data={},
        scores={},
        license="none",
        intended_use="tests",
    )


class _Tiny(tf.Module):
    def __init__(self, text: str, values):
        super().__init__()
        self.thresholds = tf.Variable([float(threshold) for _, threshold, _ in RULES])
        self.text = text
        self.values = values  # of tissues

    def segment(self, images):
        check = tf.debugging.assert_less(
            tf.reduce_max(images["t2"]), float(TOO_BRIGHT), message="t2 is too bright"
        )
        with tf.control_dependencies([check]):
            tissue = tf.zeros_like(images["flair"], tf.int32)
        for place, (name, _, value) in enumerate(RULES):
            tissue = tf.where(images[name] > self.thresholds[place], int(value), tissue)
        masks = [
            tf.reduce_any([tissue == int(part) for part in parts], axis=0) for parts in labels.REGIONS.values()
        ]
        return {
            "segmentation": tf.cast(tf.gather(self.values, tissue), tf.uint8),
            "probabilities": tf.cast(tf.stack(masks, axis=-1), tf.float32) * 0.75,
        }

    def signatures(self):
        def whole(dtype):
            @tf.function(input_signature=[tf.TensorSpec([None] * 3, dtype, name=name) for name in MODALITIES])
            def run(flair, t1, t1ce, t2):
                images = {"flair": flair, "t1": t1, "t1ce": t1ce, "t2": t2}
                return self.segment({name: tf.cast(x, tf.float32) for name, x in images.items()})

            return run

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 4], tf.float32, name="image")])
        def slices(image):
            return {"branch1": tf.nn.softmax(image[..., :2]), "branch2": tf.nn.softmax(image)}

        @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="file")])
        def describe(file):
            with tf.control_dependencies([tf.debugging.assert_equal(file, model_card.FILE)]):
                return {"content": tf.constant(self.text)}

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64, name="rounds")])
        def spin(rounds):
            return {"done": tf.while_loop(lambda i: i < rounds, lambda i: [i + 1], [tf.zeros_like(rounds)])[0]}

        return {
            "serving_default": whole(tf.float32),
            "int16": whole(tf.int16),
            "slices": slices,
            "describe": describe,
            "spin": spin,  # takes as long as it is told to
        }


def write(base_path, version: int = 1, edition: str = "2020") -> pathlib.Path:
    """Writes base_path/version, whose label values are the edition's."""
    schema = EDITIONS[edition]
    values = tf.constant([schema.value_of_tissue.get(tissue, 0) for tissue in Tissue])
    module = _Tiny(card(version, edition).to_json(), values)
    path = pathlib.Path(base_path) / str(version)
    tf.saved_model.save(module, str(path), signatures=module.signatures())
    return path


if __name__ == "__main__":
    write(sys.argv[1])
