"""Tab completion of `tfbrats`, by argcomplete.

eval "$(register-python-argcomplete tfbrats)"     # in bash or zsh, e.g. in ~/.bashrc
"""

import argparse
import os

from tfbrats.terminal import verbs


def complete() -> None:
    """Answers the shell, which has set argcomplete's variables, and ends the process."""
    import argcomplete

    typed = os.environ.get("COMP_LINE", "").split()
    parser = argparse.ArgumentParser(prog="tfbrats")
    parser.add_argument("--version", action="store_true")
    words = parser.add_subparsers()
    for verb in verbs.VERBS:
        words.add_parser(verb.word, help=verb.line)
        if verb.word in typed[1:2]:  # only this one's options are wanted: none of the others is imported
            words._name_parser_map[verb.word] = parser_of(verb)
    argcomplete.autocomplete(parser)


def parser_of(verb: verbs.Verb) -> argparse.ArgumentParser:
    """The parser of a command, as its module makes it."""
    return verbs.module_of(verb).parser()
