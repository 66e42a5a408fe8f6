"""A process of another set-up: `python tests/set_up.py THINGS... -- COMMAND...`, which it becomes.

Not `preexec_fn`, which forks: after gRPC's threads in the process that runs the tests, such a child may abort.
"""

import ctypes
import os
import resource
import signal
import sys

_MAY_READ_ANYTHING = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_PR_CAPBSET_DROP = 24


def before(command, *things: str) -> list[str]:
    """The command with its set-up before it.

    Args:
        things: "hears_ctrl_c" (what runs the tests may ignore it, as a shell's background job does),
            "ignores_ctrl_c", "as_anybody" (root's pass to every file is taken away), "files_up_to=BYTES".
    """
    return [sys.executable, "-S", os.path.abspath(__file__), *things, "--", *command]


def _as_anybody() -> None:
    if os.geteuid() == 0:
        for capability in _MAY_READ_ANYTHING:
            ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def _main(things: list[str], command: list[str]) -> None:
    for thing in things:
        name, _, value = thing.partition("=")
        if name == "hears_ctrl_c":
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        elif name == "ignores_ctrl_c":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        elif name == "as_anybody":
            _as_anybody()
        elif name == "files_up_to":
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(value), int(value)))
        else:
            sys.exit(f"{thing}: no such set-up")
    os.execvp(command[0], command)


if __name__ == "__main__":
    given = sys.argv[1:]
    end = given.index("--")
    _main(given[:end], given[end + 1 :])
