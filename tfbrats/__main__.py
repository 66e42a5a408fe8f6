"""One word for every command: `tfbrats WORD ...` or `python -m tfbrats WORD ...`. Imports what is asked for.

    tfbrats demo                 the whole way once, on simulated cases
    tfbrats --help               all words, a line each
    tfbrats train --help         one of them

`python -m tfbrats.train ...` and its like are the same commands.
"""

import difflib
import os
import sys
from collections.abc import Sequence

import tfbrats
from tfbrats.terminal import style, verbs

_HELP, _VERSION = ("-h", "--help", "help"), ("--version", "-V", "version")


def overview() -> str:
    """All commands by group, a line each."""
    width = max(len(verb.word) for verb in verbs.VERBS)
    lines = ["tfbrats segments brain tumours in MRI: published methods, from NIfTI files to a served model."]
    group = ""
    for verb in verbs.VERBS:
        if verb.group != group:
            group = verb.group
            lines += ["", style.heading(group)]
        lines.append(f"  {verb.word:<{width}}  {verb.line}")
    return "\n".join(
        (
            *lines,
            "",
            "tfbrats WORD --help describes one. TFBRATS_LOG=1 shows what libraries print.",
            "For research; not for diagnostic use.",
        )
    )


def _say(arguments: Sequence[str]) -> int:
    """The list of commands, the version, or what is wrong with a word."""
    word = arguments[0] if arguments else "--help"
    if word in _HELP:
        print(overview())
        return 0
    if word in _VERSION:
        print(f"tfbrats {tfbrats.__version__}")
        return 0
    near = difflib.get_close_matches(word, [verb.word for verb in verbs.VERBS], n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    text = f"error: no command {word}{meant}\ntfbrats --help lists them"
    print(style.error(text, sys.stderr), file=sys.stderr)
    return 2


def main() -> None:
    """Runs the command that the first argument names."""
    if "_ARGCOMPLETE" in os.environ:
        from tfbrats.terminal import completion

        completion.complete()
    from tfbrats.terminal import command

    arguments = sys.argv[1:]
    if arguments[:1] == ["help"] and arguments[1:]:
        arguments = [arguments[1], "--help"]
    verb = next((verb for verb in verbs.VERBS if [verb.word] == arguments[:1]), None)
    if verb is None:
        command.run(_say, arguments)
    try:
        module = verbs.module_of(verb)
    except ModuleNotFoundError as error:
        raise SystemExit(style.error(command.missing(error), sys.stderr)) from None
    command.run(module.main, arguments[1:])


if __name__ == "__main__":
    main()
