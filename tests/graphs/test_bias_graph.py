"""N4 in the graph is that in numpy: the same iterations and bits, at any size, also where nothing fits."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfbrats.cases import bias, boxes, case, preprocess
from tfbrats.datasets import layouts
from tfbrats.graphs import bias_graph, boxes_graph, preprocess_graph
from tfbrats.labels import EDITIONS, MODALITIES
from tfbrats.phantoms import simulation


def _shaded(shape=(60, 52, 40), seed=0):
    """A simulated case under a smooth field of its own for each modality, float32 [I, J, K, 4]."""
    image = simulation.simulate(shape, seed, 0)[0].astype(np.float32)
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    log_fields = (0.3 * i, 0.2 * j * k - 0.1 * i, 0.3 * np.sin(2 * k) + 0.1 * j, 0.1 * i * j)
    return image * np.exp(np.stack(log_fields, axis=-1)).astype(np.float32)


@tf.function(input_signature=[tf.TensorSpec([None] * 3), tf.TensorSpec([], tf.int32)])
def _log_field(volume, shrink):
    """In the box of what is not 0."""
    box = boxes_graph.box_of(volume != 0)
    within = boxes_graph.crop(volume, box)
    return bias_graph.log_field(within, within > 0, box, tf.shape(volume), shrink)


def _expected(volume, shrink):
    taken = bias.shrunk(volume.shape, shrink)
    fit = bias.fit(volume[taken], volume[taken] != 0)
    field = boxes.crop(bias.log_field(volume, volume != 0, shrink), boxes.box_of(volume))
    return field, fit.iterations


@pytest.mark.parametrize(("shape", "shrink"), [((60, 52, 40), 4), ((60, 52, 40), 2), ((41, 37, 26), 1)])
def test_field_and_iterations_are_those_of_the_twin(shape, shrink):
    image = _shaded(shape)
    for m in range(4):
        field, iterations = _log_field(image[..., m], shrink)
        expected, counts = _expected(image[..., m], shrink)
        assert tuple(iterations.numpy()) == counts and sum(counts) > 5
        assert np.abs(expected).max() > 0.05
        assert np.array_equal(field, expected)


@pytest.mark.parametrize("shape", [(12, 10, 9), (5, 5, 5), (30, 30, 2), (40, 3, 40), (33, 34, 1), (2, 2, 2)])
def test_a_very_small_or_flat_volume_is_corrected_as_by_the_twin(shape):
    volume = np.random.default_rng(1).integers(100, 900, shape).astype(np.float32)
    field, iterations = _log_field(volume, 4)
    expected, counts = _expected(volume, 4)
    assert np.abs(field - expected).max() < 1e-5 * max(1, np.abs(expected).max())
    assert np.abs(iterations - np.array(counts or (0, 0, 0, 0))).max() <= 1


@pytest.mark.parametrize("what", ["nothing", "one voxel", "one value", "below 0", "few voxels"])
def test_where_nothing_can_be_fitted_the_field_is_0_after_no_iteration(what):
    volume = np.zeros((24, 20, 16), np.float32)
    if what == "one voxel":
        volume[12, 10, 8] = 7
    if what == "one value":
        volume[4:-4, 4:-4, 4:-4] = 500
    if what == "below 0":
        volume[4:-4, 4:-4, 4:-4] = -500
    if what == "few voxels":
        volume[8:12, 8:12, 8:11] = np.arange(1, 49).reshape(4, 4, 3)
    field, iterations = _log_field(volume, 1)
    assert field.shape == boxes.crop(volume, boxes.box_of(volume)).shape
    assert not np.any(field) and not np.any(iterations)


def test_once_all_is_of_one_value_nothing_is_left_to_sharpen():
    logs = np.full(100, 3.25)
    logs[7] += 1e-9
    assert not np.any(bias_graph._sharpening_residual(tf.constant(logs)))
    logs = np.log(np.random.default_rng(0).integers(50, 900, 5000))
    ours = bias_graph._sharpening_residual(tf.constant(logs))
    assert np.allclose(ours, bias.sharpening_residual(logs), rtol=0, atol=1e-12)


def test_a_case_is_corrected_in_the_modalities_that_are_named_and_cropped_as_its_twin():
    image = _shaded()
    image[30, 26, 20, 1] = -50.0  # interpolated data
    volumes = {name: tf.constant(image[..., m]) for m, name in enumerate(MODALITIES)}
    ours = preprocess_graph.cropped(volumes, MODALITIES, ("t2", "t1"), 2)
    loaded = case.Case("case_1", "1", image, MODALITIES, None, (1, 1, 1), EDITIONS["2020"], grid=None)
    expected = preprocess.prepare(loaded, ("t1", "t2"), 2)
    assert np.array_equal(ours.box, expected.box_ijk)
    assert np.allclose(ours.image, expected.image, atol=1e-5)
    raw = preprocess_graph.cropped(volumes, MODALITIES).image
    apart = np.abs(ours.image - raw).max(axis=(0, 1, 2)) > 0.1
    assert [name for name, far in zip(MODALITIES, apart, strict=True) if far] == ["t1", "t2"]


def test_the_corrected_image_is_the_twin_s_to_the_bit():
    image = _shaded()
    brain = preprocess.brain_mask(image)
    box = boxes.box_of(brain)
    corrected = bias_graph.corrected(
        tf.constant(boxes.crop(image, box)), [0, 2], tf.constant(box), tf.constant(image.shape[:3]), 4
    )
    for m in range(4):
        expected = bias.corrected(image[..., m], brain, 4) if m in (0, 2) else image[..., m]
        assert np.array_equal(corrected[..., m], boxes.crop(expected, box))


def test_all_of_it_is_pinned_to_the_cpu_also_inside_the_loops():
    specs = [
        tf.TensorSpec([None, None, None, 4]),
        tf.TensorSpec([3, 2], tf.int32),
        tf.TensorSpec([3], tf.int32),
    ]
    traced = tf.function(lambda image, box, shape: bias_graph.corrected(image, [0, 2], box, shape, 4))
    graph = traced.get_concrete_function(*specs).graph.as_graph_def()
    parts = {field.name: part for field, part in graph.ListFields()}
    nodes = [node for function in parts["library"].function for node in function.node_def]
    computing = {
        node.op: node.device for node in nodes if node.op in ("MatMul", "BatchMatMulV2", "RFFT", "Exp")
    }
    assert len(computing) == 4
    free = {node.op for node in nodes if "CPU" not in node.device}
    assert free <= {"Const", "Identity", "NoOp", "Less", "LogicalAnd", "AddV2", "TensorListSetItem"}, free


_ON_THREADS = """
import sys, hashlib
import numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from tfbrats.graphs import bias_graph
image = np.load(sys.argv[2])
box = tf.constant([[0, n] for n in image.shape[:3]])
for shrink in (1, 4):
    out = tf.function(bias_graph.corrected)(image, [0, 1], box, tf.constant(image.shape[:3]), shrink)
    print(hashlib.sha256(out.numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_it_is_the_same_bits_on_one_thread_and_on_many(tmp_path):
    np.save(tmp_path / "image.npy", _shaded((96, 80, 70))[..., :2])
    said = {
        subprocess.run(
            [sys.executable, "-c", _ON_THREADS, str(threads), str(tmp_path / "image.npy")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in (1, 2, 7)
    }
    assert len(said) == 1 and len(said.pop().split()) == 2


def test_a_real_case_is_corrected_as_by_the_twin(real_cases):
    loaded = case.load(layouts.find(real_cases).cases[0], read_label=False)
    for m in range(len(loaded.modalities)):
        volume = loaded.image[..., m].astype(np.float32)
        field, iterations = _log_field(volume, 4)
        expected, counts = _expected(volume, 4)
        assert tuple(iterations.numpy()) == counts
        assert np.array_equal(field, expected)
