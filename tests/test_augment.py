"""Rotation and flip turn everything on the pixel grid together."""

import numpy as np
import pytest
import tensorflow as tf

from tfbrats.augment import rotate_and_flip


def _example(size=32):
    rng = np.random.default_rng(0)
    label = np.zeros((size, size), np.uint8)
    label[8:14, 10:25] = 2
    label[10:12, 12:16] = 3
    return {
        # The label also stands in the image, so that a mismatch shows.
        "image": np.stack([label.astype(np.float32), rng.normal(size=(size, size))], -1).astype(np.float32),
        "label": label,
        "region": (label > 0).astype(np.uint8) * 2 + 1,
        "case_id": "one",
    }


def test_no_rotation_and_no_flip_change_nothing():
    example = _example()
    turned = rotate_and_flip(example, [1, 2], 0, 0)
    for name in ("image", "label", "region"):
        assert np.array_equal(turned[name], example[name])


@pytest.mark.parametrize("seed", range(8))
def test_image_label_and_region_turn_together(seed):
    turned = rotate_and_flip(_example(), [seed, 7], 90, 0.5)
    inside = np.array(turned["label"]) == 2
    # Away from edges bilinear and nearest neighbour agree: where the label is, the image holds its value.
    assert np.abs(np.array(turned["image"])[..., 0][inside] - 2).mean() < 0.25
    assert (np.array(turned["region"])[inside] == 3).all()


def test_flips_are_exact_mirrors():
    example = _example()
    seen = set()
    for seed in range(24):
        turned = np.array(rotate_and_flip(example, [seed, 0], 0, 0.5)["image"])
        mirrors = {
            (a, b): example["image"][:: -1 if a else 1, :: -1 if b else 1] for a in (0, 1) for b in (0, 1)
        }
        which = [key for key, mirror in mirrors.items() if np.array_equal(turned, mirror)]
        assert len(which) == 1
        seen.add(which[0])
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_quarter_turn_is_numpys():
    from tfbrats import augment

    image = np.random.default_rng(1).normal(size=(16, 16, 3)).astype(np.float32)
    turned = np.array(augment._rotate(tf.constant(image), np.float32(np.pi / 2), "BILINEAR"))
    assert np.allclose(turned, np.rot90(image), atol=1e-4) or np.allclose(
        turned, np.rot90(image, -1), atol=1e-4
    )


def test_the_same_seed_is_the_same_turn_and_another_seed_another():
    first = rotate_and_flip(_example(), [3, 4], 15, 0.5)["image"]
    assert np.array_equal(first, rotate_and_flip(_example(), [3, 4], 15, 0.5)["image"])
    assert not np.array_equal(first, rotate_and_flip(_example(), [3, 5], 15, 0.5)["image"])


def test_labels_stay_labels():
    for seed in range(5):
        turned = np.array(rotate_and_flip(_example(), [seed, 0], 15, 0.5)["label"])
        assert set(np.unique(turned)) <= {0, 2, 3}
