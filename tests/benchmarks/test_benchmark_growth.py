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
    joined["price"] = {1000: taken(growth, 4)}
    growth.print_table(joined, [100, 1000])
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if " / " in line}
    cells = [*("1.0", "/", "1.0", "/", "100"), *("3.0", "/", "3.0", "/", "100")]
    assert rows["split"][:10] == cells
    assert rows["inspect"][:6] == ["2.0", "/", "2.0", "/", "100", "-"]  # each under its number of cases
    assert rows["price"][:6] == ["-", "4.0", "/", "4.0", "/", "100"]
    growth.plot(joined, str(tmp_path / "plot.svg"))
    assert (tmp_path / "plot.svg").stat().st_size > 1000


@pytest.mark.parametrize("commands", ["resume", "resume,prepare", "inspect,segment", "evaluate,report,runs"])
def test_a_command_that_goes_on_from_another_is_refused_without_it(growth, capsys, commands):
    with pytest.raises(SystemExit):
        growth.main(["--commands", commands])
    assert "goes on from" in capsys.readouterr().err
