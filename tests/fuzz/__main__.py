"""Looks for inputs that break what reads strangers' bytes, by atheris: coverage guides the search.

    pip install atheris
    python -m tests.fuzz                              every target of targets.py, a minute each
    python -m tests.fuzz --minutes 10 scan request    those two, ten minutes each
    python -m tests.fuzz --input FILE scan            one input again, by itself

A fault is any exception that is not the documented one, an end of the process, more memory than --mebibytes
above what it began with, or an input that takes longer than --seconds. Its input is kept in --found. Exit
code 1 then.
"""

import argparse
import contextlib
import pathlib
import re
import resource
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [
    str(path)
    for path in (HERE.parent.parent, HERE.parent, HERE.parent / "serving")
    if str(path) not in sys.path
]

from fuzz.targets import TARGETS  # noqa: E402  behind the path


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    options.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    options.add_argument("--minutes", type=float, default=1, help="for each (default: %(default)s)")
    options.add_argument("--seed", type=int, default=1, help="of the search (default: %(default)s)")
    options.add_argument("--mebibytes", type=int, default=512, help="that one may take (default: %(default)s)")
    options.add_argument(
        "--seconds", type=int, default=60, help="that an input may take (default: %(default)s)"
    )
    options.add_argument(
        "--found", type=pathlib.Path, default=pathlib.Path("fuzz_found"), help="folder for faults"
    )
    options.add_argument("--corpus", type=pathlib.Path, help="folder that keeps inputs that reached new lines")
    options.add_argument("--input", type=pathlib.Path, help="one file, in place of a search")
    options.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    return options


def main() -> int:
    options = parser().parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        raise SystemExit(f"error: no target {', '.join(sorted(unknown))}. There are {', '.join(TARGETS)}.")
    names = options.targets or list(TARGETS)
    if options.input:
        return _again(names[0], options.input.read_bytes())
    if options.alone:
        return _search(names[0], options)
    try:
        import atheris  # noqa: F401
    except ImportError:
        raise SystemExit("error: atheris is not installed. Install it with: pip install atheris") from None
    options.found.mkdir(parents=True, exist_ok=True)
    faults = [name for name in names if not _is_sound(name)]
    print(f"{len(faults)} of {len(names)} targets with a fault{': ' if faults else ''}{', '.join(faults)}")
    return 1 if faults else 0


def _is_sound(name: str) -> bool:
    """Searches in a process of its own, which libFuzzer ends; says how many inputs there were."""
    command = [sys.executable, "-m", "tests.fuzz", "--alone", *sys.argv[1:]]
    given = [text for text in command if text not in TARGETS]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        code = subprocess.call([*given, name], cwd=HERE.parent.parent, stdout=log, stderr=subprocess.STDOUT)
        log.seek(0)
        said = log.read()
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime
    counted = re.search(r"number_of_executed_units:\s*(\d+)", said)
    reached = re.findall(r"cov: (\d+) ft: (\d+)", said)
    lines = f", {reached[-1][0]} places reached" if reached else ""
    end = "sound" if code == 0 else f"FAULT (exit {code})"
    inputs = counted[1] if counted else "unknown"
    print(f"{name}: {inputs} inputs in {seconds:.0f} s of CPU{lines}, {end}")
    if code:
        print(said[-6000:])
    sys.stdout.flush()
    return code == 0


def _again(name: str, content: bytes) -> int:
    with contextlib.ExitStack() as held:
        folder = pathlib.Path(held.enter_context(tempfile.TemporaryDirectory(prefix="tfbrats-fuzz-")))
        held.enter_context(TARGETS[name].opened(folder))(content)
    print(f"{name}: no fault")
    return 0


def _search(name: str, options: argparse.Namespace) -> int:
    import atheris

    target = TARGETS[name]
    with contextlib.ExitStack() as held:
        folder = pathlib.Path(held.enter_context(tempfile.TemporaryDirectory(prefix="tfbrats-fuzz-")))
        corpus = options.corpus / name if options.corpus else folder / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        (folder / "place").mkdir()
        with atheris.instrument_imports(include=list(target.guided_by)):
            attempt = held.enter_context(target.opened(folder / "place"))
        for number, seed in enumerate(target.seeds()):
            attempt(seed)
            (corpus / f"seed-{number:03d}").write_bytes(seed)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 + options.mebibytes
        flags = {
            "max_total_time": round(60 * options.minutes),
            "timeout": options.seconds,
            "rss_limit_mb": most,
            "seed": options.seed,
            "max_len": 2**16,
            "print_final_stats": 1,
            "artifact_prefix": f"{options.found.resolve()}/{name}-",
        }
        atheris.Setup(
            [sys.argv[0], *(f"-{flag}={value}" for flag, value in flags.items()), str(corpus)], attempt
        )
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
