"""Volumes in ml: measured, told in a line, kept in a table that never disagrees with the files beside it."""

import multiprocessing

import numpy as np
import pytest

from tfbrats.cases import case, nifti
from tfbrats.datasets.layouts import CaseFiles
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, Tissue
from tfbrats.predictions import results, volumes

HEAD = "case_id,WT_ml,TC_ml,ET_ml\n"


def tissues_of(**counts):
    tissues = np.zeros((20, 20, 10), np.uint8)
    flat = tissues.reshape(-1)
    start = 0
    for name, count in counts.items():
        flat[start : start + count] = Tissue[name]
        start += count
    return tissues


def segmentation(folder, case_id, tissues):
    grid = nifti.new_grid(tissues.shape, (1, 1, 2))
    case.save_segmentation(folder / f"{case_id}.nii.gz", tissues, grid, EDITIONS["2020"])
    entry = CaseFiles(case_id, case_id, "test", EDITIONS["2020"], (), None)
    return entry, results.target(case_id, folder)


def test_a_line_has_a_decimal():
    assert volumes.line("p1", {"WT": 5.12, "TC": 1.44, "ET": 0.0}) == "p1: WT 5.1 ml, TC 1.4 ml, ET 0.0 ml"


def test_the_table_grows_by_each_case_and_is_there_after_each(tmp_path):
    segmentation(tmp_path, "b", tissues_of(ET=10))
    segmentation(tmp_path, "a", tissues_of(ET=10))
    table = volumes.Table(tmp_path)
    assert not (tmp_path / "volumes.csv").exists()  # with the first result
    table.add("b", {"WT": 1.0, "TC": 0.5, "ET": 0.25})
    assert (tmp_path / "volumes.csv").read_text() == HEAD + "b,1.000,0.500,0.250\n"
    table.add("a", {"WT": 2.0, "TC": 0.5, "ET": 0.25})
    assert (tmp_path / "volumes.csv").read_text() == HEAD + "a,2.000,0.500,0.250\nb,1.000,0.500,0.250\n"


def test_kept_cases_stay_and_those_that_are_redone_or_gone_leave_first(tmp_path):
    for name in ("a", "b", "c"):
        segmentation(tmp_path, name, tissues_of(ET=10))
        volumes.Table(tmp_path).add(name, {"WT": 1.0, "TC": 1.0, "ET": 1.0})
    (tmp_path / "c.nii.gz").unlink()
    volumes.Table(tmp_path, redone=["b"])
    assert (tmp_path / "volumes.csv").read_text() == HEAD + "a,1.000,1.000,1.000\n"


def test_a_segmentation_without_a_row_is_measured_from_its_file(tmp_path):
    done = [segmentation(tmp_path, "a", tissues_of(NCR=100, ED=300, ET=50))]
    broken = segmentation(tmp_path, "b", tissues_of(ET=1))
    (tmp_path / "b.nii.gz").write_bytes(b"mine")
    (note,) = volumes.Table(tmp_path).complete([*done, broken])
    assert note.startswith("not in volumes.csv: ") and "b.nii.gz" in note
    assert (tmp_path / "volumes.csv").read_text() == HEAD + "a,0.900,0.300,0.100\n"


def test_two_commands_in_one_folder_lose_no_row_of_the_other(tmp_path):
    for name in ("a", "b"):
        segmentation(tmp_path, name, tissues_of(ET=10))
    ours, theirs = volumes.Table(tmp_path), volumes.Table(tmp_path)
    theirs.add("a", {"WT": 1.0, "TC": 1.0, "ET": 1.0})
    ours.add("b", {"WT": 2.0, "TC": 1.0, "ET": 1.0})
    assert len((tmp_path / "volumes.csv").read_text().splitlines()) == 3


def _add_many(folder, first, number):
    table = volumes.Table(folder)
    for n in range(first, first + number):
        table.add(f"case{n}", {"WT": 1.0, "TC": 1.0, "ET": 1.0})


def test_two_processes_that_write_at_once_lose_no_row(tmp_path):
    number = 100
    for n in range(2 * number):
        (tmp_path / f"case{n}.nii.gz").touch()
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_add_many, args=(tmp_path, n * number, number)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(volumes.read(tmp_path)) == 2 * number
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".gz"] == ["volumes.csv"]


@pytest.mark.parametrize("text", ["precious", "case_id,WT\na,1\n", HEAD + "a,1\n", ""])
def test_another_file_of_that_name_is_never_written_over(tmp_path, text):
    (tmp_path / "volumes.csv").write_text(text)
    with pytest.raises(InputError, match=r"volumes\.csv: no table of volumes .*another --output"):
        volumes.Table(tmp_path)
    assert (tmp_path / "volumes.csv").read_text() == text
