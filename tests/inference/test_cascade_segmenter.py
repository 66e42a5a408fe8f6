"""Paper B's cascade: each stage looks where the stage before found something, and nowhere else."""

import functools
import itertools
import types
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from keras import layers
from upsampling import upsampled_centre

from tfbrats.cases import boxes, patches, preprocess
from tfbrats.config import Cascade
from tfbrats.errors import InputError
from tfbrats.inference import cascade_segmenter
from tfbrats.inference.cascade_segmenter import CascadeSegmenter
from tfbrats.labels import EDITIONS, MODALITIES, REGIONS, LabelSchema, Tissue, region_mask
from tfbrats.phantoms import simulation

SIZE = 8
SETTINGS = Cascade(mask="box", margin=2, stride=4, threshold=0.5, tile_batch=7)
TOLD_BY = {"WT": "flair", "TC": "t1ce", "ET": "t2"}


def _with(**changes) -> Cascade:
    return SETTINGS.model_copy(update=changes)


def _network(weights, bias=0.0):
    """Logits of a voxel as a weighted sum of its channels: a network whose answer is known."""
    patch = keras.Input((None, None, None, len(weights)), name="patch")
    logits = layers.Conv3D(1, 1, name="logits")(patch)
    network = keras.Model(patch, {"logits": logits})
    network.set_weights([np.reshape(weights, (1, 1, 1, -1, 1)), np.array([bias])])
    return network


def _of_channels(**weights):
    """t1ce=20 looks at t1ce at x1, t1ce_half=3 at its x0.5."""
    names = [m + scale for scale in ("", "_half", "_double") for m in MODALITIES]
    assert set(weights) <= {*names, "bias"}
    return _network([weights.get(name, 0.0) for name in names], weights.get("bias", 0.0))


@functools.cache
def _telling():
    """Networks that read their region off the modality that tells it; the z-score puts 0 between."""
    networks = {region: _of_channels(**{TOLD_BY[region]: 20.0}) for region in REGIONS}
    return types.MappingProxyType(networks)


def _random_networks(seed, scales=3, spread=1.0):
    rng = np.random.default_rng(seed)
    return {region: _network(rng.normal(0, spread, 4 * scales), -1.0) for region in REGIONS}


def _told(tissues, brain):
    """A case that says where its regions are: 1000 in the region, 100 in the rest of the brain."""
    image = np.where(brain, 100, 0)[..., None].repeat(4, -1).astype(np.int16)
    for region, modality in TOLD_BY.items():
        image[..., MODALITIES.index(modality)][region_mask(tissues, region) & brain] = 1000
    return image


def _ball(shape, centre, radius):
    return (
        sum(
            (np.arange(n).reshape([-1 if a == b else 1 for b in range(3)]) - centre[a]) ** 2
            for a, n in enumerate(shape)
        )
        <= radius**2
    )


def _nested_tumour(shape, centre, radii=(6, 4, 2)):
    tissues = np.zeros(shape, np.uint8)
    for radius, tissue in zip(radii, (Tissue.ED, Tissue.NCR, Tissue.ET), strict=True):
        tissues[_ball(shape, centre, radius)] = tissue
    return tissues


def _brain(shape):
    brain = np.zeros(shape, bool)
    brain[tuple(slice(1, n - 2) for n in shape)] = True
    return brain


def _volumes(image, dtype=tf.float32):
    return {name: tf.constant(image[..., m], dtype) for m, name in enumerate(MODALITIES)}


def _segmenter(networks, settings=SETTINGS, edition="2020", size=SIZE):
    return CascadeSegmenter(networks, MODALITIES, size, settings, EDITIONS[edition])


@functools.cache
def _compiled(networks, settings, **options):
    """One graph for all sizes, traced once for many tests."""
    specs = {name: tf.TensorSpec([None, None, None], tf.float32) for name in MODALITIES}
    segmenter = _segmenter(dict(zip(REGIONS, networks, strict=True)), settings, **options)
    return tf.function(segmenter, input_signature=[specs])


def _segment(networks, image, settings=SETTINGS, **options):
    compiled = _compiled(tuple(networks[region] for region in REGIONS), settings, **options)
    return {name: value.numpy() for name, value in compiled(_volumes(image)).items()}


# --- the same in plain numpy, slowly --------------------------------------------------------------------


def _slow_origins(low, high, size, stride):
    if high - low <= size:
        return [low - -(-(size - (high - low)) // 2)] if high > low else []
    return [*range(low, high - size, stride), high - size]


def _slow_stage(network, image, box, size, settings, parent=None):
    """Runs every tile of the grid; counts those that hold a voxel of the parent."""
    kernel, bias = network.get_weights()
    total, count = np.zeros(image.shape[:3]), np.zeros(image.shape[:3])
    parent = np.ones(image.shape[:3], bool) if parent is None else parent
    tiles = list(itertools.product(*(_slow_origins(*axis, size, settings.stride) for axis in box)))
    needed = sum(bool(patches.window(parent, start, size).any()) for start in tiles)
    for start in tiles:
        x1 = patches.window(image, start, size)
        wide = patches.window(image, np.array(start) - size // 2, 2 * size)
        half = wide.reshape(size, 2, size, 2, size, 2, -1).mean(axis=(1, 3, 5))
        patch = np.concatenate([x1, half, upsampled_centre(x1)], -1)[..., : kernel.shape[3]]
        probabilities = 1 / (1 + np.exp(-(patch.astype(np.float64) @ kernel[0, 0, 0, :, 0] + bias)))
        for index in np.ndindex(size, size, size):
            at = tuple(np.add(start, index))
            if all(low <= a < high for a, (low, high) in zip(at, box, strict=True)):
                total[at] += probabilities[index]
                count[at] += 1
    inside = np.zeros(image.shape[:3], bool)
    inside[tuple(slice(*axis) for axis in box)] = True
    assert (count[inside] > 0).all()
    return np.divide(total, count, out=np.zeros_like(total), where=inside), needed


def _slow_box(mask, margin):
    return boxes.grown(boxes.box_of(mask), margin, mask.shape)


def _prepared(image):
    """As `preprocess.prepare`: z-scored and cropped image, brain, and where the crop lies."""
    brain = preprocess.brain_mask(image)
    box = boxes.box_of(brain)
    brain = boxes.crop(brain, box)
    return preprocess.z_score(boxes.crop(image, box), brain), brain, box


def _slow_cascade(networks, image, brain, settings):
    """Prepared image and brain -> region -> (probabilities, mask, box it looked in, tiles)."""
    parent, box, found = brain, _slow_box(brain, 0), {}
    for region in REGIONS:
        seen = np.where(parent[..., None], image, np.float32(0)) if settings.mask == "multiply" else image
        average, tiles = _slow_stage(networks[region], seen, box, SIZE, settings, parent)
        probabilities = np.where(parent, average, 0)
        mask = parent & (average >= settings.threshold)
        found[region] = probabilities, mask, box, tiles
        parent, box = mask, _slow_box(mask, settings.margin)
    return found


def _check_against_slow(networks, image, settings):
    answer = _segment(networks, image, settings)
    prepared, brain, box = _prepared(image)
    slow = _slow_cascade(networks, prepared, brain, settings)
    for n, region in enumerate(REGIONS):
        probabilities, mask, _, tiles = slow[region]
        ours = boxes.crop(answer["probabilities"], box)[..., n]
        assert np.allclose(ours, probabilities, atol=1e-5)
        assert np.array_equal(ours >= settings.threshold, mask)
        assert answer["tiles"][n] == tiles
    values = np.select([slow[region][1] for region in ("ET", "TC", "WT")], [4, 1, 2], 0)
    assert np.array_equal(answer["segmentation"], boxes.uncrop(values, box, image.shape[:3]))
    return slow


# --- tiles ----------------------------------------------------------------------------------------------


@given(st.integers(0, 50), st.integers(0, 70), st.sampled_from([8, 16, 32]), st.data())
@trials(max_examples=200, deadline=None)
def test_tiles_cover_a_box_and_no_more(low, length, size, data):
    stride = data.draw(st.integers(1, size))
    origins = cascade_segmenter.tile_origins(low, low + length, size, stride).numpy().tolist()
    covered = {voxel for origin in origins for voxel in range(origin, origin + size)}
    assert set(range(low, low + length)) <= covered
    assert len(set(origins)) == len(origins)
    if length > size:
        assert min(covered) == low and max(covered) == low + length - 1
        steps = np.diff(origins)
        assert (steps[:-1] == stride).all() and 0 < steps[-1] <= stride
    elif length:
        # One tile; the box lies in its middle, to half a voxel.
        assert len(origins) == 1 and abs(2 * origins[0] + size - (2 * low + length)) <= 1
    else:
        assert not origins
    assert origins == _slow_origins(low, low + length, size, stride)


BOXES = [
    ((0, 20), (3, 11), (5, 6)),  # longer than a tile, as long, one voxel
    ((2, 11), (0, 25), (7, 14)),
    ((0, 1), (0, 1), (0, 1)),
    ((19, 20), (24, 25), (0, 22)),
]


@pytest.mark.parametrize("stride", [3, 4, 7, 8])
@pytest.mark.parametrize("box", BOXES)
def test_stitching_a_constant_gives_the_constant_back(box, stride):
    image = tf.random.stateless_normal([20, 25, 22, 4], [1, 2])
    network = _of_channels(bias=0.3)
    average, tiles = cascade_segmenter.slide(network, image, tf.constant(box), SIZE, _with(stride=stride))
    assert average.shape == tuple(high - low for low, high in box)
    assert np.allclose(average, 1 / (1 + np.exp(-0.3)), rtol=1e-6)
    assert tiles == np.prod([len(_slow_origins(*axis, SIZE, stride)) for axis in box])


@pytest.mark.parametrize("box", BOXES)
def test_where_tiles_overlap_each_weighs_the_same(box):
    # x0.5 and x2 look different from every tile, so the mean tells who took part.
    image = np.random.default_rng(0).normal(size=(20, 25, 22, 4)).astype(np.float32)
    network = _random_networks(1)["WT"]
    average, _ = cascade_segmenter.slide(network, image, tf.constant(box), SIZE, SETTINGS)
    expected, _ = _slow_stage(network, image, box, SIZE, SETTINGS)
    assert np.allclose(average, expected[tuple(slice(*axis) for axis in box)], atol=1e-6)


def _two_balls(shape):
    return _ball(shape, (4, 5, 5), 3) | _ball(shape, (15, 19, 16), 3)


@pytest.mark.parametrize(
    "wanted", [_two_balls, lambda shape: np.indices(shape).sum(0) == 0], ids=["two", "corner"]
)
def test_tiles_that_hold_nothing_of_what_is_wanted_are_left_out_and_change_nothing_in_it(wanted):
    image = np.random.default_rng(0).normal(size=(20, 25, 22, 4)).astype(np.float32)
    network, mask = _random_networks(1)["WT"], wanted(image.shape[:3])
    box = tf.constant([(0, side) for side in image.shape[:3]])
    whole, all_tiles = cascade_segmenter.slide(network, image, box, SIZE, SETTINGS)
    some, few_tiles = cascade_segmenter.slide(network, image, box, SIZE, SETTINGS, parent=tf.constant(mask))
    assert np.array_equal(some.numpy()[mask], whole.numpy()[mask])
    _, needed = _slow_stage(network, image, box.numpy().tolist(), SIZE, SETTINGS, mask)
    assert 0 < few_tiles < all_tiles and few_tiles == needed


def test_where_there_is_no_parent_no_tile_is_run():
    network = mock.Mock(inputs=_of_channels().inputs, side_effect=AssertionError("a tile was run"))
    no_parent = tf.zeros([9, 9, 9], tf.bool)
    average, tiles = cascade_segmenter.slide(
        network, tf.zeros([9, 9, 9, 4]), tf.constant([[0, 9]] * 3), SIZE, SETTINGS, parent=no_parent
    )
    assert tiles == 0 and average.shape == (9, 9, 9)


def test_an_empty_box_runs_no_tile():
    network = mock.Mock(inputs=_of_channels().inputs, side_effect=AssertionError("a tile was run"))
    image = tf.zeros([9, 9, 9, 4])
    average, tiles = cascade_segmenter.slide(network, image, tf.zeros([3, 2], tf.int32), SIZE, SETTINGS)
    assert tiles == 0 and average.shape == (0, 0, 0)
    with pytest.raises(AssertionError, match="a tile was run"):
        cascade_segmenter.slide(network, image, tf.constant([[0, 1]] * 3), SIZE, SETTINGS)


# --- the whole cascade ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["box", "multiply"])
@pytest.mark.parametrize("number", range(2))
def test_the_graph_does_what_plain_numpy_does(number, mask):
    image, _ = simulation.simulate((26, 28, 20), seed=4, number=number)
    networks = {
        "WT": _of_channels(flair=3.0, flair_half=2.0, bias=-6.0),
        "TC": _of_channels(t1ce=2.0, t2_double=1.5, t1_half=-0.5, bias=-1.0),
        "ET": _of_channels(t1ce=3.0, t1=-1.0, flair_half=-1.0, bias=-1.0),
    }
    found = _check_against_slow(networks, image, _with(mask=mask))
    assert all(found[region][1].any() for region in REGIONS)  # so that all three were tried
    assert found["ET"][2] != found["WT"][2]


@pytest.mark.parametrize("scales", [1, 3])
def test_networks_of_one_scale_and_of_three_fit_in(scales):
    image, _ = simulation.simulate((24, 24, 16), seed=1, number=0)
    _check_against_slow(_random_networks(5, scales), image, SETTINGS)


def _noise(shape, seed=0):
    return np.random.default_rng(seed).integers(1, 900, (*shape, 4)).astype(np.int16)


def test_any_size_goes_through_one_graph():
    networks = _random_networks(7)
    for shape in [(1, 1, 1), (3, 4, 7), (8, 8, 8), (9, 7, 25), (1, 19, 2), (17, 9, 11)]:
        _check_against_slow(networks, _noise(shape), SETTINGS)
    compiled = _compiled(tuple(networks.values()), SETTINGS)
    assert compiled.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("seed", range(3))
def test_et_lies_in_tc_lies_in_wt_lies_in_the_brain(seed):
    image = _noise((18, 19, 12), seed) * _brain((18, 19, 12))[..., None]
    answer = _segment(_random_networks(seed, spread=2), image)
    whole, core, enhancing = np.moveaxis(answer["probabilities"] >= SETTINGS.threshold, -1, 0)
    assert enhancing.any()
    assert not (enhancing & ~core).any() and not (core & ~whole).any()
    assert not (whole & ~_brain(whole.shape)).any()
    # The label map says the same.
    assert np.array_equal(answer["segmentation"], np.select([enhancing, core, whole], [4, 1, 2], 0))
    # Where a parent is not, the child's probability is 0 to the last bit.
    assert not answer["probabilities"][..., 1][~whole].any()
    assert not answer["probabilities"][..., 2][~core].any()


def test_a_region_comes_back_at_the_same_ijk():
    image, tissues = simulation.simulate((40, 44, 24), seed=2, number=0)
    brain = preprocess.brain_mask(image)
    answer = _segment(_telling(), _told(tissues, brain))
    expected = EDITIONS["2020"].to_values(tissues, "phantom")
    assert np.array_equal(answer["segmentation"], np.where(brain, expected, 0))


@pytest.mark.parametrize("move", [(0, 0, 1), (5, -3, 2), (-6, -6, -6)])
def test_a_tumour_elsewhere_gives_the_same_answer_elsewhere(move):
    shape, centre = (30, 32, 28), np.array([15, 15, 14])
    here, there = (
        _segment(_telling(), _told(_nested_tumour(shape, at), _brain(shape))) for at in (centre, centre + move)
    )
    assert np.array_equal(np.roll(here["segmentation"], move, (0, 1, 2)), there["segmentation"])
    assert here["segmentation"].any()


def test_what_is_no_part_of_the_parent_is_not_part_of_the_child():
    shape = (30, 30, 30)
    image = _told(_nested_tumour(shape, (14, 14, 14)), _brain(shape))
    clean = _segment(_telling(), image)
    # t1ce and t2 claim a second core next to the tumour, in TC's box but outside WT.
    image[_ball(shape, (19, 19, 19), 1)] = [100, 100, 1000, 1000]
    assert np.array_equal(_segment(_telling(), image)["segmentation"], clean["segmentation"])


def test_the_work_shrinks_with_the_boxes():
    shape = (48, 48, 48)
    brain = _brain(shape)
    settings = _with(margin=1)
    small = _segment(_telling(), _told(_nested_tumour(shape, (20, 22, 24)), brain), settings)["tiles"]
    # brain 45 wide: 11 tiles; WT 13 + 2 wide: 3; TC 9 + 2 wide: 2
    assert small.tolist() == [11**3, 3**3, 2**3]
    large = _segment(_telling(), _told(_nested_tumour(shape, (20, 22, 24), (14, 9, 5)), brain), settings)[
        "tiles"
    ]
    assert large[0] == small[0] and (large[1:] > small[1:]).all()


def test_the_margin_gives_a_stage_room():
    shape = (24, 24, 24)
    image, brain, _ = _prepared(_told(_nested_tumour(shape, (12, 12, 12)), _brain(shape)))
    boxes = {
        margin: cascade_segmenter.predicted_parent(
            _telling(), image, brain, "TC", SIZE, _with(margin=margin)
        ).box
        for margin in (0, 2, 99)
    }
    # WT is 13 voxels wide, from 5 to 18 of the crop, and the brain 21.
    for margin, expected in ((0, (5, 18)), (2, (3, 20)), (99, (0, 21))):
        assert np.array_equal(boxes[margin], [expected] * 3)


def test_between_the_parts_of_a_tumour_no_tile_is_run():
    shape = (40, 20, 20)
    apart = [_nested_tumour(shape, (centre, 10, 10), (4, 3, 1)) for centre in (6, 32)]
    image = _told(np.maximum(*apart), _brain(shape))
    answer = _segment(_telling(), image)
    alone = _segment(_telling(), _told(apart[0], _brain(shape)))
    assert np.array_equal(answer["segmentation"] > 0, (np.maximum(*apart) > 0) & _brain(shape))
    grid = np.prod([len(_slow_origins(0, side, SIZE, SETTINGS.stride)) for side in (39 - 2 - 1, 13, 13)])
    assert alone["tiles"][1] < answer["tiles"][1] < grid


def test_an_empty_stage_runs_no_tiles_after_it():
    shape = (20, 20, 20)
    brain, tumour = _brain(shape), _nested_tumour(shape, (10, 10, 10))
    none = np.zeros(shape, np.uint8)
    no_core = np.where(tumour > 0, Tissue.ED, 0).astype(np.uint8)
    no_enhancement = np.where(tumour == Tissue.ET, Tissue.NCR, tumour)
    for tissues, stages in ((none, 1), (no_core, 2), (no_enhancement, 3)):
        answer = _segment(_telling() | _deaf_where_constant(tissues), _told(tissues, brain))
        assert np.array_equal(answer["tiles"] > 0, np.arange(3) < stages)
        assert np.isfinite(answer["probabilities"]).all()
        assert np.array_equal(answer["segmentation"], EDITIONS["2020"].to_values(tissues, "told"))


def _deaf_where_constant(tissues):
    """For the regions that a case lacks: their modality is constant, its z-score 0, and 0 is no tumour."""
    absent = [region for region in REGIONS if not region_mask(tissues, region).any()]
    return {region: _of_channels(bias=-5.0) for region in absent}


@pytest.mark.parametrize("shape", [(20, 30, 6), (1, 1, 1)])
def test_a_volume_without_brain_is_empty_not_an_error(shape):
    answer = _segment(_random_networks(0), np.zeros((*shape, 4), np.int16))
    assert answer["segmentation"].shape == shape and not answer["segmentation"].any()
    assert answer["probabilities"].shape == (*shape, 3) and not answer["probabilities"].any()
    assert not answer["tiles"].any()


def test_multiply_hides_from_a_stage_what_lies_outside_its_parent():
    shape = (24, 24, 24)
    image = _told(_nested_tumour(shape, (12, 12, 12)), _brain(shape))
    # TC's network looks at t1 at x0.5. t1 is 500 in WT's surroundings, 100 in WT and far away.
    image[..., MODALITIES.index("t1")][_ball(shape, (12, 12, 12), 9) & ~_ball(shape, (12, 12, 12), 6)] = 500
    networks = _telling() | {"TC": _of_channels(t1_half=4.0)}
    box, multiply = (_segment(networks, image, _with(mask=mask)) for mask in ("box", "multiply"))
    assert np.array_equal(box["probabilities"][..., 0], multiply["probabilities"][..., 0])
    # t1's z-score is negative in WT: above 0.5 only by what shines in from outside.
    assert (box["probabilities"][..., 1] > 0.5).any()
    assert not (multiply["probabilities"][..., 1] > 0.5).any()


def test_how_many_tiles_run_at_once_changes_nothing():
    image, _ = simulation.simulate((26, 28, 20), seed=4, number=0)
    networks = _random_networks(3)
    answers = [_segment(networks, image, _with(tile_batch=n)) for n in (1, 3, 1000)]
    for other in answers[1:]:
        assert np.array_equal(answers[0]["segmentation"], other["segmentation"])
        assert np.allclose(answers[0]["probabilities"], other["probabilities"], atol=1e-6)
        assert np.array_equal(answers[0]["tiles"], other["tiles"])


def test_whole_numbers_give_the_same_as_floats():
    image, _ = simulation.simulate((24, 24, 16), seed=4, number=0)
    segmenter = _segmenter(_random_networks(3))
    a, b = segmenter(_volumes(image, tf.int16)), segmenter(_volumes(image, tf.float32))
    for name in a:
        assert np.array_equal(a[name], b[name])


def test_modalities_go_by_name_and_not_by_place():
    shape = (20, 20, 20)
    segmenter = _segmenter(_telling())
    volumes = _volumes(_told(_nested_tumour(shape, (9, 9, 9)), _brain(shape)))
    backwards = dict(reversed(volumes.items()))
    assert np.array_equal(segmenter(volumes)["segmentation"], segmenter(backwards)["segmentation"])


@pytest.mark.parametrize("edition", ["2020", "2023", "2024", "msd"])
def test_labels_come_out_in_the_schemas_values(edition):
    shape = (20, 20, 20)
    tissues = _nested_tumour(shape, (9, 9, 9))
    answer = _segment(_telling(), _told(tissues, _brain(shape)), edition=edition)
    expected = EDITIONS[edition].to_values(np.where(_brain(shape), tissues, 0), edition)
    assert answer["segmentation"].dtype == np.uint8
    assert np.array_equal(answer["segmentation"], expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused(value):
    image = _noise((12, 12, 12)).astype(np.float32) * _brain((12, 12, 12))[..., None]
    image[0, 11, 0, 2] = value  # outside the brain too
    with pytest.raises(tf.errors.InvalidArgumentError, match="NaN"):
        tf.function(_segmenter(_telling()))(_volumes(image))


def test_the_bare_network_answers_on_patches():
    patch = np.random.default_rng(0).normal(size=(2, SIZE, SIZE, SIZE, 12)).astype(np.float32)
    networks = _telling()
    probabilities = _segmenter(networks).patches("TC", patch)["probabilities"]
    logits = networks["TC"](patch)["logits"]
    assert probabilities.shape == (2, SIZE, SIZE, SIZE, 1)
    assert np.allclose(probabilities, 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_it_serves_from_a_session_with_bare_variables(tmp_path):
    """As export saves it and TensorFlow Serving loads it."""
    segmenter = _segmenter(_random_networks(2))
    module = tf.Module()
    module.weights = [v.value for network in segmenter.networks.values() for v in network.variables]
    specs = {name: tf.TensorSpec([None, None, None], tf.int16, name) for name in MODALITIES}
    signature = tf.function(lambda **volumes: segmenter(volumes)).get_concrete_function(**specs)
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": signature})
    images = [_noise((13, 9, 20)), _noise((2, 3, 1)), np.zeros((4, 5, 6, 4), np.int16)]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(tmp_path))
        definition = meta.signature_def["serving_default"]
        fetches = {name: info.name for name, info in definition.outputs.items()}
        names = {m: definition.inputs[m].name for m in MODALITIES}
        served = [
            session.run(fetches, {names[m]: image[..., n] for n, m in enumerate(MODALITIES)})
            for image in images
        ]
    for image, theirs in zip(images, served, strict=True):
        ours = segmenter(_volumes(image))
        assert np.array_equal(theirs["tiles"], ours["tiles"])
        assert np.array_equal(theirs["segmentation"], ours["segmentation"])
        assert np.allclose(theirs["probabilities"], ours["probabilities"], atol=1e-5)


# --- boxes for training ---------------------------------------------------------------------------------


def test_the_predicted_parent_is_where_the_cascade_looks():
    networks = _random_networks(11)
    parent_of = {
        region: tf.function(
            lambda image, brain, region=region: cascade_segmenter.predicted_parent(
                networks, image, brain, region, SIZE, SETTINGS
            ),
            reduce_retracing=True,
        )
        for region in REGIONS
    }
    for number in range(2):
        image, brain, _ = _prepared(simulation.simulate((24 + number, 24, 16), seed=3, number=number)[0])
        slow = _slow_cascade(networks, image, brain, SETTINGS)
        masks = {"WT": brain, "TC": slow["WT"][1], "ET": slow["TC"][1]}
        for region in REGIONS:
            # uint8, as the records hold the brain
            parent = parent_of[region](image, brain.astype(np.uint8))
            assert bool(parent.found)
            assert np.array_equal(parent.box, slow[region][2])
            assert np.array_equal(parent.mask, masks[region])


def test_only_the_networks_above_are_needed():
    image, brain, _ = _prepared(simulation.simulate((24, 24, 16), seed=3, number=0)[0])
    networks = _random_networks(11)
    whole = cascade_segmenter.predicted_parent({}, image, brain, "WT", SIZE, SETTINGS)
    assert np.array_equal(whole.box, [(0, side) for side in brain.shape])
    cascade_segmenter.predicted_parent({"WT": networks["WT"]}, image, brain, "TC", SIZE, SETTINGS)


def test_a_parent_that_was_not_found_says_so():
    image, brain, _ = _prepared(simulation.simulate((24, 24, 16), seed=3, number=0)[0])
    networks = {"WT": _of_channels(bias=5.0), "TC": _of_channels(bias=-5.0)}
    core = cascade_segmenter.predicted_parent(networks, image, brain, "ET", SIZE, SETTINGS)
    assert not core.found and not core.mask.numpy().any()
    assert cascade_segmenter.predicted_parent(networks, image, brain, "TC", SIZE, SETTINGS).found


# --- refused --------------------------------------------------------------------------------------------


def test_a_missing_network_is_refused():
    networks = {region: _telling()[region] for region in ("WT", "ET")}
    with pytest.raises(InputError, match="no network of TC"):
        _segmenter(networks)


def test_a_network_of_other_channels_is_refused():
    with pytest.raises(InputError, match=r"network of ET takes 6 channels; expected 4 .* or 12"):
        _segmenter(_telling() | {"ET": _network([1.0] * 6)})


def test_a_stride_that_leaves_gaps_is_refused():
    with pytest.raises(InputError, match="gaps"):
        _segmenter(_telling(), _with(stride=SIZE + 1))


def test_a_schema_that_lacks_a_part_is_refused():
    schema = LabelSchema("x", ((0, Tissue.BACKGROUND), (1, Tissue.NCR), (2, Tissue.ED)))
    with pytest.raises(InputError, match="ET"):
        CascadeSegmenter(_telling(), MODALITIES, SIZE, SETTINGS, schema)
