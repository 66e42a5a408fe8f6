"""What a run folder says of itself: how far a network has come, and whether it is done."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfbrats import config_file
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.runs.folder import RunFolder, is_over, rises


def history(*losses):
    return [{"epoch": n, "validation_loss": loss} for n, loss in enumerate(losses, start=1)]


def test_a_rise_counts_from_the_best_loss_so_far_and_ends_when_it_is_over():
    assert rises(history(1.0, 1.2, 1.3), stop_rise=0.1) == 2
    assert rises(history(1.0, 1.2, 1.05), stop_rise=0.1) == 0
    assert rises(history(1.0, 1.2, 0.9, 1.2), stop_rise=0.1) == 1
    assert rises(history(1.0, 1.1), stop_rise=0.1) == 0  # no more than a tenth above


def timing_of(rows):
    return [{"epoch": row["epoch"], "seconds": 1.0} for row in rows]


def test_rows_read_back_from_the_file_count_like_those_in_memory(tmp_path):
    rows = history(1.0, 1.5, 1.6)
    RunFolder(tmp_path).network().write_history(rows, timing_of(rows))
    assert rises(RunFolder(tmp_path).network().history, 0.1) == rises(rows, 0.1) == 2


def test_a_history_without_rows_is_no_file(tmp_path):
    home = RunFolder(tmp_path).network()
    home.write_history(history(1.0), timing_of(history(1.0)))
    home.write_history([], [])
    assert not list(tmp_path.iterdir()) and home.history == home.timing == []


def test_a_run_that_was_stopped_is_not_finished(tmp_path):
    run = RunFolder(tmp_path)
    run.start(config_file.load("smoke_2d.yaml", ["train.epochs=2"]))
    run.network().write_history(history(1.0), timing_of(history(1.0)))
    with pytest.raises(InputError, match="stopped before its end"):
        run.check_finished()
    run.network().write_history(history(1.0, 0.9), timing_of(history(1.0, 0.9)))
    run.check_finished()


@pytest.fixture
def opened(monkeypatch):
    """How often each file was read, by name."""
    counts = {}
    real = files.read_bytes

    def read_bytes(path):
        counts[files.name(path)] = counts.get(files.name(path), 0) + 1
        return real(path)

    monkeypatch.setattr(files, "read_bytes", read_bytes)
    return counts


def written(folder):
    run = RunFolder(folder)
    run.start(config_file.load("smoke_3d.yaml"))
    run.write_data({"train": ["a"]}, "0" * 64, {"edition": "2020"})
    for region in ("WT", "TC", "ET"):
        run.network(region).write_history(history(1.0), timing_of(history(1.0)))
    return run


def test_each_file_is_read_once_however_often_it_is_asked_for(tmp_path, opened):
    written(tmp_path)
    opened.clear()
    run = RunFolder(tmp_path)
    for _ in range(3):
        assert run.config.train.epochs > 1 and run.splits["train"] == ["a"] and run.records["edition"] == "2020"
        assert run.environment["python"] and run.unfinished() == {"WT": 1, "TC": 1, "ET": 1}
        assert [run.network(region).timing[0]["seconds"] for region in ("WT", "TC", "ET")] == ["1.0"] * 3
    once = ("config.yaml", "splits.json", "records.json", "environment.json")
    assert opened == {**dict.fromkeys(once, 1), "history.csv": 3, "timing.csv": 3}


def test_what_is_written_through_it_is_seen(tmp_path):
    run = written(tmp_path)
    assert (run.config.train.seed, run.splits["sha256"], len(run.network("TC").history)) == (0, "0" * 64, 1)
    run.write_config(config_file.load("smoke_3d.yaml", ["train.seed=9"]))
    run.write_data({"train": ["b"]}, "1" * 64, {"edition": "2021"})
    run.network("TC").write_history(history(1.0, 0.5), timing_of(history(1.0, 0.5)))
    assert (run.config.train.seed, run.splits["train"], run.records["edition"]) == (9, ["b"], "2021")
    assert len(run.network("TC").history) == len(run.network("TC").timing) == 2
    run.start(config_file.load("smoke_3d.yaml", ["train.seed=7"]), [str(tmp_path)])
    assert run.config.train.seed == 7 and run.network("TC").history == []
    with pytest.raises(InputError, match=r"splits\.json"):
        _ = run.splits


def test_another_split_or_other_images_are_another_run(tmp_path):
    run = written(tmp_path)
    run.check_split("0" * 64, "records")
    with pytest.raises(InputError, match="another split than records holds"):
        run.check_split("1" * 64, "records")
    RunFolder(tmp_path / "new").check_split("1" * 64, "records")
    home = run.network("WT")
    home.check_trained_on("a", "records", write=False)
    assert not files.exists(home.trained_on_path)
    home.check_trained_on("a", "records", write=True)
    home.check_trained_on("a", "records", write=True)
    with pytest.raises(InputError, match="other records than records holds, though the case ids are the same"):
        home.check_trained_on("b", "records", write=True)


def test_without_validation_nothing_rises():
    assert rises([{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 9.0}], 0.1) == 0


@given(st.lists(st.floats(0.1, 10), max_size=12), st.floats(0, 1))
def test_a_loss_that_never_goes_up_never_rises(losses, stop_rise):
    assert rises(history(*sorted(losses, reverse=True)), stop_rise) == 0


def test_a_network_is_done_after_its_epochs_or_when_its_loss_has_stayed_high():
    settings = config_file.load(
        "smoke_3d.yaml", ["train.epochs=9", "train.stop_rise=0.1", "train.stop_patience=2"]
    )
    assert not is_over([], settings)
    assert not is_over(history(1.0, 1.2), settings)
    assert is_over(history(1.0, 1.2, 1.2), settings)
    assert is_over(history(*[1.0] * 9), settings)


def test_each_region_has_a_folder_of_its_own_and_paper_a_has_none():
    assert [RunFolder("here").network(region).path for region in ("WT", "ET")] == ["here/wt", "here/et"]
    assert RunFolder("here").network().path == "here"


def test_a_config_that_another_machine_is_writing_does_not_make_the_folder_foreign(tmp_path):
    settings = config_file.load("smoke_3d.yaml")
    (tmp_path / ".config.yaml.partial-12345678").write_text("model:")
    RunFolder(tmp_path).check(settings)
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(InputError, match="not empty, and not a run"):
        RunFolder(tmp_path).check(settings)


def test_a_part_is_deleted_only_when_the_rest_is_of_the_same_run(tmp_path):
    settings = config_file.load("smoke_3d.yaml")
    RunFolder(tmp_path).start(settings)
    for name in ("wt", "tc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "history.csv").write_text("epoch\n1\n")
    other = config_file.load("smoke_3d.yaml", ["train.learning_rate=0.5"])
    with pytest.raises(InputError, match="another config"):
        RunFolder(tmp_path).start(other, [str(tmp_path / "wt")])
    assert (tmp_path / "wt" / "history.csv").exists()
    RunFolder(tmp_path).start(settings, [str(tmp_path / "wt")])
    assert not (tmp_path / "wt").exists() and (tmp_path / "tc" / "history.csv").exists()
    RunFolder(tmp_path).start(other, [str(tmp_path)])
    assert not (tmp_path / "tc").exists()
