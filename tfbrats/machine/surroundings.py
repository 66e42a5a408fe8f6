"""What a command takes from its surroundings, and what not. The first thing of the package that runs.

A process that runs `tfbrats`, or `python -m` of a module of ours, is ours from here on: settings of Keras
that another project left are not read, names are UTF-8 whatever the locale, Ctrl-C ends it with one line
while modules are being imported, libraries keep to themselves what they say of themselves (`quiet`), a closed
stdin, stdout or stderr is an empty one, and a working folder in which it cannot run is told. In a process
that a command starts (a worker of Beam) libraries are as quiet; in anybody else's (a notebook, pytest)
nothing is changed. Only the standard library, and of it only what Python itself has loaded.
"""

import os
import signal
import sys
import threading

from tfbrats.machine import quiet

_PACKAGES = ("tfbrats", "beam_pipelines", "serving")
_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_ours: list[str] = []  # the module, where this process runs one of ours


def prepare() -> None:
    """Makes a process that runs one of our commands ours.

    Raises:
        SystemExit: with a line, where it cannot run.
    """
    command = _command_that_runs()
    if command is not None:
        os.environ.setdefault(quiet.LOG, "0")
    if quiet.is_wanted():
        quiet.settle()
    if command is None:
        return
    _ours.append(command)
    share_gpus()
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a shell's background job ignores it
    ):
        signal.signal(signal.SIGINT, _leave)
    _open_closed_streams()
    _read_names_as_utf8()
    _check_working_folder(command)
    for name in [name for name in os.environ if name.startswith("KERAS_")]:
        del os.environ[name]
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # No folder, so Keras neither reads ~/.keras/keras.json nor leaves one there.
    os.environ["KERAS_HOME"] = os.devnull


def share_gpus() -> None:
    """TensorFlow takes a GPU's memory as it needs it, in this process and in those that it starts.

    Else it takes all of each GPU's at its first use, and nothing else runs beside it. Whoever loads TensorFlow
    calls this before; a GPU in use already keeps what it has. What a user has set stays.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


def is_command() -> bool:
    """Whether this process is one command of ours, with which all it holds in memory ends."""
    return bool(_ours)


def begin_work() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt again, which work can tidy up after."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_work() -> None:
    """From now on Ctrl-C is too late: the work is done, and Python's own tidying has no answer to it."""
    if _ours and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _command_that_runs() -> str | None:
    """The command of ours that runs, as one types it; None in any other process."""
    arguments = getattr(sys, "argv", [])
    # The console script. In a process that it starts argv is the same, orig_argv is not.
    if arguments and os.path.basename(arguments[0]) == "tfbrats" and arguments[0] in sys.orig_argv:
        return "tfbrats"
    # Python's own mark while it imports the packages around the module; its name stands before the arguments.
    if arguments[:1] != ["-m"] or len(sys.orig_argv) <= len(arguments):
        return None
    name = sys.orig_argv[-len(arguments)].rpartition("-m")[2]  # also -mNAME in one word
    return f"python -m {name}" if name.partition(".")[0] in _PACKAGES else None


def _open_closed_streams() -> None:
    """Puts /dev/null where cron or `2>&-` left nothing.

    Else the next file that is opened gets the number 2, and what C libraries say goes into it; and what Python
    prints to a stream of None is an error.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            # To the end of the process; closing it would close the number.
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _read_names_as_utf8() -> None:
    """Starts Python again where its locale reads file names as something else: TensorFlow takes UTF-8 alone.

    Else "Größe" would be one folder for us and another for TensorFlow, and escapes in every file we write.
    """
    if sys.getfilesystemencoding().lower() in ("utf-8", "utf8") or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    if sys.stdout is not None:  # the terminal stays what it is
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:backslashreplace")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _leave(*_) -> None:
    """At once: nothing was begun yet, and an exception would get lost in somebody's import."""
    os.write(quiet.screen(), b"interrupted\n")
    os._exit(130)


def _check_working_folder(command: str) -> None:
    try:
        here = os.getcwd()
    except OSError as error:
        raise SystemExit(
            f"error: the working folder is gone ({error.strerror}). Go to one that is there (cd), and run "
            f"{command} again."
        ) from None
    if sys.path and os.path.realpath(sys.path[0] or here) == os.path.realpath(_FOLDER):
        raise SystemExit(
            f"error: the working folder is {here}, inside the package, where Python takes inspect.py for its "
            f"own module of that name. Go to another folder (cd ..), and run {command} again."
        )
