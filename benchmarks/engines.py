"""A network of `torch_networks.py` under the engines that run networks on a CPU, all with the same threads.

torch        eager, channels_last
compile      torch.compile, channels_last, weights frozen; needs a C++ compiler
onnxruntime  ONNX Runtime, all of its graph optimisations
openvino     OpenVINO, for latency, in float32 where nothing else is asked

What PyTorch does not run itself gets the network as an ONNX file, of the same weights. The first call of each
compiles or warms up.
"""

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable

import step_jobs

ENGINES = ("torch", "compile", "onnxruntime", "openvino")
_NEEDS = {"torch": "monai", "compile": "monai", "onnxruntime": "onnxscript", "openvino": "onnxscript"}


def lacking(engine: str) -> str:
    """What an engine lacks here, "" if nothing."""
    for package in ("torch", "monai", engine, _NEEDS[engine]):
        if package != "compile" and not _is_there(package):
            return f"pip install {package}"
    if engine == "compile" and not shutil.which("g++"):
        return "a C++ compiler, g++"
    return ""


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # it is shut out of this process
        return False


def made(engine: str, network, example, threads: int, folder: str) -> Callable:
    """The network under an engine: a batch as the example, [N, M, ...] -> {output: [N, C, ...]}.

    Args:
        network: of `torch_networks.build`, in evaluation mode, without the heads of training.
        example: float32 in channels_last, of any size of batch.
        folder: for the ONNX file.
    """
    torch, _ = step_jobs._torch()
    torch.set_num_threads(threads)
    if engine == "torch":
        return network
    with contextlib.redirect_stdout(sys.stderr):
        if engine == "compile":
            import torch._inductor.config

            torch._inductor.config.freezing = True
            return torch.compile(network)
        names = list(network(example))
        path = _as_onnx(network, example, names, folder)
        return {"onnxruntime": _onnxruntime, "openvino": _openvino}[engine](path, names, threads)


def _as_onnx(network, example, names, folder: str) -> str:
    torch, _ = step_jobs._torch()

    class Outputs(torch.nn.Module):
        """What ONNX takes: outputs in order."""

        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, image):
            return tuple(self.network(image)[name] for name in names)

    path = os.path.join(folder, f"network{os.getpid()}_{id(network)}.onnx")
    plain = example.contiguous()
    axes = {0: torch.export.Dim("n", max=4096)} if len(example) > 1 else None
    shapes = {"image": axes} if axes else None
    torch.onnx.export(
        Outputs(), (plain,), path, input_names=["image"], output_names=names, dynamo=True, dynamic_shapes=shapes
    )
    return path


def _onnxruntime(path: str, names, threads: int) -> Callable:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(batch):
        found = session.run(names, {"image": batch.contiguous().numpy()})
        return {name: torch.from_numpy(array) for name, array in zip(names, found, strict=True)}

    return run


def _openvino(path: str, names, threads: int) -> Callable:
    import openvino
    import torch

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # on some CPUs it would take bfloat16 by itself
    }
    request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()

    def run(batch):
        found = request.infer([batch.contiguous().numpy()])
        return {name: torch.from_numpy(found[place]) for place, name in enumerate(names)}

    return run
