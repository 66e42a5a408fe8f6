"""What a GPU would find in our graphs, by TensorFlow's registry; and that `benchmarks/gpu.py` works."""

import json
import pathlib
import subprocess
import sys
import time

import pytest
import tensorflow as tf

BENCHMARKS = pathlib.Path(__file__).parent.parent.parent / "benchmarks"
POLICIES = ("float32", "mixed_float16", "mixed_bfloat16")
NETWORKS = ("cun_lws", "cun", "unet2d", "bfcn", "drn", "msm", "msm_et", "msm_noaspp", "unet3d")
# Tests of assertions, which read scalars: nothing travels.
OF_ASSERTIONS = ("Const", "string", "no kernel")


@pytest.fixture
def device_ops(benchmark):
    module = benchmark("device_ops")
    if not module.knows_gpu_kernels():
        pytest.skip("this TensorFlow was built for CPUs alone")
    return module


@pytest.fixture
def gpu(benchmark):
    return benchmark("gpu")


# --- kernels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "network",
    # cun_lws is cun with more in its loss
    [pytest.param(name, marks=[pytest.mark.slow] if name == "cun" else []) for name in NETWORKS],
)
def test_a_gpu_has_a_kernel_for_all_of_a_training_step_and_none_takes_an_image_to_the_host(
    device_ops, network, policy
):
    found = list(device_ops.operations(device_ops.step_graph(network, policy)))
    assert len(found) > 500
    assert dict(device_ops.counted(found)) == {}


@pytest.mark.slow
def test_a_whole_case_of_slices_stays_on_a_gpu(device_ops):
    found = device_ops.counted(list(device_ops.operations(device_ops.model_graph("cun_lws"))))
    found.pop(OF_ASSERTIONS)
    # A row of indices, of slices with brain, has an unknown size; it is int32, so it lies in the host's memory.
    assert set(found) <= {("StridedSlice", "int32", "in the host's memory: output")}


def graph_of(function, *specs):
    return tf.function(function).get_concrete_function(*specs).graph


@pytest.mark.parametrize(
    ("function", "dtype", "expected"),
    [
        (lambda x: tf.equal(x, 1), tf.uint8, {}),
        (lambda x: tf.equal(x, 1), tf.int32, {("Equal", "int32", "in the host's memory: x, z"): 1}),
        (
            lambda x: tf.cast(tf.reshape(x, [-1]), tf.float32),
            tf.int32,
            {("Reshape", "int32", "in the host's memory: output, tensor"): 1},
        ),
        (lambda x: tf.broadcast_to(x[:1], [64, 128]), tf.uint8, {("BroadcastTo", "uint8", "no kernel"): 1}),
    ],
)
def test_what_costs_a_gpu_a_copy_is_found(device_ops, function, dtype, expected):
    found = device_ops.operations(graph_of(function, tf.TensorSpec([64, 128], dtype)))
    assert dict(device_ops.counted(list(found))) == expected


def test_what_is_inside_a_loop_is_found_too_and_a_small_tensor_is_none(device_ops):
    def function(x):
        _, x = tf.while_loop(
            lambda n, _: n < 3, lambda n, x: (n + 1, tf.cast(tf.equal(x, n), tf.int32)), (0, x)
        )
        return x

    found = device_ops.counted(
        list(device_ops.operations(graph_of(function, tf.TensorSpec([64, 128], tf.int32))))
    )
    assert found["Equal", "int32", "in the host's memory: x, z"] == 1
    small = device_ops.operations(graph_of(function, tf.TensorSpec([64], tf.int32)))
    assert not device_ops.counted(list(small))


# --- the command -----------------------------------------------------------------------------------------


def test_the_plan_asks_all_of_each_network_and_begins_with_what_tells_most(gpu):
    for engine in ("tensorflow", "jax"):
        jobs = gpu.plan(gpu._NETWORKS, engine)
        assert [job["network"] for job in jobs[:2]] == (
            ["cun_lws", "msm"] if engine == "tensorflow" else ["cun_lws"] * 2
        )
        asked = {
            (job["network"], cell["precision"], cell["xla"])
            for job in jobs
            if job["job"] == "steps"
            for cell in job["cells"]
        }
        of_xla = (True,) if engine == "jax" else (False, True)
        assert asked == {(n, p, x) for n in gpu._NETWORKS for p in gpu._PRECISIONS for x in of_xla}


def options(gpu, **given):
    plain = {"batch": None, "width": None, "size": None, "seconds": 1, "shape": (9, 9, 9)}
    return gpu.argparse.Namespace(**{**plain, **given})


def test_where_memory_runs_out_half_of_the_batch_is_tried(gpu, monkeypatch):
    asked = []

    def answers(spec, ends):
        batch = next((int(one.partition("=")[2]) for one in spec["settings"] if "batch_size" in one), 8)
        asked.append((batch, len(spec["cells"])))
        for cell in spec["cells"]:
            fits = batch <= 2 or cell["precision"] == "float16"
            yield {"batch": batch} if fits else {"batch": batch, "failed": "out of memory"}

    monkeypatch.setattr(gpu, "answers", answers)
    job = gpu._job("steps", "drn", [{"precision": "float16"}, {"precision": "float32"}])
    rows = list(gpu.run(job, time.monotonic() + 60, options(gpu)))
    assert asked == [(8, 2), (4, 1), (2, 1)]
    assert [(row["precision"], row["batch"], "failed" in row) for row in rows] == [
        ("float16", 8, False),
        ("float32", 2, False),
    ]


def test_what_time_did_not_suffice_for_is_told(gpu):
    rows = list(gpu.run(gpu._job("steps", "drn", gpu._cells(xla=True)), time.monotonic(), options(gpu)))
    assert len(rows) == 4 and all(row["left_out"] for row in rows)


def test_a_process_that_takes_too_long_is_ended(gpu):
    began = time.monotonic()
    spec = {"job": "steps", "network": "unet2d", "settings": [], "seconds": 1, "cells": [{"precision": "tf32"}]}
    assert list(gpu.answers(spec, began + 0.2)) == [{"failed": "no time left"}]


def test_a_cell_that_fails_says_why_and_the_next_one_goes_on(gpu, tmp_path):
    spec = {"job": "steps", "network": "unet2d", "settings": ["model.width=3", "records.slice_shape=[15,15]"]}
    spec |= {"seconds": 0.1, "cells": [{"precision": "tf32"}]}
    (answer,) = gpu.answers(spec, time.monotonic() + 300)
    assert "failed" in answer


def test_utilisation_is_the_mean_of_what_nvidia_smi_says(benchmark, monkeypatch, tmp_path):
    meter = benchmark("gpu_meter")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 40; echo '[N/A]'; echo 60; exec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with meter.Utilisation() as busy:
        ends = time.monotonic() + 60
        while len(busy._found) < 2 and time.monotonic() < ends:
            time.sleep(0.01)
    assert busy.percent == 50
    monkeypatch.setenv("PATH", "")
    with meter.Utilisation() as busy:
        pass
    assert busy.percent is None


@pytest.mark.slow
def test_a_rehearsal_goes_every_way_without_a_gpu(tmp_path):
    ended = subprocess.run(
        [
            sys.executable,
            BENCHMARKS / "gpu.py",
            "--rehearse",
            "--minutes",
            "20",
            "--output",
            tmp_path / "figures.json",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    figures = json.loads((tmp_path / "figures.json").read_text())
    rows = figures["rows"]
    assert not [row for row in rows if "failed" in row or "left_out" in row]
    assert {row["job"] for row in rows} == {"steps", "case", "differences"}
    apart = [row for row in rows if row["job"] == "differences"]
    assert figures["about"]["has_gpu"] or all(row["probability"] < 1e-5 for row in apart)
    assert {row["xla"] for row in rows if row["job"] == "steps"} == {False, True}
