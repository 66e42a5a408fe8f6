"""A SavedModel with the signatures of an exported one and a rule in place of a network.

`python tests/tiny_model.py DIR` writes DIR/1 and DIR/models.config, for a real TensorFlow Serving that
TFBRATS_SERVING_ENDPOINT names (tests/serving/test_contract.py).
"""

import json
import pathlib
import sys

import numpy as np
import tensorflow as tf

from tfbrats import labels
from tfbrats.graphs import axes_graph, packing_graph, pieces
from tfbrats.labels import EDITIONS, MODALITIES, Tissue
from tfbrats.predictions import model_card

# Brighter than this, later ones win. Of the phantoms' voxels each marks some.
RULES = (("flair", 700, Tissue.ED), ("t1", 650, Tissue.NCR), ("t1ce", 850, Tissue.ET))
TOO_BRIGHT = 30000  # of t2: the graph raises
WHOLE = (
    "serving_default",
    "int16",
    "gzip_int16",
    "any_axes_int16",
    "cases_int16",
)  # signatures of a whole case


def tissues_by_rule(images) -> np.ndarray:
    """What the model must answer, without TensorFlow: modality -> [I, J, K] gives uint8 [I, J, K]."""
    tissues = np.zeros(images["flair"].shape, np.uint8)
    for name, threshold, tissue in RULES:
        tissues[images[name] > threshold] = tissue
    return tissues


def of_graph(*modalities: str, of_records="tfbrats") -> model_card.N4:
    """N4 as today's models do it."""
    return model_card.N4(modalities=modalities, shrink=4, by="graph", method="tfbrats", of_records=of_records)


def of_caller(*modalities: str) -> model_card.N4:
    """N4 as older models want it done."""
    return model_card.N4(
        modalities=modalities, shrink=4, by="caller", method="SimpleITK", of_records="SimpleITK"
    )


def old_text(card: model_card.ModelCard) -> str:
    """The card as it was written when the caller corrected the bias field."""
    content = json.loads(card.to_json())
    n4 = content.pop("n4")
    return json.dumps({**content, "format": 1, "n4_modalities": n4["modalities"], "n4_shrink": n4["shrink"]})


def card(version: int = 1, edition: str = "2020", n4=None) -> model_card.ModelCard:
    return model_card.ModelCard(
        name="tiny",
        version=version,
        description="thresholds, for tests",
        tfbrats_version="0",
        modalities=MODALITIES,
        axes="LPS",
        n4=n4 or of_graph(),
        normalisation="none",
        spacing_mm=(1, 1, 1),
        label_schema=EDITIONS[edition].to_json(),
        regions={name: tuple(t.name for t in parts) for name, parts in labels.REGIONS.items()},
        signatures={name: {} for name in (*WHOLE, "slices", "describe")},
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
        images = {name: tf.cast(image, tf.float32) for name, image in pieces.bounded(images).items()}
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
                return self.segment({"flair": flair, "t1": t1, "t1ce": t1ce, "t2": t2})

            return run

        packed = [tf.TensorSpec([None], tf.string, name=name) for name in MODALITIES]

        @tf.function(input_signature=[tf.TensorSpec([2], tf.int32, name="plane"), *packed])
        def gzip_int16(plane, flair, t1, t1ce, t2):
            volumes = {}
            for name, slices in (("flair", flair), ("t1", t1), ("t1ce", t1ce), ("t2", t2)):
                with tf.control_dependencies(list(volumes.values())):
                    volumes[name] = packing_graph.unpacked(slices, plane)
            return self.segment(volumes)

        volumes = [tf.TensorSpec([None] * 3, tf.int16, name=name) for name in MODALITIES]

        @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="axes"), *volumes])
        def any_axes_int16(axes, flair, t1, t1ce, t2):
            turn = axes_graph.Turn(axes)
            images = pieces.bounded({"flair": flair, "t1": t1, "t1ce": t1ce, "t2": t2})
            answer = self.segment({name: turn.to_ours(image) for name, image in images.items()})
            return {name: turn.back(array) for name, array in answer.items()}

        @tf.function(input_signature=[tf.TensorSpec([None] * 4, tf.int16, name=name) for name in MODALITIES])
        def cases_int16(flair, t1, t1ce, t2):
            cases = {"flair": flair, "t1": t1, "t1ce": t1ce, "t2": t2}
            return pieces.each_of(self.segment, cases, {"segmentation": tf.TensorSpec([None] * 3, tf.uint8)})

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
            "gzip_int16": gzip_int16,
            "any_axes_int16": any_axes_int16,
            "cases_int16": cases_int16,
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


def write_config(base_path) -> pathlib.Path:
    """Writes base_path/models.config, by which version 1 is also called `stable`."""
    path = pathlib.Path(base_path).resolve() / "models.config"
    entry = f'name: "tiny" base_path: "{path.parent}" model_platform: "tensorflow"'
    path.write_text(
        f'model_config_list {{ config {{ {entry} version_labels {{ key: "stable" value: 1 }} }} }}\n'
    )
    return path


if __name__ == "__main__":
    write(sys.argv[1])
    write_config(sys.argv[1])
