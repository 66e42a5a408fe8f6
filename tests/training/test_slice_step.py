"""One step of paper A's networks: what it tells, and that ways of computing it agree."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbrats import config_file, networks
from tfbrats.distribution import replicas
from tfbrats.labels import LwsRegion
from tfbrats.networks import cun, losses
from tfbrats.training import lessons, slice_step

ONE = tf.distribute.get_strategy()
SMALL = ("model.width=2", "records.slice_shape=[32,32]")


def batch_of(slices=2, side=32):
    """Two tumours in a brain that fills the middle of each slice."""
    rng = np.random.default_rng(0)
    region = np.zeros((slices, side, side), np.uint8)
    region[:, 4:-4, 4:-4] = LwsRegion.S2
    region[:, 8:18, 8:18] = LwsRegion.S4
    region[:, 10:16, 10:16] = LwsRegion.S3
    label = np.zeros(region.shape, np.uint8)
    label[:, 9:17, 9:17] = 2
    label[:, 11:15, 11:15] = 1
    label[:, 12:14, 12:14] = 3
    return {
        "image": tf.constant(rng.normal(size=(*region.shape, 4)), tf.float32),
        "label": tf.constant(label),
        "region": tf.constant(region),
        "draws": tf.constant(rng.random(region.shape), tf.float32),
        "valid": tf.ones(slices),
    }


def one_step(settings, batch, omega=0.1, heads=True):
    """What the first step tells, and the weights after it."""
    keras.utils.set_random_seed(0)
    network, optimizer = networks.build(settings), keras.optimizers.SGD(0.01, 0.9)
    if not heads:
        network = cun.branches_only(network)
    optimizer.build(network.trainable_variables)
    found = slice_step.train_step(ONE, network, optimizer, settings)(batch, tf.constant(omega))
    return {name: float(value) for name, value in found.items()}, {v.path: v.numpy() for v in network.variables}


@pytest.fixture(scope="module")
def plain():
    return one_step(config_file.load("cun.yaml", SMALL), batch_of())


@pytest.fixture(scope="module")
def sampled():
    return one_step(config_file.load("cun_lws.yaml", SMALL), batch_of())


def test_sampled_pixels_are_those_with_weight_by_region(sampled):
    batch, (found, _) = batch_of(), sampled
    weights, _ = lessons.batch_weights(batch, config_file.load("cun_lws.yaml", SMALL))
    for name, region in (("normal", LwsRegion.S2), ("tumour", LwsRegion.S3), ("contour", LwsRegion.S4)):
        inside = batch["region"].numpy() == region
        assert found[f"sampled_{name}"] == (weights.numpy()[inside] > 0).sum()
    assert found["sampled_tumour"] == 2 * 36
    assert found["sampled_contour"] == 2 * (100 - 36)
    assert 0 < found["sampled_normal"] < 2 * (24 * 24 - 100)


def test_without_sampling_nothing_is_told_of_it(plain):
    assert not [name for name in plain[0] if name.startswith("sampled")]


def _overlaps(tissues, label):
    found = {}
    for region, parts in (("wt", (1, 2, 3)), ("tc", (1, 3)), ("et", (3,))):
        predicted, reference = np.isin(tissues, parts), np.isin(label, parts)
        for what, mask in (
            ("both", predicted & reference),
            ("predicted", predicted),
            ("reference", reference),
        ):
            found[f"overlap_{region}_{what}"] = mask.sum()
    return found


@pytest.mark.parametrize("name", ["cun", "unet2d"])
def test_the_overlaps_in_training_are_those_of_its_outputs(name, plain):
    settings, batch = config_file.load(f"{name}.yaml", SMALL), batch_of()
    keras.utils.set_random_seed(0)
    outputs = {key: y.numpy() for key, y in networks.build(settings)(batch["image"], training=True).items()}
    if name == "cun":
        whole = outputs["branch1_logits"].argmax(-1) == 1
        tissues = np.where(whole, 1 + outputs["branch2_logits"][..., 1:].argmax(-1), 0)
    else:
        tissues = outputs["logits"].argmax(-1)
    tissues = np.where(batch["region"].numpy() > 0, tissues, 0)
    told, _ = plain if name == "cun" else one_step(settings, batch)
    wanted = _overlaps(tissues, batch["label"].numpy())
    assert min(wanted.values()) > 0
    assert {key: value for key, value in told.items() if key.startswith("overlap")} == wanted


@pytest.mark.slow  # a step of cun_lws has them and is above
def test_cun_learns_without_its_auxiliary_heads(plain):
    settings, batch = config_file.load("cun.yaml", SMALL), batch_of()
    alone, weights = one_step(settings, batch, heads=False)
    whole, _ = plain
    assert alone["auxiliary"] == 0 < whole["auxiliary"]
    assert [alone[name] for name in ("loss1", "loss2")] == pytest.approx([whole["loss1"], whole["loss2"]])
    # With omega = 0 the heads teach the rest nothing.
    _, same = one_step(settings, batch, omega=0.0)
    assert all(np.allclose(value, same[path], atol=1e-6) for path, value in weights.items())


# --- validation -----------------------------------------------------------------------------------------


def split_of(slices=6):
    """A split of several slices, the first two without tumour: as they lie in order, p2 is the floor there."""
    batch = {name: np.array(tensor) for name, tensor in batch_of(slices).items()}
    batch["label"][:2], batch["region"][:2] = 0, np.where(batch["region"][:2] > 0, LwsRegion.S2, LwsRegion.S1)
    batch["case"] = np.array([0, 0, 1, 1, 0, 1], np.int32)
    return batch


def validated(settings, network, split, size, cases=0):
    """What the split scores in batches of a size, the last filled up with nothing."""
    step, sums = slice_step.validation_step(ONE, network, settings, cases), 0
    for first in range(0, len(split["valid"]), size):
        some = {name: array[first : first + size] for name, array in split.items()}
        rest = size - len(some["valid"])
        some = {n: np.pad(array, [(0, rest)] + [(0, 0)] * (array.ndim - 1)) for n, array in some.items()}
        sums = sums + step({name: tf.constant(array) for name, array in some.items()}).numpy()
    sums, of_cases = slice_step.weighed(sums, settings, cases)
    return {**slice_step.validation_scores(sums), **slice_step.case_scores(of_cases)}


@pytest.fixture(scope="module")
def small_cun():
    keras.utils.set_random_seed(0)
    return networks.build(config_file.load("cun_lws.yaml", SMALL))


def test_with_p2_of_the_split_the_validation_loss_is_that_of_any_batch(small_cun):
    split, over_split = split_of(), config_file.load("cun_lws.yaml", SMALL)
    as_trained = config_file.load("cun_lws.yaml", [*SMALL, "lws.validation_scope=as_trained"])
    for settings, is_same in ((over_split, True), (as_trained, False)):
        losses_of = [validated(settings, small_cun, split, size)["validation_loss"] for size in (1, 2, 4, 6)]
        assert (max(losses_of) - min(losses_of) < 1e-5 * losses_of[0]) is is_same, losses_of
    # By hand, in float64.
    logits = {n: y.numpy().astype(np.float64) for n, y in small_cun(split["image"], training=False).items()}
    region, label = split["region"], split["label"].astype(int)
    p2 = 1.5 * (label > 0).sum() / (region == LwsRegion.S2).sum()
    assert over_split.p2_floor < p2 < 1
    weights = {"branch2_logits": (region >= LwsRegion.S3) * 1.0}
    weights["branch1_logits"] = np.choose(region, [0, p2, 1, 2])
    loss = 0.0
    for name, weight in weights.items():
        classes = label if name == "branch2_logits" else (label > 0) * 1
        likelihood = logits[name] - np.log(np.exp(logits[name]).sum(axis=-1, keepdims=True))
        entropy = -np.take_along_axis(likelihood, classes[..., None], axis=-1)[..., 0]
        loss += (entropy * weight).sum() / weight.sum()
    assert losses_of and validated(over_split, small_cun, split, 4)["validation_loss"] == pytest.approx(loss)


def test_the_dice_of_cases_is_the_mean_of_their_volumes(small_cun):
    split, settings = split_of(), config_file.load("cun_lws.yaml", [*SMALL, "train.select=dice"])
    found = validated(settings, small_cun, split, 4, cases=2)
    logits = {name: y.numpy() for name, y in small_cun(split["image"], training=False).items()}
    tissues = np.where(
        logits["branch1_logits"].argmax(-1) == 1, 1 + logits["branch2_logits"][..., 1:].argmax(-1), 0
    )
    tissues = np.where(split["region"] > 0, tissues, 0)
    for region, parts in (("wt", (1, 2, 3)), ("tc", (1, 3)), ("et", (3,))):
        dice = []
        for case in range(2):
            a, b = (np.isin(one[split["case"] == case], parts) for one in (tissues, split["label"]))
            dice.append(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert found[f"case_dice_{region}"] == pytest.approx(np.mean(dice)), region
        assert found[f"case_dice_{region}"] != pytest.approx(found[f"dice_{region}"], rel=1e-4)


@pytest.mark.slow  # XLA on a CPU: a minute
def test_compiled_it_takes_the_same_step(sampled):
    told, weights = sampled
    compiled, same = one_step(config_file.load("cun_lws.yaml", [*SMALL, "train.jit_compile=true"]), batch_of())
    assert compiled == pytest.approx(told, rel=1e-4)
    assert all(np.allclose(value, same[path], rtol=1e-3, atol=1e-4) for path, value in weights.items())


def test_pixels_without_weight_could_be_left_out():
    """Gathered first, the pixels with weight give the loss of all."""
    batch, settings = batch_of(), config_file.load("cun_lws.yaml", SMALL)
    weights, _ = lessons.batch_weights(batch, settings)
    logits = tf.constant(np.random.default_rng(0).normal(size=(*weights.shape, 2)), tf.float32)
    whole, _ = losses.targets(batch["label"])
    chosen = tf.where(weights > 0)
    few = [tf.gather_nd(x, chosen)[None] for x in (logits, whole, weights)]
    found = losses.weighted_cross_entropy_sum(logits, whole, weights)
    assert float(losses.weighted_cross_entropy_sum(*few)) == pytest.approx(float(found), rel=1e-6)


def test_the_decays_gradient_is_the_kernels_themselves():
    kernel = tf.Variable([[1.0, -2.0], [3.0, 0.5]])
    with tf.GradientTape() as tape:
        value = replicas.half_squared_norm([kernel])
    assert float(value) == pytest.approx(0.5 * (1 + 4 + 9 + 0.25))
    assert np.array(tape.gradient(value, kernel)).tolist() == kernel.numpy().tolist()
