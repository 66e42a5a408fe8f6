"""Can TensorFlow Serving load an exported version? Its ops against those of the image that our files name.

A model is written by one TensorFlow and read by another, often an older one. The reader refuses a graph with an
op or an attribute that it does not know. TensorFlow leaves attributes of default value out when it saves, so a
new attribute does no harm until somebody sets it; the reader fills in its own default, which must be the same.
"""

import operator
import os
from collections.abc import Iterator

from tensorflow.core.framework import attr_value_pb2, graph_pb2, node_def_pb2, op_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tfbrats.exports.op_list import NOT_IN_SERVING, OpList
from tfbrats.machine import files

_functions = operator.attrgetter("library.function")  # of a GraphDef: its FunctionDefs
_XLA = "_XlaMustCompile"
_SHOWN = 200  # characters of an attribute's value


def told(folder: str | os.PathLike, ops: OpList) -> tuple[str, list[str]]:
    """Whether TensorFlow Serving with these ops can serve a version: a line on it, and warnings."""
    meta_graph = _meta_graph(folder)
    found = _faults(meta_graph, ops)
    if not found:
        count = len({node.op for node, _ in _nodes(meta_graph.graph_def)})
        return f"TensorFlow Serving {ops.tensorflow} has all {count} ops of it, as they are used here", []
    warnings = [f"TensorFlow Serving {ops.tensorflow} cannot serve it: {fault}" for fault in found]
    following = (
        "change the layer that makes the op, or serve it by an image of a newer TensorFlow (TFSERVING_TAG of "
        "compose, newTag of the kustomization); tfbrats predict and tfbrats serve run it as it is"
    )
    return following, warnings


def faults(folder: str | os.PathLike, ops: OpList) -> list[str]:
    """Why a server of these ops would not load or run a version; one line each, none said twice.

    Args:
        folder: of the version.
    """
    return _faults(_meta_graph(folder), ops)


def _faults(meta_graph: meta_graph_pb2.MetaGraphDef, ops: OpList) -> list[str]:
    graph = meta_graph.graph_def
    found: dict[str, str] = {}  # fault -> where
    if graph.versions.min_consumer > ops.graph_version:
        newest = f"it takes graphs up to version {ops.graph_version}"
        found[f"the graph wants a reader of version {graph.versions.min_consumer}; {newest}"] = "the graph"
    own = {function.signature.name for function in _functions(graph)}
    written = {op.name: op for op in meta_graph.meta_info_def.stripped_op_list.op}
    read = {op: ops.definition(op) for op in {node.op for node, _ in _nodes(graph)} if op in ops}
    for node, function in _nodes(graph):
        if node.op in own:
            continue
        where = f"node {node.name}" + (f" of {function}" if function else "")
        for fault in _faults_of(node, written.get(node.op), read.get(node.op)):
            found.setdefault(fault, where)
    for function in _functions(graph):
        if function.attr[_XLA].b:
            fault = "a function is compiled by XLA (jit_compile), which is off in the server"
            found.setdefault(fault, function.signature.name)
    return [f"{fault} ({where})" for fault, where in found.items()]


def _meta_graph(folder: str | os.PathLike) -> meta_graph_pb2.MetaGraphDef:
    content = files.read_bytes(files.join(folder, "saved_model.pb"))
    return saved_model_pb2.SavedModel.FromString(content).meta_graphs[0]


def _nodes(graph: graph_pb2.GraphDef) -> Iterator[tuple[node_def_pb2.NodeDef, str]]:
    """All nodes, each with the name of the function that holds it, "" for the graph itself."""
    yield from ((node, "") for node in graph.node)
    for function in _functions(graph):
        yield from ((node, function.signature.name) for node in function.node_def)


def _faults_of(
    node: node_def_pb2.NodeDef, there: op_def_pb2.OpDef | None, here: op_def_pb2.OpDef | None
) -> Iterator[str]:
    """What is wrong with one node.

    Args:
        there: its op where the graph was written.
        here: its op where it is to be read, if there is one.
    """
    if here is None:
        calls_python = node.op in NOT_IN_SERVING
        yield f"op {node.op} " + ("calls Python, which it lacks" if calls_python else "is not among its ops")
        return
    there = there or here
    known = {attribute.name: attribute for attribute in here.attr}
    for name, value in node.attr.items():
        if name.startswith("_"):  # notes, which any version takes
            continue
        if name not in known:
            yield f"op {node.op}: it has no attribute {name}, which is {_text(value)} here"
        elif not _is_allowed(value, known[name]):
            yield f"op {node.op}: its attribute {name} cannot be {_text(value)}"
    defaults = {one.name: one.default_value for one in there.attr if one.HasField("default_value")}
    for name in set(known) - set(node.attr):
        if not known[name].HasField("default_value"):
            yield f"op {node.op}: it wants an attribute {name}, which is not there"
        elif name in defaults and defaults[name] != known[name].default_value:
            yield (
                f"op {node.op}: {name} was left at its default {_text(defaults[name])}, which is "
                f"{_text(known[name].default_value)} there: its answers may differ"
            )
    if [one.name for one in here.input_arg] != [one.name for one in there.input_arg]:
        yield f"op {node.op}: it takes other inputs"


def _is_allowed(value: attr_value_pb2.AttrValue, attribute: op_def_pb2.OpDef.AttrDef) -> bool:
    """Whether a version takes a value: of most attributes any; of types and some words those that it names."""
    allowed = attribute.allowed_values.list
    if allowed.type:
        return set(value.list.type or [value.type]) <= set(allowed.type)
    if allowed.s:
        return set(value.list.s or [value.s]) <= set(allowed.s)
    return True


def _text(value: attr_value_pb2.AttrValue) -> str:
    return " ".join(str(value).split())[:_SHOWN]
