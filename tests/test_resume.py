"""Stopped, killed, damaged, moved to other devices: a training goes on as if nothing had been."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import set_up
from tfbrats.errors import InputError
from tfbrats.machine import locks, stopping
from tfbrats.runs.folder import LOCK, RunFolder
from tfbrats.training import checkpoints, loop, slice_step
from tfbrats.workflows import batch_size, whole_run

SMALL = ("train.epochs=2", "train.steps_per_epoch=4", "train.checkpoint_minutes=1e-9")


def weights(folder, which="last"):
    """Network and optimizer as they lie in a run's newest checkpoint: name -> array."""
    path = checkpoints.newest_whole(RunFolder(folder).network().checkpoints_path(which))
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
    whole_run.train(record_set.config(f"run.dir={folder}", *SMALL))
    return folder


def asking_at(monkeypatch, stop, name, call):
    """`stop` is asked in the given call (from 1) of `step.train_step`'s or `step.validation_step`'s step."""
    real, calls = getattr(slice_step, name), []

    def build(*arguments):
        one_step = real(*arguments)

        def counted(*batch):
            calls.append(1)
            if len(calls) == call:
                stop.ask()
            return one_step(*batch)

        return counted

    monkeypatch.setattr(slice_step, name, build)


# --- asked to stop --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "call", "before"),
    [
        pytest.param("train_step", 3, "epoch 1, step 4", marks=pytest.mark.slow),
        # The last of the epoch: before it is scored.
        pytest.param("train_step", 4, "epoch 1, step 5", marks=pytest.mark.slow),
        pytest.param("validation_step", 1, "epoch 1, step 5", marks=pytest.mark.slow),
        # The last batch: the epoch is over.
        pytest.param("validation_step", 4, "epoch 2, step 1", marks=pytest.mark.slow),
    ],
)
def test_asked_to_stop_it_saves_and_goes_on_to_the_same_end(
    record_set, straight, tmp_path, monkeypatch, capsys, where, call, before
):
    settings, stop = record_set.config(f"run.dir={tmp_path / 'run'}", *SMALL), stopping.Stop()
    asking_at(monkeypatch, stop, where, call)
    whole_run.train(settings, stop=stop)
    monkeypatch.undo()
    said = capsys.readouterr().out
    assert f"stopped     before {before}" in said or before == "epoch 2, step 1"
    assert said.splitlines()[-1] == "stopped as asked, all is saved: the same command goes on from here"
    whole_run.train(settings)
    assert f"resumes     at {before}" in capsys.readouterr().out
    assert same(tmp_path / "run", straight)
    assert epochs_on_the_board(tmp_path / "run") == epochs_on_the_board(straight)


@pytest.mark.parametrize("minutes", ["1e-9", "10"])
def test_a_loss_that_is_no_number_ends_it_and_no_such_weights_are_saved(
    record_set, tmp_path, monkeypatch, minutes
):
    """Numbers are read a step later, but none is unknown when weights are saved."""
    real, calls = slice_step.train_step, []

    def build(*arguments):
        one_step = real(*arguments)

        def spoilt(*batch):
            calls.append(1)
            sums = one_step(*batch)
            return {**sums, "loss": sums["loss"] * float("nan")} if len(calls) == 3 else sums

        return spoilt

    monkeypatch.setattr(slice_step, "train_step", build)
    settings = record_set.config(f"run.dir={tmp_path}", *SMALL[:2], f"train.checkpoint_minutes={minutes}")
    with pytest.raises(InputError, match="epoch 1, step 3: the loss is nan"):
        whole_run.train(settings)
    newest = checkpoints.newest_whole(RunFolder(tmp_path).network().checkpoints_path("last"))
    assert (newest is None) == (minutes == "10")
    if newest:
        place = json.loads(tf.train.load_checkpoint(newest).get_tensor("progress/.ATTRIBUTES/py_state"))
        assert place["step"] == 2 and np.isfinite(place["sums"]["loss"])


def test_a_step_begins_before_the_numbers_of_the_one_before_are_read(record_set, tmp_path, monkeypatch):
    build, read, begun, overlapped = slice_step.train_step, loop._on_host, [], []
    steps = [threading.Event() for _ in range(4)]

    def built(*arguments):
        one_step = build(*arguments)

        def begins(*batch):
            steps[len(begun)].set()
            begun.append(1)
            return one_step(*batch)

        return begins

    def reads(*given):
        # Nobody else reads, so the number of those before is this step's. The last step has none to wait for.
        following = steps[len(overlapped) + 1 :][:1]
        overlapped.append(all(step.wait(60) for step in following))
        return read(*given)

    monkeypatch.setattr(slice_step, "train_step", built)
    monkeypatch.setattr(loop, "_on_host", reads)
    whole_run.train(record_set.config(f"run.dir={tmp_path}", "train.epochs=1", "train.steps_per_epoch=4"))
    assert overlapped == [True] * 4


@pytest.mark.slow
def test_the_loss_scale_of_float16_goes_on_too(record_set, tmp_path, monkeypatch):
    runs = [tmp_path / "straight", tmp_path / "stopped"]
    first, second = (
        record_set.config(f"run.dir={one}", *SMALL, "train.precision=mixed_float16") for one in runs
    )
    stop = stopping.Stop()
    try:
        whole_run.train(first)
        asking_at(monkeypatch, stop, "train_step", 6)
        whole_run.train(second, stop=stop)
        monkeypatch.undo()
        whole_run.train(second)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert same(*runs)
    kept = weights(runs[0])
    scale, finite, updates = (
        float(kept[f"optimizer/{name}/.ATTRIBUTES/VARIABLE_VALUE"])
        for name in ("dynamic_scale", "step_counter", "inner_optimizer/_iterations")
    )
    # It begins as 2^15. Each of the eight steps whose gradient overflows halves it, and updates nothing.
    assert scale == 2.0 ** (15 - (8 - updates))
    assert 0 < finite <= updates


def command(record_set, folder, *more):
    return [
        *(sys.executable, "-m", "tfbrats.train", "--config", "smoke_2d.yaml", "--run", str(folder)),
        *(*record_set.overrides, *SMALL, *more),
    ]


def started(arguments):
    """The command in a process group of its own, and of its own mind about Ctrl-C."""
    return subprocess.Popen(
        set_up.before(arguments, "hears_ctrl_c"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
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
    while not checkpoints.paths_in(folder):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    os.kill(process.pid, number)
    said, complained = process.communicate(timeout=120)
    assert process.returncode == code, complained
    assert "stopping after this step" in complained
    assert said.splitlines()[-1] == "stopped as asked, all is saved: the same command goes on from here"
    assert not checkpoints.damage(checkpoints.newest_whole(folder))


@pytest.mark.parametrize("error", [SystemExit(143), stopping.Stopped()])
def test_asked_to_stop_while_it_looks_for_a_batch_it_writes_nothing(
    record_set, tmp_path, monkeypatch, capsys, error
):
    def looking(config, say):
        say("batch 1 fits")
        raise error

    monkeypatch.setattr(batch_size, "largest_batch", looking)
    stop = stopping.Stop()
    settings = record_set.config("train.batch_size=auto", f"run.dir={tmp_path / 'run'}")
    assert whole_run.train(settings, stop=stop) == []
    assert "stopped as asked, with nothing new to save" in capsys.readouterr().out
    assert not (tmp_path / "run").exists() and stop.exit_code == 0


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


def killed_after(process, folder, changes, seconds):
    """Kills it so long after it has written, renamed or removed so many files; False if it ended before."""
    seen, before = 0, None
    while process.poll() is None:
        # os.walk takes no offence at what goes while it looks.
        now = frozenset(os.path.join(inner, name) for inner, _, names in os.walk(folder) for name in names)
        seen += before is not None and now != before
        before = now
        if seen >= changes:
            time.sleep(seconds)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.002)
    return False


def killed_until_it_ends(record_set, folder, rng, at_most):
    """Starts the command, kills it at a random moment, again and again.

    Returns:
        how often it was killed, and how often when there was a checkpoint already.
    """
    kills = with_checkpoint = 0
    while kills < at_most:
        process = started(command(record_set, folder))
        # A step of this small network takes a tenth of a second, and there is a checkpoint after each.
        if not killed_after(process, folder, rng.randint(1, 40), rng.uniform(0, 0.2)):
            break
        kills += 1
        with_checkpoint += bool(checkpoints.paths_in(folder / "checkpoints" / "last"))
    ended = subprocess.run(command(record_set, folder), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return kills, with_checkpoint


def test_killed_at_a_random_moment_it_goes_on_to_the_same_end(record_set, straight, tmp_path):
    seed = random.randrange(2**32)
    kills, _ = killed_until_it_ends(record_set, tmp_path / "run", random.Random(seed), at_most=1)
    assert kills == 1, seed  # all of it makes some eighty changes; two between two looks count as one
    assert same(tmp_path / "run", straight)
    assert epochs_on_the_board(tmp_path / "run") == epochs_on_the_board(straight)


@pytest.mark.slow
def test_twenty_random_kills_lose_nothing(record_set, straight, tmp_path):
    seed = random.randrange(2**32)
    rng, kills, with_checkpoint, runs, losses = random.Random(seed), 0, 0, 0, 0
    while kills < 20:
        folder = tmp_path / f"run{runs}"
        counts = killed_until_it_ends(record_set, folder, rng, at_most=20 - kills)
        kills, with_checkpoint = kills + counts[0], with_checkpoint + counts[1]
        told = epochs_on_the_board(folder) == epochs_on_the_board(straight)
        losses += not (told and same(folder, straight))
        runs += 1
    print(
        f"seed {seed}: killed {kills} times in {runs} runs, {with_checkpoint} of them with a checkpoint; "
        f"runs that ended otherwise: {losses}"
    )
    assert losses == 0 and with_checkpoint >= 5


@pytest.mark.slow
def test_the_best_weights_of_an_epoch_that_is_trained_again_are_forgotten(record_set, tmp_path, monkeypatch):
    """Killed between the two checkpoints that end an epoch, which then ends otherwise, as it may on a GPU."""
    found = iter([1.0, 0.5, 1.2, 1.1])
    scores = {"dice_wt": 0.0, "dice_tc": 0.0, "dice_et": 0.0}
    monkeypatch.setattr(
        slice_step, "validation_scores", lambda sums: {"validation_loss": next(found), **scores}
    )
    small = (f"run.dir={tmp_path}", "train.steps_per_epoch=1", "train.stop_rise=9")
    real, calls = checkpoints.save, []

    def dying(manager, **options):
        calls.append(manager.folder)
        if len(calls) == 4:  # best and last of the first epoch, best of the second
            raise KeyboardInterrupt
        real(manager, **options)

    monkeypatch.setattr(checkpoints, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        whole_run.train(record_set.config(*small, "train.epochs=2"))
    assert calls[2].endswith("best") and calls[3].endswith("last")
    monkeypatch.setattr(checkpoints, "save", real)
    whole_run.train(record_set.config(*small, "train.epochs=3"))
    assert [float(row["validation_loss"]) for row in RunFolder(tmp_path).network().history] == [1.0, 1.2, 1.1]
    assert checkpoints.newest_whole(tmp_path / "checkpoints" / "best").endswith("ckpt-1")


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
    manager = checkpoints.Manager(tf.train.Checkpoint(variable=variable), str(tmp_path), 2)
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


@pytest.mark.parametrize("name", ["last", "ckpt-1_temp", "x.tempstate1"])
def test_what_a_killed_write_left_is_tidied_away_and_nothing_else(two_checkpoints, name):
    folder = two_checkpoints / "scratch_temp" / name
    folder.mkdir(parents=True)
    for path in two_checkpoints.glob("ckpt-*"):
        path.rename(folder / path.name)
    kept = sorted(folder.iterdir())
    left = folder / "ckpt-3_temp" / "part-00000-of-00001.data-00000-of-00001"
    left.parent.mkdir()
    for path in (left, folder / "ckpt-3.index.tempstate123"):
        path.write_bytes(b"half")
    (folder / "checkpoint").write_text("garbage")
    checkpoints.tidy(str(folder), checkpoints.newest_whole(folder))
    assert [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "checkpoint"] == kept
    assert tf.train.latest_checkpoint(folder) == str(folder / "ckpt-2")


def test_a_damaged_checkpoint_is_none_of_those_that_are_kept(two_checkpoints):
    cut_short(two_checkpoints / "ckpt-2.data-00000-of-00001")
    newest = checkpoints.newest_whole(two_checkpoints)
    checkpoints.tidy(str(two_checkpoints), newest)
    variable = tf.Variable(tf.zeros([1000]))
    manager = checkpoints.Manager(tf.train.Checkpoint(variable=variable), str(two_checkpoints), 2)
    checkpoints.save(manager, checkpoint_number=3)
    assert [path.name for path in map(pathlib.Path, manager.checkpoints)] == ["ckpt-1", "ckpt-3"]
    assert checkpoints.paths_in(two_checkpoints)[-1].endswith("ckpt-1")


@pytest.mark.parametrize(
    "kind", [tf.errors.UnavailableError, tf.errors.PermissionDeniedError, tf.errors.UnknownError]
)
def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(two_checkpoints, monkeypatch, kind):
    """TensorFlow's own reader of checkpoints makes DataLoss of any of these."""

    def refusing(*_):
        raise kind(None, None, "503 from the store")

    cut_short(two_checkpoints / "ckpt-2.data-00000-of-00001")
    monkeypatch.setattr(tf.io.gfile.GFile, "read", refusing)
    with pytest.raises(InputError, match=r"ckpt-2: .* cannot be read now .*503 from the store"):
        checkpoints.newest_whole(two_checkpoints)


def test_a_run_without_its_checkpoints_is_not_begun_anew_over_its_history(record_set, straight, tmp_path):
    shutil.copytree(straight, tmp_path / "run", ignore=shutil.ignore_patterns("last"))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"last: no checkpoint, though .* \d+ epochs.*--overwrite"):
        whole_run.train(record_set.config(f"run.dir={tmp_path / 'run'}", *SMALL))
    left = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert {path: left.get(path) for path in before} == before


@pytest.mark.slow  # which checkpoint is taken, the tests above say
def test_after_a_damaged_checkpoint_the_run_ends_as_an_undisturbed_one(
    record_set, straight, tmp_path, monkeypatch, capsys
):
    settings, stop = record_set.config(f"run.dir={tmp_path / 'run'}", *SMALL), stopping.Stop()
    asking_at(monkeypatch, stop, "train_step", 6)
    whole_run.train(settings, stop=stop)
    monkeypatch.undo()
    for name in ("last", "best"):
        cut_short(sorted((tmp_path / "run" / "checkpoints" / name).glob("*.data-*"))[-1])
    capsys.readouterr()
    whole_run.train(settings)
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
from tfbrats import train
from tfbrats.terminal import command
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


@pytest.mark.slow  # four trainings; one on other devices is in test_train
def test_a_run_goes_on_with_other_replicas_and_says_what_changes(record_set, tmp_path, monkeypatch):
    settings = record_set.config(f"run.dir={tmp_path / 'run'}", *SMALL, "train.steps_per_epoch=null")
    examples, stop = record_set.manifest.examples["train"], stopping.Stop()
    asking_at(monkeypatch, stop, "train_step", 3)
    whole_run.train(settings, stop=stop)
    code, said, complained = on_devices(2, record_set, tmp_path / "run")
    assert code == 0, complained[-3000:]
    assert "resumes     at epoch 1, step 4" in said
    assert "2 replicas instead of 1 replica: a step takes 8 slices instead of 4" in said
    assert "train.batch_size=2" in said
    rows = RunFolder(tmp_path / "run").network().history
    # What the first three steps of four left of the slices, in steps of eight; then whole epochs of them.
    assert [int(row["steps"]) for row in rows] == [3 + (examples - 12) // 8, examples // 8]


def test_another_batch_on_as_many_replicas_is_another_run_and_leaves_no_trace(record_set, straight):
    before = (straight / "config.yaml").read_bytes()
    copy = record_set.config(f"run.dir={straight}", *SMALL, "train.batch_size=2", "train.epochs=3")
    with pytest.raises(InputError, match=r"4 slices a replica, 4 a step; now it would be 2 and 2"):
        whole_run.train(copy)
    assert (straight / "config.yaml").read_bytes() == before


def test_a_folder_that_is_no_run_is_refused_without_a_lock_in_it(record_set, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"of a person")
    with pytest.raises(InputError, match="not empty, and not a run"):
        whole_run.train(record_set.config(f"run.dir={tmp_path}", *SMALL))
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


# --- together -------------------------------------------------------------------------------------------


def test_two_commands_do_not_train_into_one_run(record_set, straight):
    with locks.alone(straight / LOCK, "busy"), pytest.raises(InputError, match="another command trains"):
        whole_run.train(record_set.config(f"run.dir={straight}", *SMALL))


@pytest.mark.slow
def test_overwriting_keeps_the_lock_that_it_holds(record_set, tmp_path):
    small = (f"run.dir={tmp_path / 'run'}", "train.epochs=1", "train.steps_per_epoch=1")
    whole_run.train(record_set.config(*small))
    (tmp_path / "run" / "stray.txt").write_text("old")
    before = os.stat(tmp_path / "run" / LOCK).st_ino
    whole_run.train(record_set.config(*small, "lws.beta=3"), overwrite=True)
    assert os.stat(tmp_path / "run" / LOCK).st_ino == before
    assert not (tmp_path / "run" / "stray.txt").exists()
    assert json.loads((tmp_path / "run" / "environment.json").read_text())
