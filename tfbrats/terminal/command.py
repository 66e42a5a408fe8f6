"""The door of every command: a person's mistake becomes one clear message and a non-zero exit.

Holds no knowledge of any command. Errors that are ours, not the person's, keep their traceback.
"""

import argparse
import difflib
import errno
import importlib.util
import io
import logging
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence

from tfbrats.errors import InputError
from tfbrats.machine import quiet, surroundings
from tfbrats.terminal import style, verbs

_PACKAGES = ("tfbrats", "beam_pipelines", "serving")
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # full, over quota, read-only


class Parser(argparse.ArgumentParser):
    """Options as a person may write them: with dashes or underscores, by an old name, with a slip of the hand.

    An old name does what the new one does, and the new one is said. A slip is answered with the nearest name.

    Attributes:
        keys: gives the section.key names that the command's overrides may have: `--epochs` is answered with
            train.epochs.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._new_names: dict[str, str] = {}
        self._told: set[str] = set()
        self._given: list[str] = []
        self.keys: Callable[[], Sequence[str]] = list

    def renamed(self, names: Mapping[str, str]) -> None:
        """Old name -> new one, e.g. {"--data": "--records"}."""
        self._new_names |= names

    def parse_known_args(self, args=None, namespace=None):
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._with_our_names(self._given), namespace)

    def _with_our_names(self, arguments: Sequence[str]) -> list[str]:
        """The arguments, each option by the name it has here; all behind `--` stay."""
        mine = list(arguments)
        for n, text in enumerate(mine):
            if text == "--":
                break
            name, equals, value = text.partition("=")
            if not name.startswith("--") or name in self._option_string_actions:
                continue
            known = self._new_names.get(name) or self._new_names.get(name.replace("_", "-"))
            if known:
                self._say_new_name(name, known)
            else:
                known = self._spelled(name)
            if known:
                mine[n] = f"{known}{equals}{value}"
        return mine

    def _spelled(self, name: str) -> str:
        """An option with its dashes and underscores exchanged, whole or cut short; "" if there is none."""
        spellings = [f"--{name[2:].replace(*pair)}" for pair in (("_", "-"), ("-", "_"))]
        whole = next((text for text in spellings if text in self._option_string_actions), "")
        if whole or not self.allow_abbrev or self._begin_with(name):
            return whole
        old = [new for one, new in self._new_names.items() if one.startswith(tuple({name, *spellings}))]
        if len(set(old)) == 1:
            self._say_new_name(name, old[0])
            return old[0]
        return next((text for text in spellings if self._begin_with(text)), "")

    def _begin_with(self, name: str) -> list[str]:
        return [option for option in self._option_string_actions if option.startswith(name)]

    def _say_new_name(self, old: str, new: str) -> None:
        if old not in self._told:
            self._told.add(old)
            print(style.note(f"{old} is now {new}", sys.stderr), file=sys.stderr)

    def error(self, message: str):
        """One line, what was meant if that can be guessed, and where the options are listed; exit code 2."""
        unrecognized = "unrecognized arguments: "
        if message.startswith(unrecognized):
            unknown = message.removeprefix(unrecognized).split(" ")
            message = f"{unrecognized}{' '.join(unknown)}" + "".join(map(self.meant, unknown))
        elif "required" in message:  # a slip in the name of a required option is told as one
            guesses = ((text.partition("=")[0], self.meant(text)) for text in self._strangers())
            message += "".join(f"; there is no {text}{guess}" for text, guess in guesses if guess)
        lines = f"error: {message}\n{self.prog} --help lists what there is"
        self.exit(2, f"{style.error(lines, sys.stderr)}\n")

    def _all_options(self) -> list[str]:
        """Its own and those of its subcommands."""
        below = [
            parser
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)
            for parser in action.choices.values()
        ]
        return [
            *self._option_string_actions,
            *(name for parser in below for name in parser._option_string_actions),
        ]

    def _strangers(self) -> list[str]:
        """Options as given that are none, not even when cut short."""
        names = [text for text in self._given if text.startswith("--") and text != "--"]
        known = [*self._option_string_actions, *self._new_names]
        known += [f"--{option[2:].replace('-', '_')}" for option in known]
        return [text for text in names if not any(o.startswith(text.partition("=")[0]) for o in known)]

    def meant(self, unknown: str) -> str:
        """What to write in place of an argument that is none: "; did you mean --output?"."""
        name, equals, value = unknown.partition("=")
        if not name.startswith("-"):
            return ""
        options = [*self._all_options(), *self._new_names]
        near = difflib.get_close_matches(name.replace("_", "-"), options, n=1, cutoff=0.75)
        if near:
            return f"; did you mean {self._new_names.get(near[0], near[0])}?"
        bare = name.lstrip("-").replace("-", "_")
        last = {key: key.rpartition(".")[2] for key in self.keys()}
        near = [bare] if bare in last.values() else difflib.get_close_matches(bare, last.values(), 1, 0.75)
        found = [key for key in last if bare == key or last[key] in near]
        following = self._given[self._given.index(unknown) + 1 :] if unknown in self._given else []
        value = value if equals else next((text for text in following if text[:1] != "-"), "VALUE")
        return f"; write {' or '.join(f'{key}={value}' for key in found)}" if found else ""


class _Help(argparse.RawDescriptionHelpFormatter):
    """A description's paragraphs are filled to the terminal; what is indented stays as it is written."""

    def _fill_text(self, text, width, indent):
        blocks = re.split(r"\n\s*\n", textwrap.dedent(text).strip())
        return "\n\n".join(
            block
            if re.search(r"^\s", block, re.MULTILINE)
            else textwrap.fill(" ".join(block.split()), width, break_long_words=False, break_on_hyphens=False)
            for block in blocks
        )


def parser(module: str, doc: str) -> Parser:
    """A parser for a module's command, whose help shows the module's docstring."""
    return Parser(prog=verbs.spelling(module), description=doc, formatter_class=_Help)


def missing(error: ModuleNotFoundError) -> str:
    """What a person is told of a library that is not installed: in an environment of the client alone, say.

    Raises:
        ModuleNotFoundError: a module of ours is missing, or a part of a library that is there.
    """
    library = (error.name or "").partition(".")[0]
    if library in ("", *_PACKAGES) or importlib.util.find_spec(library) is not None:  # a part of it is missing
        raise error
    return (
        f"error: {library} is not installed here. This may be an environment of the client alone "
        "(docs/how-to/light-client.md), in which `tfbrats call` and `tfbrats check` run; `pip install .` in a "
        "clone of tfbrats installs what all commands need."
    )


def run(main: Callable[[Sequence[str]], int | None], arguments: Sequence[str] | None = None) -> None:
    """Calls `main(arguments)` and exits: 0, its own code, 1 on InputError or a full disk, 130 on Ctrl-C.

    Letters that the terminal or file behind stdout and stderr cannot encode are shown as escapes.

    Args:
        arguments: by default those that the process was given.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Beam configures the root logger on import when it can; `force` takes it back.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    if quiet.is_wanted():
        quiet.hush_loggers()
    try:
        surroundings.begin_work()
        try:
            code = main(sys.argv[1:] if arguments is None else arguments)
        except SystemExit:  # of --help
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # here, where a reader that has gone away is expected
    except InputError as error:
        print(style.error(f"error: {error}", sys.stderr), file=sys.stderr)
        code = 1
    except ModuleNotFoundError as error:
        print(style.error(missing(error), sys.stderr), file=sys.stderr)
        code = 1
    except BrokenPipeError:  # `... | head`
        code = 0
        sys.stderr.close()
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        place = f"{error.filename}: " if error.filename else ""
        advice = "Make room, or choose another place, and run the command again."
        print(style.error(f"error: {place}{error.strerror}. {advice}", sys.stderr), file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    finally:
        surroundings.end_work()
    raise SystemExit(code or 0)
