"""What every job is asked at the terminal, checked as far as possible without importing Beam (a second).

An option that is not ours is Beam's, or a slip of the hand. Which names Beam has is read in its source, without
importing it; what their values may be, Beam itself says later (`engine.check_options`).
"""

import argparse
import difflib
import functools
import importlib.util
import itertools
import os
import re
from collections.abc import Sequence

from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.terminal import command

LOCAL = "FnApiRunner"
SCORES = "scores"  # under the output of segmentations
_FILE_OF_BEAM = ("options", "pipeline_options.py")  # that names every option


def add_arguments(parser: command.Parser, workers: str) -> None:
    """The options that every job has beside Beam's; `workers` says how many there are by default."""
    parser.add_argument(
        "--max-bad-fraction", type=float, default=0.0, help="of cases that may be rejected (default: 0)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help=f"processes on this machine that share the work (default: {workers})",
    )
    parser.renamed({"--max-workers": "--workers"})
    parser.allow_abbrev = False  # a Beam option may begin like one of these


def parsed(
    parser: command.Parser, arguments: Sequence[str], places: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Our options, and what is left for Beam.

    Args:
        places: the options that name files: made absolute, since a worker pool may run in another folder. As
            the person wrote them they are in `given`, by name.

    Raises:
        InputError: a fraction or a number of workers that is none.
    """
    options, rest = parser.parse_known_args(arguments)
    if not 0 <= options.max_bad_fraction <= 1:
        raise InputError(f"--max-bad-fraction {options.max_bad_fraction:g}: a fraction is between 0 and 1.")
    if options.workers is not None and options.workers < 1:
        raise InputError(f"--workers {options.workers}: at least one worker is needed.")
    options.given = {name: getattr(options, name) for name in places}
    for name in places:
        setattr(options, name, paths.absolute(getattr(options, name)))
    return options, rest


def of_beam(parser: command.Parser, rest: Sequence[str], has_overrides: bool) -> list[str]:
    """What goes to Beam, in Beam's spelling, with the engine on this machine unless it names one.

    Args:
        rest: what is neither an option of ours nor an override.
        has_overrides: whether the command takes section.key=value, which its messages then name.

    Raises:
        InputError: a text that is neither an option of ours nor one of Beam's; Beam is not installed.
    """
    known = _names_in_beam()
    given = [_as_beam_spells(text, known) for text in rest]
    # Not DirectRunner: since 2.68 that first tries to download and start Prism.
    if not any(text.startswith("--runner") for text in given):
        given.append(f"--runner={LOCAL}")
    for n, text in enumerate(given):
        before = given[n - 1] if n else ""
        if not text.startswith("-"):
            if not before.startswith("-") or "=" in before:  # else it may be the option's value
                raise InputError(unknown(parser, text, has_overrides))
        # Engines on the far side of a job server have options of their own, which only they can check.
        elif text.partition("=")[0] not in known and (_is_near_ours(parser, text) or is_local(given)):
            raise InputError(unknown(parser, text, has_overrides))
    return given


def is_local(beam_options: Sequence[str]) -> bool:
    """Whether the engine is the one on this machine."""
    named = [
        text.partition("=")[2] or following
        for text, following in itertools.pairwise([*beam_options, ""])
        if text.partition("=")[0] == "--runner"
    ]
    return named[-1:] == [LOCAL]


def unknown(parser: command.Parser, text: str, has_overrides: bool) -> str:
    """What is said of a text that nobody understands: what it is not, and what was perhaps meant."""
    nor = ", nor a section.key=value override" if has_overrides else ""
    near = difflib.get_close_matches(text.partition("=")[0], _names_in_beam(), n=1, cutoff=0.8)
    of_beam = f"; did you mean {near[0]}?" if near else ""
    meant = parser.meant(text if text.startswith("-") else f"--{text}") or of_beam
    return f"{text!r} is neither an option, nor one of Beam's{nor}{meant or '.'}"


def _is_near_ours(parser: command.Parser, text: str) -> bool:
    """Whether it reads like an option of ours: no engine's then."""
    ours = [name for action in parser._actions for name in action.option_strings]
    name = text.partition("=")[0].replace("_", "-")
    return bool(difflib.get_close_matches(name, ours, n=1, cutoff=0.8))


def _as_beam_spells(text: str, known: frozenset[str]) -> str:
    """Beam's options have underscores; dashes are taken as well."""
    name, equals, value = text.partition("=")
    spelt = f"--{name[2:].replace('-', '_')}"
    is_ours = name in known or not name.startswith("--") or spelt not in known
    return text if is_ours else f"{spelt}{equals}{value}"


@functools.cache
def _names_in_beam() -> frozenset[str]:
    """The names of Beam's own options, read in its source."""
    spec = importlib.util.find_spec("apache_beam")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("this command needs Apache Beam, which is not installed: pip install apache-beam")
    text = files.read_text(os.path.join(spec.submodule_search_locations[0], *_FILE_OF_BEAM))
    return frozenset(re.findall(r"""["'](--[\w-]+)["']""", text))
