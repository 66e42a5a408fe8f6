"""The door of every command: a person's mistake becomes one clear message and a non-zero exit.

Holds no knowledge of any command. Errors that are ours, not the person's, keep their traceback.
"""

import argparse
import errno
import io
import logging
import sys
from collections.abc import Callable, Sequence

from tfbrats.errors import InputError
from tfbrats.machine import surroundings

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # full, over quota, read-only


def parser(module: str, doc: str) -> argparse.ArgumentParser:
    """A parser for `python -m module` whose help shows the module's docstring as written."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Calls `main(arguments)` and exits: 0, its own code, 1 on InputError or a full disk, 130 on Ctrl-C.

    Letters that the terminal or file behind stdout and stderr cannot encode are shown as escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Beam configures the root logger on import when it can; `force` takes it back.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    try:
        surroundings.begin_work()
        code = main(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except BrokenPipeError:  # `... | head`
        code = 0
        sys.stderr.close()
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {place}{error.strerror}. Make room, or choose another place, and run the command again.",
            file=sys.stderr,
        )
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    finally:
        surroundings.end_work()
    raise SystemExit(code or 0)
