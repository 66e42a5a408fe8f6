"""What a command takes from its surroundings, and what not. The first thing of the package that runs.

A process that runs `python -m` of a module of ours is ours from here on: settings of Keras that another project
left are not read, names are UTF-8 whatever the locale, Ctrl-C ends it with one line while modules are being
imported, and a working folder in which it cannot run is told. In anybody else's process (a notebook, pytest, a
worker of Beam) nothing is changed. Only the standard library, and of it only what Python itself has loaded.
"""

import os
import signal
import sys
import threading

_PACKAGES = ("tfbrats", "beam_pipelines", "serving")
_FOLDER = os.path.dirname(os.path.abspath(__file__))


def prepare() -> None:
    """Makes a process that runs one of our modules by `python -m` ours.

    Raises:
        SystemExit: with a line, where it cannot run.
    """
    if (module := _module_that_runs()) is None:
        return
    _read_names_as_utf8()
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a shell's background job ignores it
    ):
        signal.signal(signal.SIGINT, _leave)
    _check_working_folder(module)
    for name in [name for name in os.environ if name.startswith("KERAS_")]:
        del os.environ[name]
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # No folder, so Keras neither reads ~/.keras/keras.json nor leaves one there.
    os.environ["KERAS_HOME"] = os.devnull


def begin_work() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt again, which work can tidy up after."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _module_that_runs() -> str | None:
    """The module of ours that `python -m` is about to run; None in any other process."""
    arguments = getattr(sys, "argv", [])
    # Python's own mark while it imports the packages around the module; its name stands before the arguments.
    if arguments[:1] != ["-m"] or len(sys.orig_argv) <= len(arguments):
        return None
    name = sys.orig_argv[-len(arguments)].rpartition("-m")[2]  # also -mNAME in one word
    return name if name.partition(".")[0] in _PACKAGES else None


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
    os.write(2, b"interrupted\n")
    os._exit(130)


def _check_working_folder(module: str) -> None:
    try:
        here = os.getcwd()
    except OSError as error:
        raise SystemExit(
            f"error: the working folder is gone ({error.strerror}). Go to one that is there (cd), and run "
            f"python -m {module} again."
        ) from None
    if sys.path and os.path.realpath(sys.path[0] or here) == os.path.realpath(_FOLDER):
        raise SystemExit(
            f"error: the working folder is {here}, inside the package, where Python takes inspect.py for its "
            f"own module of that name. Go to another folder (cd ..), and run python -m {module} again."
        )
