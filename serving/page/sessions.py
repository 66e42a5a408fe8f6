"""The sessions of the page: a folder of its own for each, and gone with it.

    /tmp/tfbrats-page-1000/          one user's, and nobody else may look into it
        server-x3a7q2k9/             one server's, locked by it as long as it lives
            9f2c.../case/            what a person dropped
            9f2c.../result/          what the model made of it

The folder of a server that was killed goes at the next start of one.
"""

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from serving.page.limits import MIB, Limits, RefusedError
from tfbrats.dicom.parsing import Allowance
from tfbrats.errors import InputError
from tfbrats.machine import locks

_LOCK = ".lock"
_SERVER = "server-"
SCANS = "case"  # the name of a case whose files share none


@contextlib.contextmanager
def server_folder(parent: str | None = None) -> Iterator[str]:
    """A folder for one server's sessions, locked and removed with the block. What dead servers left goes first.

    Args:
        parent: where such folders lie; by default one of this user's among the system's temporary files.

    Raises:
        InputError: it belongs to somebody else, or others may look into it.
    """
    parent = parent or os.path.join(tempfile.gettempdir(), f"tfbrats-page-{os.getuid()}")
    _make_private(parent)
    with contextlib.ExitStack() as held:
        with locks.in_turn(os.path.join(parent, _LOCK)):
            _remove_left(parent)
            folder = tempfile.mkdtemp(prefix=_SERVER, dir=parent)
            held.callback(shutil.rmtree, folder, ignore_errors=True)
            held.enter_context(locks.alone(os.path.join(folder, _LOCK), "taken"))
        yield folder


def _make_private(folder: str) -> None:
    try:
        with contextlib.suppress(FileExistsError):
            os.makedirs(folder, mode=0o700)
        found = os.lstat(folder)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made ({error.strerror}). Set TMPDIR to another folder."
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InputError(
            f"{folder}: expected a folder of your own that nobody else may open; it is not. Remove it, or set "
            "TMPDIR to another folder."
        )


def _remove_left(parent: str) -> None:
    """Removes the folders of servers that live no more."""
    for entry in os.scandir(parent):
        if not entry.name.startswith(_SERVER) or not entry.is_dir(follow_symlinks=False):
            continue
        with contextlib.suppress(InputError), locks.alone(os.path.join(entry.path, _LOCK), "alive"):
            shutil.rmtree(entry.path, ignore_errors=True)


def _headers() -> Allowance:
    """Of a session's DICOM files together: 2,000 single images have some 6 MiB, enhanced ones less."""
    return Allowance(bytes=16 * MIB, items=100_000)


class Session:
    """What one open page has sent, and what came of it. Threads share it: whoever changes it holds `lock`.

    Attributes:
        files: names as they were sent -> bytes, of what lies there.
        voxels: of DICOM files, by name.
        headers: how much of DICOM headers may still be read.
        arriving: names that are on their way -> bytes that they will have.
        work: what is being done and what came of it, as the page asks for it; None before.
        simulated: its case is a phantom of ours.
    """

    def __init__(self, folder: str, limits: Limits):
        self.id = secrets.token_urlsafe(24)
        self.folder = os.path.join(folder, secrets.token_hex(8))
        self.scans = os.path.join(self.folder, SCANS)
        self.lock = threading.RLock()
        self.files: dict[str, int] = {}
        self.voxels: dict[str, int] = {}
        self.arriving: dict[str, int] = {}
        self.headers = _headers()
        self.work: Any = None
        self.simulated = False
        self.heard = time.monotonic()
        self.ended = False
        self._limits = limits
        os.makedirs(self.scans)

    def path_of(self, name: str) -> str:
        return os.path.join(self.scans, *name.split("/"))

    def expect(self, name: str, size: int) -> None:
        """Keeps room for a file that is about to come.

        Raises:
            RefusedError: there is none, or it is on its way already.
        """
        with self.lock:
            self.check_open()
            if name in self.arriving:
                raise RefusedError(409, f"{name} is on its way already.")
            if self.is_busy:
                raise RefusedError(409, "A case is being segmented. Wait for it, or start anew.")
            if name not in self.files and len(self.files) + len(self.arriving) >= self._limits.files:
                raise RefusedError(413, f"{self._limits.files} files at most. Drop one patient's scans alone.")
            # What a file will replace lies there until it does.
            total = sum(self.files.values()) + sum(self.arriving.values()) + size
            if total > self._limits.session_bytes:
                raise RefusedError(
                    413,
                    f"{total / MIB:.0f} MiB together, and {self._limits.session_bytes / MIB:.0f} are taken. "
                    "Drop one patient's scans alone.",
                )
            self.arriving[name] = size

    def arrived(self, name: str) -> None:
        """A file is on its way no more: it lies there, or what it was to replace does, or nothing."""
        with self.lock:
            self.arriving.pop(name, None)
            if self.ended:
                self.clear()
                return
            path = self.path_of(name)
            if os.path.isfile(path):
                self.files[name] = os.path.getsize(path)
            else:
                self.files.pop(name, None)
                self.voxels.pop(name, None)

    @property
    def is_busy(self) -> bool:
        return self.work is not None and not self.work.is_over

    def check_open(self) -> None:
        if self.ended:
            raise RefusedError(404, "This session has ended, and its files are gone. Load the page again.")

    def clear(self) -> None:
        """Forgets all files and results; the session stays."""
        with self.lock:
            self.files.clear()
            self.voxels.clear()
            self.headers = _headers()
            self.simulated = False
            self.work = None
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.ended:
                os.makedirs(self.scans, exist_ok=True)


class Sessions:
    """All sessions of one server."""

    def __init__(self, folder: str, limits: Limits):
        self.folder = folder
        self._limits = limits
        self._lock = threading.Lock()
        self._open: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._open)

    def begin(self) -> Session:
        """A new one. Raises RefusedError: there are as many as there may be."""
        if len(self._open) >= self._limits.sessions:
            self._end_silent(self._limits.crowded_s)
        with self._lock:
            if len(self._open) >= self._limits.sessions:
                raise RefusedError(
                    503,
                    f"{len(self._open)} people are using this page, and it takes no more. Try again later.",
                )
            session = Session(self.folder, self._limits)
            self._open[session.id] = session
            return session

    def of(self, session_id: str) -> Session:
        """The session of that id, heard of now. Raises RefusedError: there is none."""
        with self._lock:
            session = self._open.get(session_id)
        if session is None:
            raise RefusedError(404, "This session has ended, and its files are gone. Load the page again.")
        session.heard = time.monotonic()
        return session

    def end(self, session: Session) -> None:
        """Forgets it, with all its files. Work on it ends by itself, and leaves nothing."""
        with self._lock:
            self._open.pop(session.id, None)
        self._forget(session)

    def end_silent(self) -> None:
        """Ends those whose page says nothing any more."""
        self._end_silent(self._limits.silent_s)

    def end_all(self) -> None:
        for session in list(self._open.values()):
            self.end(session)

    def _end_silent(self, seconds: float) -> None:
        now = time.monotonic()
        with self._lock:
            silent = [one for one in self._open.values() if now - one.heard > seconds and not one.is_busy]
            for session in silent:
                del self._open[session.id]
        for session in silent:  # which may wait for who works on it; others must not wait for that
            self._forget(session)

    @staticmethod
    def _forget(session: Session) -> None:
        with session.lock:
            session.ended = True
            session.clear()
