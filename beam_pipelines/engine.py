"""Which Beam engine runs a job, with how many workers, and what the person at the command sees of it.

Imports Beam: a command imports this when its own options, config and folders have been checked (`options`).
"""

import argparse
import builtins
import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import apache_beam as beam
import psutil
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions, TestOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.runner import create_runner

from beam_pipelines.options import LOCAL, unknown
from tfbrats.errors import InputError
from tfbrats.machine import memory
from tfbrats.terminal import command

_PAYS_S = 60.0  # of work on one worker: less is done before a second one has started


def is_dry_run(beam_options: Sequence[str]) -> bool:
    """Whether the job is only to be built and its options checked."""
    return bool(PipelineOptions(list(beam_options)).view_as(TestOptions).dry_run)


def check_options(parser: command.Parser, beam_options: Sequence[str], has_overrides: bool = False) -> None:
    """What Beam itself does not check.

    Args:
        parser: the command's own; what it is for is in `options`.
        has_overrides: as for `options.of_beam`.

    Raises:
        InputError: an option that neither we nor Beam know (Beam would drop a misspelt one and go on), a
            value that does not fit, an engine that is not there, or a job server that does not answer (Beam
            would wait for minutes).
    """
    of_beam = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    for kind in PipelineOptions.__subclasses__():
        kind._add_argparse_args(of_beam)
    try:
        chosen, strangers = of_beam.parse_known_args(beam_options)
    except argparse.ArgumentError as error:
        raise InputError(f"Beam's {error}.") from error
    for text in strangers:
        # Engines on the far side of a job server have options of their own, which only they can check.
        if not text.startswith("-") or chosen.runner == LOCAL:
            raise InputError(unknown(parser, text, has_overrides))
    if "Dask" in (chosen.runner or ""):
        raise InputError(f"--runner={chosen.runner}: it drops parts of a job silently. Use another engine.")
    try:
        runner = create_runner(chosen.runner or LOCAL)
    except (ValueError, ImportError, AttributeError) as error:
        raise InputError(f"--runner={chosen.runner}: {error}") from error
    faults = PipelineOptionsValidator(PipelineOptions(list(beam_options)), runner).validate()
    if faults:
        raise InputError("Beam's options do not fit:\n  " + "\n  ".join(faults))
    if chosen.dry_run and "Dataflow" not in (chosen.runner or ""):
        raise InputError(
            "--dry_run: only DataflowRunner has one."
            + (" For what a run would cost, use --price." if has_overrides else "")
        )
    _check_job_server(chosen.job_endpoint or "")


def _check_job_server(address: str) -> None:
    """Raises InputError where no job server answers: Beam would wait for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise InputError(
                f"--job_endpoint={address}: no job server answers there ({error}). Start it first: "
                "docs/how-to/beam-engines.md."
            ) from error


# --- what its failures mean -----------------------------------------------------------------------------


_ERROR_LINE = re.compile(r"^(?:RuntimeError: )*((?:[\w.]+\.)?(\w*(?:Error|Exception))\b.*)$", re.MULTILINE)


def _was_interrupted(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _can_be_mended(kind: str) -> bool:
    """Whether an error of this name is of the disk, or one that tells a person what to mend."""
    builtin = getattr(builtins, kind, None)
    is_of_disk = isinstance(builtin, type) and issubclass(builtin, OSError)
    return is_of_disk or kind in {error.__name__ for error in (InputError, *InputError.__subclasses__())}


@contextlib.contextmanager
def explained(output: str, what: str = "shards") -> Iterator[None]:
    """Turns what stops the whole job (a full disk, a job server that is not there) into one message.

    Engines hand a worker's error on as a RuntimeError with its traceback as text. Errors that are ours keep
    their traceback, and gain a line on how to go on.
    """
    # The error that reaches us tells all that this logger would print before it.
    logger = logging.getLogger("apache_beam.runners.common")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    go_on = f"Finished {what} are kept in {output}: mend that and run the same command again."
    try:
        yield
    except Exception as error:
        if _was_interrupted(error):  # Beam wraps Ctrl-C like any error in a DoFn
            raise KeyboardInterrupt from None
        lines = _ERROR_LINE.findall(str(error)) or [(f"{type(error).__name__}: {error}", type(error).__name__)]
        line, kind = lines[-1]
        if _can_be_mended(kind) or type(error).__module__.startswith(("grpc", "google.")):
            raise InputError(f"the Beam job stopped: {line}\n{go_on}") from error
        error.add_note(go_on)
        raise
    finally:
        logger.setLevel(level)


# --- workers on this machine ----------------------------------------------------------------------------


def worker_options(
    beam_options: Sequence[str],
    limit: int | None,
    tasks: int,
    seconds: float,
    worker_bytes: int,
    what: str = "shards to write",
) -> tuple[list[str], str]:
    """How many processes share the work on this machine, as Beam's options, and a line that says why.

    One process where the person chose an engine or its workers, or where the work is too short to be worth
    starting others.

    Args:
        limit: the person's limit; None leaves it to cores, free memory and work.
        tasks: pieces of work.
        seconds: of the whole work on one worker, roughly.
        worker_bytes: memory that one needs.
        what: the tasks are.

    Raises:
        InputError: a limit for an engine that has its own.
    """
    chosen = [text.partition("=")[0] for text in beam_options]
    runner = PipelineOptions(list(beam_options)).view_as(StandardOptions).runner
    if runner != LOCAL or {"--direct_num_workers", "--direct_running_mode"} & {*chosen}:
        if limit is not None:
            raise InputError(
                f"--workers is for {LOCAL}, the engine on this machine, without --direct_num_workers and "
                "--direct_running_mode. Other engines have their own: --max_num_workers (Dataflow), "
                "--parallelism (Flink, Spark)."
            )
        return [], ""
    limits = {"cores": memory.cores(), "free memory": memory.fitting_workers(worker_bytes), what: tasks}
    if limit is not None:
        limits = {"--workers": limit, **limits}
        limits.pop("cores")
    elif seconds < _PAYS_S:
        return [], ""
    reason, count = min(limits.items(), key=lambda item: item[1])
    count = max(1, count)
    line = f"{count}, as many as {reason} allow{'s' if reason in ('--workers', 'free memory') else ''}"
    if count == 1:
        return [], line
    return [f"--direct_num_workers={count}", "--direct_running_mode=multi_processing"], line


def worker_count(beam_options: Sequence[str]) -> int:
    """How many processes on this machine the options ask for."""
    return PipelineOptions(list(beam_options)).view_as(DirectOptions).direct_num_workers or 1


@contextlib.contextmanager
def ended_with_its_workers(output: str, what: str = "shards") -> Iterator[None]:
    """Ends the command, and all its worker processes, when one of them dies or a person interrupts it.

    For Beam's local worker processes: Beam itself would wait for ever for one that died, and its threads keep
    an interrupted command from ending. So the process is left at once; what is finished is on disk.
    """
    over = threading.Event()

    def leave(message: str, code: int) -> None:
        over.set()
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        with contextlib.suppress(OSError, RuntimeError):  # closed, or the signal came in the middle of a print
            sys.stdout.flush()
        _hold_other_lines()
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), f"{message}\n".encode())
        os._exit(code)

    def hook(ended) -> None:
        death = re.search(r"Worker subprocess exited with return code (-?\d+)", str(ended.exc_value))
        if over.is_set():  # what else fails now fails because of that
            return
        if death is None:
            hook_before(ended)
            return
        code = int(death.group(1))
        if code in (-signal.SIGINT, 128 + signal.SIGINT):  # a terminal interrupts the workers too
            leave("interrupted", 130)
        why = ": the system kills one when memory runs out" if code in (-signal.SIGKILL, 137) else ""
        leave(
            f"error: a worker process died (exit code {code}){why}. Finished {what} are kept in {output}: run "
            "the same command again, with fewer workers (--workers).",
            1,
        )

    hook_before, threading.excepthook = threading.excepthook, hook
    before = {
        number: signal.signal(number, lambda number, _: leave("interrupted", 128 + number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        threading.excepthook = hook_before
        for number, handler in before.items():
            signal.signal(number, handler)


def _hold_other_lines() -> None:
    """Lets a line of a log that is half written end, and lets no other begin.

    What the workers say of their own end comes through Beam's log, in a thread of this process, at any moment.
    """
    logging.disable(logging.CRITICAL)
    for handler in (*logging.getLogger().handlers, logging.lastResort):
        handler.lock.acquire(timeout=1)  # held to the end; this thread may have it already, in an outer frame


def end_with(pid: int) -> None:
    """Ends this worker process soon after the command that started it: nobody takes its answer any more."""
    command = psutil.Process(pid)

    def watch() -> None:
        pause = threading.Event()
        with contextlib.suppress(psutil.NoSuchProcess):
            while command.is_running() and command.status() != psutil.STATUS_ZOMBIE:
                pause.wait(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# --- a job while it runs --------------------------------------------------------------------------------


def dry_run(
    beam_options: Sequence[str], output: str, what: str, build: Callable[[beam.Pipeline], object]
) -> None:
    """Builds a job and has its options checked.

    Args:
        what: finished pieces are called, in messages.
        build: puts the work into the pipeline.
    """
    with explained(output, what), beam.Pipeline(options=PipelineOptions(list(beam_options))) as pipeline:
        build(pipeline)
    print("dry run: the job was built and its options checked; nothing was sent or written")


class _Progress(threading.Thread):
    """A bar over what is done on disk: runners block until the end, so the disk is what tells."""

    def __init__(self, done: Callable[[], int], total: int, **bar):
        super().__init__(daemon=True)
        self._done, self._total, self._bar = done, total, bar
        self._ended = threading.Event()

    def run(self):
        from tfbrats.terminal import bars  # here: workers import this file, and have no need of a bar

        pause_s = 1.0 if bars.is_terminal() else 5.0  # where a line comes a minute
        with bars.bar(total=self._total, **self._bar) as bar:
            ended = False
            while not ended:
                ended = self._ended.wait(pause_s)
                with contextlib.suppress(InputError, OSError):  # a file was renamed while it was looked at
                    # A bundle that Beam tries again counts its pieces again.
                    bar.update(min(self._done(), self._total) - bar.n)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self.join()


@contextlib.contextmanager
def job(
    beam_options: Sequence[str], output: str, what: str, done: Callable[[], int], total: int, **bar
) -> Iterator[tuple[beam.Pipeline, int | None]]:
    """A pipeline that is run to its end when the block ends.

    Args:
        what: finished pieces are called, in messages.
        done: how much there is by now, in the bar's unit.
        total: how much there will be.
        bar: options of `bars.bar`.

    Yields:
        The pipeline, and the process that its workers must not outlive: this one, where they are its own.

    Raises:
        InputError: it stopped for a reason that the person can mend.
    """
    options = PipelineOptions(list(beam_options))
    is_local = options.view_as(StandardOptions).runner == LOCAL
    several = options.view_as(DirectOptions).direct_running_mode == "multi_processing"
    with (
        explained(output, what),
        ended_with_its_workers(output, what) if several else contextlib.nullcontext(),
        _Progress(done, total, **bar),
        beam.Pipeline(options=options) as pipeline,
    ):
        yield pipeline, os.getpid() if is_local else None
