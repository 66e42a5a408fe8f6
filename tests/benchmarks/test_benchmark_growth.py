"""benchmarks/growth.py: links are cases, what bends is told, and the figures of several runs join."""

import math

import pytest

from tfbrats.datasets import layouts


@pytest.fixture
def growth(benchmark):
    return benchmark("growth")


def test_a_case_of_links_is_a_case(growth, tiny_dataset, tmp_path):
    case = layouts.find(tiny_dataset("2021")).cases[0]
    files = {modality: path for modality, path, _ in case.images} | {"seg": case.label}
    sources = growth.Sources([{kind: growth.pathlib.Path(path) for kind, path in files.items()}])
    growth.link_cases(sources, tmp_path, range(3))
    found = layouts.find(tmp_path)
    assert [one.case_id for one in found] == ["BraTS2021_00000", "BraTS2021_00001", "BraTS2021_00002"]
    assert all(one.label and len(one.images) == 4 and not one.problems for one in found)


def taken(growth, seconds, megabytes=100.0):
    return growth.Taken(seconds, seconds, megabytes)


def test_the_exponent_is_that_of_the_two_largest(growth):
    assert growth.exponent([10, 100, 1000], [5.0, 1.0, 100.0]) == pytest.approx(2)
    assert math.isnan(growth.exponent([10], [5.0]))


def test_what_bends_is_told_and_what_is_straight_is_not(growth):
    counts = [100, 1000]
    assert growth._bends(counts, [taken(growth, 1), taken(growth, 10)]) == []
    assert growth._bends(counts, [taken(growth, 1), taken(growth, 100)]) == ["time bends: 2.00"]
    bends = growth._bends(counts, [taken(growth, 1), taken(growth, 1, 1000)])
    assert bends == ["memory grows: 1000 kB a case"]
    assert growth._bends(counts, [taken(growth, 1), taken(growth, 1, 110)]) == []  # the noise of an allocator


def test_figures_of_several_runs_join_and_make_a_table_and_a_plot(growth, tmp_path, capsys):
    path = str(tmp_path / "figures.json")
    growth._joined(path, {"split": {1000: taken(growth, 3)}})
    joined = growth._joined(path, {"split": {100: taken(growth, 1)}, "inspect": {100: taken(growth, 2)}})
    assert list(joined["split"]) == [100, 1000]
    growth.print_table(joined, [100, 1000])
    assert "3.0 / 3.0 / 100" in capsys.readouterr().out
    growth.plot(joined, str(tmp_path / "plot.svg"))
    assert (tmp_path / "plot.svg").stat().st_size > 1000
