"""A whole table with one command: what makes a row, what it costs, and that nothing is done twice."""

import csv
import dataclasses
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tiny_model

from tfbrats import config_file, reproduce
from tfbrats.cases import split_files
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.phantoms import data_sets
from tfbrats.runs.folder import RunFolder
from tfbrats.scoring import papers
from tfbrats.terminal import completion, verbs
from tfbrats.tuning import tuned_file
from tfbrats.workflows import table_cost, table_plan

ROWS = {
    "paper_a": ["unet2d", "bfcn", "drn", "cun", "cun_lws"],
    "paper_b": ["unet3d", "msm_noaspp", "msm"],
}
SMOKE = {"paper_a": "smoke_2d.yaml", "paper_b": "smoke_3d.yaml"}
EVERY = [(table, row) for table, rows in ROWS.items() for row in rows]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("cohort")
    data_sets.write_dataset(folder, 5, "2020", seed=3, shape=(40, 44, 20))
    return str(folder)


# --- rows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ROWS)
def test_the_rows_are_the_papers_with_the_method_last(table):
    assert table_plan.row_names(table) == ROWS[table]


@pytest.mark.parametrize(("table", "row"), EVERY)
def test_without_settings_a_row_is_its_own_yaml(table, row):
    ours = table_plan.row_config(table, row, None).model_dump(exclude={"run"})
    assert ours == config_file.load(f"{row}.yaml").model_dump(exclude={"run"})


@pytest.mark.parametrize(("table", "row"), EVERY)
def test_settings_bring_sizes_and_recipe_but_not_what_makes_the_row(table, row):
    small, own = config_file.load(SMOKE[table]), config_file.load(f"{row}.yaml")
    found = table_plan.row_config(table, row, SMOKE[table])
    assert found.model.name == own.model.name
    assert found.train.epochs == small.train.epochs
    assert found.train.learning_rate == small.train.learning_rate
    assert found.records_identity() == small.records_identity()
    method = config_file.load(f"{ROWS[table][-1]}.yaml")
    assert found.model.width / small.model.width == own.model.width / method.model.width
    if table == "paper_a":
        assert found.lws.enabled == own.lws.enabled
        assert found.train.omega == own.train.omega


def test_overrides_hold_for_every_row():
    found = table_plan.row_config("paper_a", "unet2d", None, ["model.width=4", "train.epochs=2"])
    assert (found.model.name, found.model.width, found.train.epochs) == ("unet2d", 4, 2)


@pytest.mark.parametrize("override", ["model.name=cun", "lws.enabled=true", "data.records=x", "run.dir=x"])
def test_what_the_table_settles_cannot_be_overridden(override):
    with pytest.raises(InputError, match=override.partition("=")[0]):
        table_plan.row_config("paper_a", "cun_lws", None, [override])


def test_settings_of_the_other_paper_are_refused():
    with pytest.raises(InputError, match="smoke_3d"):
        table_plan.row_config("paper_a", "cun", "smoke_3d.yaml")


# --- plans ----------------------------------------------------------------------------------------------

SMALL = ["records.slice_shape=[48,48]", "records.split=[3,1,1]"]


def _plan(cohort, output, table="paper_a", overrides=SMALL, **more) -> table_plan.Plan:
    return table_plan.plan(table, cohort, str(output), settings=SMOKE[table], overrides=overrides, **more)


def test_every_row_reads_the_same_records_and_has_a_run_of_its_own(cohort, tmp_path):
    wanted = _plan(cohort, tmp_path)
    assert list(wanted.configs) == ROWS["paper_a"]
    assert {one.data.records for one in wanted.configs.values()} == {str(tmp_path / "records")}
    assert [one.run.dir for one in wanted.configs.values()] == [
        str(tmp_path / "runs" / row) for row in ROWS["paper_a"]
    ]
    assert {name: len(ids) for name, ids in wanted.splits.items()} == {"train": 3, "validation": 1, "test": 1}
    assert wanted.case_ids == wanted.splits["test"]


def test_only_some_rows_in_the_papers_order(cohort, tmp_path):
    wanted = _plan(cohort, tmp_path, rows=["cun", "unet2d"])
    assert list(wanted.configs) == ["unet2d", "cun"]
    assert wanted.main_row == "cun"
    with pytest.raises(InputError, match=r"cun_lsw.*cun_lws"):
        _plan(cohort, tmp_path, rows=["cun_lsw"])


def test_without_cases_to_score_on_nothing_begins(cohort, tmp_path):
    with pytest.raises(InputError, match=r"keeps none.*records\.split"):
        _plan(cohort, tmp_path, "paper_b", ["records.split=[1,0,0]"])


def test_another_data_set_may_be_scored_but_not_with_cases_of_the_training(cohort, tmp_path):
    other = tmp_path / "other"
    data_sets.write_dataset(other, 2, "2021", seed=4, shape=(40, 44, 20))
    wanted = _plan(cohort, tmp_path / "out", "paper_b", ["records.split=[1,0,0]"], test_data=str(other))
    assert len(wanted.case_ids) == 2
    assert wanted.test_data == str(other)
    with pytest.raises(InputError, match="5 cases of patients who are trained"):
        _plan(cohort, tmp_path / "out", "paper_b", ["records.split=[1,0,0]"], test_data=cohort)


def test_another_time_point_of_a_trained_patient_is_not_unseen(tmp_path):
    for name, first in (("trained", 1), ("tested", 2)):
        data_sets.write_dataset(tmp_path / name, 2, "2023", seed=1, shape=(40, 44, 20), first=first)
    later = tmp_path / "tested" / "BraTS-GLI-00002-000"
    later.rename(later.with_name("BraTS-GLI-00002-001"))
    for path in later.with_name("BraTS-GLI-00002-001").iterdir():
        path.rename(path.with_name(path.name.replace("00002-000", "00002-001")))
    with pytest.raises(InputError, match=r"1 case of patients.*BraTS-GLI-00002-001"):
        table_plan.plan(
            "paper_b", str(tmp_path / "trained"), str(tmp_path / "out"), test_data=str(tmp_path / "tested")
        )


def test_the_price_of_a_table_without_test_cases_can_be_asked(cohort, tmp_path):
    wanted = table_plan.plan("paper_b", cohort, str(tmp_path), scored=False)
    found = table_cost.row_price(wanted, "msm", PROBED * 3, 10, table_cost.amounts(wanted))
    assert found.predict_hours * 3600 == pytest.approx(table_cost._FIXED_S)


def test_folds_hold_out_every_case_once_on_records_of_all(cohort, tmp_path):
    wanted = _plan(cohort, tmp_path, folds=5)
    held_out = [case_id for fold in wanted.folds for case_id in fold["validation"]]
    assert sorted(held_out) == wanted.case_ids == wanted.stored["train"] == wanted.stored["validation"]
    assert len(held_out) == len(set(held_out)) == 5
    volumes = _plan(cohort, tmp_path, "paper_b", ["records.kind=volumes"], folds=2)
    assert volumes.stored["validation"] == []  # the same shards serve
    with pytest.raises(InputError, match="Leave --test out"):
        _plan(cohort, tmp_path, folds=5, test_data=cohort)
    with pytest.raises(InputError, match=r"--folds 6: expected 2 to 5"):
        _plan(cohort, tmp_path, folds=6)


def test_of_folds_each_row_is_priced_as_often_as_it_is_trained(cohort, tmp_path):
    five = _plan(cohort, tmp_path, folds=5)
    one = dataclasses.replace(five, folds=())
    amounts = table_cost.amounts(five)
    cost, single = (table_cost.row_price(plan, "cun", PROBED, 10, amounts) for plan in (five, one))
    assert cost.train_hours == pytest.approx(5 * single.train_hours)
    assert cost.bytes == 5 * single.bytes


# --- price ----------------------------------------------------------------------------------------------

PROBED = [{"parameters": 1000, "slots": 2, "train_seconds": 0.5, "forward_seconds": 0.1, "batch_size": 2}]


def test_a_rows_price_by_hand(cohort, tmp_path):
    more = ["sampling.patch_size=16", "cascade.stride=16", "sampling.patches_per_case=7", "train.epochs=3"]
    wanted = _plan(cohort, tmp_path, "paper_b", [*more, "records.split=[3,1,1]"])
    found = table_cost.row_price(wanted, "msm", PROBED * 3, 10, table_cost.amounts(wanted))
    # Three networks, three epochs: 3 cases x 7 patches trained, 1 x 7 validated.
    assert found.train_hours * 3600 == pytest.approx(3 * 3 * (21 * 0.5 + 7 * 0.1))
    # One test case in tiles of 16: the brain's box decides how many.
    tiles = table_cost._tiles_a_case(wanted)
    assert 1 < tiles <= 3 * 3 * 2
    assert found.predict_hours * 3600 == pytest.approx(3 * tiles * 0.1 + 10 + table_cost._FIXED_S)
    # Three networks of float32: weights and two slots in two checkpoints each of last and best, and the model.
    assert found.bytes == 3 * 4 * 1000 * (3 * (2 + 2) + 1)
    assert found.parameters == 3000


def test_slices_are_counted_in_a_case_and_steps_override_them(cohort, tmp_path):
    wanted = _plan(cohort, tmp_path)
    by_slices = table_cost.row_price(wanted, "cun", PROBED, 0, table_cost.amounts(wanted))
    fewer = _plan(cohort, tmp_path, overrides=[*SMALL, "train.steps_per_epoch=1", "train.batch_size=4"])
    by_steps = table_cost.row_price(fewer, "cun", PROBED, 0, table_cost.amounts(fewer))
    epochs = wanted.configs["cun"].train.epochs
    validated = table_cost._examples(wanted, "validation") * 0.1
    assert by_steps.train_hours * 3600 == pytest.approx(epochs * (4 * 0.5 + validated))
    trained = table_cost._examples(wanted, "train")
    assert 3 * 8 < trained < 3 * 20
    assert by_slices.train_hours * 3600 == pytest.approx(epochs * (trained * 0.5 + validated))


def test_the_price_is_found_out_once(cohort, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(table_cost, "output_of", lambda *args, lock: asked.append(args) or json.dumps(PROBED))
    wanted = _plan(cohort, tmp_path, rows=["cun", "cun_lws"])
    first = table_cost.price(wanted, tmp_path)
    assert [args[2] for args in asked] == [str(tmp_path / "configs" / f"{r}.yaml") for r in ("cun", "cun_lws")]
    assert table_cost.price(wanted, tmp_path) == first
    assert len(asked) == 2
    text = "\n".join(table_cost.lines(first, ["cun", "cun_lws"], 10 * 2**30))
    assert "cun_lws" in text and "10.0 GiB are free" in text and "in all about" in text
    assert "short" not in text
    assert "short" in "\n".join(table_cost.lines(first, ["cun"], 1000))


def test_a_case_that_cannot_be_read_is_passed_over(cohort, tmp_path):
    cases = tmp_path / "cases"
    shutil.copytree(cohort, cases)
    more = ["records.split=[3,1,1]", "sampling.patch_size=16", "cascade.stride=16"]
    before = table_cost._tiles_a_case(_plan(str(cases), tmp_path / "out", "paper_b", more))
    next(cases.glob("*/*_000_flair.nii.gz")).write_bytes(b"no image")
    wanted = _plan(str(cases), tmp_path / "out", "paper_b", more)
    assert 0.5 * before <= table_cost._tiles_a_case(wanted) <= 2 * before
    for path in cases.glob("*/*_flair.nii.gz"):
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="no case can be used"):
        table_cost._tiles_a_case(wanted)


def test_asking_the_price_leaves_nothing_behind(cohort, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table_cost, "output_of", lambda *_, lock: json.dumps(PROBED))
    arguments = ["--table", "paper_a", "--input", cohort, "--output", str(tmp_path / "out"), "--price"]
    reproduce.main([*arguments, "--settings", "smoke_2d.yaml", *SMALL])
    printed = capsys.readouterr().out
    assert "in all about" in printed
    assert printed.splitlines()[-1].startswith("next: tfbrats reproduce --table paper_a --input ")
    assert "--price" not in printed.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):  # cut short it would stay in that line
        reproduce.parser().parse_intermixed_args([*arguments[:-1], "--pri"])
    assert "did you mean --price?" in capsys.readouterr().err


# --- what is typed --------------------------------------------------------------------------------------


REFUSED = {
    "a folder that is not there": (["--input", "nowhere"], "nowhere: no such folder."),
    "a data set to test on that is not there": (["--test", "nowhere"], "nowhere: no such folder."),
    "a misspelt key": (["model.widht=3"], "unknown key model.widht; did you mean model.width?"),
    "an unknown row": (["--rows", "cnu"], "--rows cnu: paper_a has the rows unet2d, bfcn, drn, cun, cun_lws."),
    "an unknown config": (["--settings", "smoke_9d"], "config smoke_9d: neither a file"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_mistyped_is_told_before_anything_heavy_is_loaded(cohort, tmp_path, what):
    arguments, words = REFUSED[what]
    code = (
        "import sys\n"
        "from tfbrats import errors, reproduce\n"
        "try: reproduce.main(sys.argv[1:])\n"
        "except errors.InputError as error: print(error)\n"
        "heavy = {'scipy', 'SimpleITK', 'nibabel', 'matplotlib', 'tensorflow', 'multiprocessing'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    line = [
        sys.executable,
        "-c",
        code,
        "--table",
        "paper_a",
        "--input",
        cohort,
        "--output",
        str(tmp_path / "out"),
    ]
    ended = subprocess.run([*line, *arguments], capture_output=True, text=True, check=True)
    assert words in ended.stdout and ended.stdout.endswith("\n[]\n"), ended.stdout
    assert not (tmp_path / "out").exists()


def test_the_old_name_of_the_input_still_works_and_says_the_new_one(capsys):
    asked = reproduce.parser().parse_args(["--table", "paper_a", "--data", "x", "--output", "y"])
    assert asked.input == "x"
    assert capsys.readouterr().err == "note: --data is now --input\n"


def test_a_key_given_as_a_flag_is_answered_with_the_override(capsys):
    with pytest.raises(SystemExit):
        reproduce.main(["--table", "paper_a", "--input", "x", "--output", "y", "--epochs", "3"])
    assert "write train.epochs=3" in capsys.readouterr().err


# --- one step after the other ---------------------------------------------------------------------------


def _choice(pieces: dict) -> tuned_file.TunedFile:
    """What tfbrats tune leaves, of this rule of pieces of WT."""
    worth = tuned_file.Worth(gain=0.1, low=0.05, high=0.15)
    return tuned_file.TunedFile(
        tuned={"pieces": {"WT": pieces}} if pieces else {},
        **{"chosen": {}, "others": {}, "whole": worth, "scores": {}, "criterion": "dice", "meaning": "Dice"},
        **{"cases": ("a",), "patients": 1, "seed": 0, "weights": ("0",)},
    )


class _Recorded:
    """Takes down the steps, and leaves what each leaves."""

    def __init__(self, splits=None, pieces=None):
        self.splits, self.pieces = splits, pieces or {}
        self.done = []  # with those that an earlier chain has done
        self.ran = []

    def run(self, title, *arguments, show=False, notes=(), is_done=False, log_name=""):
        self.done.append(arguments)
        self.notes = notes
        if is_done:
            return
        self.ran.append(arguments)
        given = dict(itertools.pairwise(arguments))
        if arguments[0] == "tfbrats.train":
            settings = config_file.load(given["--config"])
            rows = [{"epoch": n + 1, "validation_loss": 1.0} for n in range(settings.train.epochs)]
            homes = [pathlib.Path(settings.run.dir)]
            if "--folds" in given:
                count = len(split_files.read_folds(given["--folds"]))
                homes = [homes[0] / f"fold{n}" for n in range(count)]
            for home in homes:
                files.write_bytes(home / "config.yaml", settings.to_yaml().encode())
                RunFolder(home).network().write_history(
                    rows, [{"epoch": row["epoch"], "seconds": 1.0} for row in rows]
                )
                files.write_bytes(home / "checkpoints" / "best" / "checkpoint", b"")
                files.write_json(home / "splits.json", self.splits)
        if arguments[0] == "tfbrats.tune":
            tuned_file.write(given["--run"], _choice(self.pieces))
        if arguments[0] == "tfbrats.export":
            model = pathlib.Path(given["--output"])
            (model / str(1 + len(list(model.glob("*"))))).mkdir(parents=True)
        if arguments[0] == "tfbrats.predict":
            for case_id in (arguments[n + 1] for n, text in enumerate(arguments) if text == "--case"):
                files.write_bytes(files.join(given["--output"], f"{case_id}.nii.gz"), b"")
            card = tiny_model.card(version=int(pathlib.Path(given["--model"]).name))
            files.write_bytes(files.join(given["--output"], "tfbrats.json"), card.to_json().encode())
        if arguments[0] == "tfbrats.evaluate":
            files.write_bytes(files.join(given["--output"], "metrics.json"), b"")


def _names(steps) -> list[str]:
    return [arguments[0].rpartition(".")[2] for arguments in steps]


def _begun(cohort, folder, rows, **more) -> table_plan.Plan:
    """A plan whose configs are written."""
    wanted = _plan(cohort, folder, rows=rows, **more)
    for row, one in wanted.configs.items():
        files.write_bytes(folder / "configs" / f"{row}.yaml", one.to_yaml().encode())
    return wanted


def test_steps_come_in_order_and_what_is_done_is_not_done_again(cohort, tmp_path):
    wanted = _begun(cohort, tmp_path, ["cun", "cun_lws"])
    steps = _Recorded()
    reproduce.reproduce(wanted, steps)
    each = ["train", "export", "predict", "evaluate"]
    assert _names(steps.ran) == ["nifti_to_tfrecord", *each, *each, "report"]
    other, main = (arguments for arguments in steps.ran if arguments[0] == "tfbrats.evaluate")
    assert "--table" not in other
    assert main[-4:] == ("--table", "paper_a", "--compare", str(tmp_path / "scores" / "cun"))
    page = steps.ran[-1]
    assert {"--table", "--compare", str(tmp_path / "scores" / "cun_lws")} < set(page)

    again = _Recorded()
    reproduce.reproduce(wanted, again)
    assert _names(again.ran) == ["nifti_to_tfrecord", "evaluate", "evaluate", "report"]
    # The page still tells all that was run.
    assert again.done == steps.done

    (tmp_path / "predictions" / "cun" / f"{wanted.case_ids[0]}.nii.gz").unlink()
    missing = _Recorded()
    reproduce.reproduce(wanted, missing)
    assert _names(missing.ran).count("predict") == 1


def test_each_fold_is_exported_and_segments_what_it_holds_out_alone(cohort, tmp_path):
    wanted = _begun(cohort, tmp_path, ["cun"], folds=2)
    steps = _Recorded()
    reproduce.reproduce(wanted, steps)
    each = ["export", "predict"]
    assert _names(steps.ran) == ["nifti_to_tfrecord", "train", *each, *each, "evaluate", "report"]
    folds = str(tmp_path / "folds.json")
    prepare, train = steps.ran[:2]
    assert prepare[-2:] == ("--splits", folds) and train[-2:] == ("--folds", folds)
    predicts = [arguments for arguments in steps.ran if arguments[0] == "tfbrats.predict"]
    for number, (fold, arguments) in enumerate(zip(wanted.folds, predicts, strict=True)):
        cases = [arguments[n + 1] for n, text in enumerate(arguments) if text == "--case"]
        assert cases == fold["validation"]
        given = dict(itertools.pairwise(arguments))
        assert given["--model"] == str(tmp_path / "models" / f"cun_fold{number}" / "1")
        assert given["--output"] == str(tmp_path / "predictions" / "cun" / f"fold{number}")
    (evaluate,) = (arguments for arguments in steps.ran if arguments[0] == "tfbrats.evaluate")
    assert evaluate[evaluate.index("--cases") + 1] == ",".join(wanted.case_ids)

    modules = {verb.module: verb for verb in verbs.VERBS}
    for module, *arguments in steps.ran:
        completion.parser_of(modules[module]).parse_args(arguments)

    again = _Recorded()
    reproduce.reproduce(wanted, again)
    assert _names(again.ran) == ["nifti_to_tfrecord", "evaluate", "report"]
    assert again.done == steps.done
    (tmp_path / "predictions" / "cun" / "fold1" / f"{wanted.folds[1]['validation'][0]}.nii.gz").unlink()
    missing = _Recorded()
    reproduce.reproduce(wanted, missing)
    assert _names(missing.ran) == ["nifti_to_tfrecord", "predict", "evaluate", "report"]


def test_each_row_is_scored_as_the_paper_says_and_tuned(tmp_path):
    data_sets.write_dataset(tmp_path / "cases", 8, "2020", seed=3, shape=(24, 24, 16))
    more = {"overrides": [SMALL[0], "records.split=[1,5,2]"]}
    wanted = _begun(str(tmp_path / "cases"), tmp_path / "out", ["cun", "cun_lws"], **more)
    assert wanted.is_tuned and len(wanted.splits["validation"]) == 5
    steps = _Recorded(wanted.splits, {"largest_alone": True})
    reproduce.reproduce(wanted, steps)
    own, tuned = ["train", "export", "predict"], ["tune", "export", "predict", "evaluate"]
    each = [*own, *tuned, "evaluate"]
    assert _names(steps.ran) == ["nifti_to_tfrecord", *each, *each, "report"]
    exports = [arguments for arguments in steps.ran if arguments[0] == "tfbrats.export"]
    assert [arguments[4:] for arguments in exports[:2]] == [
        (str(tmp_path / "out" / "models" / "cun"), "--plain"),
        (str(tmp_path / "out" / "models" / "cun_tuned"),),
    ]
    main = steps.ran[-2]
    compared = [main[n + 1] for n, text in enumerate(main) if text == "--compare"]
    assert [pathlib.Path(folder).name for folder in compared] == ["cun", "cun_tuned", "cun_lws_tuned"]
    modules = {verb.module: verb for verb in verbs.VERBS}
    for module, *arguments in steps.ran:
        completion.parser_of(modules[module]).parse_args(arguments)

    again = _Recorded(wanted.splits)
    reproduce.reproduce(wanted, again)
    assert not {"tune", "export", "predict"} & set(_names(again.ran)) and again.done == steps.done
    # Tuned anew, it is exported anew; where nothing helps, there is no such row any more.
    path = tmp_path / "out" / "runs" / "cun" / "tuned.json"
    tuned_file.write(path.parent, _choice({"least_voxels": 9}))
    os.utime(path, (time.time() + 10,) * 2)
    anew = _Recorded(wanted.splits)
    reproduce.reproduce(wanted, anew)
    assert _names(anew.ran).count("export") == 1
    tuned_file.write(path.parent, _choice({}))
    without = _Recorded(wanted.splits)
    reproduce.reproduce(wanted, without)
    assert not {"tune", "export", "predict"} & set(_names(without.ran))
    assert str(tmp_path / "out" / "scores" / "cun_tuned") not in without.ran[-1]
    plain = _begun(str(tmp_path / "cases"), tmp_path / "plain", ["cun"], plain=True, **more)
    assert not plain.is_tuned and not _plan(str(tmp_path / "cases"), tmp_path, folds=2).is_tuned


def test_every_step_is_a_command_that_takes_these_options_by_their_names_of_today(cohort, tmp_path, capsys):
    steps = _Recorded()
    reproduce.reproduce(_begun(cohort, tmp_path, ["cun", "cun_lws"]), steps)
    capsys.readouterr()
    modules = {verb.module: verb for verb in verbs.VERBS}
    for module, *arguments in steps.ran:
        completion.parser_of(modules[module]).parse_args(arguments)
    assert capsys.readouterr().err == ""  # no "--old is now --new"


def test_a_row_alone_stands_beside_the_papers(cohort, tmp_path, capsys):
    steps = _Recorded()
    reproduce.reproduce(_begun(cohort, tmp_path, ["cun"]), steps)
    assert capsys.readouterr().out.splitlines()[-1] == f"next: look at {tmp_path}/report.html in a browser"
    assert steps.ran[-2][-2:] == ("--table", "paper_a")


def test_a_row_trained_again_is_segmented_again(cohort, tmp_path):
    wanted = _begun(cohort, tmp_path, ["cun"])
    reproduce.reproduce(wanted, _Recorded())
    shutil.rmtree(tmp_path / "runs" / "cun")
    steps = _Recorded()
    reproduce.reproduce(wanted, steps)
    assert _names(steps.ran) == ["nifti_to_tfrecord", "train", "export", "predict", "evaluate", "report"]
    (predict,) = (arguments for arguments in steps.ran if arguments[0] == "tfbrats.predict")
    assert predict[predict.index("--model") + 1] == str(tmp_path / "models" / "cun" / "2")
    assert "--overwrite" in predict


def test_one_row_more_keeps_the_others_on_the_page(cohort, tmp_path):
    reproduce.reproduce(_begun(cohort, tmp_path, ["cun", "cun_lws"]), _Recorded())
    steps = _Recorded()
    reproduce.reproduce(_begun(cohort, tmp_path, ["drn"]), steps)
    page = steps.ran[-1]
    assert page[page.index("--scores") + 1] == str(tmp_path / "scores" / "cun_lws")
    compared = [page[n + 1] for n, text in enumerate(page) if text == "--compare"]
    assert compared == [str(tmp_path / "scores" / row) for row in ("drn", "cun")]


def test_a_test_case_without_a_modality_is_found_before_anything_is_trained(cohort, tmp_path):
    other = tmp_path / "other"
    (case_id,) = data_sets.write_dataset(other, 1, "2021", seed=4, shape=(40, 44, 20))
    (other / case_id / f"{case_id}_t2.nii.gz").unlink()
    with pytest.raises(InputError, match=rf"(?s)cannot be segmented.*{case_id}.*t2"):
        _plan(cohort, tmp_path / "out", "paper_b", ["records.split=[1,0,0]"], test_data=str(other))


def test_a_folder_is_gone_on_with_by_the_same_data_and_settings_alone(cohort, tmp_path):
    reproduce._check_stamp(_plan(cohort, tmp_path, rows=["cun"]))
    reproduce._check_stamp(_plan(cohort, tmp_path, rows=["cun"]))
    reproduce._check_stamp(_plan(cohort, tmp_path, rows=["unet2d"]))  # rows may be added
    reproduce._check_stamp(_plan(cohort, tmp_path))
    with pytest.raises(InputError, match=r"cun.train.epochs: 9, there 6"):
        reproduce._check_stamp(_plan(cohort, tmp_path, overrides=[*SMALL, "train.epochs=9"]))
    with pytest.raises(InputError, match="folds: 5, there 0"):
        reproduce._check_stamp(_plan(cohort, tmp_path, rows=["cun"], folds=5))
    stamp = files.read_json(tmp_path / "reproduce.json")
    for config in stamp["rows"].values():
        del config["train"]["frozen"]  # as an older version wrote it
    files.write_json(tmp_path / "reproduce.json", {k: v for k, v in stamp.items() if k != "folds"})
    reproduce._check_stamp(_plan(cohort, tmp_path, rows=["cun"]))
    with pytest.raises(InputError, match="table: paper_b, there paper_a"):
        reproduce._check_stamp(_plan(cohort, tmp_path, "paper_b", ["records.split=[3,1,1]"]))


def test_a_folder_of_something_else_is_left_alone(cohort, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    arguments = ["--table", "paper_a", "--input", cohort, "--output", str(tmp_path)]
    with pytest.raises(InputError, match="not a reproduction"):
        reproduce.main([*arguments, "--settings", "smoke_2d.yaml", *SMALL])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# --- all of it ------------------------------------------------------------------------------------------

TINY = {
    "paper_a": [*SMALL, "model.width=2", "train.epochs=1", "train.steps_per_epoch=2", "train.batch_size=2"],
    "paper_b": [
        *(
            "records.split=[3,1,1]",
            "sampling.patch_size=16",
            "sampling.patches_per_case=4",
            "cascade.stride=16",
        ),
        *("model.width=2", "train.epochs=1", "train.batch_size=2"),
    ],
}


BEGUN = (  # of a step of the first row, by what it leaves first: when the chain is killed
    "configs/{row}.yaml",
    "records/*",
    "runs/{row}/config.yaml",
    "models/{row}",
    "predictions/{row}/*.nii.gz",
    "scores/{row}/metrics.csv",
)


@pytest.mark.slow
@pytest.mark.parametrize("table", ROWS)
def test_a_whole_table_on_phantoms_killed_in_every_step(cohort, tmp_path, table):
    output = tmp_path / "out"
    line = [sys.executable, "-m", "tfbrats.reproduce", "--table", table, "--input", cohort]
    line += ["--output", str(output), "--settings", SMOKE[table], *TINY[table]]
    for begun in BEGUN:
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        limit = time.monotonic() + 600
        wanted = begun.format(row=ROWS[table][0])
        while not list(output.glob(wanted)) and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        # By our own handler, or before it was there.
        assert process.wait(60) in (143, -signal.SIGTERM), wanted
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr

    page = (output / "report.html").read_text()
    ours = re.findall(r'<tr class="ours[^"]*"><th scope="row">([^<]+?) *<span', page)
    printed = re.findall(r"^(.+?) +ours ", ended.stdout, re.MULTILINE)
    titles = [row.title for row in papers.TABLES[table].rows]
    assert [title for title in ours if title in titles][: len(titles)] == titles
    assert [title.strip() for title in printed][: len(titles)] == titles
    *others, main = ROWS[table]
    for row in ROWS[table]:
        rows = list(csv.DictReader((output / "scores" / row / "metrics.csv").open()))
        assert [one["region"] for one in rows] == ["WT", "TC", "ET"]
        assert f"tfbrats train --config {output}/configs/{row}.yaml" in page
        assert len(list((output / "models" / row).iterdir())) == 1
        assert not list(output.glob("**/*.partial*"))
    for row in others:
        assert f"{main} minus {row}: Dice WT" in ended.stdout


OF_FOLDS = (  # what a step leaves first: when the chain is killed
    "records/dataset.json",
    "runs/unet2d/fold1/config.yaml",
    "models/unet2d_fold0/1",
    "predictions/unet2d/fold0/*.nii.gz",
)


@pytest.mark.slow
def test_folds_on_phantoms_killed_and_every_case_scored_by_a_network_that_did_not_see_it(cohort, tmp_path):
    output = tmp_path / "out"
    line = [
        sys.executable,
        "-m",
        "tfbrats.reproduce",
        "--table",
        "paper_a",
        "--input",
        cohort,
        "--rows",
        "unet2d",
    ]
    line += ["--output", str(output), "--settings", "smoke_2d", "--folds", "2", *TINY["paper_a"]]
    for begun in OF_FOLDS:
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        limit = time.monotonic() + 600
        while not list(output.glob(begun)) and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (143, -signal.SIGTERM), begun
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    scores = files.read_json(output / "scores" / "unet2d" / "metrics.json")
    assert scores["by_split"]["cases"].keys() == {"fold"} and len(scores["by_split"]["cases"]["fold"]) == 5
    assert "best epoch was chosen on the cases that its fold holds out" in " ".join(ended.stdout.split())
    for number in (0, 1):
        assert RunFolder(output / "runs" / "unet2d" / f"fold{number}").unfinished() == {}
        assert len(list((output / "models" / f"unet2d_fold{number}").iterdir())) == 1
    page = (output / "report.html").read_text()
    assert f"tfbrats train --config {output}/configs/unet2d.yaml --folds {output}/folds.json" in page
