"""Stopped, killed, damaged, moved to other devices: a training goes on as if nothing had been."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tfbrats import checkpoints, locks, run, step, stopping, train
from tfbrats.command import InputError

SMALL = ("train.epochs=2", "train.steps_per_epoch=4", "train.checkpoint_minutes=1e-9")


def weights(folder, which="last"):
    """Network and optimizer as they lie in a run's newest checkpoint: name -> array."""
    path = checkpoints.newest_whole(run.checkpoints(folder, which))
    reader = tf.train.load_checkpoint(path)
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith(("network", "optimizer"))]
    return {name: reader.get_tensor(name) for name in names}


def same(folder, other):
    a, b = weights(folder), weights(other)
    histories = [(pathlib.Path(one) / "history.csv").read_bytes() for one in (folder, other)]
    assert a.keys() == b.keys()
    return histories[0] == histories[1] and all(np.array_equal(a[name], b[name]) for name in a)


def epochs_on_the_board(folder):
    return sorted(path.name for path in (pathlib.Path(folder) / "tb").iterdir())


@pytest.fixture(scope="module")
def straight(record_set, tmp_path_factory):
    """Folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    train.train(record_set.config(f"run.dir={folder}", *SMALL))
    return folder


def asking_at(monkeypatch, stop, name, call):
    """`stop` is asked in the given call (from 1) of `step.train_step`'s or `step.validation_step`'s step."""
    real, calls = getattr(step, name), []

    def build(*arguments):
        one_step = real(*arguments)

        def counted(*batch):
            calls.append(1)
            if len(calls) == call:
                stop.ask()
            return one_step(*batch)

        return counted

    monkeypatch.setattr(step, name, build)


# --- asked to stop --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "call", "before"),
    [
        ("train_step", 3, "epoch 1, step 4"),
        ("train_step", 4, "epoch 1, step 5"),  # the last of the epoch: before it is scored
        ("validation_step", 1, "epoch 1, step 5"),
        ("validation_step", 4, "epoch 2, step 1"),  # the last batch: the epoch is over
    ],
)
def test_asked_to_stop_it_saves_and_goes_on_to_the_same_end(
    record_set, straight, tmp_path, monkeypatch, capsys, where, call, before
):
    settings, stop = record_set.config(f"run.dir={tmp_path / 'run'}", *SMALL), stopping.Stop()
    asking_at(monkeypatch, stop, where, call)
    train.train(settings, stop=stop)
    monkeypatch.undo()
    said = capsys.readouterr().out
    assert f"stopped     before {before}" in said or before == "epoch 2, step 1"
    assert said.splitlines()[-1] == "stopped as asked, all is saved: the same command goes on from here"
    train.train(settings)
    assert f"resumes     at {before}" in capsys.readouterr().out
    assert same(tmp_path / "run", straight)
    assert epochs_on_the_board(tmp_path / "run") == epochs_on_the_board(straight)


def command(record_set, folder, *more):
    return [
        *(sys.executable, "-m", "tfbrats.train", "--config", "smoke_2d.yaml", "--run", str(folder)),
        *(*record_set.overrides, *SMALL, *more),
    ]


def started(arguments):
    """The command in a process group of its own, and of its own mind about Ctrl-C."""
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def until_it_trains(process):
    for line in process.stdout:
        if line.startswith("writes"):
            return
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 0), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_saves_and_the_command_says_how_to_go_on(record_set, tmp_path, number, code):
    process = started(command(record_set, tmp_path / "run", "train.steps_per_epoch=100000"))
    until_it_trains(process)
    folder = tmp_path / "run" / "checkpoints" / "last"
    while not checkpoints.found(folder):
        time.sleep(0.1)
    os.kill(process.pid, number)
    said, complained = process.communicate(timeout=120)
    assert process.returncode == code, complained
    assert "stopping after this step" in complained
    assert said.splitlines()[-1] == "stopped as asked, all is saved: the same command goes on from here"
    assert not checkpoints.damage(checkpoints.newest_whole(folder))


def test_a_second_ctrl_c_does_not_wait():
    stop = stopping.Stop()
    stop.ask(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stop.ask(signal.SIGINT)


def test_signals_are_as_before_when_it_is_over():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with stopping.on_signals("stopping") as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_asked and stop.exit_code == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


# --- killed ---------------------------------------------------------------------------------------------


def killed_until_it_ends(record_set, folder, rng, at_most):
    """Starts the command, kills it at a random moment, again and again; how often it was killed."""
    kills = 0
    while True:
        process = started(command(record_set, folder))
        if kills < at_most:
            # From its first line on, or from the first step: starting takes longer than all the training.
            if rng.random() < 0.75:
                until_it_trains(process)
            try:
                process.wait(timeout=rng.uniform(0, 12))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                kills += 1
                continue
        said, complained = process.communicate(timeout=300)
        assert process.returncode == 0, complained[-3000:]
        if "resumes" in said or "nothing left" in said or not kills:
            return kills


def test_killed_at_a_random_moment_it_goes_on_to_the_same_end(record_set, straight, tmp_path):
    killed_until_it_ends(record_set, tmp_path / "run", random.Random(), at_most=1)
    assert same(tmp_path / "run", straight)
    assert epochs_on_the_board(tmp_path / "run") == epochs_on_the_board(straight)


@pytest.mark.slow
def test_twenty_random_kills_lose_nothing(record_set, straight, tmp_path):
    seed = random.randrange(2**32)
    rng, kills, runs, losses = random.Random(seed), 0, 0, 0
    while kills < 20:
        folder = tmp_path / f"run{runs}"
        kills += killed_until_it_ends(record_set, folder, rng, at_most=20 - kills)
        losses += not (same(folder, straight) and epochs_on_the_board(folder) == epochs_on_the_board(straight))
        runs += 1
    print(f"seed {seed}: killed {kills} times in {runs} runs; runs that ended otherwise: {losses}")
    assert losses == 0


# --- damaged --------------------------------------------------------------------------------------------


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.fixture
def two_checkpoints(tmp_path):
    variable = tf.Variable(tf.random.stateless_uniform([1000], (1, 2)))
    manager = checkpoints.manager(tf.train.Checkpoint(variable=variable), str(tmp_path), 2)
    for _ in range(2):
        checkpoints.save(manager)
    return tmp_path


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, empty, pathlib.Path.unlink])
@pytest.mark.parametrize("ending", [".data-00000-of-00001", ".index"])
def test_of_a_damaged_checkpoint_the_one_before_is_taken(two_checkpoints, capsys, damage, ending):
    damage(two_checkpoints / f"ckpt-2{ending}")
    assert checkpoints.newest_whole(two_checkpoints) == str(two_checkpoints / "ckpt-1")
    said = capsys.readouterr().err
    # Without an index it is what a killed write leaves, which is no damage.
    expected = not (ending == ".index" and damage is pathlib.Path.unlink)
    assert ("ckpt-2: damaged" in said and "ckpt-1" in said) is expected


def test_where_all_are_damaged_each_is_named(two_checkpoints):
    for path in two_checkpoints.glob("*.data-*"):
        cut_short(path)
    with pytest.raises(InputError, match=r"(?s)ckpt-2: .*ckpt-1: .*--overwrite"):
        checkpoints.newest_whole(two_checkpoints)


def test_what_a_killed_write_left_is_tidied_away_and_a_list_that_says_nonsense_is_mended(two_checkpoints):
    left = two_checkpoints / "ckpt-3_temp" / "part-00000-of-00001.data-00000-of-00001"
    left.parent.mkdir()
    left.write_bytes(b"half")
    (two_checkpoints / "checkpoint").write_text("garbage")
    checkpoints.tidy(str(two_checkpoints))
    assert not left.exists()
    assert tf.train.latest_checkpoint(two_checkpoints) == str(two_checkpoints / "ckpt-2")


def test_after_a_damaged_checkpoint_the_run_ends_as_an_undisturbed_one(
    record_set, straight, tmp_path, monkeypatch, capsys
):
    settings, stop = record_set.config(f"run.dir={tmp_path / 'run'}", *SMALL), stopping.Stop()
    asking_at(monkeypatch, stop, "train_step", 6)
    train.train(settings, stop=stop)
    monkeypatch.undo()
    for name in ("last", "best"):
        cut_short(sorted((tmp_path / "run" / "checkpoints" / name).glob("*.data-*"))[-1])
    capsys.readouterr()
    train.train(settings)
    said = capsys.readouterr()
    assert "resumes     at epoch 2, step 2" in said.out
    assert "last" in said.err and "The one before it is taken" in said.err
    assert "best: no checkpoint here can be read" in said.err and "epochs to come will be kept" in said.err
    assert same(tmp_path / "run", straight)
    assert checkpoints.newest_whole(tmp_path / "run" / "checkpoints" / "best").endswith("ckpt-2")


# --- elsewhere ------------------------------------------------------------------------------------------

ON_DEVICES = """
import sys, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * int(sys.argv[1]))
from tfbrats import command, train
sys.argv = sys.argv[1:]
command.run(train.main)
"""


def on_devices(count, record_set, folder, *more):
    _, _, _, *arguments = command(record_set, folder, "train.steps_per_epoch=null", *more)
    ended = subprocess.run(
        [sys.executable, "-c", ON_DEVICES, str(count), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_a_run_goes_on_with_other_replicas_and_says_what_changes(record_set, tmp_path, monkeypatch):
    settings = record_set.config(f"run.dir={tmp_path / 'run'}", *SMALL, "train.steps_per_epoch=null")
    examples, stop = record_set.manifest.examples["train"], stopping.Stop()
    asking_at(monkeypatch, stop, "train_step", 3)
    train.train(settings, stop=stop)
    code, said, complained = on_devices(2, record_set, tmp_path / "run")
    assert code == 0, complained[-3000:]
    assert "resumes     at epoch 1, step 4" in said
    assert "2 replicas instead of 1: a step takes 8 slices instead of 4" in said
    assert "train.batch_size=2" in said
    rows = run.read_history(tmp_path / "run")
    # What the first three steps of four left of the slices, in steps of eight; then whole epochs of them.
    assert [int(row["steps"]) for row in rows] == [3 + (examples - 12) // 8, examples // 8]


def test_another_batch_on_as_many_replicas_is_another_run(record_set, straight):
    copy = record_set.config(f"run.dir={straight}", *SMALL, "train.batch_size=2", "train.epochs=3")
    with pytest.raises(InputError, match=r"4 slices a replica, 4 a step; now it would be 2 and 2"):
        train.train(copy)


# --- together -------------------------------------------------------------------------------------------


def test_two_commands_do_not_train_into_one_run(record_set, straight):
    with locks.alone(straight / run.LOCK, "busy"), pytest.raises(InputError, match="another command trains"):
        train.train(record_set.config(f"run.dir={straight}", *SMALL))


def test_overwriting_keeps_the_lock_that_it_holds(record_set, tmp_path):
    small = (f"run.dir={tmp_path / 'run'}", "train.epochs=1", "train.steps_per_epoch=1")
    train.train(record_set.config(*small))
    (tmp_path / "run" / "stray.txt").write_text("old")
    before = os.stat(tmp_path / "run" / run.LOCK).st_ino
    train.train(record_set.config(*small, "lws.beta=3"), overwrite=True)
    assert os.stat(tmp_path / "run" / run.LOCK).st_ino == before
    assert not (tmp_path / "run" / "stray.txt").exists()
    assert json.loads((tmp_path / "run" / "environment.json").read_text())
