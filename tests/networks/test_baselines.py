"""The baselines of paper A's table: their layers, their recipes, and the whole way on simulated cases."""

import itertools
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from serving import server
from serving.client import Client
from tfbrats import config, config_file
from tfbrats import networks as models
from tfbrats.batches import slice_stream
from tfbrats.batches.stream import Share
from tfbrats.cases import case
from tfbrats.datasets import layouts
from tfbrats.exports import next_version, saving
from tfbrats.exports.chosen import chosen_from
from tfbrats.inference import saved_segmenter
from tfbrats.labels import REGIONS
from tfbrats.networks import bfcn, drn, unet2d
from tfbrats.phantoms import data_sets
from tfbrats.predictions import model_card
from tfbrats.training import slice_step
from tfbrats.workflows import whole_run

ROWS = {  # paper A, Table 1: name there, width, Dice on 42 test cases of WT, TC, ET
    "unet2d": ("U-Net", 64, ("0.872", "0.779", "0.751")),
    "bfcn": ("BFCN", 64, ("0.874", "0.788", "0.757")),
    "drn": ("DRN", 32, ("0.881", "0.810", "0.768")),
}
SHIPPED = pathlib.Path(config_file.SHIPPED)

# What makes a row of smoke_2d.yaml: nothing of cun's own, and for bfcn its outlines.
OFF = ("lws.enabled=false", "train.omega=0", "train.omega_floor=0")
OUTLINES = (
    "boundary.width_px=3",
    "boundary.balanced=true",
    "boundary.region_weight=1",
    "boundary.boundary_weight=1",
)


def overrides_of(name: str) -> tuple[str, ...]:
    return (f"model.name={name}", *OFF, *(OUTLINES if name == "bfcn" else ()))


@pytest.fixture(scope="module")
def networks():
    """At the widths of the shipped configs."""
    return {name: models.build(config_file.load(f"{name}.yaml")) for name in ROWS}


def _sources(network, name):
    node = network.get_layer(name)._inbound_nodes[0]
    return [tensor._keras_history.operation.name for tensor in node.input_tensors]


def _shapes(network, names, image):
    probe = keras.Model(network.input, {name: network.get_layer(name).output for name in names})
    return {name: tuple(tensor.shape) for name, tensor in probe(image).items()}


# --- layers ---------------------------------------------------------------------------------------------


def _conv(k, a, b):
    return k * k * a * b + b


def _unit(a, b):
    """conv3x3-BN: gamma, beta and two moving moments a channel."""
    return _conv(3, a, b) + 4 * b


def _pair(a, b):
    return _unit(a, b) + _unit(b, b)


def test_unet2d_has_the_parameters_counted_by_hand(networks):
    c = [64, 128, 256, 512, 1024]
    down = _pair(4, 64) + sum(_pair(a, b) for a, b in itertools.pairwise(c))
    up = sum(_conv(2, b, a) + _pair(2 * a, a) for a, b in itertools.pairwise(c))
    total = down + up + _conv(1, 64, 4)
    assert networks["unet2d"].count_params() == total
    assert round(total / 1e6) == 31


def test_bfcn_has_the_parameters_counted_by_hand(networks):
    c = [64, 128, 256, 512]
    trunk = _pair(4, 64) + sum(_pair(a, b) for a, b in itertools.pairwise(c))
    sides = sum(_conv(1, channels, 16) for channels in c) + sum(_conv(k, 16, 16) for k in (2, 4, 8))
    branch = sides + _unit(4 * 16, 64)
    total = trunk + 2 * branch + _unit(2 * 64, 64) + 2 * _conv(1, 64, 4) + _conv(1, 64, 2)
    assert networks["bfcn"].count_params() == total


def test_drn_has_the_parameters_counted_by_hand(networks):
    narrow = _unit(4, 32) + 2 * 2 * _pair(32, 32)
    first = _pair(32, 64) + _conv(1, 32, 64) + 4 * 64  # its input changes its channels on the way
    wide = first + (2 * 3 - 1) * _pair(64, 64)
    total = narrow + wide + 2 * _unit(64, 64) + _conv(1, 64, 4)
    assert networks["drn"].count_params() == total
    assert round(total / 1e6, 2) == 0.58


def test_levels_have_the_widths_of_their_table(networks):
    for level, channels in enumerate((64, 128, 256, 512, 1024), start=1):
        for side in "ed" if level < 5 else "e":
            assert networks["unet2d"].get_layer(f"{side}{level}_2").output.shape[-1] == channels
    for level, channels in enumerate((64, 128, 256, 512), start=1):
        assert networks["bfcn"].get_layer(f"e{level}_2").output.shape[-1] == channels
        assert networks["bfcn"].get_layer(f"region_side{level}").output.shape[-1] == 16
    for name in ("region", "boundary", "combination", "region_levels", "boundary_levels"):
        assert networks["bfcn"].get_layer(name).output.shape[-1] == 64
    assert networks["bfcn"].get_layer("both").output.shape[-1] == 128
    for level, channels in enumerate((32, 32, 64, 64, 64), start=1):
        assert networks["drn"].get_layer(f"level{level}_b").output.shape[-1] == channels
    assert networks["drn"].get_layer("degridding2").output.shape[-1] == 64


def test_a_240_slice_goes_down_as_far_as_each_network_says():
    image = np.zeros((1, 240, 240, 4), np.float32)
    found = _shapes(unet2d.build(1, 4, False), ("e5_2", "d1_2"), image)
    assert found == {"e5_2": (1, 15, 15, 16), "d1_2": (1, 240, 240, 1)}
    found = _shapes(bfcn.build(4, 4, False), ("e4_2", "region_side4", "region_up4", "both"), image)
    assert found["e4_2"] == (1, 30, 30, 32)
    assert found["region_side4"] == (1, 30, 30, 1)
    assert found["region_up4"] == (1, 240, 240, 1)
    assert found["both"] == (1, 240, 240, 8)
    network = drn.build(1, 4, False)
    names = [layer.name for layer in network.layers if layer.name != "image"]
    assert {shape[1:3] for shape in _shapes(network, names, image).values()} == {(240, 240)}


def test_bfcn_has_no_skip_from_encoder_to_decoder(networks):
    """What is joined are the branches' own maps; no deconvolution's result ever meets the trunk again."""
    network = networks["bfcn"]
    joined = [layer.name for layer in network.layers if isinstance(layer, keras.layers.Concatenate)]
    assert sorted(joined) == ["both", "boundary_levels", "region_levels"]
    assert _sources(network, "both") == ["region", "boundary"]
    for branch in ("region", "boundary"):
        raised = [f"{branch}_up{level}" for level in (2, 3, 4)]
        assert _sources(network, f"{branch}_levels") == [f"{branch}_side1", *raised]
        for level in (1, 2, 3, 4):
            assert _sources(network, f"{branch}_side{level}") == [f"e{level}_2"]
        for level in (2, 3, 4):
            layer = network.get_layer(f"{branch}_up{level}")
            assert layer.strides == layer.kernel_size == (2 ** (level - 1),) * 2


def test_unet2d_joins_each_level_with_its_like(networks):
    for level in (1, 2, 3, 4):
        assert _sources(networks["unet2d"], f"d{level}_skip") == [f"d{level}_up", f"e{level}_2"]


def test_drn_dilates_where_others_pool(networks):
    network = networks["drn"]
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {layer.strides for layer in convolutions} == {(1, 1)}
    assert not [layer for layer in network.layers if "pool" in type(layer).__name__.lower()]
    rates = [layer.dilation_rate[0] for layer in convolutions if layer.kernel_size == (3, 3)]
    assert rates == [1, *(4 * [1]), *(4 * [2]), *(4 * [4]), *(4 * [8]), *(4 * [16]), 2, 1]
    # The two degridding convolutions are plain: nothing is added to them.
    assert _sources(network, "degridding1_conv") == ["level5_b"]
    assert _sources(network, "logits_conv") == ["degridding2"]


def test_one_pixel_of_drn_sees_257():
    """More than a slice of 240: 1 + 2 x (1 + 4 x (1 + 2 + 4 + 8 + 16) + 2 + 1)."""
    network = drn.build(1, 1, False)
    for variable in network.trainable_variables:
        if variable.path.endswith("kernel"):
            variable.assign(np.full(variable.shape, 0.2))
    image = np.zeros((1, 7, 301, 1), np.float32)
    at_rest = network(image)["logits"][0, 3, :, 0]
    image[0, 3, 150] = 1.0
    reached = np.flatnonzero(network(image)["logits"][0, 3, :, 0] - at_rest)
    assert (reached.min(), reached.max()) == (150 - 128, 150 + 128)


def test_drn_takes_slices_of_any_size():
    assert tuple(drn.build(1, 4, False)(np.zeros((1, 37, 22, 4), np.float32))["logits"].shape) == (1, 37, 22, 4)


@pytest.mark.parametrize("width", [1, 2, 6])
def test_bfcn_can_be_made_as_narrow_as_a_test_wants(width):
    outputs = bfcn.build(width, 4, False)(np.zeros((1, 16, 16, 4), np.float32))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "logits": (1, 16, 16, 4),
        "region_logits": (1, 16, 16, 4),
        "boundary_logits": (1, 16, 16, 2),
    }


@pytest.mark.parametrize("name", ROWS)
def test_what_only_training_needs_is_dropped_and_the_answer_stays(name):
    small = models.build(config_file.load("smoke_2d.yaml", [*overrides_of(name), "model.width=4"]))
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 4)).astype(np.float32)
    alone = models.without_training_heads(small)
    assert set(alone.output) == {"logits"}
    assert np.array_equal(alone(image)["logits"], small(image)["logits"])
    assert not {"region_logits_conv", "boundary_logits_conv"} & {layer.name for layer in alone.layers}


@pytest.mark.parametrize("name", ROWS)
def test_heads_stay_in_float32_under_mixed_precision(name):
    mixed = ["model.width=2", "train.precision=mixed_bfloat16"]
    small = models.build(config_file.load("smoke_2d.yaml", [*overrides_of(name), *mixed]))
    outputs = small(np.zeros((1, 16, 16, 4), np.float32))
    assert {str(keras.backend.standardize_dtype(value.dtype)) for value in outputs.values()} == {"float32"}


def test_convolutions_start_glorot_normal_with_zero_bias(networks):
    kernel, bias = (v.numpy() for v in networks["drn"].get_layer("level5_b_2_conv").weights)
    assert not bias.any()
    assert kernel.std() == pytest.approx(np.sqrt(2 / (2 * 9 * 64)), rel=0.03)


# --- recipes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_a_baseline_has_cuns_recipe_and_its_own_network(name):
    ours, theirs = (config_file.load(one).model_dump() for one in ("cun.yaml", f"{name}.yaml"))
    assert (theirs.pop("boundary", None) is not None) == (name == "bfcn")
    width = ROWS[name][1]
    assert set(config.differences(ours, theirs)) == {
        f"model.name: cun, there {name}",
        *([f"model.width: 32, there {width}"] if width != 32 else []),
        "train.omega: 0.1, there 0.0",
        "train.omega_floor: 0.001, there 0.0",
        f"run.dir: runs/cun, there runs/{name}",
    }


def test_the_recipe_is_paper_as():
    for name in ROWS:
        settings = config_file.load(f"{name}.yaml")
        train_ = settings.train
        assert (train_.learning_rate, train_.learning_rate_floor) == (1e-3, 1e-7)
        assert (train_.ladder_epochs, train_.ladder_factor, train_.epochs) == (10, 0.1, 50)
        assert (train_.momentum, train_.weight_decay) == (0.9, 5e-5)
        assert settings.records.split == (3, 1, 1) and settings.records.dropped_fraction == 0.3
        assert set(settings.preprocess.n4_modalities) == set(settings.data.modalities)
        assert settings.data.rotation_degrees > 0 and settings.data.flip > 0
        assert not settings.lws.enabled
    boundary = config_file.load("bfcn.yaml").boundary
    assert boundary.width_px == 3 and boundary.balanced
    assert boundary.region_weight == boundary.boundary_weight == 1


def test_one_record_set_serves_the_five_rows():
    rows = [f"{name}.yaml" for name in (*ROWS, "cun", "cun_lws")]
    first, *others = (config_file.load(row).records_identity() for row in rows)
    assert all(other == first for other in others)


@pytest.mark.parametrize("name", ROWS)
def test_its_header_names_paper_row_score_and_data(name):
    header = (SHIPPED / f"{name}.yaml").read_text().partition("\nmodel:")[0]
    row, _, dice = ROWS[name]
    scores = ", ".join(f"{region} {value}" for region, value in zip(REGIONS, dice, strict=True))
    said = ("Paper A, Table 1", f'row "{row}"', "arXiv 1907.07677", "BraTS 2017", "Hours", "docs/why/papers.md")
    for word in (*said, f"Paper's Dice on 42 test cases: {scores}."):
        assert word in header, word


# --- the whole way --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_its_loss_goes_down_on_slices_that_it_sees_again(name, record_set):
    settings = record_set.config(*overrides_of(name), "model.width=4")
    batch = next(iter(slice_stream.training(record_set.manifest, settings, 0, Share(4))))
    keras.utils.set_random_seed(0)
    network, optimizer = models.build(settings), keras.optimizers.SGD(0.02, 0.9)
    optimizer.build(network.trainable_variables)
    one_step = slice_step.train_step(tf.distribute.get_strategy(), network, optimizer, settings)
    told = [{key: float(value) for key, value in one_step(batch, 0.0).items()} for _ in range(15)]
    losses = [key for key in told[0] if key.startswith("loss")]
    assert all(told[-1][key] < told[0][key] for key in losses), (told[0], told[-1])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "bfcn")) for name in ROWS]
)
def test_a_baseline_is_trained_exported_and_served_like_cun(name, record_set, tmp_path):
    # So slowly that the network stays as undecided as it began: one that is sure of nothing but background
    # would agree with any other.
    settings = record_set.config(
        *(*overrides_of(name), f"run.dir={tmp_path / 'run'}", "train.learning_rate=1e-4"),
        *("train.epochs=1", "train.steps_per_epoch=3"),
    )
    history = whole_run.train(settings)
    parts = {key for key in history[0] if key.startswith("loss")}
    of_bfcn = {"loss_combination", "loss_region", "loss_boundary"}
    assert parts == {"loss", *(of_bfcn if name == "bfcn" else ())}
    assert {"validation_loss", "dice_wt", "dice_tc", "dice_et"} <= set(history[0])

    model = next_version.export(tmp_path / "run", tmp_path / "models" / name)
    card = model_card.read(model)
    assert card.signatures["slices"]["outputs"] == {
        "classes": "float32 [N, 48, 48, 4]: non-tumour, NCR, ED, ET"
    }
    slices = tf.saved_model.load(model).signatures["slices"](image=tf.random.normal([3, 48, 48, 4]))
    assert set(slices) == {"classes"} and slices["classes"].shape == (3, 48, 48, 4)
    assert np.allclose(tf.reduce_sum(slices["classes"], axis=-1), 1, atol=1e-5)

    # Neither the size of training nor a multiple of 16.
    data_sets.write_dataset(tmp_path / "new", 1, "2021", seed=9, shape=(50, 61, 19))
    loaded = case.load(layouts.find(tmp_path / "new").cases[0])
    volumes = {key: tf.constant(array) for key, array in model_card.inputs(card, loaded).items()}
    answer = tf.function(saving.segmenter_of(chosen_from(tmp_path / "run")))(volumes)
    ours = model_card.tissues(card, answer["segmentation"].numpy(), "keras")
    saved = saved_segmenter.SavedSegmenter(model).segment(loaded, probabilities=True)
    with server.start(str(tmp_path / "models" / name)) as running, Client(running.address, name) as client:
        remote = client.segment(loaded)
    assert ours.shape == (50, 61, 19) and len(np.unique(ours)) > 1
    assert np.array_equal(ours, saved.tissues) and np.array_equal(ours, remote.tissues)
    assert np.allclose(answer["probabilities"], saved.probabilities, atol=1e-5)
    whole, core, enhancing = np.moveaxis(answer["probabilities"].numpy(), -1, 0)
    assert (enhancing <= core + 1e-6).all() and (core <= whole + 1e-6).all()
