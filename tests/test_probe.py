"""The probe measures a config's networks without data, and finds the largest batch that fits."""

import json
import signal
import subprocess
import sys
import time

import keras
import psutil
import pytest

from tfbrats import config_file, networks, probe
from tfbrats.errors import InputError
from tfbrats.machine import memory
from tfbrats.workflows import batch_size, made_up_steps, table_plan, trial
from tfbrats.workflows.batch_size import Trial

SMALL_2D = ["model.width=2", "records.slice_shape=[32,32]", "data.records=nowhere"]
SMALL_3D = ["model.width=2", "sampling.patch_size=16", "cascade.stride=8", "data.records=nowhere"]
MIB = 2**20

# --- one network, in this process -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cun_lws.yaml", "bfcn.yaml", "drn.yaml"])
def test_a_network_on_slices(name):
    settings = config_file.load(name, SMALL_2D)
    found = made_up_steps.measure(settings, "", 2, 3)
    assert (found.region, found.batch_size, found.steps) == ("", 2, 3)
    assert found.parameters == networks.build(settings).count_params()
    assert found.slots == 1  # momentum
    assert 0 < found.forward_seconds < found.train_seconds < 60


def test_three_networks_on_patches(capsys):
    small = [*SMALL_3D, "train.precision=mixed_bfloat16"]
    settings = config_file.load("msm.yaml", small)
    policy = keras.mixed_precision.dtype_policy().name
    trial.main(["--config", "msm.yaml", *small, "--batch", "1", "--steps", "1"])
    found = [Trial(**row) for row in json.loads(capsys.readouterr().out)]
    assert [one.region for one in found] == ["WT", "TC", "ET"]
    for one in found:
        assert one.parameters == networks.build(settings, region=one.region).count_params()
        assert one.slots == 2  # Adam's two moments
        assert one.train_seconds > 0
    assert keras.mixed_precision.dtype_policy().name == policy


# --- in a process of its own ----------------------------------------------------------------------------


def test_the_command_prints_numbers_that_a_program_can_read(capsys):
    ballast = bytearray(900 * MIB)  # what this process holds is none of the trial's
    ballast[:: 2**12] = b"x" * len(ballast[:: 2**12])
    overrides = [*SMALL_3D, "region=et", "train.batch_size=3"]
    probe.main(["--config", "unet3d.yaml", *overrides, "--steps", "1", "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["region"], found["batch_size"], found["steps"]) == ("ET", 3, 1)
    assert MIB < found["peak_bytes"] < len(ballast)
    assert found["training_hours"] > 0


def test_a_process_that_takes_too_much_ends_itself_and_the_person_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 10 * MIB)
    said = []
    with pytest.raises(
        InputError, match=r"not even a batch of 1 fits.*model\.width=2, train\.precision=mixed_bf"
    ):
        probe.probe(config_file.load("cun.yaml", [*SMALL_2D, "train.batch_size=1"]), 1, said.append)
    assert said == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_probe_leaves_no_process_behind(number):
    line = [sys.executable, "-m", "tfbrats.probe", "--config", "cun.yaml", "--steps", "10000"]
    process = psutil.Popen([*line, *SMALL_2D], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while not (children := process.children()) and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(number)  # to it alone, not to its group as a terminal does
    assert process.wait(60) == 128 + number
    assert children
    assert not psutil.wait_procs(children, timeout=10)[1]


@pytest.mark.slow
def test_the_largest_batch_trains_and_one_three_times_as_large_takes_too_much(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 500 * MIB)
    settings = config_file.load(
        "cun.yaml", ["model.width=4", "records.slice_shape=[96,96]", "data.records=nowhere"]
    )
    size = batch_size.largest_batch(settings)
    assert 3 < size < 32
    monkeypatch.undo()
    assert batch_size.trial_of(settings, "", size, 1).peak_bytes < 500 * MIB
    assert batch_size.trial_of(settings, "", 3 * size, 1).peak_bytes > 400 * MIB


@pytest.mark.parametrize(
    ("code", "said", "error"),
    [
        (1, "RESOURCE_EXHAUSTED: OOM when allocating tensor with shape[64,32,240,240]", None),
        (-signal.SIGABRT, "terminate called after throwing an instance of 'std::bad_alloc'", None),
        (-signal.SIGKILL, "", None),
        (-signal.SIGINT, "", KeyboardInterrupt),
        (130, "interrupted", KeyboardInterrupt),
        (1, "first\nValueError: Expected 4 channels, received 3", InputError),
        (-signal.SIGSEGV, "Fatal Python error", InputError),
    ],
)
def test_how_a_trial_ended_says_whether_memory_was_short(monkeypatch, code, said, error):
    def ended(*arguments, TF_CPP_MIN_LOG_LEVEL):
        assert TF_CPP_MIN_LOG_LEVEL == "1"  # else TensorFlow would not say it
        return subprocess.CompletedProcess(arguments, code, stdout="", stderr=said)

    monkeypatch.setattr(batch_size, "ended", ended)
    settings = config_file.load("cun.yaml", SMALL_2D)
    if error is None:
        assert batch_size.trial_of(settings, "", 8, 1) is None
        return
    with pytest.raises(error) as found:
        batch_size.trial_of(settings, "", 8, 1)
    assert error is not InputError or said.splitlines()[-1] in str(found.value)


# --- the search -----------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """Builds a machine: networks take what `bytes_of(region, batch)` says. Returns the batches it was asked."""

    def build(device, free_bytes, bytes_of, examples=10**6):
        asked = []

        def tried(_, region, batch, count):
            asked.append((region, batch))
            taken = bytes_of(region, batch)
            fits = taken <= free_bytes * (0.8 if device == "CPU" else 1)
            return Trial(region, device, 1, batch, count, 1.0, 1.0, 1, taken) if fits else None

        monkeypatch.setattr(batch_size, "trial_of", tried)
        monkeypatch.setattr(memory, "free_bytes", lambda: free_bytes)
        monkeypatch.setattr(batch_size, "examples_of", lambda *_: ((examples, 0), ""))
        return asked

    return build


@pytest.fixture
def slices():
    return config_file.load("cun.yaml", SMALL_2D)


@pytest.fixture
def patches():
    return config_file.load("msm.yaml", SMALL_3D)


@pytest.mark.parametrize("room", [1, 2, 3, 4, 7, 8, 9, 24, 63, 64, 65, 100, 127])
def test_on_a_gpu_a_batch_is_found_that_fits_and_is_not_much_smaller_than_could_be(machine, slices, room):
    asked = machine("GPU", 100 + 10 * room, lambda _, batch: 100 + 10 * batch)
    found = batch_size.largest_batch(slices, lambda _: None)
    assert 0.9 * 0.88 * room - 1 <= found <= max(1, 0.9 * room)  # the last tenth is left alone
    assert len(asked) == len(set(asked)) <= 15


def test_on_a_gpu_with_room_for_all_the_most_is_taken(machine, slices):
    asked = machine("GPU", 10**9, lambda _, batch: batch)
    assert batch_size.largest_batch(slices, lambda _: None) == batch_size.MOST["GPU"]
    assert ("", batch_size.MOST["GPU"]) in asked


@pytest.mark.parametrize("device", ["GPU", "CPU"])
def test_of_three_networks_the_one_that_takes_most_decides(machine, patches, device):
    alone, fits = {}, {"WT": 20, "TC": 12, "ET": 17}
    for region in fits:
        machine(device, 1000, lambda _, batch, region=region: 1000 * batch // fits[region])
        alone[region] = batch_size.largest_batch(patches, lambda _: None)
    machine(device, 1000, lambda region, batch: 1000 * batch // fits[region])
    assert batch_size.largest_batch(patches, lambda _: None) == min(alone.values()) == alone["TC"]


def test_on_a_gpu_a_network_that_takes_little_at_first_is_tried_too(machine, patches):
    takes = {"WT": lambda n: 400 + n, "TC": lambda n: 400 + n, "ET": lambda n: 80 * n}
    machine("GPU", 1000, lambda region, batch: takes[region](batch))
    assert batch_size.largest_batch(patches, lambda _: None) == int(0.9 * 12)


@pytest.mark.parametrize("room", [1, 2, 3, 4, 11, 15, 24, 31, 32, 33, 100])
def test_on_a_cpu_the_growth_says_what_fits_in_four_fifths(machine, slices, room):
    asked = machine("CPU", 1000, lambda _, batch: 300 + 499.9 * batch / room)
    found = batch_size.largest_batch(slices, lambda _: None)
    assert found == (1 if room < 3 else min(room, batch_size.MOST["CPU"]))  # 3 do not fit: 2 are not tried
    assert len(asked) <= 4
    assert max(batch for _, batch in asked) <= max(3, found)  # no more is tried: it would hurt others


def test_on_a_cpu_what_grows_faster_than_at_first_is_found_out(machine, slices):
    machine("CPU", 1000, lambda _, batch: 100 + 2 * batch**2)
    found = batch_size.largest_batch(slices, lambda _: None)
    assert found > 3 and 100 + 2 * found**2 <= 800


@pytest.mark.parametrize("device", ["GPU", "CPU"])
@pytest.mark.parametrize("examples", [1, 2, 3, 5])
def test_a_batch_is_never_more_than_the_training_examples(machine, slices, device, examples):
    asked = machine(device, 10**9, lambda _, batch: batch, examples)
    assert batch_size.largest_batch(slices, lambda _: None) == examples
    assert max(batch for _, batch in asked) == examples


def test_each_try_is_a_line(machine, patches):
    said = []
    asked = machine("GPU", 50 * MIB, lambda _, batch: 10 * MIB * batch)
    batch_size.largest_batch(patches, said.append)
    assert len(said) == len(asked) + 1
    assert "msm WT, batch 1: fits: 10.0 MiB of GPU memory" in said
    assert "msm WT, batch 8: too large" in said
    assert said[-1].startswith("batch 4: 5 fit")


def test_what_fits_into_a_tpu_is_not_guessed_from_this_machine(machine):
    asked = machine("CPU", 1000, lambda _, batch: batch)
    with pytest.raises(InputError, match="strategy=tpu"):
        batch_size.largest_batch(config_file.load("cun.yaml", [*SMALL_2D, "train.strategy=tpu"]))
    assert not asked


@pytest.mark.parametrize("of", ["slices", "patches"])
def test_what_does_not_fit_at_all_is_told_with_what_would(machine, of, request):
    machine("GPU", 10, lambda *_: 11)
    settings = request.getfixturevalue(of)
    cure = {"slices": "a smaller records.slice_shape", "patches": r"sampling.patch_size=8"}[of]
    with pytest.raises(InputError, match=cure):
        batch_size.largest_batch(settings, lambda _: None)


def test_a_batch_that_does_not_fit_is_halved_and_said(machine, patches):
    asked, said = machine("GPU", 100, lambda region, batch: 10 * batch), []
    found = probe.probe(patches, 2, said.append)  # a batch of 24
    assert [(one.region, one.batch_size) for one in found] == [("WT", 6), ("TC", 6), ("ET", 6)]
    assert asked[:3] == [("WT", 24), ("WT", 12), ("WT", 6)]
    assert "msm WT: a batch of 24 does not fit" in said[0]


def test_auto_is_found_out_before_it_is_timed(machine):
    settings = config_file.load("cun.yaml", [*SMALL_2D, "train.batch_size=auto"])
    asked = machine("GPU", 1000, lambda _, batch: 100 * batch)
    (found,) = probe.probe(settings, 2, lambda _: None)
    assert asked[-1] == ("", found.batch_size) == ("", 9)


# --- hours ----------------------------------------------------------------------------------------------


def test_the_papers_cases_stand_in_for_records():
    of_slices = config_file.load("cun.yaml", ["data.records=nowhere"])
    assert batch_size.examples_of(of_slices, "")[0] == (126 * round(0.7 * 155), 42 * 139)
    of_patches = config_file.load("msm.yaml", ["data.records=nowhere"])
    (examples, whose) = batch_size.examples_of(of_patches, "WT")
    assert examples == (285 * 400, 0)
    assert "the paper's 285 and 0 cases" in whose


def test_records_say_how_many_examples_there_are(record_set):
    examples, whose = batch_size.examples_of(record_set.config(), "")
    assert examples == (record_set.manifest.count("train"), record_set.manifest.count("validation"))
    assert whose == record_set.folder
    other = record_set.config("records.slice_shape=[64,64]")
    assert "paper" in batch_size.examples_of(other, "")[1]


def test_data_that_is_named_must_be_of_this_config(record_set, tmp_path):
    with pytest.raises(InputError, match=r"dataset\.json"):
        probe.main(["--config", "cun.yaml", "--records", str(tmp_path)])
    with pytest.raises(InputError, match="another configuration"):
        probe.main(["--config", "cun.yaml", "--records", record_set.folder])


def test_hours_by_hand():
    found = Trial("", "CPU", 1, 4, 20, 2.0, 0.5, 1, 0)
    settings = config_file.load("cun.yaml", ["train.epochs=9"])
    # 10 slices are two steps of 4.
    assert batch_size.training_hours(settings, found, 10, 6) * 3600 == pytest.approx(9 * (8 * 2 + 6 * 0.5))
    settings = config_file.load("cun.yaml", ["train.epochs=9", "train.steps_per_epoch=5"])
    assert batch_size.training_hours(settings, found, 10, 6) * 3600 == pytest.approx(9 * (20 * 2 + 6 * 0.5))


def test_a_person_reads_speed_memory_and_hours(machine, capsys):
    machine("GPU", 10**12, lambda _, batch: 2**30 * batch)
    probe.main(["--config", "cun.yaml", "--steps", "2", "data.records=nowhere"])
    said = capsys.readouterr().out
    assert "training 1.00 slices/s" in said
    assert "8.0 GiB at most\n" in said  # of a GPU: nothing is there when it starts
    assert "2 steps of 8 on one GPU" in said
    with pytest.raises(InputError, match="--steps 0"):
        probe.main(["--config", "cun.yaml", "--steps", "0"])


def test_the_rows_of_a_table_share_a_batch_that_is_a_number():
    with pytest.raises(InputError, match=r"batch_size=auto: each row would take another"):
        table_plan.row_config("paper_a", "unet2d", None, ["train.batch_size=auto"])
