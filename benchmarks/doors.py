"""How long a command takes to answer when nothing is to be done: its help, a slip in a flag, a slip in a value.

    python benchmarks/doors.py
    python benchmarks/doors.py --words train,evaluate --rounds 5 --json doors.json

The slip in a value is a misspelt key of the config; of a command without a config, a folder that is not there
(or, of demo and phantom, which read none, a choice that is none). A command that does not refuse it, or ends
with a traceback, gives no figure but an error.

Figures are CPU seconds (user and system, with those of child processes): the seconds on the clock say more of
what else the machine does. The median of the rounds counts. Beside them stand two peers, measured in the same
run: TensorFlow's import, which every answer waited for once, and `pip --help`.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.terminal import command, verbs, wording

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEERS = {
    "import tensorflow": ("-c", "import tensorflow"),
    "pip --help": ("-m", "pip", "--help"),
}
_KEY = "train.epcohs=3"
_CONFIG = ("--config", "cun_lws")
_EMPTY, _NOWHERE, _OUTPUT = "empty", "nowhere", "output"  # a folder, and two names of none
SLIPS = {  # word -> arguments with one mistake, in a key or else in a value
    "demo": ("--method", "cnu"),
    "inspect": (_NOWHERE,),
    "phantom": ("--output", _OUTPUT, "--edition", "2002"),
    "split": ("--input", _NOWHERE),
    "prepare": (*_CONFIG, "--input", _EMPTY, "--output", _OUTPUT, _KEY),
    "records": ("show", _NOWHERE),
    "probe": (*_CONFIG, _KEY),
    "train": (*_CONFIG, _KEY),
    "runs": (_NOWHERE,),
    "reproduce": ("--table", "paper_a", "--input", _EMPTY, "--output", _OUTPUT, _KEY),
    "tune": ("--run", _NOWHERE, "--input", _EMPTY),
    "export": ("--run", _NOWHERE, "--output", _OUTPUT),
    "predict": ("--model", _NOWHERE, "--input", _EMPTY, "--output", _OUTPUT),
    "segment": ("--model", _NOWHERE, "--input", _EMPTY, "--output", _OUTPUT),
    "serve": ("--model_base_path", _NOWHERE),
    "page": ("--server", "localhost:8500"),
    "capacity": ("--output", _OUTPUT, "--model", _NOWHERE, "--input", _EMPTY),
    "call": ("--model-name", "cun", "--input", _NOWHERE, "--output", _OUTPUT),
    "view": (_NOWHERE, "--output", f"{_OUTPUT}.html"),
    "evaluate": ("--prediction", _NOWHERE, "--reference", _EMPTY, "--output", _OUTPUT),
    "report": ("--scores", _NOWHERE, "--prediction", _EMPTY, "--reference", _EMPTY),
    "check": (_NOWHERE,),
}
DOORS = ("--help", "a flag", "a value")


def asked_at(word: str, door: str) -> tuple[str, ...]:
    """What one types to be answered at a door of a command."""
    return {"--help": ("--help",), "a flag": ("--hepl",), "a value": SLIPS[word]}[door]


def cpu_seconds(arguments: Sequence[str], folder: pathlib.Path, is_refused: bool) -> float:
    """CPU seconds of Python with these arguments, run in a folder.

    Raises:
        InputError: it did not end as it should, or with a traceback: then the figure is of something else.
    """
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        text = printed.read().decode("utf-8", "replace")
    if bool(process.returncode) != is_refused or "Traceback (most recent" in text:
        raise InputError(f"{' '.join(arguments)}: ended with exit code {process.returncode}:\n{text[-2000:]}")
    return usage.ru_utime + usage.ru_stime


def measured(words: Sequence[str], peers: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """Word -> door -> the median of its CPU seconds; the peers' under "peers". Rounds alternate all of them."""
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / _EMPTY).mkdir()
        for _ in range(rounds):
            for word in words:
                for door in DOORS:
                    line = ("-m", "tfbrats", word, *asked_at(word, door))
                    took = cpu_seconds(line, folder, is_refused=door != "--help")
                    seconds.setdefault((word, door), []).append(took)
            for peer in peers:
                took = cpu_seconds(PEERS[peer], folder, is_refused=False)
                seconds.setdefault(("peers", peer), []).append(took)
    figures: dict[str, dict[str, float]] = {}
    for (word, door), all_seconds in seconds.items():
        figures.setdefault(word, {})[door] = round(statistics.median(all_seconds), 3)
    return figures


def lines(figures: dict[str, dict[str, float]]) -> list[str]:
    """The figures as a table, the largest of each door below it, then the peers."""
    of_words = {word: of_doors for word, of_doors in figures.items() if word != "peers"}
    rows = [("CPU seconds", *DOORS)]
    rows += [(word, *(f"{of_doors[door]:.2f}" for door in DOORS)) for word, of_doors in of_words.items()]
    largest = {door: max(of_words, key=lambda word, door=door: of_words[word][door]) for door in DOORS}
    rows.append(("largest", *(f"{of_words[word][door]:.2f}" for door, word in largest.items())))
    rows.append(("", *largest.values()))
    rows += [(peer, f"{seconds:.2f}") for peer, seconds in figures.get("peers", {}).items()]
    return wording.columns(rows, ("<", *(["  >"] * len(DOORS))))


def main(arguments: Sequence[str]) -> None:
    all_words = [verb.word for verb in verbs.VERBS]
    parser = command.parser("benchmarks/doors.py", __doc__)
    parser.add_argument("--words", metavar="WORD,WORD", help="only these commands (default: all)")
    parser.add_argument("--peers", default=",".join(PEERS), metavar="PEER,PEER", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is run (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    words = options.words.split(",") if options.words else all_words
    peers = [peer for peer in options.peers.split(",") if peer]
    for name, known in [(word, all_words) for word in words] + [(peer, list(PEERS)) for peer in peers]:
        if name not in known:
            parser.error(f"{name}: expected {', '.join(known)}")
    if options.rounds < 1:
        parser.error("argument --rounds: expected 1 or more")
    figures = measured(words, peers, options.rounds)
    print("\n".join(lines(figures)))
    if options.json:
        files.write_bytes(options.json, json.dumps(figures, indent=2).encode())


if __name__ == "__main__":
    command.run(main)
