"""Which kernels the operations of a graph would find on a GPU, by TensorFlow's own registry; no GPU is needed.

TensorFlow's wheel for Linux names its GPU kernels to whoever asks, on any machine. An operation without one
runs on the CPU, with a copy each way. One with a kernel that keeps an argument in the host's memory (int32 of
many operations) makes the GPU wait for a copy too; that is harmless for a shape, and not for an image.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator
from unittest import mock

import step_jobs
import tensorflow as tf
from tensorflow.python.framework import kernels

from tfbrats import config_file, networks
from tfbrats.config import PatchConfig
from tfbrats.inference.cascade_segmenter import CascadeSegmenter
from tfbrats.inference.signatures import signatures_of
from tfbrats.inference.slice_segmenter import SliceSegmenter
from tfbrats.labels import EDITIONS
from tfbrats.networks import keras_settings
from tfbrats.training.recipes import recipe_for

LARGE = 4096  # numbers of a tensor from which on a copy to the host is worth a word
# They compute nothing: TensorFlow takes them away or calls what they hold.
_NO_KERNEL = {
    "Placeholder",
    "StatefulPartitionedCall",
    "PartitionedCall",
    "While",
    "StatelessWhile",
    "If",
    "StatelessIf",
}


@dataclasses.dataclass(frozen=True)
class Found:
    """One operation of a graph.

    Attributes:
        op: its kind.
        dtypes: of its inputs, or of its outputs where it has none.
        has_kernel: whether a GPU has a kernel for these types.
        on_host: its arguments of `LARGE` or unknown size that the kernel keeps in the host's memory.
        name: in the graph.
    """

    op: str
    dtypes: tuple[str, ...]
    has_kernel: bool
    on_host: tuple[str, ...]
    name: str


def knows_gpu_kernels() -> bool:
    """Whether this TensorFlow names kernels of a GPU at all: a build for CPUs alone does not."""
    return any(kernel.device_type == "GPU" for kernel in _kernels("Conv2D"))


@functools.cache
def _kernels(op: str) -> list:
    return list(kernels.get_registered_kernels_for_op(op).kernel)


def _kernel(node):
    """The registered kernel that a GPU takes for a NodeDef: its own, else one for every device; None: none."""
    for device in ("GPU", "DEFAULT"):
        for kernel in _kernels(node.op):
            if kernel.device_type == device and not kernel.label and _is_of(kernel, node):
                return kernel
    return None


def _is_of(kernel, node) -> bool:
    for constraint in kernel.constraint:
        value = node.attr[constraint.name]
        types = list(value.list.type) if value.HasField("list") else [value.type]
        if not set(types) <= set(constraint.allowed_values.list.type):
            return False
    return True


def _arguments(op: tf.Operation) -> Iterator[tuple[str, tf.Tensor]]:
    """(name, tensor) of every input and output; the tensors of a list all bear the list's name."""
    for args, tensors in ((op.op_def.input_arg, list(op.inputs)), (op.op_def.output_arg, op.outputs)):
        rest = list(tensors)
        for arg in args:
            if arg.number_attr:
                count = op.get_attr(arg.number_attr)
            elif arg.type_list_attr:
                count = len(op.get_attr(arg.type_list_attr))
            else:
                count = 1
            for tensor in rest[:count]:
                yield arg.name, tensor
            rest = rest[count:]


def _is_large(tensor: tf.Tensor) -> bool:
    size = tensor.shape.num_elements()
    # Of an unknown size: a vector is a shape, or a few indices.
    return size >= LARGE if size is not None else tensor.shape.rank is None or tensor.shape.rank > 1


def operations(graph: tf.Graph) -> Iterator[Found]:
    """Every operation of a graph, and of the functions that it calls, which `tf.function` traced with it."""
    seen = set()
    for op in graph.get_operations():
        node = op.node_def
        for value in node.attr.values():
            for called in [value.func, *value.list.func]:
                if called.name and called.name not in seen:
                    seen.add(called.name)
                    yield from operations(_body(graph, called.name))
        if node.op in _NO_KERNEL:
            continue
        kernel = _kernel(node)
        kept = set(kernel.host_memory_arg) if kernel else set()
        on_host = {name for name, tensor in _arguments(op) if name in kept and _is_large(tensor)}
        dtypes = tuple(tensor.dtype.name for tensor in list(op.inputs) or op.outputs)
        yield Found(node.op, dtypes, kernel is not None, tuple(sorted(on_host)), op.name)


def _body(graph: tf.Graph, name: str) -> tf.Graph:
    """A function that a graph calls, as a graph with the shapes that were known when it was traced."""
    from tensorflow.python.framework import function_def_to_graph

    definition = graph._get_function(name)
    if graph_of_it := getattr(definition, "graph", None):
        return graph_of_it
    return function_def_to_graph.function_def_to_graph(graph._get_function_def(name))


def step_graph(network: str, policy: str) -> tf.Graph:
    """The training step of a shipped network as it would run on a GPU, narrow, at its config's sizes.

    Args:
        network: of `step_jobs.NETWORKS`.
        policy: `train.precision`.
    """
    yaml, region = step_jobs.NETWORKS[network]
    config = config_file.load(yaml, ["model.width=2", "train.batch_size=2", f"train.precision={policy}"])
    recipe = recipe_for(config, None, region)
    with _with_gpu(), keras_settings.ours(policy):
        built, optimizer = recipe.network(1), recipe.optimizer()
        optimizer.build(built.trainable_variables)
        step = recipe.train_step(tf.distribute.get_strategy(), built, optimizer)
        whole = tf.function(lambda batch: step(batch, recipe.schedule(0)))
        batch = {name: tf.constant(array) for name, array in step_jobs.made_up(config).items()}
        return whole.get_concrete_function(batch).graph


def model_graph(network: str) -> tf.Graph:
    """The signature serving_default of a shipped network's model."""
    config = config_file.load(step_jobs.NETWORKS[network][0], ["model.width=2"])
    built = {region: networks.build(config, region=region) for region in config.regions}
    modalities, schema = config.data.modalities, EDITIONS["2021"]
    if isinstance(config, PatchConfig):
        segmenter = CascadeSegmenter(built, modalities, config.sampling.patch_size, config.cascade, schema)
    else:
        segmenter = SliceSegmenter(built[""], modalities, config.records.slice_shape, schema)
    return (
        next(one for one in signatures_of(segmenter, config, str) if one.name == "serving_default")
        .traced()
        .graph
    )


def _with_gpu():
    """In the block networks are built as where there is a GPU."""
    return mock.patch.object(keras_settings, "has_gpu", lambda: True)


def counted(found: list[Found]) -> collections.Counter:
    """(kind, type of the first input, why) -> how many; of those alone that cost a GPU a copy."""
    rows = collections.Counter()
    for one in found:
        dtype = one.dtypes[0] if one.dtypes else ""
        if not one.has_kernel:
            rows[one.op, dtype, "no kernel"] += 1
        elif one.on_host:
            rows[one.op, dtype, "in the host's memory: " + ", ".join(one.on_host)] += 1
    return rows
