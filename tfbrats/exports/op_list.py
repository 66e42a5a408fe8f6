"""The ops of the TensorFlow in the image of TensorFlow Serving that our files name, and how the list is made.

    python -m venv tf220 && tf220/bin/pip install tensorflow==2.20.0
    tf220/bin/python -P tfbrats/exports/op_list.py > tfbrats/exports/op_list.txt.gz

Run so, by the TensorFlow whose ops are wanted, this file needs nothing of ours. The list is TensorFlow's own
register: an OpDef a line, as protobuf's text, below the version (`zcat` shows it). Serving links the same ops
into its binary but for those that `NOT_IN_SERVING` names.
"""

import dataclasses
import functools
import gzip
import pathlib
import re
import sys

FILE = pathlib.Path(__file__).with_suffix(".txt.gz")
# In the register of the Python package, but nothing in the server's binary computes them: they call Python.
NOT_IN_SERVING = frozenset({"EagerPyFunc", "PyFunc", "PyFuncStateless"})
_HEAD = re.compile(r"# TensorFlow (\S+), GraphDef version (\d+)")
_NAME = re.compile(r'name: "([^"]+)"')


@dataclasses.dataclass(frozen=True)
class OpList:
    """The ops of one version of TensorFlow.

    Attributes:
        tensorflow: its version, which is the image's tag too.
        graph_version: of the graphs that it writes; it reads those whose `min_consumer` is not above.
        lines: op -> its OpDef as text.
    """

    tensorflow: str
    graph_version: int
    lines: dict[str, str]

    def __contains__(self, op: str) -> bool:
        return op in self.lines and op not in NOT_IN_SERVING

    def definition(self, op: str):
        """The OpDef of an op that is in the list."""
        from google.protobuf import text_format
        from tensorflow.core.framework import op_def_pb2

        return text_format.Parse(self.lines[op], op_def_pb2.OpDef())


@functools.cache
def read(path: pathlib.Path = FILE) -> OpList:
    """The list as it lies beside this file."""
    head, *lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    version, graph_version = _HEAD.match(head).groups()
    return OpList(version, int(graph_version), {_NAME.match(line)[1]: line for line in lines})


def made() -> bytes:
    """The list of the TensorFlow that runs this."""
    import tensorflow as tf
    from google.protobuf import text_format
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    buffer = pywrap_tf_session.TF_GetAllOpList()
    ops = op_def_pb2.OpList.FromString(pywrap_tf_session.TF_GetBuffer(buffer)).op
    pywrap_tf_session.TF_DeleteBuffer(buffer)
    lines = [f"# TensorFlow {tf.__version__}, GraphDef version {tf.version.GRAPH_DEF_VERSION}"]
    for op in sorted(ops, key=lambda op: op.name):
        if not op.name.startswith("_"):  # those are made when a graph runs and stand in no file
            lines.append(text_format.MessageToString(op, as_one_line=True))
    return gzip.compress("\n".join([*lines, ""]).encode(), mtime=0)


if __name__ == "__main__":
    sys.stdout.buffer.write(made())
