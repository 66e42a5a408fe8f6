"""A path is a path: every command that takes one, over names that something on the way could read otherwise.

Each command writes to a name, or reads what lies there, and what comes out is compared with what a plain name
gives. Beside each lie the files that a second reading of it would take; they are as they were, and nothing is
anywhere else. The end of the test run says how many commands were run over how many names.
"""

import contextlib
import csv
import io
import json
import os
import pathlib
import shutil

import pytest
import tensorflow as tf
import tiny_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from beam_pipelines import nifti_to_tfrecord, segment_cases
from serving import client, server
from tfbrats import (
    check_submission,
    config_file,
    demo,
    evaluate,
    export,
    inspect,
    phantom,
    predict,
    report,
    splits,
    train,
)
from tfbrats.cases import split_files as split_files
from tfbrats.machine import files, paths
from tfbrats.phantoms import data_sets
from tfbrats.predictions import model_card
from tfbrats.records import __main__ as records_command
from tfbrats.records import manifest, tfrecord
from tfbrats.runs import __main__ as runs
from tfbrats.runs.folder import RunFolder
from tfbrats.training import checkpoints
from tfbrats.training.board import Board
from tfbrats.workflows import table_plan

SINGLE = (
    *("2024-05-01", "007", "010", "12:30", "1e3", "1_000", "0x1F", "~", "null", "true", "off", ".inf"),
    *(
        "[v1]",
        "{a}",
        "{a: b}",
        "a*b",
        "what?",
        "[!a]",
        "exp*",
        "%x",
        "%41",
        "a: b",
        "a:",
        "- a",
        "exp #2",
        "#x",
    ),
    *("a b", " lead", "trail ", "Größe", "日本", "a::b", "memory::x", "file:x", "gs:", "a=b", "a,b", "it's"),
    *(
        'a"b',
        "-dash",
        "--run",
        "-1",
        "a\\b",
        "\\",
        "$HOME",
        "`id`",
        "&",
        "!x",
        "@x",
        "a;b",
        "a|b",
        "<x>",
        "run.dir=x",
    ),
)
# Such a folder inside another one, where a name stands behind a slash.
NESTED = tuple(f"./{name}/{name}" for name in SINGLE)
WORST = "./[v1] #2 *?{a: b}/a::b \\~'\"日本"
# One for each reader that was wrong before: for commands that take a second or more.
KEEN = (
    "2024-05-01",
    "~",
    "null",
    "[v1]",
    "exp*",
    "a\\b",
    "exp #2",
    "memory::x",
    "file:x",
    "-dash",
    "日本",
    WORST,
)
# What those names mean to whoever reads them a second time.
BESIDE = (
    "exp",
    "a",
    "b",
    "v",
    "v1",
    "aXb",
    "whatX",
    "what",
    "exp1",
    "7",
    "8",
    "1000",
    "None",
    "True",
    "x",
    "A",
    "ab",
    "=x",
)
SMALL = ("records.slice_shape=[48,48]", "records.min_shards=1", "train.batch_size=4", "model.width=2")

PLAIN_NETWORK = ("model.name=unet2d", "train.omega=0", "train.omega_floor=0", "lws.enabled=false")


def tree(folder) -> dict[str, bytes]:
    """Relative path -> content of every file below."""
    root = pathlib.Path(folder)
    return {
        os.path.join(os.path.relpath(here, root), name): pathlib.Path(here, name).read_bytes()
        for here, _, names in os.walk(root)
        for name in names
    }


def ids_of(cases: pathlib.Path) -> list[str]:
    return sorted(path.name for path in cases.iterdir() if path.is_dir())


def plain(name: str) -> str:
    """The path as the disk has it."""
    return os.path.normpath(name)


@pytest.fixture
def over(tmp_path, monkeypatch, names_tried, capsys):
    """`over(command, names, work)` calls `work(name)` in a fresh folder for each name; all faults at once.

    `work` returns the names at the top of the working folder that it and the command have made.
    """
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))

    def try_all(command: str, names, work) -> None:
        faults = {}
        for number, name in enumerate(names):
            here = tmp_path / f"{len(names_tried)}-{number}"
            here.mkdir()
            monkeypatch.chdir(here)
            for beside in BESIDE:
                (here / beside).mkdir()
                (here / beside / "ckpt-1.index").write_bytes(beside.encode())
            before = tree(here)
            try:
                made = {plain(path).split("/")[0] for path in work(name)}
                assert set(os.listdir(here)) - {*BESIDE} == made
                assert {path: content for path, content in tree(here).items() if path in before} == before
                assert not os.listdir(home)
            except (Exception, SystemExit) as error:
                faults[name] = f"{type(error).__name__}: {error}"[:400]
            finally:
                capsys.readouterr()
                shutil.rmtree(here, ignore_errors=True)
        shown = "\n".join(f"{name!r}: {fault}" for name, fault in list(faults.items())[:5])
        assert not faults, f"{command}: {len(faults)} of {len(names)} names\n{shown}"
        names_tried[command] = len(names)

    return try_all


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> pathlib.Path:
    """Two tiny simulated cases. Read only."""
    folder = tmp_path_factory.mktemp("plain") / "cases"
    data_sets.write_dataset(folder, 2, "2020", seed=1, shape=(40, 44, 16))
    return folder


@pytest.fixture(scope="module")
def record_folder(cases, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("plain") / "records")
    ids = ids_of(cases)
    splits_file = f"{folder}.json"
    files.write_json(splits_file, {"train": ids[:1], "validation": ids[1:]})
    say = [
        "--config=smoke_2d.yaml",
        f"--input={cases}",
        f"--output={folder}",
        f"--splits={splits_file}",
        *SMALL,
    ]
    nifti_to_tfrecord.main(say)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pathlib.Path:
    """A version's folder. Read only."""
    path = tiny_model.write(tmp_path_factory.mktemp("models") / "tiny")
    (path / model_card.FILE).write_text(tiny_model.card().to_json())
    return path


@pytest.fixture(scope="module")
def segmented(model, cases, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("plain") / "out"
    predict.main([f"--model={model}", f"--input={cases}", f"--output={folder}"])
    return tree(folder)


def masks(content: dict[str, bytes]) -> dict[str, bytes]:
    return {name: one for name, one in content.items() if name.endswith(".nii.gz")}


def said_by(main, *arguments: str) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        code = main(list(arguments))
    assert not code, text.getvalue()
    return text.getvalue()


# --- cases ----------------------------------------------------------------------------------------------


def test_phantoms_are_written_where_it_was_said(over, cases):
    def work(name):
        phantom.main([f"--output={name}", "--count=2", "--seed=1", "--shape", "40", "44", "16"])
        assert tree(plain(name)) == tree(cases)
        return [name]

    over("phantom", (*SINGLE, *NESTED), work)


def test_inspect_reads_the_cases_and_the_split_that_are_named(over, cases):
    ids = ids_of(cases)

    def work(name):
        shutil.copytree(cases, plain(name))
        files.write_json(f"./{plain(name)}.json", {"train": ids[:1], "test": ids[1:]})
        found = json.loads(said_by(inspect.main, f"--splits={name}.json", "--json", "--", name))
        assert [one["case_id"] for one in found["cases"]] == ids and found["sound"]
        return [name, f"{name}.json"]

    over("inspect", (*SINGLE, *NESTED), work)


def test_splits_are_written_where_it_was_said(over, cases):
    ids = ids_of(cases)

    def work(name):
        shutil.copytree(cases, plain(name))
        splits.main([f"--input={name}", f"--output={name}.json", "--ratio=1,0,1"])
        found = split_files.read(f"./{plain(name)}.json")
        assert sorted(found["train"] + found["test"]) == ids
        return [name, f"{name}.json"]

    over("splits", (*SINGLE, *NESTED), work)


# --- records --------------------------------------------------------------------------------------------


def _records_job(cases, record_folder):
    wanted = {name: one for name, one in tree(record_folder).items() if name.endswith(".tfrecord")}
    split = files.read_bytes(f"{record_folder}.json")

    def work(name):
        shutil.copytree(cases, plain(name))
        files.write_bytes(f"./{plain(name)}.json", split)
        places = (f"--input={name}", f"--output={name}.rec", f"--splits={name}.json")
        nifti_to_tfrecord.main(["--config=smoke_2d.yaml", *places, *SMALL])
        made = tree(f"{plain(name)}.rec")
        assert {path: one for path, one in made.items() if path.endswith(".tfrecord")} == wanted
        return [name, f"{name}.json", f"{name}.rec"]

    return work


def test_records_are_written_where_it_was_said(over, cases, record_folder):
    over("nifti_to_tfrecord", [WORST, "-dash", "exp #2", "a*b"], _records_job(cases, record_folder))


@pytest.mark.slow
def test_records_are_written_to_every_name(over, cases, record_folder):
    over("nifti_to_tfrecord", (*SINGLE, *NESTED), _records_job(cases, record_folder))


def _told_of(name: str) -> list:
    """What `show` and `verify` say of a record set, but for its place and the time, and what `stats` writes."""
    shown = said_by(records_command.main, "show", "--json", "--", name)
    verified = said_by(records_command.main, "verify", "--json", "--", name)
    said_by(records_command.main, "stats", f"--csv={name}.csv", "--", name)
    told = [json.loads(text) for text in (shown, verified)]
    return [
        *({key: value for key, value in one.items() if key not in ("folder", "seconds")} for one in told),
        files.read_bytes(f"{name}.csv"),
    ]


def test_records_are_shown_verified_and_counted_where_they_lie(over, record_folder):
    wanted = _told_of(record_folder)
    assert wanted[0] and wanted[2].count(b"\n") > 10

    def work(name):
        shutil.copytree(record_folder, plain(name))
        assert _told_of(name) == wanted
        return [name, f"{name}.csv"]

    over("records show, verify, stats", (*SINGLE, *NESTED), work)


def test_records_are_turned_into_pictures_where_it_was_said(over, record_folder, tmp_path):
    records_command.main(["to-nifti", "--examples=1", f"--output={tmp_path / 'plain'}", record_folder])
    wanted = set(tree(tmp_path / "plain"))

    def work(name):
        shutil.copytree(record_folder, plain(name))
        records_command.main(["to-nifti", "--examples=1", f"--output={name}.out", "--", name])
        assert set(tree(f"{plain(name)}.out")) == wanted
        return [name, f"{name}.out"]

    over("records to-nifti", KEEN[::3], work)


def test_tensorflow_reads_records_of_any_name(over, record_folder):
    shard = manifest.read_manifest(record_folder).shards[0].file
    wanted = list(tfrecord.read_records(files.join(record_folder, shard)))

    def work(name):
        shutil.copytree(record_folder, plain(name))
        settings = config_file.load("smoke_2d.yaml", [f"data.records={name}"])
        path = files.join(settings.data.records, shard)
        read = tf.data.Dataset.from_tensor_slices([path]).interleave(tf.data.TFRecordDataset)
        assert [one.numpy() for one in read] == wanted
        return [name]

    over("reading records", (*SINGLE, WORST), work)


# --- runs -----------------------------------------------------------------------------------------------


def test_a_run_is_listed_under_its_name_and_reads_its_config_back(over):
    def work(name):
        settings = config_file.load("smoke_2d.yaml", [f"run.dir={name}", f"data.records={name}.rec"])
        RunFolder(settings.run.dir).start(settings)
        assert set(os.listdir(plain(name))) == {"config.yaml", "environment.json"}
        assert RunFolder(settings.run.dir).config == settings
        listed = json.loads(said_by(runs.main, "--json", "--", name))
        assert [one["records"] for one in listed["runs"]] == [settings.data.records]
        again = config_file.load(settings.run.dir + "/config.yaml")
        assert plain(again.run.dir) == plain(name) and plain(again.data.records) == f"{plain(name)}.rec"
        return [name]

    over("runs", (*SINGLE, *NESTED), work)


def test_checkpoints_are_kept_found_and_restored_under_any_name_and_move_with_their_folder(over):
    pair = {f"ckpt-{n}{ending}" for n in (3, 4) for ending in (".index", ".data-00000-of-00001")}

    def work(name):
        value = tf.Variable(0.0)
        checkpoint = tf.train.Checkpoint(value=value)
        folder = config_file.load("smoke_2d.yaml", [f"run.dir={name}"]).run.dir
        manager = checkpoints.Manager(checkpoint, folder, 2)
        for number in range(1, 5):
            value.assign(number)
            checkpoints.save(manager)
        assert set(os.listdir(plain(name))) == {"checkpoint", *pair}
        value.assign(0)
        newest = checkpoints.newest_whole(folder)
        checkpoints.restore(checkpoint, newest).assert_consumed()
        assert (newest, float(value)) == (f"{folder}/ckpt-4", 4)
        checkpoints.tidy(folder, newest)
        # The list that TensorFlow keeps names no place, ours least of all.
        shutil.move(plain(name), "moved")
        assert tf.train.latest_checkpoint("moved") == "moved/ckpt-4"
        pathlib.Path("moved").rename(plain(name))
        with open(f"./{plain(name)}/ckpt-4.index", "r+b") as file:
            file.write(b"damaged")
        assert checkpoints.newest_whole(folder) == f"{folder}/ckpt-3"
        return [name]

    over("checkpoints", (*SINGLE, *NESTED), work)


def test_a_board_is_written_under_any_name(over):
    def work(name):
        board = Board(files.join(config_file.load("smoke_2d.yaml", [f"run.dir={name}"]).run.dir, "tb"))
        for epoch in (1, 2, 1):  # trained again from the first
            board.write_epoch({"epoch": epoch, "loss": 0.5})
        events = EventAccumulator(f"./{plain(name)}/tb").Reload()  # what TensorBoard reads with
        read = [(one.step, float(tf.make_ndarray(one.tensor_proto))) for one in events.Tensors("loss/loss")]
        assert read == [(1, 0.5)]
        return [name]

    over("TensorBoard", SINGLE, work)


# --- models ---------------------------------------------------------------------------------------------


def _prediction(cases, model, segmented):
    def work(name):
        shutil.copytree(cases, plain(name))
        shutil.copytree(model, f"{plain(name)}.m/1")
        predict.main([f"--model={name}.m/1", f"--input={name}", f"--output={name}.out"])
        assert masks(tree(f"{plain(name)}.out")) == masks(segmented)
        return [name, f"{name}.m", f"{name}.out"]

    return work


def test_a_model_predicts_from_and_to_any_name(over, cases, model, segmented):
    over("predict", KEEN, _prediction(cases, model, segmented))


@pytest.mark.slow
def test_a_model_predicts_from_and_to_every_name(over, cases, model, segmented):
    over("predict", (*SINGLE, *NESTED), _prediction(cases, model, segmented))


def _service(cases, model, segmented):
    def work(name):
        shutil.copytree(cases, plain(name))
        shutil.copytree(model, f"{plain(name)}.m/1")
        with server.start(f"./{plain(name)}.m", model_name="tiny", warm_up=False) as served:
            asked = ["--server", served.address, "--model-name", "tiny", "--case", ids_of(cases)[0]]
            client.main([*asked, f"--input={name}", f"--output={name}.out/"])
            client.main([*asked, f"--input={name}", f"--output={name}.nii.gz"])
        made = masks(tree(f"{plain(name)}.out"))
        assert len(made) == 1 and made.items() <= masks(segmented).items()
        assert files.read_bytes(f"./{plain(name)}.nii.gz") == next(iter(made.values()))
        return [name, f"{name}.m", f"{name}.out", f"{name}.nii.gz", *_cards(name)]

    return work


def test_a_model_of_any_name_is_served_and_a_client_writes_to_any(over, cases, model, segmented):
    over("server and client", KEEN[::2], _service(cases, model, segmented))


@pytest.mark.slow
def test_a_model_of_every_name_is_served_and_a_client_writes_to_every(over, cases, model, segmented):
    over("server and client", (*SINGLE, *NESTED), _service(cases, model, segmented))


def _cards(name: str) -> list[str]:
    """A client that writes one file keeps the model's card beside it."""
    return [model_card.FILE] if os.path.exists(model_card.FILE) else []


def _segmenting_job(cases, model, segmented):
    def work(name):
        shutil.copytree(cases, plain(name))
        shutil.copytree(model, f"{plain(name)}.m/1")
        places = (f"--model={name}.m/1", f"--input={name}", f"--output={name}.out", f"--reference={name}")
        segment_cases.main(list(places))
        assert masks(tree(f"{plain(name)}.out")) == masks(segmented)
        return [name, f"{name}.m", f"{name}.out"]

    return work


def test_a_job_segments_from_and_to_any_name(over, cases, model, segmented):
    over("segment_cases", [WORST, "-dash"], _segmenting_job(cases, model, segmented))


@pytest.mark.slow
def test_a_job_segments_from_and_to_every_name(over, cases, model, segmented):
    over("segment_cases", (*SINGLE, *NESTED), _segmenting_job(cases, model, segmented))


# --- scores ---------------------------------------------------------------------------------------------


def _scored(name, cases, segmented):
    shutil.copytree(cases, f"{plain(name)}.ref")
    for path, content in segmented.items():
        files.write_bytes(f"./{plain(name)}/{path}", content)


def test_what_lies_under_any_name_is_scored_into_any(over, cases, segmented):
    ids = ids_of(cases)

    def work(name):
        _scored(name, cases, segmented)
        files.write_bytes(f"./{plain(name)}.ids", ids[1].encode())
        files.write_json(f"./{plain(name)}.json", {"train": ids[1:], "test": ids[:1]})
        both = ("--workers=1", f"--prediction={name}", f"--reference={name}.ref")
        said_by(evaluate.main, *both, f"--output={name}.one", f"--cases={name}.ids")
        said_by(evaluate.main, *both, f"--output={name}.two", f"--splits={name}.json")
        for folder, case_id in (("one", ids[1]), ("two", ids[0])):
            rows = csv.DictReader(
                files.read_bytes(f"./{plain(name)}.{folder}/metrics.csv").decode().splitlines()
            )
            assert {row["case_id"] for row in rows} == {case_id}
        return [name, *(f"{name}.{ending}" for ending in ("ref", "ids", "json", "one", "two"))]

    over("evaluate", KEEN, work)


def _page(cases, segmented):
    def work(name):
        _scored(name, cases, segmented)
        both = (f"--prediction={name}", f"--reference={name}.ref")
        said_by(evaluate.main, "--workers=1", *both, f"--output={name}.scores")
        said_by(report.main, *both, f"--scores={name}.scores", f"--output={name}.html", "--pictures=1")
        assert ids_of(cases)[0] in files.read_bytes(f"./{plain(name)}.html").decode()
        return [name, *(f"{name}.{ending}" for ending in ("ref", "scores", "html"))]

    return work


def test_a_page_is_drawn_of_and_to_any_name(over, cases, segmented):
    over("report", [WORST, "-dash"], _page(cases, segmented))


@pytest.mark.slow
def test_a_page_is_drawn_of_and_to_every_name(over, cases, segmented):
    over("report", (*SINGLE, *NESTED), _page(cases, segmented))


def test_an_upload_of_any_name_is_checked_and_packed(over, tmp_path):
    from test_check_submission import NAMES, segmentation

    content = segmentation()

    def work(name):
        for one in NAMES:
            files.write_bytes(f"./{plain(name)}/{one}", content)
        files.write_bytes(f"./{plain(name)}.ids", "\n".join(NAMES).encode())
        said_by(check_submission.main, f"--expected={name}.ids", f"--pack={name}.zip", "--", name)
        said_by(check_submission.main, f"--expected={name}.ids", "--", f"{name}.zip")
        return [name, f"{name}.ids", f"{name}.zip"]

    over("check_submission", KEEN[::3], work)


# --- from records to segmentations ----------------------------------------------------------------------


def _whole_way(cases, record_folder):
    def work(name):
        shutil.copytree(record_folder, f"{plain(name)}.rec")
        shutil.copytree(cases, plain(name))
        settings = ("train.steps_per_epoch=1", *PLAIN_NETWORK, *SMALL)
        training = ["--config=smoke_2d.yaml", f"--records={name}.rec", f"--run={name}.run", *settings]
        train.main([*training, "train.epochs=1"])
        first = checkpoints.paths_in(f"./{plain(name)}.run/checkpoints/last")
        train.main([*training, "train.epochs=2"])
        assert [row["epoch"] for row in RunFolder(f"./{plain(name)}.run").network().history] == ["1", "2"]
        assert (
            checkpoints.paths_in(f"./{plain(name)}.run/checkpoints/last")[-1] in first
        )  # it went on, not anew
        export.main([f"--run={name}.run", f"--output={name}.m"])
        assert os.listdir(f"./{plain(name)}.m") == ["1"]
        predict.main([f"--model={name}.m/1", f"--input={name}", f"--output={name}.out"])
        written = masks(tree(f"{plain(name)}.out"))
        assert len(written) == len(ids_of(cases))
        with server.start(paths.given(f"{name}.m")) as served:  # by the folder's own name, warmed up
            asked = ("--server", served.address, f"--model={os.path.basename(name)}.m")
            client.main([*asked, f"--input={name}", f"--output={name}.served/"])
        assert masks(tree(f"{plain(name)}.served")) == written
        return [name, *(f"{name}.{ending}" for ending in ("rec", "run", "m", "out", "served"))]

    return work


@pytest.mark.slow
def test_a_run_of_the_worst_name_goes_on_and_is_exported_predicts_and_is_served(over, cases, record_folder):
    over("train, resume, export, predict, serve", [WORST], _whole_way(cases, record_folder))


@pytest.mark.slow
def test_up_from_behind_a_link_is_one_place_for_every_reader_and_writer(
    cases, record_folder, tmp_path, monkeypatch, capsys
):
    """`lnk/..` is the folder that the link's target lies in; beside the link lie others of the same names."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("real/deep")
    os.symlink("real/deep", "lnk")
    shutil.copytree(record_folder, "real/rec")
    for decoy in (
        "rec/dataset.json",
        "run/checkpoints/last/ckpt-1.index",
        "run/config.yaml",
        "m/1/saved_model.pb",
    ):
        files.write_bytes(decoy, b"another's")
    before = {path: content for path, content in tree(".").items() if not path.startswith("real/")}
    settings = ("train.steps_per_epoch=1", "train.epochs=1", *PLAIN_NETWORK, *SMALL)
    train.main(["--config=smoke_2d.yaml", "--records=lnk/../rec", "--run=lnk/../run", *settings])
    assert checkpoints.paths_in("real/run/checkpoints/last") and os.path.exists("real/run/history.csv")
    kept = config_file.load("real/run/config.yaml")
    assert (kept.run.dir, kept.data.records) == (f"{tmp_path}/real/run", f"{tmp_path}/real/rec")
    export.main(["--run=lnk/../run", "--output=lnk/../m"])
    predict.main(["--model=lnk/../m/1", f"--input={cases}", "--output=lnk/../out"])
    assert len(masks(tree("real/out"))) == len(ids_of(cases))
    assert {path: content for path, content in tree(".").items() if not path.startswith("real/")} == before
    assert sorted(os.listdir(".")) == ["lnk", "m", "real", "rec", "run"]


@pytest.mark.slow
def test_a_run_of_every_name_goes_on_and_is_exported_predicts_and_is_served(over, cases, record_folder):
    over("train, resume, export, predict, serve", (*SINGLE, WORST), _whole_way(cases, record_folder))


# --- chains of commands ---------------------------------------------------------------------------------


def _checked_chain(folder: str, name: str, names: list[str]) -> None:
    """Whatever the next command of a chain reads is the same file."""
    for path in [folder, *(os.path.join(folder, one) for one in names)]:
        assert paths.given(path) == path
        assert os.path.relpath(path) == os.path.join(plain(name), os.path.relpath(path, folder)).removesuffix(
            "/."
        )


def test_a_demo_hands_the_same_folder_on(over, monkeypatch):
    begun = []
    monkeypatch.setattr(demo, "demo", lambda output, _: begun.append(output))

    def work(name):
        demo.main([f"--output={name}"])
        _checked_chain(str(begun.pop()), name, ["cases", "models/smoke_2d"])
        return []

    over("demo", (*SINGLE, *NESTED), work)


def test_a_reproduction_hands_the_same_folder_on(over, cases):
    def work(name):
        wanted = table_plan.plan(
            *("paper_a", str(cases), paths.given(name), ["cun"]),
            settings="smoke_2d.yaml",
            overrides=["records.split=[1,1,0]"],
            scored=False,
        )
        _checked_chain(wanted.path(), name, ["runs/cun", "records"])
        assert wanted.configs["cun"].run.dir == wanted.path("runs", "cun")
        assert wanted.configs["cun"].data.records == wanted.path("records")
        return []

    over("reproduce", SINGLE, work)
