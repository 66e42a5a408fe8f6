"""Only one command holds a place at a time, and a dead one holds none."""

import contextlib
import os
import subprocess
import sys
import uuid

import fsspec
import pytest

from tfbrats.errors import InputError
from tfbrats.machine import files, locks


@pytest.fixture
def bucket():
    folder = f"memory://{uuid.uuid4().hex}"
    yield folder
    if files.exists(folder):
        fsspec.filesystem("memory").rm(folder.removeprefix("memory://"), recursive=True)


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(locks, "RENEWED_EVERY_S", 0.05)
    monkeypatch.setattr(locks, "GIVEN_UP_AFTER_S", 0.6)
    monkeypatch.setattr(locks, "SETTLED_AFTER_S", 0.05)


def test_a_second_command_is_told_and_a_later_one_is_let_in(tmp_path):
    path = tmp_path / "a" / "lock"
    told = pytest.raises(InputError, match="busy: wait")
    with locks.alone(path, "busy: wait"), told, locks.alone(path, "busy: wait"):
        pass
    with locks.alone(path, "busy: wait"):
        pass


def test_a_killed_command_holds_nothing(tmp_path):
    code = (
        "import sys, time; from tfbrats.machine import locks\n"
        "with locks.alone(sys.argv[1], 'busy'): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="busy"), locks.alone(tmp_path / "lock", "busy"):
        pass
    holder.kill()
    holder.communicate()
    with locks.alone(tmp_path / "lock", "busy"):
        pass


def test_a_lock_file_that_its_holder_deleted_is_nobody_s(tmp_path, monkeypatch):
    """Between our opening the file and our locking it, its holder may end and take it away."""
    path = tmp_path / "lock"
    real, opened = locks.fcntl.flock, []

    def flock(lock, how):
        if not opened:
            os.remove(path)
        opened.append(lock)
        real(lock, how)

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with locks.alone(path, "busy"):
        assert len(opened) == 2 and path.exists()


def test_on_an_object_store_a_lock_that_is_renewed_is_held(bucket, soon):
    refused = pytest.raises(InputError, match=r"busy \(host .*, process \d+\)")
    with locks.alone(f"{bucket}/lock", "busy"), refused, locks.alone(f"{bucket}/lock", "busy"):
        pass
    assert not files.exists(f"{bucket}/lock")


def test_on_an_object_store_a_dead_command_s_lock_is_taken_over(bucket, soon):
    files.write_bytes(f"{bucket}/lock", b'{"host": "gone", "pid": 1, "id": "x"}')
    with locks.alone(f"{bucket}/lock", "busy"):
        assert b"gone" not in files.read_bytes(f"{bucket}/lock")
    assert not files.exists(f"{bucket}/lock")


def test_on_an_object_store_of_two_that_come_together_one_goes_on(bucket, soon, monkeypatch):
    """Both find no lock, both write theirs: the last one's stands, and the other sees that."""
    real, told = files.write_bytes, []

    def write_bytes(path, content, *rest):
        real(path, content, *rest)
        if not told:
            told.append(content)
            real(path, b'{"host": "other", "pid": 2, "id": "theirs"}')

    monkeypatch.setattr(files, "write_bytes", write_bytes)
    with pytest.raises(InputError, match="busy"), locks.alone(f"{bucket}/lock", "busy"):
        pass


def test_on_an_object_store_one_that_wrote_late_does_not_take_a_lock_that_is_held(bucket, soon, monkeypatch):
    """It found no lock, and another took it before its own file was there."""
    monkeypatch.setattr(locks, "RENEWED_EVERY_S", 0.3)
    real, first = files.write_bytes, contextlib.ExitStack()

    def write_bytes(path, content, *rest):
        monkeypatch.setattr(files, "write_bytes", real)
        first.enter_context(locks.alone(path, "busy"))
        real(path, content, *rest)

    monkeypatch.setattr(files, "write_bytes", write_bytes)
    with first, pytest.raises(InputError, match="busy"), locks.alone(f"{bucket}/lock", "busy"):
        pass
