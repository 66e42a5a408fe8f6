"""Which commands there are: the word of each, its module, its group and its line. Imports one when asked."""

import importlib
import os
import shlex
import types
from typing import NamedTuple


class Verb(NamedTuple):
    """A command, as `tfbrats WORD`."""

    word: str
    module: str
    group: str
    line: str  # what it does, for the list of commands


VERBS = tuple(
    Verb(*fields)
    for fields in (
        ("demo", "tfbrats.demo", "Start here", "the whole way once, on simulated cases, in five minutes"),
        ("inspect", "tfbrats.inspect", "Your data", "which cases a folder holds, and what is wrong with them"),
        ("phantom", "tfbrats.phantom", "Your data", "simulated cases, in any edition's layout"),
        ("split", "tfbrats.splits", "Your data", "deal cases out: training, validation, test, or folds"),
        ("prepare", "beam_pipelines.nifti_to_tfrecord", "Your data", "NIfTI cases into TFRecords, with Beam"),
        (
            "records",
            "tfbrats.records",
            "Your data",
            "show, verify or measure records, or turn them back into NIfTI",
        ),
        ("probe", "tfbrats.probe", "Train", "speed, memory and hours of a config on this machine"),
        ("train", "tfbrats.train", "Train", "train a network, or go on with it"),
        ("runs", "tfbrats.runs", "Train", "the runs under a folder, best first"),
        ("reproduce", "tfbrats.reproduce", "Train", "a whole table of a paper, every row on the same records"),
        ("tune", "tfbrats.tune", "Use a model", "choose on validation cases what makes a run's answer better"),
        ("export", "tfbrats.export", "Use a model", "a trained run as a SavedModel"),
        ("predict", "tfbrats.predict", "Use a model", "segment cases, or your own four scans"),
        ("segment", "beam_pipelines.segment_cases", "Use a model", "segment thousands of cases, with Beam"),
        (
            "serve",
            "serving.server",
            "Use a model",
            "a server for your own machine, with TensorFlow Serving's calls",
        ),
        ("page", "serving.page", "Use a model", "a page for the browser: drop four scans, see the answer"),
        (
            "capacity",
            "serving.capacity",
            "Use a model",
            "what a server manages, measured; how many pods a load wants",
        ),
        ("call", "serving.client", "Use a model", "segment cases by a server, over gRPC"),
        ("view", "tfbrats.view", "Judge it", "one case in a browser: planes, 3-D, prediction and reference"),
        ("evaluate", "tfbrats.evaluate", "Judge it", "score segmentations against references"),
        ("report", "tfbrats.report", "Judge it", "scores and pictures as one page"),
        ("check", "tfbrats.check_submission", "Judge it", "check an upload before a challenge does"),
    )
)
_WORDS = {verb.module: verb.word for verb in VERBS}


def module_of(verb: Verb) -> types.ModuleType:
    """The module that holds a command's `parser` and `main`: that of a wing is its __main__."""
    module = importlib.import_module(verb.module)
    return importlib.import_module(f"{verb.module}.__main__") if hasattr(module, "__path__") else module


def spelling(module: str) -> str:
    """A module's command as one types it: "tfbrats train"; `python -m MODULE` for one that has no word."""
    return f"tfbrats {_WORDS[module]}" if module in _WORDS else f"python -m {module}"


def command_line(module: str, *arguments: str | os.PathLike) -> str:
    """The command and its arguments, to be pasted into a shell."""
    return " ".join(filter(None, (spelling(module), shlex.join(map(os.fspath, arguments)))))
