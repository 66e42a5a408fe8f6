"""The processes that `gpu.py` starts: training steps, a whole case, and how far a GPU is from the CPU.

    python benchmarks/gpu_jobs.py '{"job": "steps", "network": "msm", "cells": [{"precision": "tf32"}], ...}'

Answers a line of JSON for each cell, {"failed": ...} where it has no figures. Keras' engine is KERAS_BACKEND's:
TensorFlow trains with our own step; JAX, which needs no TensorFlow, with Keras' optimizer and our losses, and
always compiled.
"""

import contextlib
import functools
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from unittest import mock

import gpu_meter
import keras
import numpy as np
from backends import _loss_of_patches, _loss_of_slices, _with_known_weights
from step_jobs import NETWORKS, made_up

from tfbrats import config_file, networks
from tfbrats.config import Config, PatchConfig
from tfbrats.labels import Tissue
from tfbrats.networks import keras_settings

_ENGINE = keras.config.backend()
_MOST_STEPS = 2000
# A cell's precision -> Keras' policy, and whether float32 may be TF32.
PRECISIONS = {
    "float32": ("float32", False),
    "tf32": ("float32", True),
    "float16": ("mixed_float16", False),
    "bfloat16": ("mixed_bfloat16", False),
}


def _config(spec: Mapping, cell: Mapping) -> Config:
    policy, tf32 = PRECISIONS[cell["precision"]]
    more = [f"train.precision={policy}", f"train.tf32={tf32}", f"train.jit_compile={cell.get('xla', False)}"]
    return config_file.load(NETWORKS[spec["network"]][0], [*spec["settings"], *more])


def _network(spec: Mapping, config: Config) -> keras.Model:
    return _with_known_weights(networks.build(config, region=NETWORKS[spec["network"]][1]))


# --- training steps --------------------------------------------------------------------------------------


def steps(spec: Mapping) -> Iterator[dict]:
    """Steps a second of each cell, as many as fit into `seconds`, of one batch that lies on the device.

    Nothing is read back in between; `training.loop` reads a step's numbers while the next one runs.
    """
    for cell in spec["cells"]:
        yield {
            "batch": _config(spec, cell).train.batch_size,
            **_answered(lambda cell=cell: _steps_of(spec, cell)),
        }


def _steps_of(spec: Mapping, cell: Mapping) -> dict:
    config = _config(spec, cell)
    gpu_meter.forget_peak()
    with _products(config):
        began = time.perf_counter()
        step = (_tensorflow_step if _ENGINE == "tensorflow" else _jax_step)(spec, config)
        first = float(step())
        ready_s = time.perf_counter() - began
        step()
        began = time.perf_counter()
        float(step())
        count = int(np.clip(spec["seconds"] / (time.perf_counter() - began), 1, _MOST_STEPS))
        with gpu_meter.Utilisation() as busy:
            began = time.perf_counter()
            for _ in range(count):
                loss = step()
            last = float(loss)
            took = time.perf_counter() - began
    return {
        "steps_per_second": count / took,
        "examples_per_second": count * config.train.batch_size / took,
        "steps": count,
        "ready_s": ready_s,
        "utilisation_percent": busy.percent,
        "peak_mib": gpu_meter.peak_mib(),
        "first_loss": first,
        "last_loss": last,
    }


@contextlib.contextmanager
def _products(config: Config) -> Iterator[None]:
    """In the block float32 products are as `train.tf32` has them."""
    if _ENGINE == "tensorflow":
        from tfbrats.distribution import devices

        with devices.tf32(config.train.tf32):
            yield
        return
    import jax

    with jax.default_matmul_precision("tensorfloat32" if config.train.tf32 else "float32"):
        yield


def _tensorflow_step(spec: Mapping, config: Config) -> Callable:
    """The step of `tfbrats train`: () -> loss, a tensor."""
    import tensorflow as tf

    from tfbrats.training.recipes import recipe_for

    recipe = recipe_for(config, None, NETWORKS[spec["network"]][1])
    with keras_settings.ours(config.train.precision):
        network, optimizer = _network(spec, config), recipe.optimizer()
        optimizer.build(network.trainable_variables)
    step, schedule = recipe.train_step(tf.distribute.get_strategy(), network, optimizer), recipe.schedule(0)
    place = "GPU:0" if keras_settings.has_gpu() else "CPU:0"
    with tf.device(place):
        batch = {name: tf.identity(array) for name, array in made_up(config).items()}
    return lambda: step(batch, schedule)["loss"]


def _jax_step(spec: Mapping, config: Config) -> Callable:
    """Forward, loss of all heads, backward and update, compiled: () -> loss, an array."""
    import jax

    train = config.train
    with keras_settings.ours(train.precision):
        network = _network(spec, config)
        if isinstance(config, PatchConfig):
            optimizer = keras.optimizers.Adam(train.learning_rate, train.beta1, train.beta2)
        else:
            optimizer = keras.optimizers.SGD(train.learning_rate, train.momentum)
        optimizer.build(network.trainable_variables)
    image, loss_of = _image_and_loss(network, config)
    image = jax.device_put(image)

    def whole(weights, moments):
        outputs, moments = network.stateless_call(weights, moments, image, training=True)
        return loss_of(outputs), moments

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def update(weights, moments, slots):
        (loss, moments), gradients = jax.value_and_grad(whole, has_aux=True)(weights, moments)
        weights, slots = optimizer.stateless_apply(slots, gradients, weights)
        return loss, weights, moments, slots

    # Copies: the step takes over what it is given.
    state = [
        [jax.numpy.copy(variable.value) for variable in each]
        for each in (network.trainable_variables, network.non_trainable_variables, optimizer.variables)
    ]

    def step():
        loss, *state[:] = update(*state)
        return loss

    return step


def _image_and_loss(network: keras.Model, config: Config) -> tuple[np.ndarray, Callable]:
    """A made-up batch as a network takes it, and the loss of what it gives; half of it is tumour."""
    of_patches, shape = isinstance(config, PatchConfig), (config.train.batch_size, *config.input_shape)
    image = np.random.default_rng(0).standard_normal((*shape, network.inputs[0].shape[-1]), np.float32)
    label = np.zeros(shape, np.uint8)
    label[:, ::2] = 1 if of_patches else Tissue.ET
    loss = _loss_of_patches if of_patches else _loss_of_slices
    return image, lambda outputs: loss(outputs, label)


# --- beside the CPU --------------------------------------------------------------------------------------


def differences(spec: Mapping) -> Iterator[dict]:
    """How far each precision on the GPU is from float32 on the CPU: same weights, same batch.

    Without a GPU the CPU is compared with itself.
    """
    reference = _on(False, spec, {"precision": "float32"})
    for cell in spec["cells"]:
        yield _answered(lambda cell=cell: _apart(_on(True, spec, cell), reference))


def _on(gpu: bool, spec: Mapping, cell: Mapping) -> dict:
    """Probabilities of every output, loss and gradients of one batch."""
    config = _config(spec, cell)
    with contextlib.ExitStack() as place:
        place.enter_context(_products(config))
        place.enter_context(_device(gpu))
        if not gpu:  # the network must not count on a GPU's kernels
            place.enter_context(mock.patch.object(keras_settings, "has_gpu", lambda: False))
        network = _network(spec, config)
        image, loss_of = _image_and_loss(network, config)
        outputs, loss, gradients = _pass(network, loss_of, image)
    probabilities = {
        name: 1 / (1 + np.exp(-logits)) if logits.shape[-1] == 1 else _softmax(logits)
        for name, logits in outputs.items()
    }
    return {"probabilities": probabilities, "loss": loss, "gradients": gradients}


def _device(gpu: bool):
    wanted = "GPU:0" if gpu and keras_settings.has_gpu() else "CPU:0"
    if _ENGINE == "tensorflow":
        import tensorflow as tf

        return tf.device(wanted)
    import jax

    return jax.default_device(jax.devices(wanted.partition(":")[0].lower())[0])


def _pass(network: keras.Model, loss_of: Callable, image: np.ndarray) -> tuple[dict, float, list[np.ndarray]]:
    """Outputs as at inference; the loss in training mode, and its gradients."""
    if _ENGINE == "tensorflow":
        import tensorflow as tf

        @tf.function
        def both(image):
            outputs = network(image, training=False)
            with tf.GradientTape() as tape:
                loss = loss_of(network(image, training=True))
            return outputs, loss, tape.gradient(loss, network.trainable_variables)
    else:
        import jax

        @jax.jit
        def both(image):
            fixed = [variable.value for variable in network.non_trainable_variables]
            weights = [variable.value for variable in network.trainable_variables]
            outputs, _ = network.stateless_call(weights, fixed, image, training=False)

            def whole(weights):
                return loss_of(network.stateless_call(weights, fixed, image, training=True)[0])

            return outputs, *jax.value_and_grad(whole)(weights)

    outputs, loss, gradients = both(image)
    arrays = {name: np.asarray(logits, np.float64) for name, logits in outputs.items()}
    return arrays, float(loss), [np.asarray(one, np.float64) for one in gradients]


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _apart(one: Mapping, other: Mapping) -> dict:
    gaps, voxels, labels = [], 0, 0
    for name, probabilities in one["probabilities"].items():
        reference = other["probabilities"][name]
        gaps.append(np.abs(probabilities - reference).max())
        of_two = probabilities.shape[-1] == 1
        chosen = [p[..., 0] >= 0.5 if of_two else p.argmax(axis=-1) for p in (probabilities, reference)]
        labels += int(np.sum(chosen[0] != chosen[1]))
        voxels += chosen[0].size
    apart = sum(np.square(a - b).sum() for a, b in zip(one["gradients"], other["gradients"], strict=True))
    length = sum(np.square(b).sum() for b in other["gradients"])
    return {
        "probability": float(max(gaps)),
        "labels": labels,
        "voxels": voxels,
        "loss": abs(one["loss"] - other["loss"]) / abs(other["loss"]),
        "gradient": float(np.sqrt(apart / length)),
    }


# --- a whole case ----------------------------------------------------------------------------------------


def case(spec: Mapping) -> Iterator[dict]:
    """Seconds of a simulated case, from four files to one, by an untrained model as it would be exported."""
    yield _answered(lambda: _case(spec))


def _case(spec: Mapping) -> dict:
    import tensorflow as tf

    from tfbrats.cases import nifti
    from tfbrats.inference.saved_model import SavedModel
    from tfbrats.inference.signatures import Weights, signatures_of
    from tfbrats.labels import MODALITIES
    from tfbrats.phantoms import simulation

    config = _config(spec, {"precision": spec.get("precision", "float32")})
    segmenter = _segmenter(config)
    image, _ = simulation.simulate(spec["shape"], seed=0, number=0)
    grid = nifti.new_grid(spec["shape"])
    with tempfile.TemporaryDirectory(prefix="tfbrats-gpu-") as folder:
        place = pathlib.Path(folder)
        functions = {
            one.name: one.traced() for one in signatures_of(segmenter, config, str) if one.name == "int16"
        }
        tf.saved_model.save(Weights(segmenter), str(place / "model"), signatures=functions)
        files = {name: str(place / f"{name}.nii.gz") for name in segmenter.modalities}
        for name, path in files.items():
            nifti.write(path, image[..., MODALITIES.index(name)].astype(np.int16), grid)
        began = time.perf_counter()
        with contextlib.closing(SavedModel(place / "model")) as model:
            load_s = time.perf_counter() - began
            rounds = [_one_case(model, files, place / "segmentation.nii.gz") for _ in range(2)]
    first, again = rounds
    return {"load_s": load_s, "first_s": sum(first.values()), "whole_s": sum(again.values()), **again} | {
        "peak_mib": gpu_meter.peak_mib()
    }


def _one_case(model, files: Mapping[str, str], output: pathlib.Path) -> dict[str, float]:
    from tfbrats.cases import nifti

    times = [time.perf_counter()]
    volumes = {name: nifti.read(path) for name, path in files.items()}
    times.append(time.perf_counter())
    inputs = {name: volume.array.astype(np.int16) for name, volume in volumes.items()}
    answer = model("int16", inputs, ["segmentation"])
    times.append(time.perf_counter())
    nifti.write(str(output), answer["segmentation"], next(iter(volumes.values())).grid)
    times.append(time.perf_counter())
    return dict(zip(("read_s", "segment_s", "write_s"), np.diff(times).tolist(), strict=True))


def _segmenter(config: Config):
    from tfbrats.inference.cascade_segmenter import CascadeSegmenter
    from tfbrats.inference.slice_segmenter import SliceSegmenter
    from tfbrats.labels import EDITIONS

    built = {region: _with_known_weights(networks.build(config, region=region)) for region in config.regions}
    modalities, schema = config.data.modalities, EDITIONS["2021"]
    if isinstance(config, PatchConfig):
        return CascadeSegmenter(built, modalities, config.sampling.patch_size, config.cascade, schema)
    return SliceSegmenter(built[""], modalities, config.records.slice_shape, schema)


# --- the process -----------------------------------------------------------------------------------------


def about() -> dict:
    """The machine and the engine."""
    return {
        "engine": _ENGINE,
        "engine_version": __import__(_ENGINE).__version__,
        "keras": keras.__version__,
        "device": gpu_meter.device_name(),
        "has_gpu": keras_settings.has_gpu(),
    }


def _answered(cell: Callable) -> dict:
    try:
        return cell()
    except Exception as error:
        text = str(error).strip()
        if "out of memory" in text.lower() or "RESOURCE_EXHAUSTED" in text or "OOM" in text:
            return {"failed": "out of memory"}
        return {"failed": f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:300]}


def main(spec: Mapping) -> None:
    jobs = {"steps": steps, "differences": differences, "case": case}
    answers = iter([about()]) if spec["job"] == "about" else jobs[spec["job"]](spec)
    for answer in answers:
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
