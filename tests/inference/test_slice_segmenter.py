"""One inference path: every voxel comes back where it was, whatever the size."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from tfbrats.cases import preprocess
from tfbrats.cases import slices as examples
from tfbrats.errors import InputError
from tfbrats.graphs import preprocess_graph
from tfbrats.graphs.pieces import bounded, in_pieces
from tfbrats.inference import answers, slice_segmenter
from tfbrats.inference.slice_segmenter import SliceSegmenter
from tfbrats.labels import EDITIONS, MODALITIES, LabelSchema, Tissue
from tfbrats.machine.packing import LONGEST_SIDE, MOST_VOXELS
from tfbrats.networks import cun


def _network(branch1, branch2):
    """A network of the cascade's outputs whose branches are functions of the image, not trained."""
    image = keras.Input((None, None, 4), name="image")
    outputs = {
        "branch1_logits": layers.Lambda(branch1, name="branch1_logits")(image),
        "branch2_logits": layers.Lambda(branch2, name="branch2_logits")(image),
    }
    return keras.Model(image, outputs)


def _classifier(classes):
    """A baseline's output, a function of the image."""
    image = keras.Input((None, None, 4), name="image")
    return keras.Model(image, {"logits": layers.Lambda(classes, name="logits")(image)})


def _constant(values):
    return lambda x: ops.zeros_like(x[..., :1]) + ops.convert_to_tensor(values, dtype="float32")


def _brain(shape, seed=0):
    """A volume with some brain in it, int16, float noise away from 0."""
    rng = np.random.default_rng(seed)
    image = np.zeros((*shape, 4), np.int16)
    i, j, _ = shape
    image[i // 5 : -(i // 6), j // 7 : -(j // 8), 1:-2] = rng.integers(
        100, 900, image[i // 5 : -(i // 6), j // 7 : -(j // 8), 1:-2].shape
    )
    return image


def _volumes(image, dtype=tf.float32):
    return {name: tf.constant(image[..., m], dtype) for m, name in enumerate(MODALITIES)}


SIZES = [(32, 32, 8), (37, 53, 9), (48, 20, 17), (100, 33, 5)]


@pytest.mark.parametrize("shape", SIZES)
def test_stitching_a_constant_gives_the_constant_back(shape):
    network = _network(_constant([0.0, 2.0]), _constant([9.0, 0.0, 0.0, 3.0]))
    answer = SliceSegmenter(network, MODALITIES, (32, 32), EDITIONS["2020"])(_volumes(_brain(shape)))
    brain = preprocess.brain_mask(_brain(shape))
    assert np.array_equal(answer["segmentation"], np.where(brain, 4, 0))  # ET is 4 in 2020
    whole = 1 / (1 + np.exp(-2.0))
    probabilities = answer["probabilities"].numpy()
    assert np.allclose(probabilities[brain][:, 0], whole)
    assert np.allclose(probabilities[brain][:, 2], whole * np.exp(3) / (2 + np.exp(3)))
    assert not probabilities[~brain].any()


@pytest.mark.parametrize("shape", SIZES)
def test_a_marked_voxel_comes_back_at_the_same_ijk(shape):
    image = _brain(shape).astype(np.float32)
    brain = np.argwhere(preprocess.brain_mask(image))
    marked = [tuple(brain[0]), tuple(brain[-1]), tuple(brain[len(brain) // 2])]
    for place in marked:
        image[(*place, 0)] = 1e5
    # WT where flair stands out far above the brain's mean.
    network = _network(
        lambda x: ops.concatenate([ops.zeros_like(x[..., :1]), x[..., :1] - 5], axis=-1),
        _constant([0.0, 1.0, 0.0, 0.0]),
    )
    answer = SliceSegmenter(network, MODALITIES, (32, 32), EDITIONS["2020"])(_volumes(image))
    assert {tuple(p) for p in np.argwhere(answer["segmentation"].numpy())} == set(marked)


def test_modalities_go_by_name_and_not_by_place():
    network = _network(
        lambda x: ops.concatenate([ops.zeros_like(x[..., :1]), x[..., 2:3]], axis=-1),
        _constant([0.0, 1.0, 0.0, 0.0]),
    )
    segmenter = SliceSegmenter(network, MODALITIES, (32, 32), EDITIONS["2020"])
    volumes = _volumes(_brain((32, 32, 8)))
    backwards = dict(reversed(volumes.items()))
    assert np.array_equal(segmenter(volumes)["segmentation"], segmenter(backwards)["segmentation"])
    swapped = {**volumes, "t1ce": volumes["t2"], "t2": volumes["t1ce"]}
    assert not np.array_equal(segmenter(volumes)["segmentation"], segmenter(swapped)["segmentation"])


def test_whole_numbers_give_the_same_as_floats():
    segmenter = SliceSegmenter(_trained_like(), MODALITIES, (32, 32), EDITIONS["2020"])
    image = _brain((33, 40, 7))
    a, b = segmenter(_volumes(image, tf.int16)), segmenter(_volumes(image, tf.float32))
    for name in a:
        assert np.array_equal(a[name], b[name])


def _normalised(image):
    """z-scored image and brain of an image that is not cropped."""
    brain = preprocess_graph.brain_mask(tf.unstack(image, axis=-1))
    return preprocess_graph.z_score(image, brain), brain


def _trained_like():
    keras.utils.set_random_seed(3)
    return cun.build(width=2, channels=4, synchronised=False)


def test_how_many_slices_run_at_once_changes_nothing(monkeypatch):
    segmenter = SliceSegmenter(_trained_like(), MODALITIES, (32, 32), EDITIONS["2020"])
    volumes = _volumes(_brain((33, 40, 11)))
    answer = segmenter(volumes)
    monkeypatch.setattr(slice_segmenter, "_SLICES_AT_ONCE", 3)
    other = segmenter(volumes)
    assert np.array_equal(answer["segmentation"], other["segmentation"])
    assert np.allclose(answer["probabilities"], other["probabilities"], atol=1e-6)


class _Counted:
    """A network that remembers the shapes of the batches that it was given."""

    def __init__(self, network):
        self._network, self.shapes = network, []

    def __call__(self, batch, training):
        self.shapes.append(tuple(batch.shape))
        return self._network(batch, training=training)


def _counted(network, canvas=(32, 32)):
    """A segmenter, and the shapes that its network will have seen."""
    segmenter = SliceSegmenter(network, MODALITIES, canvas, EDITIONS["2020"])
    segmenter.network = _Counted(segmenter.network)
    return segmenter, segmenter.network.shapes


def test_only_slices_with_brain_are_run_and_the_answer_is_that_of_all_of_them():
    image = _brain((32, 32, 20))
    image[..., [4, 5, 11], :] = 0  # with those at the ends, six of 20 hold nothing
    network = _trained_like()
    segmenter, shapes = _counted(network)
    answer = segmenter(_volumes(image))
    assert sum(shape[0] for shape in shapes) == 14
    normalised, brain = _normalised(tf.constant(image, tf.float32))
    all_slices, masks = tf.transpose(normalised, [2, 0, 1, 3]), tf.transpose(brain, [2, 0, 1])
    logits = network(all_slices, training=False)
    tissues = answers.BranchAnswer().tissues(logits, masks).numpy()
    values = np.array([0, 1, 2, 4], np.uint8)[np.moveaxis(tissues, 0, 2)]
    assert np.array_equal(answer["segmentation"], values) and values.any()
    regions = np.moveaxis(answers.BranchAnswer().regions(logits, masks).numpy(), 0, 2)
    assert np.allclose(answer["probabilities"], regions, atol=1e-6)


@pytest.mark.parametrize("plane", [(41, 35), (33, 50), (32, 32), (20, 64)])
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1), None])
def test_the_network_sees_the_whole_plane_on_its_canvas_wherever_the_brain_lies(plane, corner):
    image = np.zeros((*plane, 9, 4), np.float32)
    # A brain of 12 x 16 in a corner of the plane, or all of it.
    i, j = (slice(None),) * 2 if corner is None else (slice(-12, None), slice(-16, None))
    if corner is not None:
        i, j = (slice(None, 12) if corner[0] == 0 else i), (slice(None, 16) if corner[1] == 0 else j)
    image[i, j, 2:7] = np.random.default_rng(0).uniform(100, 900, image[i, j, 2:7].shape)
    network = _trained_like()
    answer = SliceSegmenter(network, MODALITIES, (32, 48), EDITIONS["2020"])(_volumes(image))

    normalised, brain = _normalised(tf.constant(image))
    canvas = [max(least, -(-side // 16) * 16) for side, least in zip(plane, (32, 48), strict=True)]
    top, left = examples.canvas_origin([(0, side) for side in plane], plane, canvas, "the test")
    planes = np.zeros((9, *canvas, 4), np.float32)
    planes[:, top : top + plane[0], left : left + plane[1]] = np.moveaxis(normalised.numpy(), 2, 0)
    logits = network(planes)
    one, two = (
        np.moveaxis(logits[name][:, top : top + plane[0], left : left + plane[1]].numpy(), 0, 2)
        for name in cun.BRANCHES
    )
    whole = (one[..., 1] > one[..., 0]) & brain.numpy()
    expected = np.array([0, 1, 2, 4])[np.where(whole, 1 + np.argmax(two[..., 1:], axis=-1), 0)]
    assert len(np.unique(expected)) > 2
    assert np.array_equal(answer["segmentation"], expected)
    regions = answers.region_probabilities(one, two, brain)
    assert np.allclose(answer["probabilities"], regions, atol=1e-6)


@pytest.mark.parametrize(("plane", "at_once"), [((32, 32), 8), ((32, 64), 4), ((64, 64), 2), ((160, 160), 1)])
def test_larger_slices_are_run_fewer_at_once(plane, at_once):
    segmenter, shapes = _counted(_trained_like())
    segmenter(_volumes(_brain((*plane, 11))))
    assert [shape[0] for shape in shapes] == [at_once] * (8 // at_once)
    assert all(shape[1:3] == plane for shape in shapes)


def test_the_bare_network_takes_any_number_of_slices_a_few_at_a_time():
    network = _trained_like()
    segmenter, shapes = _counted(network)
    slices = np.random.default_rng(0).normal(size=(19, 32, 32, 4)).astype(np.float32)
    answer = segmenter.slices(slices)
    assert [shape[0] for shape in shapes] == [8, 8, 3]
    logits = network(slices, training=False)
    for name in ("branch1", "branch2"):
        assert np.allclose(answer[name], tf.nn.softmax(logits[f"{name}_logits"]), atol=1e-6)
    none = segmenter.slices(slices[:0])
    assert none["branch1"].shape == (0, 32, 32, 2) and none["branch2"].shape == (0, 32, 32, 4)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9])
def test_a_function_in_pieces_gives_what_it_gives_at_once(count, compiled):
    nothing = {"sums": tf.zeros([0]), "squares": tf.zeros([0, 2], tf.int32)}

    def of_all(batch):
        return {"sums": tf.reduce_sum(tf.cast(batch, tf.float32), 1), "squares": batch**2}

    def in_fours(batch):
        return in_pieces(of_all, batch, 4, nothing)

    if compiled:
        in_fours = tf.function(in_fours, input_signature=[tf.TensorSpec([None, 2], tf.int32)])
    batch = np.random.default_rng(0).integers(0, 99, (count, 2)).astype(np.int32)
    whole, pieces = of_all(tf.constant(batch)), in_fours(tf.constant(batch))
    for name, array in whole.items():
        assert np.array_equal(pieces[name], array) and pieces[name].shape == array.shape


# --- refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(LONGEST_SIDE, LONGEST_SIDE, MOST_VOXELS // LONGEST_SIDE**2), (1, 1, 1), (LONGEST_SIDE, 1, 1)]
)
def test_a_case_as_large_as_is_promised_is_taken(shape):
    volumes = {name: tf.zeros(shape, tf.int8) for name in ("t1", "t2")}
    found = bounded(volumes)
    assert {name: tuple(volume.shape) for name, volume in found.items()} == dict.fromkeys(volumes, shape)


@pytest.mark.parametrize(
    "shape",
    [(LONGEST_SIDE + 1, 1, 1), (1, 1, 600), (2**20, 1, 1), (LONGEST_SIDE, LONGEST_SIDE, 129)],
)
def test_a_case_that_is_larger_is_refused_with_what_is_taken(shape):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"(?s)at most.*{LONGEST_SIDE}.*a side and.*{MOST_VOXELS}"
    ):
        bounded({"t1": tf.zeros(shape, tf.int8)})


def test_modalities_of_several_shapes_are_refused():
    volumes = _volumes(_brain((32, 32, 8)))
    volumes["t2"] = volumes["t2"][:, :, :7]
    specs = {name: tf.TensorSpec([None] * 3, tf.float32) for name in volumes}
    segmenter = SliceSegmenter(_trained_like(), MODALITIES, (32, 32), EDITIONS["2020"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="several shapes"):
        tf.function(segmenter, input_signature=[specs])(volumes)


# --- what goes in, what comes out -----------------------------------------------------------------------


def test_a_volume_without_brain_is_empty_not_an_error():
    segmenter = SliceSegmenter(_trained_like(), MODALITIES, (32, 32), EDITIONS["2020"])
    answer = segmenter(_volumes(np.zeros((20, 30, 6, 4), np.int16)))
    assert answer["segmentation"].shape == (20, 30, 6)
    assert answer["probabilities"].shape == (20, 30, 6, 3)
    assert not answer["segmentation"].numpy().any()


def test_nan_is_refused():
    image = _brain((20, 30, 6)).astype(np.float32)
    image[10, 10, 3, 1] = np.nan
    segmenter = SliceSegmenter(_trained_like(), MODALITIES, (32, 32), EDITIONS["2020"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="NaN"):
        tf.function(segmenter)(_volumes(image))


def test_the_parts_follow_branch_2_only_inside_branch_1s_tumour():
    one = np.array([[5.0, 0.0], [0.0, 5.0], [0.0, 5.0], [0.0, 5.0]], np.float32)
    two = np.array([[0, 9, 0, 0], [99, 0, 1, 0], [0, 0, 0, 7], [0, 7, 0, 0]], np.float32)
    tissues = answers.fuse(one, two, np.array([True, True, True, False]))
    # Not tumour; tumour whose likeliest class is "none", so the likeliest part; ET; outside the brain.
    assert tissues.numpy().tolist() == [Tissue.BACKGROUND, Tissue.ED, Tissue.ET, Tissue.BACKGROUND]


def test_probabilities_are_nested():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(50, 2)).astype(np.float32), rng.normal(size=(50, 4)).astype(np.float32)
    whole, core, enhancing = answers.region_probabilities(one, two, np.ones(50, bool)).numpy().T
    assert (enhancing <= core).all() and (core <= whole).all() and (whole < 1).all()


@pytest.mark.parametrize("shape", SIZES)
def test_a_baselines_constant_comes_back_with_the_sums_of_its_classes(shape):
    network = _classifier(_constant([1.0, 0.0, 0.5, 2.0]))
    answer = SliceSegmenter(network, MODALITIES, (32, 32), EDITIONS["2020"])(_volumes(_brain(shape)))
    brain = preprocess.brain_mask(_brain(shape))
    assert np.array_equal(answer["segmentation"], np.where(brain, 4, 0))  # ET is 4 in 2020
    each = np.exp([1.0, 0.0, 0.5, 2.0]) / np.exp([1.0, 0.0, 0.5, 2.0]).sum()
    probabilities = answer["probabilities"].numpy()
    assert np.allclose(probabilities[brain], [each[1:].sum(), each[1] + each[3], each[3]])
    assert not probabilities[~brain].any()


def test_a_baselines_marked_voxel_comes_back_at_the_same_ijk():
    image = _brain((37, 53, 9)).astype(np.float32)
    marked = tuple(np.argwhere(preprocess.brain_mask(image))[1])
    image[(*marked, 0)] = 1e5
    network = _classifier(
        lambda x: ops.concatenate([ops.zeros_like(x[..., :2]), x[..., :1] - 5, 0 * x[..., :1]], -1)
    )
    answer = SliceSegmenter(network, MODALITIES, (32, 32), EDITIONS["2020"])(_volumes(image))
    assert {tuple(p) for p in np.argwhere(answer["segmentation"].numpy() == 2)} == {marked}


def test_a_baselines_label_is_the_likeliest_class_inside_the_brain():
    logits = np.array([[5, 0, 0, 4.9], [0, 1, 0, 0], [0, 0, 9, 8], [1, 0, 2, 3], [0, 0, 0, 7]], np.float32)
    brain = np.array([True, True, True, True, False])
    tissues = answers.ClassAnswer().tissues({"logits": logits}, brain)
    assert tissues.numpy().tolist() == [Tissue.BACKGROUND, Tissue.NCR, Tissue.ED, Tissue.ET, Tissue.BACKGROUND]


def test_of_equally_likely_classes_the_first_is_taken_as_argmax_does():
    logits = np.random.default_rng(0).integers(0, 3, (1000, 4)).astype(np.float32)
    brain = np.ones(1000, bool)
    tissues = answers.ClassAnswer().tissues({"logits": logits}, brain)
    assert np.array_equal(tissues, np.argmax(logits, axis=-1))
    rest_wins = np.array([[1, 1], [0, 1], [0, 1]], np.float32)
    found = answers.fuse(rest_wins, np.array([[0, 1, 1, 1], [0, 1, 1, 1], [9, 0, 2, 2]], np.float32), brain[:3])
    assert found.numpy().tolist() == [Tissue.BACKGROUND, Tissue.NCR, Tissue.ED]


def test_large_logits_give_numbers():
    large = np.array([[3e38, -3e38, 0.0, 3e38]], np.float32)
    found = answers.ClassAnswer().regions({"logits": large}, np.array([True])).numpy()
    assert np.allclose(found, [[0.5, 0.5, 0.5]])


@pytest.mark.parametrize("edition", ["2020", "2023", "msd"])
def test_labels_come_out_in_the_schemas_values(edition):
    for tissue in (Tissue.NCR, Tissue.ED, Tissue.ET):
        logits = [0.0] * 4
        logits[tissue] = 5.0
        network = _network(_constant([0.0, 2.0]), _constant(logits))
        answer = SliceSegmenter(network, MODALITIES, (32, 32), EDITIONS[edition])(_volumes(_brain((32, 32, 8))))
        assert set(np.unique(answer["segmentation"])) == {0, EDITIONS[edition].value_of_tissue[tissue]}


def test_a_schema_that_lacks_a_part_is_refused():
    schema = LabelSchema("x", ((0, Tissue.BACKGROUND), (1, Tissue.NCR), (2, Tissue.ED)))
    with pytest.raises(InputError, match="ET"):
        SliceSegmenter(_trained_like(), MODALITIES, (32, 32), schema)
