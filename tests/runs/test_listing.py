"""The list of runs: how far each has come and how well it does, best first; nothing in the folder is fatal."""

import datetime
import json
import os

import fsspec
import pytest

from tfbrats import config_file
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.runs import listing
from tfbrats.runs.__main__ import main
from tfbrats.runs.folder import RunFolder

A_HEADER = "epoch,steps,loss,training_dice_wt,validation_loss,dice_wt,dice_tc,dice_et\n"
B_HEADER = "epoch,steps,loss,validation_loss,dice\n"


def write_run(folder, name="cun.yaml", *overrides, **histories):
    """A run folder with the history.csv of each region; `own` is that of the run itself."""
    RunFolder(folder).start(config_file.load(name, ["train.epochs=3", "data.records=records/x", *overrides]))
    for region, text in histories.items():
        home = folder if region == "own" else files.join(folder, region)
        files.write_bytes(files.join(home, "history.csv"), text.encode())
    return folder


def a_rows(*rows):
    """Rows of (validation loss, Dice of all three regions)."""
    return A_HEADER + "".join(
        f"{n},5,0.9,0.2,{loss},{dice},{dice},{dice}\n" for n, (loss, dice) in enumerate(rows, start=1)
    )


def b_rows(*rows):
    return B_HEADER + "".join(f"{n},5,0.9,{loss},{dice}\n" for n, (loss, dice) in enumerate(rows, start=1))


def only(folder):
    (found,), _ = listing.find(folder)
    return found


def test_the_best_epoch_is_that_of_the_lowest_validation_loss_and_its_dice_is_the_score(tmp_path):
    write_run(tmp_path / "one", own=a_rows((1.0, 0.5), (0.6, 0.7), (0.8, 0.9)))
    (network,) = only(tmp_path).networks
    assert (network.best_epoch, network.validation_loss) == (2, 0.6)
    assert network.dice == {"WT": 0.7, "TC": 0.7, "ET": 0.7}
    assert network.state == "finished" and network.over


@pytest.mark.parametrize(
    ("history", "state"),
    [
        (a_rows((1.0, 0.5)), "epoch 1 of 3"),
        (a_rows(*[(1.0, 0.5)] * 3), "finished"),
        (a_rows((1.0, 0.5), (9.0, 0.1)), "stopped at 2 of 3"),
        ("epoch,loss\n1,0.9\n", "epoch 1 of 3, never validated"),
        ("epoch,loss\n1,0.9\n2,0.8\n3,0.7\n", "finished, never validated"),
        (A_HEADER, "not begun"),
    ],
)
def test_the_state_says_how_far_it_has_come(history, state, tmp_path):
    write_run(tmp_path / "one", "cun.yaml", "train.stop_patience=1", own=history)
    assert only(tmp_path).networks[0].state == state


def test_a_checkpoint_before_the_first_row_is_a_first_epoch(tmp_path):
    write_run(tmp_path / "one")
    files.write_bytes(tmp_path / "one" / "checkpoints" / "last" / "checkpoint", b"x")
    assert only(tmp_path).networks[0].state == "in its first epoch"


def test_paper_bs_networks_have_a_line_each(tmp_path):
    write_run(tmp_path / "msm", "msm.yaml", wt=b_rows((0.5, 0.8)), tc=b_rows((0.4, 0.6)))
    found = only(tmp_path)
    assert [(one.region, one.state, one.dice) for one in found.networks] == [
        ("WT", "epoch 1 of 3", {"WT": 0.8}),
        ("TC", "epoch 1 of 3", {"TC": 0.6}),
        ("ET", "not begun", {}),
    ]
    lines = listing.as_text([found], datetime.datetime.now(datetime.UTC)).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("msm ") and "0.800" in lines[1] and "records/x" in lines[1]
    assert lines[2].startswith("    ") and "msm TC" in lines[2] and "0.600" in lines[2]


def test_runs_are_sorted_by_dice_those_with_all_regions_first(tmp_path):
    write_run(tmp_path / "a_worse", own=a_rows((0.5, 0.6)))
    write_run(tmp_path / "b_better", own=a_rows((0.9, 0.8)))
    write_run(tmp_path / "c_one_region", "msm.yaml", wt=b_rows((0.1, 0.95)))
    write_run(tmp_path / "d_without", own="epoch,loss\n1,0.9\n")
    write_run(tmp_path / "group" / "nested", own=a_rows((0.5, 0.7)))
    found, others = listing.find(tmp_path)
    assert [one.name for one in found] == ["b_better", "group/nested", "a_worse", "c_one_region", "d_without"]
    assert others == {}


def test_paper_as_network_with_and_without_sampling_go_by_the_papers_names(tmp_path):
    write_run(tmp_path / "one", "cun_lws.yaml")
    write_run(tmp_path / "two", "cun.yaml")
    assert {one.name: one.method for one in listing.find(tmp_path)[0]} == {"one": "cun_lws", "two": "cun"}


def test_the_pace_is_the_median_epochs_and_tells_the_hours_to_go(tmp_path):
    folder = write_run(tmp_path / "one", own=a_rows((1.0, 0.5)))
    timing = b"epoch,seconds,slices_per_second\n1,9000,2\n2,7200,10\n3,7000,11\n"
    files.write_bytes(folder / "timing.csv", timing)
    found = only(tmp_path)
    assert (found.networks[0].per_second, found.networks[0].seconds_per_epoch) == (10, 7200)
    text = listing.as_text([found], datetime.datetime.now(datetime.UTC))
    assert "10 slices/s" in text and "epoch 1 of 3, 4.0 h to go" in text


def test_a_history_of_before_timing_csv_has_its_pace_in_itself(tmp_path):
    old = "epoch,loss,seconds,slices_per_second,validation_loss,dice_wt\n1,0.9,60,33.5,0.7,0.5\n"
    write_run(tmp_path / "one", own=old)
    assert only(tmp_path).networks[0].per_second == 33.5
    assert only(tmp_path).networks[0].dice == {"WT": 0.5}


def test_what_is_broken_or_foreign_is_named_and_the_rest_is_listed(tmp_path):
    write_run(tmp_path / "good", own=a_rows((1.0, 0.5)))
    write_run(tmp_path / "damaged", own="epoch,validation_loss\n1,abc\n")
    (write_run(tmp_path / "cut") / "history.csv").write_bytes(b"epoch,l\xff\xfe")
    write_run(tmp_path / "table", own="height,weight\n1,2\n")
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml" / "config.yaml").write_text("model: [")
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "config.yaml").write_text("lr: 1\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("")
    (tmp_path / "notes.txt").write_text("")
    os.symlink(tmp_path, tmp_path / "photos" / "round")
    found, others = listing.find(tmp_path)
    assert [one.name for one in found] == ["good"]
    assert set(others) == {"damaged", "cut", "table", "yaml", "another", "photos"}
    for name in ("damaged", "cut", "table"):
        assert others[name].startswith("history.csv: damaged (")
    assert others["yaml"].startswith("config.yaml: not valid YAML")
    assert others["photos"] == "no run (no config.yaml)" and "missing key model" in others["another"]
    assert all("\n" not in reason for reason in others.values())


def test_a_run_of_another_version_is_listed_and_says_so(tmp_path):
    folder = write_run(tmp_path / "old", "msm.yaml", "model.width=8", wt=b_rows((0.5, 0.8)))
    path = folder / "config.yaml"
    lines = [line for line in path.read_text().splitlines() if "jit_compile" not in line]
    path.write_text("\n".join([*lines, "long_gone: true"]))
    found = only(tmp_path)
    assert found.networks[0].dice == {"WT": 0.8} and found.config.model.width == 8
    assert found.networks[0].of == 3
    assert found.note.startswith("has another version's config (") and "jit_compile" in found.note
    assert found.note in "\n".join(listing.notes([found], {}))


def test_a_run_folder_itself_may_be_named(tmp_path):
    write_run(tmp_path / "mine", own=a_rows((1.0, 0.5)))
    assert only(tmp_path / "mine").name == "mine"


def test_without_runs_it_says_where_it_looked_and_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder.*tfbrats train"):
        listing.find(tmp_path / "nowhere")
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match=r"(?s)no runs here.*tfbrats train.*no run .no config.yaml.: photos"):
        listing.find(tmp_path)


def test_it_lists_runs_of_an_object_store():
    root = "memory://listing/runs"
    write_run(f"{root}/one", "msm.yaml", wt=b_rows((0.5, 0.8)))
    try:
        found, others = listing.find(root)
        assert [(one.name, one.folder) for one in found] == [("one", f"{root}/one")]
        assert found[0].networks[0].dice == {"WT": 0.8} and found[0].networks[0].written is not None
        assert others == {}
    finally:
        fsspec.filesystem("memory").rm("/listing", recursive=True)


def test_json_holds_what_the_table_shows(tmp_path, capsys):
    write_run(tmp_path / "one", own=a_rows((1.0, 0.5)))
    (tmp_path / "photos").mkdir()
    main([str(tmp_path), "--json"])
    told = json.loads(capsys.readouterr().out)
    (one,) = told["runs"]
    assert (one["name"], one["network"], one["records"], one["mean_dice"]) == ("one", "cun", "records/x", 0.5)
    assert one["networks"][0]["state"] == "epoch 1 of 3" and one["networks"][0]["best_epoch"] == 1
    assert told["not_listed"] == {"photos": "no run (no config.yaml)"}
    main([str(tmp_path)])
    assert "one  cun      epoch 1 of 3     1                1  0.500" in capsys.readouterr().out


def test_a_run_for_which_something_was_chosen_says_so(tmp_path):
    write_run(tmp_path / "one", own=a_rows((1.0, 0.5)))
    assert not only(tmp_path).is_tuned
    (tmp_path / "one" / "tuned.json").write_text('{"tuned": {}}')  # nothing helped
    assert not only(tmp_path).is_tuned
    (tmp_path / "one" / "tuned.json").write_text('{"tuned": {"offset": -0.4}}')
    found = only(tmp_path)
    assert "one: tuned; export takes what was chosen, or --plain" in listing.notes([found], {})
    assert listing.as_json([found], {})["runs"][0]["tuned"] is True


def test_the_best_finished_run_is_exported_next_and_the_newest_unfinished_one_gone_on_with(tmp_path, capsys):
    write_run(tmp_path / "half", own=a_rows((1.0, 0.9)))
    write_run(tmp_path / "good", own=a_rows((1.0, 0.5), (0.9, 0.6), (0.8, 0.7)))
    write_run(tmp_path / "poor", own=a_rows((1.0, 0.1), (0.9, 0.2), (0.8, 0.3)))
    main([str(tmp_path)])
    half = tmp_path / "half"
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"next: tfbrats export --run {tmp_path / 'good'} --output models/good",
        f"next: tfbrats train --config {half / 'config.yaml'} --run {half}",
    ]
    assert len(listing.following([only(tmp_path / "good")])) == 1
    config = tmp_path / "good" / "config.yaml"
    config.write_text(config.read_text() + "long_gone: true\n")  # best, and no more to be exported
    main([str(tmp_path)])
    assert f"next: tfbrats export --run {tmp_path / 'poor'} --output models/poor" in capsys.readouterr().out
    assert listing.following([only(tmp_path / "good")]) == []
    main([str(tmp_path), "--json"])
    assert "next" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "just now"), (59, "just now"), (61, "1 minute ago"), (7300, "2 hours ago"), (90000, "1 day ago")],
)
def test_how_long_ago(seconds, text, tmp_path):
    write_run(tmp_path / "one", own=a_rows((1.0, 0.5)))
    found = only(tmp_path)
    now = found.networks[0].written + datetime.timedelta(seconds=seconds)
    assert text in listing.as_text([found], now)
