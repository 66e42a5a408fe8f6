"""Training: the paper's ladder, one ratio over the global batch, resume, refusals."""

import csv
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbrats import config_file, networks, train
from tfbrats.batches import slice_stream
from tfbrats.batches.stream import Share
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.networks import cun, losses
from tfbrats.runs import epochs
from tfbrats.runs.folder import RunFolder
from tfbrats.training import lessons, recipes, slice_step
from tfbrats.workflows import batch_size, whole_run


def _weights(run_dir):
    latest = tf.train.latest_checkpoint(str(pathlib.Path(run_dir) / "checkpoints" / "last"))
    reader = tf.train.load_checkpoint(latest)
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.startswith(("network", "optimizer")) and "OBJECT_GRAPH" not in name
    }


def _same(a, b):
    assert a.keys() == b.keys()
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_the_ladder_is_the_papers():
    settings = config_file.load("cun.yaml")

    def rungs(start, floor):
        return [recipes.ladder(start, floor, epoch, settings) for epoch in (0, 9, 10, 20, 30, 40, 49)]

    assert rungs(1e-3, 1e-7) == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-7])
    assert rungs(0.1, 1e-3) == pytest.approx([0.1, 0.1, 0.01, 1e-3, 1e-3, 1e-3, 1e-3])


def test_the_shipped_recipe_is_the_papers():
    for name, sampled in (("cun.yaml", False), ("cun_lws.yaml", True)):
        settings = config_file.load(name)
        assert settings.train.momentum == 0.9
        assert settings.train.weight_decay == 5e-5
        assert settings.train.epochs == 50
        assert settings.lws.beta == 1.5
        assert settings.lws.contour_weight == 2
        assert settings.lws.contour_width_mm == 10
        assert settings.lws.enabled is sampled
        assert settings.records.split == (3, 1, 1)
        assert settings.records.dropped_fraction == 0.3
        assert set(settings.preprocess.n4_modalities) == set(settings.data.modalities)


def test_a_run_writes_all_that_its_folder_promises_and_running_again_does_nothing(record_set, tmp_path, capsys):
    settings = record_set.config(f"run.dir={tmp_path / 'run'}", "train.epochs=2", "train.steps_per_epoch=2")
    history = whole_run.train(settings)
    said = capsys.readouterr().out
    for word in ("parameters", "cases", "slices", "replicas", "steps", str(tmp_path / "run")):
        assert word in said
    assert "replicas    1 on CPU (" in said or "replicas    1 on GPU (" in said
    assert said.splitlines()[-1].endswith(" --output models/cun_lws")  # not the model of cun
    folder = tmp_path / "run"
    for name in ("config.yaml", "environment.json", "splits.json", "records.json", "history.csv", "timing.csv"):
        assert (folder / name).exists(), name
    assert len(list((folder / "tb").iterdir())) == 2
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    dice = {f"{which}dice_{region}" for which in ("", "training_") for region in ("wt", "tc", "et")}
    sampled = {"sampled_normal", "sampled_tumour", "sampled_contour"}
    assert {"loss", "validation_loss", "learning_rate", "omega"} | dice | sampled <= set(rows[0])
    timing = list(csv.DictReader((folder / "timing.csv").open()))
    assert [row["epoch"] for row in timing] == ["1", "2"] and float(timing[0]["slices_per_second"]) > 0
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    before = _weights(folder)
    assert whole_run.train(settings) == history
    assert "nothing left to do" in capsys.readouterr().out
    assert _same(before, _weights(folder))


@pytest.mark.slow  # test_resume kills the command itself, at random moments
def test_a_run_killed_inside_an_epoch_goes_on_to_the_same_weights(record_set, tmp_path, monkeypatch):
    settings = ("train.epochs=2", "train.steps_per_epoch=4", "train.checkpoint_minutes=1e-9")
    straight = record_set.config(f"run.dir={tmp_path / 'straight'}", *settings)
    whole_run.train(straight)

    killed = record_set.config(f"run.dir={tmp_path / 'killed'}", *settings)
    real_step, calls = slice_step.train_step, []

    def dying_step(*arguments):
        one_step = real_step(*arguments)

        def call(*batch):
            calls.append(1)
            if len(calls) == 7:  # in the second epoch, after two of its steps
                raise KeyboardInterrupt
            return one_step(*batch)

        return call

    monkeypatch.setattr(slice_step, "train_step", dying_step)
    with pytest.raises(KeyboardInterrupt):
        whole_run.train(killed)
    monkeypatch.undo()
    whole_run.train(killed)
    assert _same(_weights(tmp_path / "straight"), _weights(tmp_path / "killed"))

    def losses(name):
        rows = csv.DictReader((tmp_path / name / "history.csv").open())
        return [[row[key] for key in ("epoch", "loss", "validation_loss", "dice_wt")] for row in rows]

    assert losses("straight") == losses("killed")


def test_weights_go_down_the_gradient_of_the_loss(record_set, tmp_path):
    settings = record_set.config(
        f"run.dir={tmp_path}", "train.epochs=3", "train.learning_rate=0.02", "train.steps_per_epoch=6"
    )
    history = whole_run.train(settings)
    assert history[-1]["loss"] < history[0]["loss"]


TWO_DEVICES = """
import sys, json
import keras, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from tfbrats import config_file, networks
from tfbrats.batches import slice_stream
from tfbrats.batches.stream import Share
from tfbrats.records import manifest as manifests
from tfbrats.distribution import devices
from tfbrats.training import slice_step

def first_step(strategy_name, per_replica, overrides):
    settings = config_file.load("smoke_2d.yaml", overrides + [f"train.batch_size={per_replica}"])
    strategy = devices.strategy_for(strategy_name)
    manifest = manifests.read_manifest(settings.data.records)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        network = networks.build(settings, strategy.num_replicas_in_sync)
        optimizer = keras.optimizers.SGD(0.01, 0.9)
        optimizer.build(network.trainable_variables)
    one_step = slice_step.train_step(strategy, network, optimizer, settings)
    batches = devices.shared_out(strategy, slice_stream.training(manifest, settings, 0, Share(8)))
    found = {k: float(v) for k, v in one_step(next(batches), tf.constant(0.1)).items()}
    weights = np.concatenate([np.array(v.value).ravel() for v in network.variables])
    return strategy.num_replicas_in_sync, found, weights

overrides = json.loads(sys.argv[1])
n1, one, w1 = first_step("one_device", 8, overrides)
n2, two, w2 = first_step("auto", 4, overrides)
print(json.dumps({"replicas": [n1, n2], "one": one, "two": two, "weights": float(np.abs(w1 - w2).max())}))
"""


# A stand-in network of one weight a class; the second replica's image is large enough to overflow float16.
OVERFLOW = """
import json
import keras, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from tfbrats import config_file
from tfbrats.networks import cun
from tfbrats.training import slice_step

keras.mixed_precision.set_global_policy("mixed_float16")
strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
with strategy.scope():
    image = keras.Input((None, None, 1))
    outputs = {}
    for name in (*cun.UNET1_OUTPUTS, *cun.UNET2_OUTPUTS):
        classes = 2 if name in cun.UNET1_OUTPUTS else 4
        layer = keras.layers.Conv2D(classes, 1, use_bias=False, kernel_initializer="ones", name=name)
        outputs[name] = keras.ops.cast(layer(image), "float32")
    network = keras.Model(image, outputs)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))
    optimizer.build(network.trainable_variables)
settings = config_file.load("smoke_2d.yaml", ["lws.enabled=false"])
one_step = slice_step.train_step(strategy, network, optimizer, settings)

def batch(context):
    large = context.replica_id_in_sync_group == 1
    return {
        "image": tf.fill([1, 16, 16, 1], 60000.0 if large else 1.0),
        "label": tf.zeros([1, 16, 16], tf.uint8), "region": tf.ones([1, 16, 16], tf.uint8),
        "draws": tf.zeros([1, 16, 16]), "valid": tf.ones([1]),
    }

before = float(np.array(optimizer.dynamic_scale.value))
one_step(strategy.experimental_distribute_values_from_function(batch), tf.constant(0.1))
weights = np.concatenate([np.array(v.value).ravel() for v in network.trainable_variables])
print(json.dumps({"weights": [float(weights.min()), float(weights.max())],
                  "scale_fell": float(np.array(optimizer.dynamic_scale.value)) < before}))
"""


# What makes a baseline of smoke_2d.yaml.
BASELINE = ("lws.enabled=false", "train.omega=0", "train.omega_floor=0")
BFCN = (
    *("model.name=bfcn", *BASELINE, "boundary.width_px=3", "boundary.balanced=true"),
    *("boundary.region_weight=0.5", "boundary.boundary_weight=2"),
)


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param((), marks=pytest.mark.slow),  # distribution/test_replicas has the step itself
        pytest.param(("lws.enabled=false",), marks=pytest.mark.slow),
        pytest.param(("lws.scope=slice",), marks=pytest.mark.slow),
        # Its outlines are weighed by their frequency in the global batch.
        pytest.param(BFCN, marks=pytest.mark.slow),
        pytest.param((*BASELINE, "model.name=unet2d"), marks=pytest.mark.slow),
    ],
)
def test_two_replicas_give_the_first_step_that_one_gives(record_set, extra):
    overrides = json.dumps([*record_set.overrides, *extra])
    ended = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, overrides], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["replicas"] == [1, 2]
    for name, one in found["one"].items():
        assert found["two"][name] == pytest.approx(one, rel=1e-5), name
    assert found["weights"] < 1e-4


def test_the_step_takes_the_papers_loss_with_one_ratio_over_the_batch(record_set):
    """Equations 1 and 4 in float64 by numpy: both branches, the eight auxiliary losses, the decay."""
    settings = record_set.config("train.batch_size=8", "train.weight_decay=0.01")
    batch = next(iter(slice_stream.training(record_set.manifest, settings, 0, Share(8))))
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        network = networks.build(settings)
        optimizer = keras.optimizers.SGD(0.01)
        optimizer.build(network.trainable_variables)
    kernels = [v.numpy() for v in network.trainable_variables if v.path.endswith("kernel")]
    weights1, weights2 = (w.numpy() for w in strategy.run(lessons.batch_weights, (batch, settings)))
    logits = {k: v.numpy().astype(np.float64) for k, v in network(batch["image"], training=True).items()}
    tissues = np.minimum(batch["label"].numpy(), 3).astype(int)

    def entropy(name, classes):
        likelihood = logits[name] - np.log(np.exp(logits[name]).sum(axis=-1, keepdims=True))
        return -np.take_along_axis(likelihood, classes[..., None], axis=-1)[..., 0]

    def ratio(name):
        first = name in cun.UNET1_OUTPUTS
        weights = weights1 if first else weights2
        return np.sum(entropy(name, (tissues > 0) * 1 if first else tissues) * weights) / weights.sum()

    one, two = ratio("branch1_logits"), ratio("branch2_logits")
    auxiliary = sum(ratio(f"aux{n}_logits") for n in range(1, 9))
    per_slice = entropy("branch1_logits", (tissues > 0) * 1) * weights1
    mean_of_ratios = np.mean(per_slice.sum(axis=(1, 2)) / weights1.sum(axis=(1, 2)))

    found = slice_step.train_step(strategy, network, optimizer, settings)(batch, tf.constant(0.1))
    assert float(found["loss1"]) == pytest.approx(one, rel=1e-4)
    assert abs(mean_of_ratios - one) > 1e-3 * one
    assert float(found["loss2"]) == pytest.approx(two, rel=1e-4)
    assert float(found["auxiliary"]) == pytest.approx(auxiliary, rel=1e-4)
    decay = 0.01 * 0.5 * sum(np.sum(kernel.astype(np.float64) ** 2) for kernel in kernels)
    assert decay > 0.1  # large enough to be missed
    assert float(found["loss"]) == pytest.approx(one + two + 0.1 * auxiliary + decay, rel=1e-4)


@pytest.mark.parametrize("extra", [(*BASELINE, "model.name=drn"), BFCN, (*BFCN, "boundary.balanced=false")])
def test_a_baselines_losses_are_ratios_over_the_batch(record_set, extra):
    """Cross-entropy of every pixel of three slices (a fourth only fills up), and outlines, in float64."""
    settings = record_set.config("train.batch_size=4", "train.weight_decay=0.01", *extra)
    stream = slice_stream.training(record_set.manifest, settings, 0, Share(4))
    batch = dict(next(iter(stream)))
    batch["valid"] = tf.constant([1.0, 1.0, 1.0, 0.0])
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        network = networks.build(settings)
        optimizer = keras.optimizers.SGD(0.01)
        optimizer.build(network.trainable_variables)
    kernels = [v.numpy() for v in network.trainable_variables if v.path.endswith("kernel")]
    logits = {k: v.numpy().astype(np.float64) for k, v in network(batch["image"], training=True).items()}
    parts = batch["label"].numpy().astype(int)
    line = np.array(losses.outlines(parts, 3))
    assert line[:3].any()

    def entropy(name, classes, weights):
        likelihood = logits[name] - np.log(np.exp(logits[name]).sum(axis=-1, keepdims=True))
        each = -np.take_along_axis(likelihood, classes[..., None], axis=-1)[..., 0]
        return (each * weights)[:3].sum() / weights[:3].sum()

    ones = np.ones(parts.shape)
    wanted = {"loss": entropy("logits", parts, ones)}
    if settings.model.name == "bfcn":
        balanced = np.where(line, line[:3].size / line[:3].sum(), 1) if settings.boundary.balanced else ones
        wanted["loss_combination"] = wanted["loss"]
        wanted["loss_region"] = entropy("region_logits", parts, ones)
        wanted["loss_boundary"] = entropy("boundary_logits", line, balanced)
        wanted["loss"] += 0.5 * wanted["loss_region"] + 2 * wanted["loss_boundary"]
    wanted["loss"] += 0.01 * 0.5 * sum(np.sum(kernel.astype(np.float64) ** 2) for kernel in kernels)
    found = slice_step.train_step(strategy, network, optimizer, settings)(batch, tf.constant(0.0))
    told = {name: float(value) for name, value in found.items() if not name.startswith("overlap_")}
    assert told == pytest.approx(wanted, rel=1e-4)


def test_a_baseline_is_validated_by_what_it_predicts_from(record_set):
    settings = record_set.config(*BFCN)
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        network = networks.build(settings)
    one_step = slice_step.validation_step(strategy, network, settings)
    batches = list(slice_stream.validation(record_set.manifest, settings, "validation", Share(4)))
    scores = slice_step.validation_scores(sum(one_step(batch).numpy() for batch in batches))
    chosen = []
    for batch in batches:
        logits = network(batch["image"], training=False)["logits"].numpy().astype(np.float64)
        counts = batch["valid"].numpy() > 0
        chosen.append((logits[counts], batch["label"].numpy()[counts], batch["region"].numpy()[counts]))
    logits, labels, regions = (np.concatenate(arrays) for arrays in zip(*chosen, strict=True))
    likelihood = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    entropy = -np.take_along_axis(likelihood, labels[..., None].astype(int), axis=-1)
    assert scores["validation_loss"] == pytest.approx(entropy.mean(), rel=1e-5)
    predicted = np.where(regions > 0, logits.argmax(axis=-1), 0)
    for name, tissues in (("wt", [1, 2, 3]), ("tc", [1, 3]), ("et", [3])):
        a, b = np.isin(predicted, tissues), np.isin(labels, tissues)
        assert scores[f"dice_{name}"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum())), name


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_two_steps_in_mixed_precision_stay_finite(record_set, tmp_path, precision):
    small = (f"run.dir={tmp_path}", f"train.precision={precision}", "train.steps_per_epoch=2")
    try:
        history = whole_run.train(record_set.config(*small, "train.epochs=1"))
        before = _weights(tmp_path)
        whole_run.train(record_set.config(*small, "train.epochs=2"))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert np.isfinite(history[0]["loss"])
    after = _weights(tmp_path)
    name = max((key for key in after if key.startswith("network")), key=lambda key: after[key].size)
    assert np.isfinite(after[name]).all()
    assert not np.array_equal(before[name], after[name])


def test_an_overflow_on_one_replica_skips_the_step_on_all():
    ended = subprocess.run([sys.executable, "-c", OVERFLOW], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found == {"weights": [1.0, 1.0], "scale_fell": True}


def test_an_epoch_whose_examples_end_early_is_no_epoch(record_set, tmp_path, monkeypatch):
    whole = recipes.SliceRecipe.training
    monkeypatch.setattr(
        recipes.SliceRecipe, "training", lambda self, *arguments: whole(self, *arguments).take(2)
    )
    settings = record_set.config(f"run.dir={tmp_path}", "train.epochs=1", "train.steps_per_epoch=3")
    with pytest.raises(RuntimeError, match="ended before step 3"):
        whole_run.train(settings)
    assert not RunFolder(settings.run.dir).network("").history


def test_an_obvious_rise_of_the_validation_loss_ends_the_run(record_set, tmp_path, monkeypatch, capsys):
    losses = iter([1.0, 1.05, 1.2, 1.3, 1.4, 1.5])
    scores = {"dice_wt": 0.0, "dice_tc": 0.0, "dice_et": 0.0}
    monkeypatch.setattr(
        slice_step, "validation_scores", lambda sums: {"validation_loss": next(losses), **scores}
    )
    settings = record_set.config(
        f"run.dir={tmp_path}",
        *("train.epochs=6", "train.steps_per_epoch=1", "train.stop_rise=0.1", "train.stop_patience=2"),
    )
    history = whole_run.train(settings)
    assert [row["validation_loss"] for row in history] == [1.0, 1.05, 1.2, 1.3]
    assert "stopped: the validation loss stayed high for 2 epochs" in capsys.readouterr().out
    assert (tmp_path / "checkpoints" / "best" / "ckpt-1.index").exists()


def test_missing_records_are_answered_with_the_command_that_makes_them(tmp_path):
    settings = config_file.load(
        "cun.yaml", [f"data.records={tmp_path / 'none'}", f"run.dir={tmp_path / 'run'}"]
    )
    with pytest.raises(InputError, match=r"tfbrats prepare --config cun\.yaml"):
        whole_run.train(settings, config_arguments=["cun.yaml"])
    assert not (tmp_path / "run").exists()


def test_records_of_another_config_are_refused_with_the_keys_that_differ(record_set, tmp_path):
    settings = record_set.config(f"run.dir={tmp_path / 'run'}", "lws.contour_width_mm=7")
    with pytest.raises(InputError, match=r"contour_width_mm: 7\.0, there 4\.0"):
        whole_run.train(settings)
    assert not (tmp_path / "run").exists()


def test_a_flipped_byte_in_a_shard_is_named_before_the_first_step(record_set, tmp_path):
    import shutil

    folder = tmp_path / "records"
    shutil.copytree(record_set.folder, folder)
    shard = sorted(folder.glob("train-*"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    settings = record_set.config(f"data.records={folder}", f"run.dir={tmp_path / 'run'}")
    with pytest.raises(InputError, match=f"{shard.name}: damaged"):
        whole_run.train(settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_folder_of_another_config_is_refused_unless_overwritten(record_set, tmp_path):
    small = ("train.epochs=1", "train.steps_per_epoch=1", f"run.dir={tmp_path / 'run'}")
    whole_run.train(record_set.config(*small))
    with pytest.raises(InputError, match=r"lws\.beta: 3\.0, there 1\.5"):
        whole_run.train(record_set.config(*small, "lws.beta=3"))
    whole_run.train(record_set.config(*small, "lws.beta=3"), overwrite=True)


@pytest.mark.slow
def test_without_validation_cases_the_last_weights_are_the_best(tmp_path, record_set, capsys):
    from beam_pipelines import nifti_to_tfrecord
    from tfbrats.exports import next_version
    from tfbrats.predictions import model_card

    ids = [one.case_id for one in layouts.find(record_set.cases).cases]
    (tmp_path / "splits.json").write_text(json.dumps({"train": ids[:1]}))
    overrides = [o for o in record_set.overrides if not o.startswith("data.records")]
    folder = str(tmp_path / "records")
    nifti_to_tfrecord.main(
        [
            *("--config", "smoke_2d.yaml", "--input", str(record_set.cases), "--output", folder),
            *("--splits", str(tmp_path / "splits.json"), *overrides),
        ]
    )
    small = ("train.epochs=2", "train.steps_per_epoch=1", f"run.dir={tmp_path / 'run'}")
    history = whole_run.train(record_set.config(f"data.records={folder}", *small))
    assert "validation_loss" not in history[0]
    assert "epoch 2, the last" in capsys.readouterr().out
    assert (tmp_path / "run" / "checkpoints" / "best" / "ckpt-2.index").exists()
    assert model_card.read(next_version.export(tmp_path / "run", tmp_path / "model")).scores == {}


def test_a_history_lost_after_its_checkpoint_is_written_again_and_another_split_is_refused(
    record_set, tmp_path
):
    settings = record_set.config("train.epochs=1", "train.steps_per_epoch=1", f"run.dir={tmp_path}")
    whole_run.train(settings)
    content = (tmp_path / "history.csv").read_bytes()
    (tmp_path / "history.csv").unlink()
    whole_run.train(settings)
    assert (tmp_path / "history.csv").read_bytes() == content

    # And it does not go on with another split.
    kept = tmp_path / "splits.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "sha256": "another"}))
    with pytest.raises(InputError, match="another split"):
        whole_run.train(record_set.config("train.epochs=2", "train.steps_per_epoch=1", f"run.dir={tmp_path}"))


def test_a_place_that_tensorflow_cannot_write_to_is_named(record_set):
    with pytest.raises(InputError, match="memory://runs: TensorFlow cannot write there"):
        whole_run.train(record_set.config("run.dir=memory://runs"))


def test_the_command_for_missing_records_keeps_the_overrides_they_depend_on(tmp_path):
    with pytest.raises(InputError, match=r"--config cun\.yaml records\.seed=4 --input"):
        train.main(["--config", "cun.yaml", "records.seed=4", "train.epochs=1", "--records", str(tmp_path)])


@pytest.mark.slow
def test_the_batch_that_fits_is_found_once_and_kept(record_set, tmp_path, monkeypatch, capsys):
    found = iter([3])
    monkeypatch.setattr(batch_size, "largest_batch", lambda *_: next(found))
    small = ("train.batch_size=auto", "train.steps_per_epoch=1", f"run.dir={tmp_path / 'run'}")
    whole_run.train(record_set.config(*small, "train.epochs=1"))
    assert "batch       3 a replica, the largest that fits" in capsys.readouterr().out
    assert RunFolder(tmp_path / "run").config.train.batch_size == 3
    whole_run.train(record_set.config(*small, "train.epochs=2"))  # would raise StopIteration if it looked again
    assert "batch       3 a replica, as before" in capsys.readouterr().out


def test_several_workers_must_be_told_the_batch(record_set, monkeypatch):
    cluster = {"worker": ["a.example:1", "b.example:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}))
    with pytest.raises(InputError, match=r"train\.batch_size=auto: not with several workers"):
        whole_run.train(record_set.config("train.batch_size=auto"))


@pytest.mark.slow
def test_a_run_can_be_made_longer_and_its_table_begins_with_the_header_again(record_set, tmp_path, capsys):
    small = ("train.steps_per_epoch=1", f"run.dir={tmp_path / 'run'}")
    for epochs_wanted, numbers in ((2, ["1", "2"]), (3, ["3"])):
        history = whole_run.train(record_set.config(*small, f"train.epochs={epochs_wanted}"))
        assert len(history) == epochs_wanted
        printed = capsys.readouterr().out.splitlines()
        at = printed.index(epochs.header({**history[0], "seconds": 1.0}))
        table = printed[at + 1 : at + 1 + len(numbers)]
        assert [line.split()[0] for line in table] == numbers
        assert {len(line) for line in table} == {len(printed[at])}


def test_the_command_line_takes_overrides_between_options(record_set, tmp_path):
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "tfbrats.train", "train.epochs=1", "--config", "smoke_2d.yaml"),
            *(*record_set.overrides, "--records", record_set.folder, "--run", str(tmp_path / "run")),
            "train.steps_per_epoch=1",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr[-2000:]  # of TensorFlow not a word either
    assert "next: tfbrats export" in ended.stdout
