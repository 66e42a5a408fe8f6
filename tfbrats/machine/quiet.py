"""Keeps what TensorFlow, absl, CUDA, oneDNN, gRPC and Beam say of themselves off a person's screen.

The one place for it: `surroundings` calls `settle` before anything else is imported, in each command of ours
and, through the environment, in each process that a command starts. TFBRATS_LOG=1 shows everything again.

TensorFlow writes six lines while it is imported, before it reads its own TF_CPP_MIN_LOG_LEVEL: for those, the
file behind stderr is another one during its import. Afterwards what others wrote there is shown, and all of it
if the import fails.
"""

import io
import os
import re
import sys
import warnings

LOG = "TFBRATS_LOG"  # 1: show all; 0: a command of ours runs, or a process that one has started
LEVELS = {  # what each library reads of the environment, as a user may have set it
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "GRPC_VERBOSITY": "NONE",
    "GLOG_minloglevel": "3",
}
# Lines of TensorFlow's import, as absl and its own logging write them.
_ITS_OWN = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|To enable the following instructions|"
    rb"[IWE]\d{4} \d\d:\d\d:\d|"
    rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] "
)
_LOUD = ("tensorflow",)  # packages that write to stderr while they are imported
_TALKERS = ("tensorflow", "absl", "apache_beam", "jax", "h5py", "matplotlib", "google", "fsspec", "gcsfs")


def is_wanted() -> bool:
    """Whether libraries are to be quiet here: in a command of ours or its child, unless TFBRATS_LOG=1."""
    return os.environ.get(LOG) == "0"


def settle() -> None:
    """Makes the libraries quiet, those loaded later too. What is set in the environment already stays."""
    for name, level in LEVELS.items():
        os.environ.setdefault(name, level)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        # Of our own arithmetic, e.g. a division by zero.
        warnings.filterwarnings(
            "default", category=RuntimeWarning, module=r"(tfbrats|serving|beam_pipelines)\b"
        )
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def hush_loggers() -> None:
    """Python's own loggers of the libraries: errors alone. Again after an import that has set its level.

    In anybody else's process (a notebook) those of TensorFlow alone.
    """
    import logging

    for name in _TALKERS if is_wanted() else _TALKERS[:2]:
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "absl" else logging.ERROR)


class _Finder:
    """Finds a loud package as Python does, and lets it be imported with stderr aside."""

    def find_spec(self, name, path=None, target=None):
        if name not in _LOUD:
            return None
        from importlib import util

        sys.meta_path.remove(self)  # or it would be asked again, and without end
        try:
            spec = util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def aside(module):
                with _Aside():
                    execute(module)
                hush_loggers()

            spec.loader.exec_module = aside
        return spec


_screens = [2]  # the number behind which a person reads; the last one holds


def screen() -> int:
    """The file that a person reads stderr in, also while it is kept aside: for what cannot wait."""
    return _screens[-1]


class _Aside:
    """In the block, what is written to the file behind stderr is kept aside.

    At its end what is not of TensorFlow's own kind is shown; after an error, all. A crash that ends Python
    shows where it was.
    """

    def __enter__(self):
        import faulthandler

        if sys.stderr is not None:
            sys.stderr.flush()
        self._kept, self._own = _unnamed_file(), os.dup(2)
        if self._kept is not None:
            os.dup2(self._kept.fileno(), 2)
        _screens.append(self._own)
        self._reports_crashes = faulthandler.is_enabled()
        if not self._reports_crashes:
            faulthandler.enable(self._own)

    def __exit__(self, kind, error, trace):
        import faulthandler

        if not self._reports_crashes:
            faulthandler.disable()
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(self._own, 2)
        _screens.pop()
        os.close(self._own)
        if self._kept is not None:
            with self._kept as kept:
                kept.seek(0)
                lines = kept.read().splitlines(keepends=True)
            failed = isinstance(error, Exception)  # not Ctrl-C
            for line in lines:
                if failed or not _ITS_OWN.match(line):
                    os.write(2, line)
        return False


def _unnamed_file() -> io.IOBase | None:
    """A file to keep lines in; None where there is no room for one: then they are seen."""
    import tempfile

    try:
        return (
            open(os.memfd_create("stderr"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()
        )
    except OSError:
        return None
