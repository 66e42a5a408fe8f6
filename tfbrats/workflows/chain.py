"""Run commands one after the other, say what runs, keep what each printed. No TensorFlow.

`demo` and `reproduce` are chains of commands that a person could have typed: every step is a process of its
own, so that its memory goes with it, and each goes on by itself where it was stopped.
"""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

from tfbrats.errors import InputError
from tfbrats.machine import locks
from tfbrats.terminal import style, verbs

LOCK = ".running"
_FOLLOWING = re.compile(r"(\x1b\[\d+m)?next:")  # what to do when a command has ended: here the chain does it
_TO_SAVE_SECONDS = 600.0  # a training ends its step and saves; a step may take minutes


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[int]:
    """Keeps a folder to one chain of commands: yields what `Steps` hands on to each of them.

    A command that outlives its chain (the chain was killed) holds the folder until it has ended too.

    Raises:
        InputError: another chain, or a command that it left behind, is at work here.
    """
    busy = (
        f"{folder}: another command is at work here, or a step that a killed one left behind. Wait for its "
        "end, or end it."
    )
    with locks.alone(folder / LOCK, busy) as lock:
        yield lock


@contextlib.contextmanager
def _ended_with_us(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """SIGTERM to us, or an error here, ends the step too: it is asked to end, and has time to save its work."""

    def stop(*_):
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield process
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_TO_SAVE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Steps:
    """The chain so far.

    Args:
        logs: folder for what each step printed, made if need be.
        lock: as `alone` yields it.

    Attributes:
        done: the commands that ran, as one would type them.
    """

    def __init__(self, logs: pathlib.Path, lock: int | None = None):
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self._handed_on = () if lock is None else (lock,)
        self.done: list[str] = []

    def run(
        self,
        title: str,
        *arguments: str,
        show: bool = False,
        notes: Sequence[str] = (),
        is_done: bool = False,
        log_name: str = "",
    ) -> None:
        """`python -m ARGUMENTS`, and `--note NOTE` for each of `notes`, which are not printed.

        Args:
            show: print its output here as it comes, too.
            is_done: an earlier chain has done it: it keeps its number, and its log.
            log_name: of the file of its output, to which later chains add theirs; else number and command.

        Raises:
            InputError: it failed; the message ends with the last lines that it printed.
        """
        line, log = self._begin(title, arguments, log_name)
        if is_done:
            print("    done already", flush=True)
            return
        started = time.monotonic()
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{line}\n")
            file.flush()
            command = [sys.executable, "-m", *arguments, *(f"--note={note}" for note in notes)]
            with _ended_with_us(
                subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    encoding="utf-8",
                    errors="backslashreplace",
                    pass_fds=self._handed_on,
                )
            ) as process:
                for text in process.stdout:
                    file.write(text)
                    file.flush()
                    if show and not _FOLLOWING.match(text):
                        print(f"    {text}".rstrip(), flush=True)
                code = process.wait()
        if code:
            tail = "".join(log.read_text("utf-8", "replace").splitlines(keepends=True)[-15:])
            raise InputError(f"this step failed (exit code {code}):\n    {line}\n{tail}\nAll of it: {log}")
        print(f"    {time.monotonic() - started:.0f} s", flush=True)

    @contextlib.contextmanager
    def background(self, title: str, *arguments: str) -> Iterator[tuple[subprocess.Popen, pathlib.Path]]:
        """`python -m ARGUMENTS` until the block ends: the process, and the file of all it prints."""
        _, log = self._begin(title, arguments)
        with log.open("wb") as file:
            command = [sys.executable, "-m", *arguments]
            with _ended_with_us(
                subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, pass_fds=self._handed_on)
            ) as process:
                yield process, log

    def _begin(self, title: str, arguments: Sequence[str], log_name: str = "") -> tuple[str, pathlib.Path]:
        """Prints what is about to run; the command as one would type it, and where its output goes."""
        line = verbs.command_line(*arguments)
        self.done.append(line)
        print(f"\n{style.heading(f'[{len(self.done)}] {title}')}\n    {line}", flush=True)
        name = log_name or f"{len(self.done):02d}-{verbs.spelling(arguments[0]).split()[-1]}"
        return line, self._logs / f"{name}.txt"


def without(option: str, module: str, arguments: Sequence[str]) -> str:
    """A command as it was typed, but for one of its options: what comes after it was only looked at."""
    return verbs.command_line(module, *(text for text in arguments if text != option))


def ended(*arguments: str, lock: int | None = None, **environment: str) -> subprocess.CompletedProcess:
    """`python -m ARGUMENTS`, ended: its exit code and all that it printed, kept from the person.

    Args:
        lock: as `alone` yields it.
        environment: variables of its own, over those of this process.
    """
    command = [sys.executable, "-m", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    text = {"encoding": "utf-8", "errors": "backslashreplace", "env": {**os.environ, **environment}}
    handed_on = () if lock is None else (lock,)
    with _ended_with_us(subprocess.Popen(command, pass_fds=handed_on, **pipes, **text)) as process:
        printed, complained = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, printed, complained)


def output_of(*arguments: str, lock: int | None = None) -> str:
    """What `python -m ARGUMENTS` prints: a quick look at something, no step of a chain.

    Args:
        lock: as `alone` yields it.

    Raises:
        InputError: it failed; the message ends with the last lines that it printed.
    """
    return output(ended(*arguments, lock=lock))


def output(process: subprocess.CompletedProcess) -> str:
    """What a command printed; errors as `output_of`'s."""
    if process.returncode:
        tail = "\n".join(process.stderr.splitlines()[-15:])
        line = verbs.command_line(*process.args)
        raise InputError(f"{line} failed (exit code {process.returncode}):\n{tail}")
    return process.stdout


def exported_since(run: str | os.PathLike, model: str | os.PathLike) -> bool:
    """Whether the newest version in a model's folder is of the run's best weights."""
    best = [path.stat().st_mtime for path in pathlib.Path(run).glob("**/best/checkpoint")]
    versions = [path.stat().st_mtime for path in pathlib.Path(model).glob("[0-9]*")]
    return bool(best and versions) and max(versions) > max(best)


def is_current(path: str | os.PathLike, others: Iterable[str | os.PathLike]) -> bool:
    """Whether a file or folder is there, and no other was written after it; others need not be there."""
    there = [pathlib.Path(other).stat().st_mtime for other in others if os.path.exists(other)]
    return os.path.exists(path) and all(pathlib.Path(path).stat().st_mtime >= other for other in there)
