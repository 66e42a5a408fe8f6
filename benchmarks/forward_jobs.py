"""The processes that `forward.py` times: a network's pass, as we export it and under other engines.

As `segment_jobs.py`: a line of JSON when ready, then for each number on the standard input as many passes.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping

import numpy as np
import step_jobs
from segment_jobs import answer, serve

from tfbrats import config_file

_SEED = 0


def image_of(config, channels: int, batch: int) -> np.ndarray:
    """float32 [N, ..., M], made up."""
    return np.random.default_rng(_SEED).normal(size=(batch, *config.input_shape, channels)).astype(np.float32)


def ours(spec: Mapping, config) -> tuple[dict, Callable]:
    """The network as `tfbrats export` saves it, batch normalisation folded, traced for any size of batch."""
    import keras
    import tensorflow as tf

    from tfbrats import networks
    from tfbrats.networks import folding

    tf.config.threading.set_intra_op_parallelism_threads(spec["threads"])
    _, region = step_jobs.NETWORKS[spec["network"]]
    keras.utils.set_random_seed(_SEED)  # the same kernels in every process
    network = networks.build(config, region=region)
    rng = np.random.default_rng(_SEED)
    for variable in network.variables:  # as if trained: no weight has the value that it begins with
        kind = variable.path.rpartition("/")[2]
        if kind in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif kind in ("beta", "moving_mean", "bias"):
            variable.assign(rng.normal(0, 0.2, variable.shape))
    arrays = {
        f"{layer} {n}": array
        for layer, of in step_jobs.weights_of(network).items()
        for n, array in enumerate(of)
    }
    np.savez(spec["weights"], **arrays)
    about = {"parameters": network.count_params()}
    answering = network if region else networks.without_training_heads(network)
    about["macs"] = step_jobs.macs(answering, (*config.input_shape, network.inputs[0].shape[-1]))
    if spec["side"] == "ours":
        answering, _ = folding.folded(answering)
    image = image_of(config, network.inputs[0].shape[-1], spec["batch"])
    shape = tf.TensorSpec([None, *image.shape[1:]])
    function = tf.function(lambda some: answering(some, training=False), input_signature=[shape])
    given = tf.constant(image)
    return about, lambda: {name: one.numpy() for name, one in function(given).items()}


def theirs(spec: Mapping, config) -> tuple[dict, Callable]:
    """The same weights under an engine of `engines.py`."""
    import engines
    import segment_peer

    network = segment_peer._network(spec["network"], config.model.width, spec["weights"])
    torch, torch_networks = step_jobs._torch()
    channels = torch_networks.NETWORKS[spec["network"]][2]
    image = torch_networks.from_ours(image_of(config, channels, spec["batch"]))
    image = image.contiguous(memory_format=torch_networks.channels_last(image.ndim - 2))
    torch.set_grad_enabled(False)
    about = {
        "parameters": torch_networks.parameters(network),
        "macs": torch_networks.macs(network, (1, *image.shape[1:])),
    }
    run = engines.made(spec["side"], network, image, spec["threads"], spec["work"])
    return about, lambda: {name: np.moveaxis(one.numpy(), 1, -1) for name, one in run(image).items()}


def main(spec: Mapping) -> None:
    yaml, _ = step_jobs.NETWORKS[spec["network"]]
    config = config_file.load(yaml, [f"model.width={spec['width']}"])
    about, forward = (ours if spec["side"].startswith("ours") else theirs)(spec, config)
    found = forward()
    path = os.path.join(spec["work"], f"{spec['network']}_{spec['side']}.npz")
    np.savez(path, **found)
    answer({**about, "outputs": path})

    def once() -> dict:
        forward()
        return {}

    serve(once, lambda: 0.0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
