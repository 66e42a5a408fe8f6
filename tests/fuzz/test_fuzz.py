"""A few seconds of what `python -m tests.fuzz` does for minutes, and every input that broke something, again.

Inputs are sound ones damaged at random, from a seed: the same each time. The search itself is guided by
coverage.
"""

import os
import pathlib
import random
import re
import subprocess
import sys

import pytest
from fuzz.targets import TARGETS

FOUND = pathlib.Path(__file__).parent / "found"
# How many inputs are tried; those of a server, of TensorFlow and of pydicom take longer.
COUNTS = {"gunzip": 300, "scan": 100, "dicom": 25, "card": 200, "model": 12, "upload": 40, "request": 100}
ODD = (
    b"\0",
    b"\xff",
    b"\x7f\xff",
    b"\xff\xff\xff\xff",
    b"\0\0\0\x80",
    b"\xff" * 8,
    b"-1",
    b"1e999",
    b"[" * 3000,
    b"\x1b[2J",
)


def damaged(seeds: list[bytes], draw: random.Random) -> bytes:
    """One of the seeds with some bytes flipped, cut out, doubled, replaced, or followed by another's."""
    content = draw.choice(seeds)
    for _ in range(draw.randrange(1, 5)):
        start, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
        end = min(end, start + draw.choice((1, 4, 64)))
        way = draw.randrange(6)
        if way == 0:
            content = (
                content[:start]
                + bytes(one ^ 1 << draw.randrange(8) for one in content[start:end])
                + content[end:]
            )
        elif way == 1:
            content = content[:start] + content[end:]
        elif way == 2:
            content = content[:end] + content[start:]
        elif way == 3:
            content = content[:start] + draw.choice(ODD) + content[start + draw.randrange(9) :]
        elif way == 4:
            content = content[:start] + draw.randbytes(end - start) + content[end:]
        else:
            content = content[:start] + draw.choice(seeds)[start:]
    return content


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_damaged_ends_as_it_is_documented(name, tmp_path):
    if name == "dicom" or name == "upload":
        pytest.importorskip("highdicom", reason="highdicom, of the extra `dicom`, is not installed")
    target, draw = TARGETS[name], random.Random(7)
    seeds = target.seeds()
    with target.opened(tmp_path) as attempt:
        for path in sorted((FOUND / name).glob("*")):
            attempt(path.read_bytes())
        for _ in range(COUNTS.get(name, 100)):
            attempt(damaged(seeds, draw))


def test_every_input_that_was_found_has_its_target():
    assert {path.name for path in FOUND.iterdir()} <= set(TARGETS)


@pytest.mark.slow
def test_the_search_of_half_a_minute_each_finds_nothing(tmp_path):
    pytest.importorskip("atheris", reason="atheris is not installed (pip install atheris)")
    root = pathlib.Path(__file__).parent.parent.parent
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--minutes", "0.5", "--found", str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert len(re.findall(r"^\w+: \d+ inputs.*, sound$", ended.stdout, re.MULTILINE)) == len(TARGETS)
