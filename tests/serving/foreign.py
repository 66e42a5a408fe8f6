"""What clients that nobody here wrote are, where they come from, and how a case is written for them.

All of them know TensorFlow Serving's calls from serving/tfs.protoset or from files of their own, none from this
project's Python.
"""

import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

ROOT = pathlib.Path(__file__).parent.parent.parent
PROTOSET = ROOT / "serving" / "tfs.protoset"
PREDICT = "tensorflow.serving.PredictionService/Predict"
GO_PROGRAMS = {
    "grpcurl": "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3",
    "ghz": "github.com/bojand/ghz/cmd/ghz@v0.120.0",
}
# Its generated code is older than protobuf 4, which its own ranges allow: hence an environment of its own.
MIN_TFS_CLIENT = ("min-tfs-client==1.0.2", "protobuf<3.21")
NO_NETWORK = (
    "Retrying (Retry(",
    "NewConnectionError",
    "NameResolutionError",
    "Network is unreachable",
    "dial tcp",
    "Unknown host",
    "UnknownHostException",
)
MIB = 2**20
_TYPES = {np.dtype(np.float32): "DT_FLOAT", np.dtype(np.int16): "DT_INT16"}


def request(
    inputs: Mapping[str, np.ndarray | str],
    signature: str = "",
    outputs: Sequence[str] = (),
    model: str = "tiny",
) -> dict:
    """A PredictRequest in protobuf's JSON: arrays as bytes, texts as strings."""
    return {
        "modelSpec": {"name": model, "signatureName": signature},
        "inputs": {name: _tensor(value) for name, value in inputs.items()},
        "outputFilter": list(outputs),
    }


def _tensor(value: np.ndarray | str) -> dict:
    if isinstance(value, str):
        return {"dtype": "DT_STRING", "tensorShape": {}, "stringVal": [_in_base64(value.encode())]}
    shape = {"dim": [{"size": str(size)} for size in value.shape]}
    return {"dtype": _TYPES[value.dtype], "tensorShape": shape, "tensorContent": _in_base64(value.tobytes())}


def _in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def labels(answer: Mapping) -> np.ndarray:
    """`segmentation` of a PredictResponse in protobuf's JSON, however its numbers came."""
    tensor = answer["outputs"]["segmentation"]
    shape = [int(dim["size"]) for dim in tensor["tensorShape"]["dim"]]
    if "tensorContent" in tensor:
        return np.frombuffer(base64.b64decode(tensor["tensorContent"]), np.uint8).reshape(shape)
    return np.array(tensor["intVal"], np.uint8).reshape(shape)


def text(answer: Mapping) -> str:
    """`content` of an answer of `describe`."""
    return base64.b64decode(answer["outputs"]["content"]["stringVal"][0]).decode()


class DescriptorsAlone:
    """A client that is told the file of descriptors and nothing else: any language's reflection on protobuf."""

    def __init__(self, address: str):
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(PROTOSET.read_bytes()).file:
            pool.Add(file)
        self._pool = pool
        options = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        self._channel = grpc.insecure_channel(address, options=options)

    def ask(self, method: str, content: Mapping) -> dict:
        """One call, from JSON to JSON."""
        service, _, name = method.partition("/")
        of = self._pool.FindServiceByName(service).FindMethodByName(name)
        asked, answered = (message_factory.GetMessageClass(kind) for kind in (of.input_type, of.output_type))
        call = self._channel.unary_unary(f"/{method}", asked.SerializeToString, answered.FromString)
        answer = call(json_format.ParseDict(content, asked()), timeout=60, wait_for_ready=True)
        return json_format.MessageToDict(answer, descriptor_pool=self._pool)

    def methods(self) -> set[str]:
        """Every call that the descriptors hold."""
        set_of = descriptor_pb2.FileDescriptorSet.FromString(PROTOSET.read_bytes())
        return {
            f"{file.package}.{service.name}/{method.name}"
            for file in set_of.file
            for service in file.service
            for method in service.method
        }

    def close(self) -> None:
        self._channel.close()


def go_program(name: str, folder: pathlib.Path) -> str:
    """Path of grpcurl or ghz: an installed one, else built into a folder; skips where neither can be."""
    if found := shutil.which(name):
        return found
    installed("go", f"with it `go install {GO_PROGRAMS[name]}` makes {name}")
    made(["go", "install", GO_PROGRAMS[name]], name, GOBIN=str(folder))
    return str(folder / name)


def python_of_min_tfs_client(folder: pathlib.Path) -> str:
    """The Python of an environment that holds min-tfs-client; skips where no package index can be reached."""
    made([sys.executable, "-m", "venv", str(folder)], "an environment")
    made([str(folder / "bin" / "pip"), "install", "--quiet", *MIN_TFS_CLIENT], "min-tfs-client")
    return str(folder / "bin" / "python")


def installed(program: str, how: str) -> None:
    """Skips where a program is not installed."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: {how}")


def made(command: Sequence[str], what: str, where: pathlib.Path | None = None, **more: str) -> None:
    """Runs what fetches or builds a client; skips where there is no network."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=where)
    if ended.returncode and any(sign in ended.stdout + ended.stderr for sign in NO_NETWORK):
        pytest.skip(f"{what}: no network to fetch it from")
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-2000:]


def grpcurl(program: str, address: str, method: str, content: Mapping | None = None, *options: str) -> dict:
    """What grpcurl prints of a call, read."""
    command = [program, "-plaintext", "-protoset", str(PROTOSET), "-max-msg-sz", str(1024 * MIB), *options]
    data = [] if content is None else ["-d", "@"]
    ended = subprocess.run(
        [*command, *data, address, method],
        input=json.dumps(content),
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(ended.stderr)
    return json.loads(ended.stdout)
