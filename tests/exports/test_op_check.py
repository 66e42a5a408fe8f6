"""What TensorFlow Serving of the image that our files name cannot load is told at export, by the op's name."""

import dataclasses

import pytest
import tensorflow as tf
import tiny_model
import untrained

from tfbrats import export
from tfbrats.exports import op_check, op_list
from tfbrats.exports.op_list import OpList


@pytest.fixture(scope="module")
def ops() -> OpList:
    return op_list.read()


def saved(folder, function, *signature):
    """A SavedModel of one function; its folder."""
    module = tf.Module()
    module.f = tf.function(function, input_signature=signature)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.f})
    return folder


SCALAR, VECTOR = tf.TensorSpec([], tf.float32), tf.TensorSpec([None], tf.float32)


@pytest.fixture(scope="module")
def doubling(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("doubling"), lambda x: {"y": tf.clip_by_value(2 * x, 0, 1)}, VECTOR)


def without(ops, op):
    return dataclasses.replace(ops, lines={name: line for name, line in ops.lines.items() if name != op})


def changed(ops, op, before, after):
    assert before in ops.lines[op]
    return dataclasses.replace(ops, lines=ops.lines | {op: ops.lines[op].replace(before, after)})


def test_an_exported_model_has_only_ops_of_the_image(ops, tmp_path, capsys):
    run = untrained.write(tmp_path / "run")
    export.main(["--run", run, "--output", str(tmp_path / "cun")])
    said = capsys.readouterr().out
    assert f"TensorFlow Serving {ops.tensorflow} has all " in said and "WARNING" not in said


def test_the_graph_of_the_other_signatures_too(ops, tmp_path):
    tiny_model.write(tmp_path / "tiny", 1)
    assert op_check.faults(tmp_path / "tiny" / "1", ops) == []


def test_an_op_that_the_list_lacks_is_told_with_what_to_do(ops, doubling):
    line, (warning,) = op_check.told(doubling, without(ops, "Maximum"))
    assert f"TensorFlow Serving {ops.tensorflow} cannot serve it: op Maximum is not among its ops" in warning
    assert "(node " in warning and "TFSERVING_TAG" in line and "tfbrats serve" in line


def test_an_op_younger_than_the_image_is_told(ops, tmp_path):
    if "DecodeJxl" not in dir(tf.raw_ops):
        pytest.skip("this TensorFlow has no op that 2.20 lacks")
    spec = tf.TensorSpec([], tf.string)
    folder = saved(tmp_path, lambda x: {"y": tf.raw_ops.DecodeJxl(contents=x, channels=3)}, spec)
    (fault,) = op_check.faults(folder, ops)
    assert fault.startswith("op DecodeJxl is not among its ops (node ") and "inference" in fault


@pytest.mark.parametrize(("shape_type", "faulty"), [(tf.int32, False), (tf.int64, True)])
def test_an_attribute_younger_than_the_image_is_told_where_it_is_set(shape_type, faulty, ops, tmp_path):
    """Tshape of TensorListGetItem came with 2.21; at its default, int32, it is not written at all."""

    def first(x):
        items = tf.raw_ops.TensorListFromTensor(tensor=x, element_shape=tf.constant([], tf.int32))
        shape = tf.constant([], shape_type)
        item = tf.raw_ops.TensorListGetItem(
            input_handle=items, index=0, element_shape=shape, element_dtype=tf.float32
        )
        return {"y": item}

    found = op_check.faults(saved(tmp_path, first, VECTOR), ops)
    if faulty:
        assert found[0].startswith("op TensorListGetItem: it has no attribute Tshape, which is type: DT_INT64")
    else:
        assert found == []


def test_a_type_that_the_image_does_not_take_is_told(ops, doubling):
    older = changed(ops, "Maximum", "type: DT_FLOAT ", "")
    (fault,) = op_check.faults(doubling, older)
    assert fault.startswith("op Maximum: its attribute T cannot be type: DT_FLOAT")


def test_a_default_that_is_another_one_there_is_told(ops, tmp_path):
    """The model leaves it out, so the server would take its own without a word."""
    folder = saved(tmp_path, lambda x: {"y": tf.reduce_sum(x)}, VECTOR)
    older = changed(ops, "Sum", "default_value { b: false }", "default_value { b: true }")
    (fault,) = op_check.faults(folder, older)
    assert "op Sum: keep_dims was left at its default b: false, which is b: true there" in fault


def test_an_attribute_that_the_image_wants_is_told(ops, tmp_path):
    folder = saved(tmp_path, lambda x: {"y": tf.reduce_sum(x)}, VECTOR)
    (fault,) = op_check.faults(folder, changed(ops, "Sum", "default_value { b: false }", ""))
    assert fault.startswith("op Sum: it wants an attribute keep_dims, which is not there")


def test_a_graph_for_younger_readers_is_told(ops, doubling):
    (fault,) = op_check.faults(doubling, dataclasses.replace(ops, graph_version=3))
    assert fault.startswith("the graph wants a reader of version ")


def test_a_call_to_python_is_told_though_the_list_has_the_op(ops, tmp_path):
    folder = saved(
        tmp_path, lambda x: {"y": tf.ensure_shape(tf.numpy_function(abs, [x], tf.float32), [])}, SCALAR
    )
    assert "PyFunc" in ops.lines
    assert op_check.faults(folder, ops)[0].startswith("op PyFunc calls Python, which it lacks (node ")


def test_a_function_compiled_by_xla_is_told(ops, tmp_path):
    inner = tf.function(lambda x: x * 2, jit_compile=True)
    (fault,) = op_check.faults(saved(tmp_path, lambda x: {"y": inner(x)}, VECTOR), ops)
    assert "jit_compile" in fault


def test_the_list_is_read_as_it_is_made(tmp_path, ops):
    path = tmp_path / "list.txt.gz"
    path.write_bytes(op_list.made())
    here = op_list.read(path)
    assert here.tensorflow == tf.__version__ and here.graph_version == tf.version.GRAPH_DEF_VERSION
    assert set(ops.lines) <= set(here.lines), "TensorFlow took an op away"
    assert [one.name for one in here.definition("Conv3D").input_arg] == ["input", "filter"]
