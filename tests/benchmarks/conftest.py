"""The way to a benchmark's modules, which lie in no package."""

import importlib
import pathlib

import pytest

BENCHMARKS = pathlib.Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """`benchmark(name)` -> a module of a benchmark."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module
