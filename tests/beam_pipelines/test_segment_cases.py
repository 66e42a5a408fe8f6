"""The batch job, from its command line to the files on disk; a rule stands in the place of the network."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import uuid

import numpy as np
import pytest
import tiny_model

from beam_pipelines import engine, transforms
from beam_pipelines import segment_cases as job
from tfbrats import predict
from tfbrats.cases import case, nifti
from tfbrats.cases import split_files as split_files
from tfbrats.cases.rejected import Rejected
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.inference import saved_segmenter
from tfbrats.labels import MODALITIES
from tfbrats.machine import files, locks, memory
from tfbrats.phantoms import data_sets
from tfbrats.predictions import model_card, results, seen
from tfbrats.scoring import evaluation, score_files

IDS = [f"BraTS20_Training_00{number}" for number in range(1, 6)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A version's folder. Read only."""
    return written_model(tmp_path_factory.mktemp("models") / "tiny")


def written_model(base, version=1) -> pathlib.Path:
    path = tiny_model.write(base, version)
    (path / model_card.FILE).write_text(tiny_model.card(version).to_json())
    return path


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Five tiny simulated cases in a folder with a blank in its name. Read only."""
    folder = tmp_path_factory.mktemp("job") / "my cases"
    data_sets.write_dataset(folder, 5, "2020", seed=3, shape=(32, 32, 20), first=1)
    return folder


@pytest.fixture(scope="module")
def expected(model, cases, tmp_path_factory):
    """What predict writes, sidecars included, but its table of volumes: file -> bytes."""
    folder = tmp_path_factory.mktemp("expected")
    predict.main(["--model", str(model), "--input", str(cases), "--output", str(folder), "--provenance"])
    found = contents(folder)
    del found[results.VOLUMES]
    assert len(found) == 11 and len(set(found.values())) == 11
    return found


def run(model, source, output, *more):
    return job.main([f"--model={model}", f"--input={source}", f"--output={output}", *more])


def contents(folder) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file()
    }


def without_sidecars(expected):
    return {name: content for name, content in expected.items() if not name.startswith("Br") or name[-1] == "z"}


def rejected(folder) -> list[Rejected]:
    lines = (pathlib.Path(folder) / "rejected.jsonl").read_text().splitlines()
    return [Rejected.model_validate_json(line) for line in lines]


def cut_off(source, case_id):
    """Makes a case one that cannot be read."""
    path = source / case_id / f"{case_id}_t2.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])


def too_bright(source, case_id):
    """Makes a case one that the model refuses."""
    loaded = case.load(next(one for one in layouts.find(source).cases if one.case_id == case_id))
    bright = loaded.image[..., MODALITIES.index("t2")].copy()
    bright[16, 16, 10] = tiny_model.TOO_BRIGHT + 1
    path = source / case_id / f"{case_id}_t2.nii.gz"
    path.write_bytes(nifti.to_bytes(loaded.grid.to_file(bright), loaded.grid, path.name))


# --- a whole run ----------------------------------------------------------------------------------------


def test_it_writes_what_predict_writes_and_nothing_else(model, cases, expected, tmp_path, capsys):
    assert run(model, cases, tmp_path / "out put", "--provenance") == 0
    assert contents(tmp_path / "out put") == expected
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "model            tiny version 1"
    assert said[-2] == f"segmentations of 5 cases are in {tmp_path / 'out put'}"
    both = (shlex.quote(str(place)) for place in (tmp_path / "out put", cases))
    assert said[-1] == "next: tfbrats evaluate --prediction {} --reference {} --output scores".format(*both)


def test_another_spacing_is_told_before_the_job_and_guesses_in_reading_when_workers_have_ended(
    cases, tmp_path, capsys, without_codes, monkeypatch
):
    coarse = written_model(tmp_path / "models" / "tiny")
    card = tiny_model.card().model_copy(update={"spacing_mm": (1.0, 1.0, 2.0)})
    (coarse / model_card.FILE).write_text(card.to_json())
    shutil.copytree(cases, tmp_path / "cases")
    without_codes(tmp_path / "cases" / IDS[2])
    true_job = engine.job
    monkeypatch.setattr(engine, "job", lambda *a, **k: print("the job begins") or true_job(*a, **k))
    assert run(coarse, tmp_path / "cases", tmp_path / "out") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("note", "the job"))]
    expected = [*(f"note: {case_id}:" for case_id in IDS), "the job begins", f"note: {IDS[2]}:"]
    assert [line[:27] for line in lines] == expected
    assert all("its voxels are 1 x 1 x 1 mm, and the model tiny" in line for line in lines[:5])
    assert f"{IDS[2]}_flair.nii.gz, " in lines[6] and "(LPS)" in lines[6]


@pytest.mark.parametrize("workers", [1, 2])
def test_however_many_threads_work_the_model_is_loaded_once(
    model, cases, expected, tmp_path, monkeypatch, capsys, workers
):
    real, loads = saved_segmenter.SavedSegmenter, []
    monkeypatch.setattr(saved_segmenter, "SavedSegmenter", lambda folder: loads.append(folder) or real(folder))
    mode = "in_memory" if workers == 1 else "multi_threading"
    run(model, cases, tmp_path, f"--direct_running_mode={mode}", f"--direct_num_workers={workers}")
    assert loads == [str(model)]
    assert "model loaded     1 time by 1 worker\n" in capsys.readouterr().out
    assert contents(tmp_path) == without_sidecars(expected)


def test_a_worker_that_loads_a_model_for_each_case_would_be_seen(model, cases, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(transforms.shared.Shared, "acquire", lambda self, construct, tag=None: construct())
    run(model, cases, tmp_path)
    assert "model loaded     5 times by 1 worker\n" in capsys.readouterr().out


def test_of_two_threads_only_one_is_at_a_case_at_a_time(model, cases, tmp_path, monkeypatch):
    real, at_once, most = results.attempt, [], []

    def attempt(segment, entry, *rest):
        at_once.append(entry)
        most.append(len(at_once))
        try:
            return real(segment, entry, *rest)
        finally:
            at_once.remove(entry)

    monkeypatch.setattr(results, "attempt", attempt)
    run(model, cases, tmp_path, "--direct_running_mode=multi_threading", "--direct_num_workers=2")
    assert most == [1] * 5


def test_from_memory_to_memory_with_a_model_in_memory(model, cases, expected, monkeypatch):
    monkeypatch.setattr(locks, "SETTLED_AFTER_S", 0.05)
    root = f"memory://{uuid.uuid4().hex}"
    for here, there in ((cases, "in"), (model, "models/tiny/1")):
        for path in files.walk(here):
            files.write_bytes(f"{root}/{there}" + path.removeprefix(str(here)), files.read_bytes(path))
    assert run(f"{root}/models/tiny/1", f"{root}/in", f"{root}/out", "--provenance") == 0
    assert {files.name(path): files.read_bytes(path) for path in files.walk(f"{root}/out")} == expected
    files.remove(root)


# --- again ----------------------------------------------------------------------------------------------


def test_a_second_run_keeps_everything_and_touches_no_file(
    model, cases, expected, tmp_path, monkeypatch, capsys
):
    run(model, cases, tmp_path, "--provenance")
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.setattr(saved_segmenter, "SavedSegmenter", lambda _: pytest.fail("loaded"))
    assert run(model, cases, tmp_path, "--provenance") == 0
    assert "5 of 5 cases are done already and are kept" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


@pytest.mark.parametrize("ending", [".nii.gz", ".json"])
def test_only_what_is_missing_is_done_and_what_a_killed_job_left_is_swept(
    model, cases, expected, tmp_path, capsys, ending
):
    run(model, cases, tmp_path, "--provenance")
    (tmp_path / f"{IDS[2]}{ending}").unlink()
    (tmp_path / f".{IDS[2]}.nii.gz.partial-12345678").write_bytes(b"half")
    (tmp_path / ".parts").mkdir()
    (tmp_path / ".parts" / f"{IDS[1]}.json").write_text("{")
    (tmp_path / ".parts" / f"{IDS[2]}.json").write_text("{")
    capsys.readouterr()
    assert run(model, cases, tmp_path, "--provenance") == 0
    assert "4 of 5 cases are done already and are kept" in capsys.readouterr().out
    assert contents(tmp_path) == expected


def test_half_files_of_others_are_left_alone(model, cases, tmp_path):
    theirs = tmp_path / ".BraTS20_Training_999.nii.gz.partial-12345678"
    theirs.write_bytes(b"another command is at it")
    run(model, cases, tmp_path, f"--case={IDS[0]}")
    assert theirs.exists()


def test_overwritten_results_are_all_done_anew(model, cases, expected, tmp_path):
    run(model, cases, tmp_path, "--provenance")
    for path in tmp_path.glob("*.nii.gz"):
        path.write_bytes(b"old")
    table = tmp_path / results.VOLUMES  # predict's
    table.write_text(f"case_id,WT_ml,TC_ml,ET_ml\n{IDS[0]},9.000,9.000,9.000\n")
    assert run(model, cases, tmp_path, "--overwrite") == 0
    assert table.read_text().splitlines() == ["case_id,WT_ml,TC_ml,ET_ml"]
    table.unlink()
    assert contents(tmp_path) == without_sidecars(expected)  # no file tells of a segmentation that is gone


# --- cases that cannot be segmented ---------------------------------------------------------------------


@pytest.fixture
def spoilt(cases, tmp_path):
    """One case that cannot be read and one that the model refuses, among five."""
    shutil.copytree(cases, tmp_path / "in")
    cut_off(tmp_path / "in", IDS[1])
    too_bright(tmp_path / "in", IDS[3])
    return tmp_path / "in"


def test_bad_cases_are_listed_with_their_stage_and_the_others_are_done(model, spoilt, expected, tmp_path):
    with pytest.raises(InputError) as refused:
        run(model, spoilt, tmp_path / "out")
    said = str(refused.value)
    assert said.startswith("2 of 5 cases were rejected, more than --max-bad-fraction 0 allows: ")
    assert f"{tmp_path / 'out' / 'rejected.jsonl'}\nthe first: {IDS[1]}: " in said
    first, second = rejected(tmp_path / "out")
    assert (first.case_id, first.stage, second.case_id, second.stage) == (IDS[1], "read", IDS[3], "segment")
    assert f"{IDS[1]}_t2.nii.gz: truncated" in first.reason and "tfbrats inspect" in first.hint
    assert "the model refuses it" in second.reason and "t2 is too bright" in second.reason
    found = contents(tmp_path / "out")
    del found["rejected.jsonl"]
    sound = {name: c for name, c in without_sidecars(expected).items() if name[:20] not in (IDS[1], IDS[3])}
    assert found == sound


def test_mended_cases_are_done_and_leave_the_list(model, spoilt, cases, expected, tmp_path):
    assert run(model, spoilt, tmp_path / "out", "--max-bad-fraction=0.4") == 0
    for name in (IDS[1], IDS[3]):
        shutil.copytree(cases / name, spoilt / name, dirs_exist_ok=True)
    # A job on other cases forgets none that has no result yet.
    assert run(model, spoilt, tmp_path / "out", f"--case={IDS[3]}") == 0
    assert [row.case_id for row in rejected(tmp_path / "out")] == [IDS[1]]
    assert run(model, spoilt, tmp_path / "out") == 0
    assert contents(tmp_path / "out") == without_sidecars(expected)


def test_a_fault_that_nobody_expected_is_one_rejected_case(model, cases, tmp_path, monkeypatch, caplog):
    real = saved_segmenter.SavedSegmenter.segment

    def segment(self, loaded, *asked):
        if loaded.case_id == IDS[2]:
            raise RuntimeError("out of luck")
        return real(self, loaded, *asked)

    monkeypatch.setattr(saved_segmenter.SavedSegmenter, "segment", segment)
    assert run(model, cases, tmp_path, "--max-bad-fraction=0.2") == 0
    (row,) = rejected(tmp_path)
    assert (row.stage, row.reason) == ("segment", f"{IDS[2]}: RuntimeError: out of luck")
    assert "Traceback" in caplog.text  # in the worker's log: how to find it
    assert len(list(tmp_path.glob("*.nii.gz"))) == 4


def test_the_page_names_every_stage_at_which_a_case_may_be_rejected():
    text = (pathlib.Path(job.__file__).parent.parent / "docs" / "how-to" / "segment.md").read_text()
    (row,) = [
        line for line in text.splitlines() if line.startswith("| `rejected.jsonl` | cases without a result")
    ]
    assert all(f"`{stage}`" in row for stage in results.STAGES)


@pytest.mark.parametrize("fraction", ["-0.1", "10"])
def test_a_bad_fraction_that_is_none_is_refused(model, cases, tmp_path, fraction):
    with pytest.raises(InputError, match="between 0 and 1"):
        run(model, cases, tmp_path / "out", f"--max-bad-fraction={fraction}")


# --- scores ---------------------------------------------------------------------------------------------


def test_the_scores_are_those_of_evaluate(model, cases, tmp_path, capsys):
    run(model, cases, tmp_path / "out", f"--reference={cases}")
    content = evaluation.evaluate(tmp_path / "out", cases)
    score_files.write(content, tmp_path / "theirs")
    assert 0 < content.summary["WT"]["dice"].mean < 1
    ours = contents(tmp_path / "out" / "scores")
    assert set(ours) == set(score_files.names(content))
    assert ours["metrics.csv"] == (tmp_path / "theirs" / "metrics.csv").read_bytes()
    dice = content.summary["WT"]["dice"].mean
    assert f"mean Dice        WT {dice:.3f}, TC " in capsys.readouterr().out


def test_rejected_cases_are_not_scored_and_scores_of_all_follow_when_they_are_mended(
    model, spoilt, cases, tmp_path
):
    arguments = (model, spoilt, tmp_path / "out", f"--reference={cases}")
    run(*arguments, "--max-bad-fraction=0.4")
    scores = tmp_path / "out" / "scores" / score_files.REPORT
    assert json.loads(scores.read_text())["cases"] == 3
    for name in (IDS[1], IDS[3]):
        shutil.copytree(cases / name, spoilt / name, dirs_exist_ok=True)
    run(*arguments)
    assert json.loads(scores.read_text())["cases"] == 5


def scored(folder) -> list[str]:
    """The cases that the table holds."""
    rows = json.loads((folder / "scores" / score_files.REPORT).read_text())["rows"]
    return list(dict.fromkeys(row["case_id"] for row in rows))


def test_scores_of_one_case_more_are_scores_of_all_that_are_finished(model, cases, tmp_path, capsys):
    out, reference = tmp_path / "out", f"--reference={cases}"
    run(model, cases, out, reference, *(f"--case={name}" for name in IDS[:2]))
    assert "; all scores of 2 cases: " in capsys.readouterr().out
    run(model, cases, out, f"--case={IDS[3]}")
    run(model, cases, out, f"--case={IDS[2]}", reference)
    assert "; all scores of 4 cases: " in capsys.readouterr().out
    assert scored(out) == IDS[:4]


def test_finished_cases_without_a_reference_are_in_no_table(model, cases, tmp_path):
    run(model, cases, tmp_path / "out")
    shutil.copytree(cases / IDS[4], tmp_path / "reference" / IDS[4])
    run(model, cases, tmp_path / "out", f"--case={IDS[4]}", f"--reference={tmp_path / 'reference'}")
    assert scored(tmp_path / "out") == [IDS[4]]


@pytest.mark.parametrize("version", [1, 2])
def test_scores_go_with_the_results_that_they_are_of(model, cases, tmp_path, version):
    out = tmp_path / "out"
    run(model, cases, out, f"--reference={cases}")
    other = model if version == 1 else written_model(tmp_path / "models" / "tiny", version)
    (out / "scores" / "notes.txt").write_text("mine")
    run(other, cases, out, "--overwrite")
    assert [path.name for path in (out / "scores").iterdir()] == ["notes.txt"]
    (out / "scores" / "notes.txt").unlink()
    run(other, cases, out, "--overwrite")
    assert not (out / "scores").exists()


@pytest.mark.parametrize("most", [None, 1, 2])
def test_no_more_processes_score_than_there_may_be(model, cases, tmp_path, monkeypatch, most):
    run(model, cases, tmp_path)
    found = []
    real = evaluation.evaluate
    monkeypatch.setattr(
        evaluation, "evaluate", lambda *a, workers, **k: found.append(workers) or real(*a, workers=1, **k)
    )
    monkeypatch.setattr(memory.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(memory, "free_bytes", lambda: 2**40)
    run(model, cases, tmp_path, f"--reference={cases}", *([f"--workers={most}"] if most else []))
    assert found == [most or 6]


def test_a_worker_that_dies_while_scoring_is_told_with_this_job_s_option(model, cases, tmp_path, monkeypatch):
    def dying(*_, **__):
        raise evaluation.WorkerDiedError("a worker process died.")

    monkeypatch.setattr(evaluation, "evaluate", dying)
    with pytest.raises(InputError, match=r"died\. The segmentations are kept: .*--workers 1") as refused:
        run(model, cases, tmp_path, f"--reference={cases}")
    assert str(refused.value).count("--workers") == 1


@pytest.fixture
def of_a_split(model, tmp_path):
    """The model, of whose training the first three of the five cases were, and the splits.json of its run."""
    splits = {"train": IDS[:2], "validation": IDS[2:3], "test": IDS[3:]}
    path = tmp_path / "runs" / "splits.json"
    files.write_json(path, split_files.as_json(splits))
    folder = shutil.copytree(model, tmp_path / "models" / "tiny" / "1")
    trained_on = {"split_sha256": split_files.as_json(splits)["sha256"], **seen.hashes_of(splits)}
    card = tiny_model.card().model_copy(update={"training_data": trained_on})
    (folder / model_card.FILE).write_text(card.to_json())
    return folder, path


def test_training_cases_are_told_and_splits_leave_them_out(of_a_split, cases, tmp_path, capsys):
    model, splits = of_a_split
    run(model, cases, tmp_path / "out", f"--reference={cases}")
    printed = capsys.readouterr()
    assert "all scores of 5 cases, 3 of them seen by the model: " in printed.out
    assert (
        "WARNING: 3 of these 5 cases were seen in training: 2 trained the model, 1 chose its checkpoint."
        in printed.err
    )
    run(model, cases, tmp_path / "out", f"--reference={cases}", f"--splits={splits}")
    printed = capsys.readouterr()
    assert "all scores of 2 cases: " in printed.out and printed.err == ""
    assert scored(tmp_path / "out") == IDS[3:]
    content = score_files.read(tmp_path / "out" / "scores")
    assert (content.split.name, content.by_split.cases) == ("test", {"test": IDS[3:]})


def test_test_cases_that_are_not_segmented_are_counted(of_a_split, cases, tmp_path, capsys):
    model, splits = of_a_split
    run(model, cases, tmp_path / "out", f"--case={IDS[3]}", f"--reference={cases}", f"--splits={splits}")
    assert f"note: 1 of 2 cases of split test are not segmented here, and so not scored: {IDS[4]}" in (
        capsys.readouterr().out
    )
    assert scored(tmp_path / "out") == [IDS[3]]


def test_where_nothing_is_scored_the_next_line_scores_and_keeps_the_edition(
    of_a_split, cases, tmp_path, capsys
):
    model, splits = of_a_split
    out = tmp_path / "out"
    of_one = (model, cases, out, f"--case={IDS[0]}", "--edition=2020", f"--reference={cases}")
    run(*of_one, f"--splits={splits}")
    said = capsys.readouterr().out
    assert "nothing is scored: no case of split test of " in said
    reference = shlex.quote(str(cases))
    evaluate = f"--prediction {out} --reference {reference} --edition 2020 --output scores"
    assert said.splitlines()[-1] == f"next: tfbrats evaluate {evaluate}"
    run(*of_one)
    report = f"--scores {out / 'scores'} --prediction {out} --reference {reference} --output report.html"
    assert capsys.readouterr().out.splitlines()[-1] == f"next: tfbrats report {report}"


def test_splits_that_cannot_be_scored_are_told_before_the_work(model, of_a_split, cases, tmp_path):
    _, splits = of_a_split
    out = tmp_path / "out"
    with pytest.raises(InputError, match="--splits says which cases to score, and needs --reference"):
        run(model, cases, out, f"--splits={splits}")
    with pytest.raises(InputError, match="--split train needs --splits"):
        run(model, cases, out, f"--reference={cases}", "--split=train")
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"train": IDS[:1], "test": IDS[1:]}))
    with pytest.raises(InputError, match="was trained on another split"):
        run(of_a_split[0], cases, out, f"--reference={cases}", f"--splits={other}")
    with pytest.raises(InputError, match=r"--edition 2024 reads 4 as RC, but the names say 2020"):
        run(model, cases, out, f"--reference={cases}", "--edition=2024")
    assert not out.exists()


def test_a_reference_that_lacks_a_case_is_said_before_the_work(model, cases, tmp_path):
    shutil.copytree(cases / IDS[0], tmp_path / "reference" / IDS[0])
    with pytest.raises(InputError, match=rf"no reference for 4 of 5 cases\n  {IDS[1]}: not in .*reference"):
        run(model, cases, tmp_path / "out", f"--reference={tmp_path / 'reference'}")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        run(model, cases, tmp_path / "out", f"--reference={tmp_path / 'nowhere'}")
    assert not (tmp_path / "out").exists()


# --- whose folder ---------------------------------------------------------------------------------------


def test_results_of_two_models_are_not_mixed(model, cases, expected, tmp_path):
    other = written_model(tmp_path / "models" / "tiny", 2)
    run(other, cases, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match="segmentations of another model, tiny version 2"):
        run(model, cases, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert run(model, cases, tmp_path / "out", "--overwrite") == 0
    assert contents(tmp_path / "out") == without_sidecars(expected)


def test_another_model_that_writes_into_the_folder_meanwhile_ends_the_job(model, cases, tmp_path, monkeypatch):
    out, real = tmp_path / "out", saved_segmenter.SavedSegmenter.segment
    other = model_card.read(model).model_copy(update={"version": 9})

    def segment(self, loaded, *asked):
        out.mkdir(exist_ok=True)
        (out / model_card.FILE).write_text(other.to_json())
        return real(self, loaded, *asked)

    monkeypatch.setattr(saved_segmenter.SavedSegmenter, "segment", segment)
    with pytest.raises(InputError, match=r"the Beam job stopped: .*another command has begun .* version 9"):
        run(model, cases, out)
    assert set(contents(out)) == {model_card.FILE}


def test_a_second_job_is_told_to_wait(model, cases, tmp_path):
    with locks.alone(tmp_path / "out" / ".segmenting", "busy"):
        with pytest.raises(InputError, match=r"another job is writing into this folder.*another --output"):
            run(model, cases, tmp_path / "out")
        assert not list((tmp_path / "out").glob("*.nii.gz"))
    assert run(model, cases, tmp_path / "out") == 0


@pytest.mark.parametrize("edition, folder", [("msd", "imagesTr"), ("msd", "labelsTr"), ("nnunet", "labelsTr")])
def test_files_of_the_input_are_never_overwritten(model, tiny_dataset, tmp_path, edition, folder):
    shutil.copytree(tiny_dataset(edition), tmp_path / "in")
    before = contents(tmp_path / "in")
    for more in ([], ["--overwrite"]):
        with pytest.raises(InputError, match=rf"{folder}/.* belongs to the input.*another --output"):
            run(model, tmp_path / "in", tmp_path / "in" / folder, *more)
    assert contents(tmp_path / "in") == before


def test_a_model_that_cannot_be_loaded_is_one_message_and_leaves_nothing(model, cases, tmp_path):
    shutil.copytree(model, tmp_path / "1")
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"half")
    with pytest.raises(
        InputError, match=rf"the Beam job stopped: .*{tmp_path / '1'}: the SavedModel cannot be"
    ):
        run(tmp_path / "1", cases, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("through_a_link", [False, True])
def test_the_person_s_own_empty_folder_stays_when_nothing_is_written(model, cases, tmp_path, through_a_link):
    out = tmp_path / "out"
    (tmp_path / "real").mkdir()
    out.symlink_to(tmp_path / "real") if through_a_link else out.mkdir()
    (tmp_path / "1").mkdir()
    shutil.copy(model / model_card.FILE, tmp_path / "1")
    with pytest.raises(InputError, match="the SavedModel cannot be"):
        run(tmp_path / "1", cases, out)
    assert (tmp_path / "real").is_dir() and out.is_dir() and not list(out.iterdir())


def test_another_file_in_the_place_of_the_one_beside_is_refused_before_the_work(model, cases, tmp_path):
    theirs = tmp_path / f"{IDS[1]}.json"
    theirs.write_text('{"RepetitionTime": 2.3}')
    for more in ([], ["--overwrite"]):
        with pytest.raises(
            InputError, match=rf"{IDS[1]}\.json: there already, and not written by --provenance"
        ):
            run(model, cases, tmp_path, "--provenance", *more)
    assert contents(tmp_path) == {theirs.name: b'{"RepetitionTime": 2.3}'}
    run(model, cases, tmp_path, "--overwrite")
    assert theirs.read_text() == '{"RepetitionTime": 2.3}'


# --- options --------------------------------------------------------------------------------------------

NEEDED = ("--model=m", "--input=i", "--output=o")


def asked(*more):
    """Our options, once we and Beam have looked at the rest."""
    options, beam_options = job._arguments([*NEEDED, *more])
    engine.check_options(job.parser(), beam_options)
    return options


def test_paths_are_those_of_the_command_wherever_a_worker_runs():
    options, beam_options = job._arguments(["--model=gs://b/m/1", "--input=i", "--output=o"])
    assert (options.model, options.input) == ("gs://b/m/1", os.path.abspath("i"))
    assert options.output == os.path.abspath("o")
    assert beam_options == ["--runner=FnApiRunner"]


@pytest.mark.parametrize(
    ("stray", "message"),
    [
        ("--max-bad-fracton=0.5", r"; did you mean --max-bad-fraction\?$"),
        ("--over", r"'--over' is neither an option, nor one of Beam's\.$"),
        ("model.width=3", r"'model\.width=3' is neither an option, nor one of Beam's\.$"),
        ("--dry_run=true", r"only DataflowRunner has one\.$"),
        ("--workers=0", "at least one worker"),
        ("--fold=1", "--fold 1 needs --splits"),
        ("--split=test", "--split test needs --splits"),
        ("--splits=s.json", "needs --reference"),
    ],
)
def test_what_nobody_knows_is_an_error_not_dropped_in_silence(stray, message):
    with pytest.raises(InputError, match=message):
        asked(*stray.split())


def test_real_cases_get_the_rule_s_segmentation_voxel_by_voxel(model, real_cases, tmp_path):
    name = "BraTS2021_00006"
    run(model, real_cases, tmp_path, f"--case={name}")
    loaded = case.load(next(one for one in layouts.find(real_cases).cases if one.case_id == name))
    wanted = tiny_model.tissues_by_rule({m: loaded.image[..., n] for n, m in enumerate(loaded.modalities)})
    found, _ = case.load_label(tmp_path / f"{name}.nii.gz", loaded.schema)
    assert np.array_equal(found, wanted) and len(np.unique(wanted)) > 2


def test_a_model_s_folder_stands_for_its_newest_version(cases, tmp_path, capsys):
    for version in (2, 10):
        written_model(tmp_path / "models" / "tiny", version)
    chosen = ("--case", IDS[0], "--cases", f"{IDS[2]},{IDS[0]}")
    assert run(tmp_path / "models" / "tiny", cases, tmp_path / "out", *chosen) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"model            tiny version 10, the newest of {tmp_path / 'models' / 'tiny'}"
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {f"{IDS[n]}.nii.gz" for n in (0, 2)}


def test_rejected_cases_that_are_allowed_are_counted_all_the_same(model, cases, tmp_path, capsys):
    shutil.copytree(cases, tmp_path / "in")
    cut_off(tmp_path / "in", IDS[1])
    assert run(model, tmp_path / "in", tmp_path / "out", "--max-bad-fraction=0.5") == 0
    assert f"1 of 5 cases were rejected: {tmp_path / 'out' / 'rejected.jsonl'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "broken", [pytest.param(False, marks=pytest.mark.slow), True], ids=["sound", "one broken"]
)
def test_two_worker_processes_with_tensorflow_say_nothing_of_their_own(model, cases, tmp_path, broken):
    shutil.copytree(cases, tmp_path / "in")
    if broken:
        too_bright(tmp_path / "in", IDS[1])
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "tfbrats", "segment", "--workers=2", f"--model={model}"),
            *(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"),
        ],
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(job.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "model loaded     2 times by 2 workers" in ended.stdout
    # A line a minute of the cases that are done, where the machine is slow.
    foreign = [line for line in ended.stderr.splitlines() if line and not line.startswith("cases: ")]
    if broken:
        assert ended.returncode == 1 and foreign[0].startswith("error: 1 of 5 cases were rejected")
        assert foreign[1].startswith(f"the first: {IDS[1]}: the model refuses it: ") and len(foreign) == 3
    else:
        assert (ended.returncode, foreign) == (0, []), ended.stderr
