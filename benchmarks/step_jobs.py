"""The processes that `train_step.py` times: our step, PyTorch's of the same network, and the machine's limit.

    python benchmarks/step_jobs.py '{"side": "ours", "network": "msm", "config": {...}, ...}'

One process a measurement, so that peak memory is its own and TensorFlow and PyTorch do not share one. It builds
the network, answers a line of JSON, and for each number on its standard input runs as many steps and answers
with their seconds, CPU seconds and losses, and with the process's peak memory so far. Batches are made up from
one seed, half of them tumour; the parent and PyTorch's process never load TensorFlow.
"""

import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np

from tfbrats import config_file
from tfbrats.config import Config, PatchConfig
from tfbrats.labels import LwsRegion, Tissue
from tfbrats.machine.memory import peak_resident_bytes

# name: config, region
NETWORKS = {
    **{name: (f"{name}.yaml", "") for name in ("cun", "cun_lws", "unet2d", "bfcn", "drn")},
    **{name: (f"{name}.yaml", "WT") for name in ("msm", "msm_noaspp", "unet3d")},
    "msm_et": ("msm.yaml", "ET"),
}
_SEED = 0
_MATRIX = 2048
# Of the limit's convolutions: image or patch [N, ..., C], kernel's taps.
_CONVOLUTIONS = {"2-D": ((4, 240, 240, 64), 3), "3-D": ((2, 64, 64, 64, 32), 3)}


def made_up(config: Config) -> dict[str, np.ndarray]:
    """A batch as the reader yields it, of `train.batch_size` examples."""
    rng, count = np.random.default_rng(_SEED), config.train.batch_size
    if isinstance(config, PatchConfig):
        shape = (count, *(config.sampling.patch_size,) * 3)
        target = np.zeros(shape, np.uint8)
        target[:, ::2] = 1
        names = ("x1",) if config.model.name == "unet3d" else ("x1", "half")
        noise = {name: rng.normal(size=(*shape, len(config.data.modalities))) for name in names}
        images = {name: image.astype(np.float16) for name, image in noise.items()}
        return {**images, "target": target, "valid": np.ones(count, np.float32)}
    shape = (count, *config.records.slice_shape)
    region = np.full(shape, LwsRegion.S2, np.uint8)
    region[:, ::2] = LwsRegion.S3
    return {
        "image": rng.normal(size=(*shape, len(config.data.modalities))).astype(np.float32),
        "label": np.where(region == LwsRegion.S3, Tissue.ET, 0).astype(np.uint8),
        "region": region,
        "draws": rng.random(shape).astype(np.float32),
        "valid": np.ones(count, np.float32),
    }


def image_of(batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """What the network takes; of patches, what our step puts together itself: for PyTorch it lies ready."""
    if "image" in batch:
        return batch["image"]
    if "half" not in batch:
        return batch["x1"].astype(np.float32)
    size = batch["x1"].shape[1]
    inner = slice(size // 4 - 1, size - size // 4 + 1)
    fine = batch["x1"][:, inner, inner, inner].astype(np.float32)
    for axis in (3, 2, 1):  # as `inference.scales.upsampled_centre`
        first = np.moveaxis(fine, axis, 0)
        pair = [first[1:-1] * 0.75 + side * 0.25 for side in (first[:-2], first[2:])]
        fine = np.moveaxis(np.stack(pair, axis=1).reshape(size, *first.shape[1:]), 0, axis)
    return np.concatenate([batch["x1"], batch["half"], fine], axis=-1, dtype=np.float32)


# --- ours ------------------------------------------------------------------------------------------------


def ours(spec: Mapping, config: Config) -> tuple[dict, Callable]:
    """What is measured (parameters, multiplications of an example), and one step: () -> loss, or None."""
    import keras
    import tensorflow as tf

    from tfbrats import networks
    from tfbrats.training.recipes import recipe_for

    tf.config.threading.set_intra_op_parallelism_threads(spec["threads"])
    keras.utils.set_random_seed(_SEED)
    keras.mixed_precision.set_global_policy(config.train.precision)
    region, arrays = NETWORKS[spec["network"]][1], made_up(config)
    recipe = recipe_for(config, None, region)
    network = recipe.network(1)
    if spec["weights"]:
        numbered = {f"{name} {n}": a for name, of in weights_of(network).items() for n, a in enumerate(of)}
        np.savez(spec["weights"], **numbered)
    image = tf.constant(image_of(arrays))
    about = {"parameters": network.count_params(), "macs": macs(network, image.shape[1:])}
    batch = {name: tf.constant(array) for name, array in arrays.items()}
    del arrays
    if spec["mode"] == "inference":
        answer = network if region else networks.without_training_heads(network)
        about["macs"] = macs(answer, image.shape[1:])
        forward = tf.function(lambda image: answer(image, training=False), jit_compile=config.train.jit_compile)
        return about, lambda: [each.numpy() for each in forward(image).values()] and None
    optimizer = recipe.optimizer()
    optimizer.build(network.trainable_variables)
    step, schedule = recipe.train_step(tf.distribute.get_strategy(), network, optimizer), recipe.schedule(0)
    return about, lambda: float(step(batch, schedule)["loss"])


def macs(network, shape) -> int:
    """Multiplications of a Keras network's convolutions in a forward pass of one example [..., M].

    Each as its layer is defined: where two are computed as one, for less (an auxiliary head), both count.
    """
    import keras

    holders = [layer for layer in network.layers if _convolutions(layer)]
    places = keras.Model(network.input, [[layer.input, layer.output] for layer in holders])
    total = 0
    for layer, (taken, given) in zip(
        holders, places.compute_output_spec(keras.KerasTensor((1, *shape))), strict=True
    ):
        for one in _convolutions(layer):
            # A transposed one multiplies its kernel with each place of what it gets, not of what it gives.
            place = (
                taken if isinstance(one, keras.layers.Conv2DTranspose | keras.layers.Conv3DTranspose) else given
            )
            total += math.prod(one.kernel.shape) * math.prod(place.shape[1:-1])
    return total


def _convolutions(layer) -> list:
    """The layer itself, or those that it is made of."""
    import keras

    parts = [layer, *(part for part in vars(layer).values() if isinstance(part, keras.Layer))]
    return [part for part in parts if hasattr(part, "kernel")]


def weights_of(network) -> dict[str, list[np.ndarray]]:
    """A Keras network's weights by the name of their layer, in the order of `layer.get_weights()`."""
    found: dict[str, list[np.ndarray]] = {}
    for variable in network.variables:
        found.setdefault(variable.path.split("/")[-2], []).append(np.array(variable))
    return found


# --- PyTorch's -------------------------------------------------------------------------------------------


def _torch():
    """PyTorch and our networks in it, without TensorFlow, which MONAI would load through TensorBoard."""
    sys.modules["tensorflow"] = None
    import torch
    import torch_networks

    return torch, torch_networks


def torchs(spec: Mapping, config: Config) -> tuple[dict, Callable]:
    """As `ours`, in channels_last, from our weights; bfloat16 by autocast. Eager, or by torch.compile.

    Inference by torch.compile is "frozen": weights are constants, batch normalisation folded into convolutions.
    """
    torch, torch_networks = _torch()
    torch.set_num_threads(spec["threads"])
    batch = made_up(config)
    network = torch_networks.build(spec["network"], config.model.width)
    kept: dict[str, list] = {}
    with np.load(spec["weights"]) as arrays:
        for name in sorted(arrays, key=lambda name: int(name.rpartition(" ")[2])):
            kept.setdefault(name.rpartition(" ")[0], []).append(arrays[name])
    torch_networks.take(network, kept)
    del kept
    image = torch_networks.from_ours(image_of(batch))
    network.all_heads = spec["mode"] == "train"
    about = {
        "parameters": torch_networks.parameters(network),
        "macs": torch_networks.macs(network, (1, *image.shape[1:])),
    }
    half = torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision == "mixed_bfloat16")
    compiled = torch.compile if spec["side"] == "torch-compile" else lambda function: function
    if spec["mode"] == "inference":
        torch._inductor.config.freezing = True
        answer = compiled(network.eval())

        def forward():
            with torch.no_grad(), half:
                [each.numpy() for each in answer(image).values()]

        return about, forward

    loss_of = torch_networks.loss(batch, getattr(config.train, "omega", 0.0))
    optimizer = torch_networks.optimizer(network, config.train)
    decay = torch_networks.decay(network, config.train)  # as the first step finds it

    @compiled
    def forward_and_loss():
        with half:
            outputs = network(image)
        return loss_of(outputs)

    def step():
        optimizer.zero_grad()
        loss = forward_and_loss()
        loss.backward()
        optimizer.step()
        return loss.item() + decay

    return about, step


# --- the machine's limit ---------------------------------------------------------------------------------


def limit_of_tensorflow(threads: int, precision: str) -> dict[str, Callable]:
    """What is tried -> one call of it."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    kind = tf.bfloat16 if precision == "mixed_bfloat16" else tf.float32
    matrix = tf.cast(tf.random.normal((_MATRIX, _MATRIX)), kind)
    multiply, convolve = (
        tf.function(tf.matmul),
        tf.function(lambda x, k: tf.nn.convolution(x, k, padding="SAME")),
    )
    tried = {"matrix product": lambda: multiply(matrix, matrix)[0, 0].numpy()}
    for name, (shape, taps) in _CONVOLUTIONS.items():
        kernel = tf.cast(tf.random.normal((*(taps,) * (len(shape) - 2), shape[-1], shape[-1])), kind)
        image = tf.cast(tf.random.normal(shape), kind)
        tried[f"{name} convolution"] = lambda image=image, kernel=kernel: convolve(image, kernel)[0].numpy()
    return tried


def limit_of_torch(threads: int, precision: str) -> dict[str, Callable]:
    """As TensorFlow's."""
    torch, torch_networks = _torch()
    torch.set_num_threads(threads)
    kind = torch.bfloat16 if precision == "mixed_bfloat16" else torch.float32
    matrix = torch.randn(_MATRIX, _MATRIX).to(kind)
    tried = {"matrix product": lambda: matrix @ matrix}
    for name, (shape, taps) in _CONVOLUTIONS.items():
        layout = torch_networks.channels_last(len(shape) - 2)
        image = torch.randn(shape).movedim(-1, 1).to(kind)
        kernel = torch.randn(shape[-1], shape[-1], *(taps,) * (len(shape) - 2)).to(kind)
        kernel = kernel.contiguous(memory_format=layout)
        convolve = torch.nn.functional.conv2d if len(shape) == 4 else torch.nn.functional.conv3d
        tried[f"{name} convolution"] = lambda f=convolve, x=image, k=kernel: f(x, k, padding=1)
    return tried


def limits(tried: Mapping[str, Callable], repeats: int = 12) -> dict[str, float]:
    """FLOP/s of each at its fastest: what the machine can do, not what it did beside other programs."""
    found = {}
    for name, call in tried.items():
        call()
        took = []
        for _ in range(repeats):
            started = time.perf_counter()
            call()
            took.append(time.perf_counter() - started)
        if name == "matrix product":
            multiplications = _MATRIX**3
        else:
            shape, taps = _CONVOLUTIONS[name.removesuffix(" convolution")]
            multiplications = math.prod(shape) * shape[-1] * taps ** (len(shape) - 2)
        found[name] = 2 * multiplications / min(took)
    return found


# --- the process -----------------------------------------------------------------------------------------


def _answer(content: Mapping) -> None:
    print(json.dumps(content), flush=True)


def main(spec: Mapping) -> None:
    if spec["side"].endswith(" limit"):
        make = limit_of_tensorflow if spec["side"] == "tensorflow limit" else limit_of_torch
        _answer(limits(make(spec["threads"], spec["precision"])))
        return
    yaml, _ = NETWORKS[spec["network"]]
    config = config_file.load(yaml, spec["settings"])
    make = ours if spec["side"] == "ours" else torchs
    about, step = make(spec, config)
    _answer(about)
    for line in sys.stdin:
        seconds, cpu, losses = [], [], []
        for _ in range(int(line)):
            started, cpu_started = time.perf_counter(), time.process_time()
            losses.append(step())
            seconds.append(time.perf_counter() - started)
            cpu.append(time.process_time() - cpu_started)
        peak = peak_resident_bytes() / 2**20
        _answer({"seconds": seconds, "cpu": cpu, "losses": losses, "peak_mib": peak})


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    main(json.loads(sys.argv[1]))
