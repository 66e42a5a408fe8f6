"""What a run folder says of itself: how far a network has come, and whether it is done."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfbrats import config_file
from tfbrats.errors import InputError
from tfbrats.runs import folder


def history(*losses):
    return [{"epoch": n, "validation_loss": loss} for n, loss in enumerate(losses, start=1)]


def test_a_rise_counts_from_the_best_loss_so_far_and_ends_when_it_is_over():
    assert folder.rises(history(1.0, 1.2, 1.3), stop_rise=0.1) == 2
    assert folder.rises(history(1.0, 1.2, 1.05), stop_rise=0.1) == 0
    assert folder.rises(history(1.0, 1.2, 0.9, 1.2), stop_rise=0.1) == 1
    assert folder.rises(history(1.0, 1.1), stop_rise=0.1) == 0  # no more than a tenth above


def test_rows_read_back_from_the_file_count_like_those_in_memory(tmp_path):
    rows = history(1.0, 1.5, 1.6)
    folder.write_history(tmp_path, rows, [{"epoch": n, "seconds": 1.0} for n in (1, 2, 3)])
    assert folder.rises(folder.read_history(tmp_path), 0.1) == folder.rises(rows, 0.1) == 2


def test_a_history_without_rows_is_no_file(tmp_path):
    folder.write_history(tmp_path, history(1.0), [{"epoch": 1, "seconds": 1.0}])
    folder.write_history(tmp_path, [], [])
    assert not list(tmp_path.iterdir()) and folder.read_history(tmp_path) == []


def test_a_run_that_was_stopped_is_not_finished(tmp_path):
    settings = config_file.load("smoke_2d.yaml", ["train.epochs=2"])
    folder.start(tmp_path, settings)
    folder.write_history(tmp_path, history(1.0), [{"epoch": 1, "seconds": 1.0}])
    with pytest.raises(InputError, match="stopped before its end"):
        folder.check_finished(tmp_path)
    folder.write_history(tmp_path, history(1.0, 0.9), [{"epoch": n, "seconds": 1.0} for n in (1, 2)])
    folder.check_finished(tmp_path)


def test_without_validation_nothing_rises():
    assert folder.rises([{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 9.0}], 0.1) == 0


@given(st.lists(st.floats(0.1, 10), max_size=12), st.floats(0, 1))
def test_a_loss_that_never_goes_up_never_rises(losses, stop_rise):
    assert folder.rises(history(*sorted(losses, reverse=True)), stop_rise) == 0


def test_a_network_is_done_after_its_epochs_or_when_its_loss_has_stayed_high():
    settings = config_file.load(
        "smoke_3d.yaml", ["train.epochs=9", "train.stop_rise=0.1", "train.stop_patience=2"]
    )
    assert not folder.is_over([], settings)
    assert not folder.is_over(history(1.0, 1.2), settings)
    assert folder.is_over(history(1.0, 1.2, 1.2), settings)
    assert folder.is_over(history(*[1.0] * 9), settings)


def test_each_region_has_a_folder_of_its_own_and_paper_a_has_none():
    settings = config_file.load("smoke_3d.yaml", ["run.dir=here"])
    assert [folder.home_of(settings, region) for region in ("WT", "ET")] == ["here/wt", "here/et"]
    assert folder.home_of(config_file.load("smoke_2d.yaml", ["run.dir=here"])) == "here"


def test_a_config_that_another_machine_is_writing_does_not_make_the_folder_foreign(tmp_path):
    settings = config_file.load("smoke_3d.yaml")
    (tmp_path / ".config.yaml.partial-12345678").write_text("model:")
    folder.check(tmp_path, settings)
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(InputError, match="not empty, and not a run"):
        folder.check(tmp_path, settings)


def test_a_part_is_deleted_only_when_the_rest_is_of_the_same_run(tmp_path):
    settings = config_file.load("smoke_3d.yaml")
    folder.start(tmp_path, settings)
    for name in ("wt", "tc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "history.csv").write_text("epoch\n1\n")
    other = config_file.load("smoke_3d.yaml", ["train.learning_rate=0.5"])
    with pytest.raises(InputError, match="another config"):
        folder.start(tmp_path, other, [str(tmp_path / "wt")])
    assert (tmp_path / "wt" / "history.csv").exists()
    folder.start(tmp_path, settings, [str(tmp_path / "wt")])
    assert not (tmp_path / "wt").exists() and (tmp_path / "tc" / "history.csv").exists()
    folder.start(tmp_path, other, [str(tmp_path)])
    assert not (tmp_path / "tc").exists()
