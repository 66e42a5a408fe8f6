"""bfloat16 is tried at export: what is said of it, by a clock of our own."""

import itertools
import types

import numpy as np
import pytest
import tensorflow as tf

from tfbrats import config_file
from tfbrats.exports import bfloat16, passes, saving
from tfbrats.labels import MODALITIES


class Segmenter(tf.Module):
    """Marks what is bright in FLAIR; counts how often it is built."""

    modalities = MODALITIES

    def __init__(self, threshold, probability):
        super().__init__()
        self._threshold, self._probability = threshold, probability

    def __call__(self, volumes):
        bright = volumes["flair"] > self._threshold
        chance = tf.where(bright, self._probability, 0.0)
        return {"segmentation": tf.cast(bright, tf.uint8), "probabilities": tf.stack([chance] * 3, axis=-1)}


def _said(usual_s, other_s, precision="float32", probability=0.5):
    """What is said where each pass takes so many seconds, and which precisions were built."""
    built, now = [], [0.0]
    steps = itertools.chain([usual_s, other_s], itertools.cycle([usual_s, other_s]))

    def segmenter_in(wanted):
        built.append(wanted)
        return Segmenter(*((300.0, 0.5) if wanted == "float32" else (310.0, probability)))

    reads = itertools.count()

    def clock():
        if next(reads) % 2:  # the second of a pair: the end of a pass
            now[0] += next(steps)
        return now[0]

    return bfloat16.tried(segmenter_in, (48, 48), precision, clock), built, now[0]


def test_where_it_is_faster_it_says_how_much_what_changes_and_how_to_have_it():
    said, built, _ = _said(1.7, 1.0)
    assert said.startswith("1.7 times the pace of float32 on the machine that exported it; ")
    assert said.endswith("; to export in bfloat16: --precision mixed_bfloat16")
    assert built == ["float32", "mixed_bfloat16"]


@pytest.mark.parametrize(("usual_s", "pace"), [(0.6, "0.6"), (1.05, "1.1")])
def test_where_it_is_slower_or_hardly_faster_it_is_not_recommended(usual_s, pace):
    said, _, _ = _said(usual_s, 1.0)
    assert said.startswith(f"{pace} times the pace")
    assert "--precision" not in said


def test_of_a_model_in_bfloat16_the_advice_is_the_other_way_round():
    assert "--precision" not in _said(1.7, 1.0, "mixed_bfloat16")[0]
    assert _said(0.6, 1.0, "mixed_bfloat16")[0].endswith("; to export in float32: --precision float32")


def test_voxels_and_probabilities_that_change_are_counted():
    said, _, _ = _said(1.0, 1.0, probability=0.75)
    volumes = passes._volumes(Segmenter(0, 0), (48, 48))
    between = int(np.sum((volumes["flair"] > 300) & (volumes["flair"] <= 310)))
    brain = int(np.count_nonzero(np.any(list(volumes.values()), axis=0)))
    assert between > 0
    gap = 0.5 if between else 0.25  # where the label changes, 0.5 against 0
    assert f"; {between} of {brain} brain voxels" in said
    assert f"probabilities change by {gap} at most" in said


def test_where_it_does_not_run_the_export_goes_on():
    class Refusing(Segmenter):
        def __call__(self, volumes):
            raise tf.errors.UnimplementedError(None, None, "no kernel")

    built = iter([Segmenter(300.0, 0.5), Refusing(300.0, 0.5)])
    reads = iter(range(100))
    said = bfloat16.tried(lambda _: next(built), (48, 48), "float32", lambda: next(reads))
    assert said == "does not run on the machine that exported it (UnimplementedError)"


def test_a_narrow_network_is_not_tried(monkeypatch):
    def chosen(width):
        config = config_file.load("cun.yaml", [f"model.width={width}"])
        return types.SimpleNamespace(config=config, precision="float32", is_averaged=False)

    monkeypatch.setattr(bfloat16, "tried", lambda *_: "tried")
    assert saving.tried_in_bfloat16(chosen(bfloat16.LEAST_WIDTH), None) == "tried"
    assert saving.tried_in_bfloat16(chosen(bfloat16.LEAST_WIDTH - 1), None) == ""


def test_it_takes_a_few_seconds_and_a_slow_network_one_pass_each():
    assert _said(0.1, 0.1)[2] < 4
    assert _said(20.0, 30.0)[2] == 50
