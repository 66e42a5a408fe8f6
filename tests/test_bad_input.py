"""Bad input as a person meets it, at the command line: every command that it can be given to.

Each ends with a non-zero exit code and a message that names the file or the key and says what to do, shows no
traceback, and leaves every file and folder as it was.
"""

import contextlib
import gzip
import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile

import nibabel
import numpy as np
import pytest
import tiny_model
import yaml

from serving import server
from tfbrats import config_file
from tfbrats.phantoms import data_sets
from tfbrats.predictions import model_card
from tfbrats.terminal import command

CASE = "BraTS20_Training_001"
SMALL = ("--config", "smoke_2d.yaml", "records.slice_shape=[48, 48]")

INSPECT = "tfbrats.inspect"
BEAM = "beam_pipelines.nifti_to_tfrecord"
TRAIN = "tfbrats.train"
EXPORT = "tfbrats.export"
PREDICT = "tfbrats.predict"
BATCH = "beam_pipelines.segment_cases"
EVALUATE = "tfbrats.evaluate"
CLIENT = "serving.client"
SERVER = "serving.server"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A version's folder. Read only."""
    path = tiny_model.write(tmp_path_factory.mktemp("models") / "tiny")
    (path / model_card.FILE).write_text(tiny_model.card().to_json())
    return path


@pytest.fixture(scope="module")
def served(model):
    with server.start(model.parent) as running:
        yield running


@pytest.fixture(scope="module")
def nobody():
    """An address where nobody listens: bound, so that nobody else can, but not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, which holds all that a command may write to, temporary files included."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.fixture
def cases(here):
    """A data set of one case, to spoil: what is right about others must not hide what is left behind."""
    data_sets.write_dataset(here / "cases", 1, "2020", seed=1, shape=(32, 32, 20), first=1)
    return here / "cases"


@pytest.fixture
def refused(here, monkeypatch, capfd):
    """`refused(module, *arguments)`: what a command said that must not have done anything."""

    def of(module: str, *arguments) -> str:
        before = everything_under(here)
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            command.run(importlib.import_module(module).main)
        out, err = capfd.readouterr()
        assert ended.value.code == 1, out + err
        assert "Traceback" not in out + err
        assert everything_under(here) == before
        if module != INSPECT:  # whose report is what was asked for
            assert err.count("error: ") == 1, err
        return out + err

    return of


def everything_under(folder):
    """Every file and folder, hidden ones too, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def reading(module, cases, model, served, tmp="out"):
    """Arguments with which a command reads a data set."""
    return {
        INSPECT: (cases,),
        BEAM: (*SMALL, "--input", cases, "--output", tmp),
        PREDICT: ("--model", model, "--input", cases, "--output", tmp),
        BATCH: ("--model", model, "--input", cases, "--output", tmp),
        CLIENT: (
            *("--server", served.address, "--model-name", "tiny"),
            *("--input", cases, "--output", f"{tmp}/seg.nii.gz"),
        ),
    }[module]


# --- a data set -----------------------------------------------------------------------------------------


def path_of(cases, kind):
    return cases / CASE / f"{CASE}_{kind}.nii.gz"


def rewrite(path, voxels=lambda array: array, moved_mm=0):
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
    affine = image.affine.copy()
    affine[0, 3] += moved_mm
    array = voxels(np.asanyarray(image.dataobj))
    path.write_bytes(gzip.compress(nibabel.Nifti1Image(array, affine).to_bytes()))


def with_nan(array):
    array = array.astype(np.float32)
    array[3, 4, 5] = np.nan
    return array


def with_an_absurd_one(array):
    array = array.astype(np.float32)
    array[3, 4, 5] = -3e38
    return array


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_web_page(path):
    path.write_text("<!DOCTYPE html><html>Please log in</html>")


SCANS = {
    "missing modality": (lambda path: path.unlink(), (CASE, "no t2;", f"{CASE}_t1.nii.gz", "Add or rename")),
    "truncated": (truncated, (f"{CASE}_t2.nii.gz: truncated", "Copy or download it again")),
    "a web page": (a_web_page, (f"{CASE}_t2.nii.gz: an HTML", "Download it again")),
    "differing affine": (
        lambda path: rewrite(path, moved_mm=3),
        (f"{CASE}_t2.nii.gz: affine", "Resample it onto that grid"),
    ),
    "NaN": (
        lambda path: rewrite(path, with_nan),
        (f"{CASE}_t2.nii.gz: 1 voxels of t2 are NaN", "Write it again without"),
    ),
    "an absurd voxel": (
        lambda path: rewrite(path, with_an_absurd_one),
        (f"{CASE}_t2.nii.gz: voxel (3, 4, 5) of t2 is -3e+38: no scanner measures that", "Set it to 0"),
    ),
    "packed twice": (
        lambda path: path.write_bytes(gzip.compress(path.read_bytes())),
        (f"{CASE}_t2.nii.gz: gzipped twice", "Unpack it once"),
    ),
}


@pytest.mark.parametrize("fault", SCANS)
@pytest.mark.parametrize("module", [INSPECT, BEAM, PREDICT, CLIENT])
def test_a_scan_that_cannot_be_used(module, fault, cases, model, served, refused):
    spoil, words = SCANS[fault]
    spoil(path_of(cases, "t2"))
    said = refused(module, *reading(module, cases, model, served))
    assert all(word in said for word in words), said


@pytest.mark.parametrize("module", [INSPECT, BEAM, PREDICT, BATCH, CLIENT])
def test_an_empty_folder(module, here, model, served, refused):
    (here / "cases").mkdir()
    said = refused(module, *reading(module, here / "cases", model, served))
    assert f"{here / 'cases'}: no case found among 0 files. Looked for" in said
    assert "imagesTr/CASE_0000.nii.gz" in said and "Point to the one that holds the cases" in said


@pytest.mark.parametrize("module", [INSPECT, BEAM, PREDICT, BATCH, CLIENT])
@pytest.mark.parametrize("kind", ["missing", "a file"])
def test_a_folder_that_is_none(module, kind, cases, model, served, refused):
    path, words = {
        "missing": (cases / "nowhere", ("no such folder",)),
        "a file": (path_of(cases, "t1"), ("a file; expected a folder", "Give the one that it lies in")),
    }[kind]
    said = refused(module, *reading(module, path, model, served))
    assert f"{path}: {words[0]}" in said and words[-1] in said


@pytest.mark.parametrize("module", [INSPECT, BEAM])
def test_labels_outside_the_editions_table(module, cases, model, served, refused):
    rewrite(path_of(cases, "seg"), lambda a: np.where(a == 2, 7, a).astype(np.uint8))
    said = refused(module, *reading(module, cases, model, served))
    assert f"{CASE}_seg.nii.gz: label values [7] are not in edition 2020" in said
    assert "1 NCR, 2 ED, 4 ET" in said and "Pass --edition if it was recognised wrongly" in said


@pytest.mark.parametrize("module", [INSPECT, BEAM])
def test_a_tumour_outside_the_brain(module, cases, model, served, refused):
    def in_a_corner(array):
        moved = np.zeros_like(array)
        moved[:2, :2, :2] = 4
        return moved

    rewrite(path_of(cases, "seg"), in_a_corner)
    said = refused(module, *reading(module, cases, model, served))
    assert f"{CASE}: the segmentation lies wholly outside the brain. Is it another case's, or flipped?" in said


@pytest.mark.parametrize("module", [PREDICT, BATCH, CLIENT])
def test_labels_outside_the_table_do_not_matter_to_a_prediction(
    module, cases, model, served, here, monkeypatch
):
    rewrite(path_of(cases, "seg"), lambda a: np.where(a == 2, 7, a).astype(np.uint8))
    monkeypatch.setattr(sys, "argv", [module, *map(str, reading(module, cases, model, served))])
    with pytest.raises(SystemExit) as ended:
        command.run(importlib.import_module(module).main)
    assert ended.value.code == 0
    assert len(list((here / "out").glob("*.nii.gz"))) == 1


# --- scores ---------------------------------------------------------------------------------------------

MASKS = {
    "missing": (lambda path: path.unlink(), ("no predictions; expected files CASE.nii.gz",)),
    "truncated": (truncated, (f"{CASE}.nii.gz: truncated", "Copy or download it again")),
    "a web page": (a_web_page, (f"{CASE}.nii.gz: an HTML", "Download it again")),
    "differing affine": (
        lambda path: rewrite(path, moved_mm=3),
        (f"{CASE}.nii.gz: affine", "Write it on the reference's grid"),
    ),
    "NaN": (
        lambda path: rewrite(path, with_nan),
        (f"{CASE}.nii.gz: label values are not whole", "Resample it"),
    ),
    "labels": (
        lambda path: rewrite(path, lambda a: np.where(a == 4, 3, a).astype(np.uint8)),
        (
            f"{CASE}.nii.gz: label values [3] are not in edition 2020",
            "--edition 2023 (1 NCR, 2 ED, 3 ET; so do ",
        ),
    ),
    "another case": (
        lambda path: path.rename(path.with_name("BraTS20_Training_002.nii.gz")),
        (f"{CASE}: no prediction", "Predict it", "BraTS20_Training_002: ", "has no reference", "Remove it"),
    ),
}


@pytest.mark.parametrize("fault", MASKS)
def test_a_prediction_that_cannot_be_scored(fault, cases, here, refused):
    (here / "predictions").mkdir()
    path = here / "predictions" / f"{CASE}.nii.gz"
    shutil.copy(path_of(cases, "seg"), path)
    spoil, words = MASKS[fault]
    spoil(path)
    if fault == "labels":  # the prediction's table may be another than the reference's
        words = ("predictions hold the values 0, 1, 2, 3", "--prediction-edition 2023 (1 NCR, 2 ED, 3 ET)")
    arguments = ("--prediction", "predictions", "--reference", cases, "--output", "scores", "--workers", 1)
    said = refused(EVALUATE, *arguments)
    assert all(word in said for word in words), said


@pytest.mark.parametrize("fault", ["missing", "truncated", "a web page", "labels"])
def test_a_reference_that_cannot_be_scored_against(fault, cases, here, refused):
    (here / "predictions").mkdir()
    shutil.copy(path_of(cases, "seg"), here / "predictions" / f"{CASE}.nii.gz")
    spoil, words = MASKS[fault]
    spoil(path_of(cases, "seg"))
    if fault == "missing":
        words = (f"{cases}: no segmentation to score against; cases found: 1",)
    arguments = ("--prediction", "predictions", "--reference", cases, "--output", "scores", "--workers", 1)
    said = refused(EVALUATE, *arguments)
    assert all(word.replace(f"{CASE}.nii", f"{CASE}_seg.nii") in said for word in words), said


# --- a config -------------------------------------------------------------------------------------------

KEYS = {
    "unknown": ("train.momentun=0.9", "unknown key train.momentun; did you mean train.momentum?"),
    "of another section": ("train.width=4", "unknown key train.width; did you mean model.width?"),
    "unlike any": (
        "model.colour=red",
        "unknown key model.colour; model has width, batch_norm, reestimate_moments, name",
    ),
    "impossible": ("model.width=wide", "model.width = 'wide': Input should be a valid integer"),
}


@pytest.mark.parametrize("fault", KEYS)
@pytest.mark.parametrize("module", [BEAM, TRAIN])
@pytest.mark.parametrize("how", ["override", "file"])
def test_a_key_that_is_none(module, fault, how, cases, here, refused):
    override, words = KEYS[fault]
    where = "smoke_2d.yaml"
    if how == "file":
        content = yaml.safe_load((config_file.SHIPPED / where).read_text())
        section, key, value = re.split("[.=]", override, maxsplit=2)
        content[section][key] = yaml.safe_load(value)
        where = "mine.yaml"
        (here / where).write_text(yaml.safe_dump(content))
    arguments = {
        BEAM: ("--config", where, "--input", cases, "--output", "out"),
        TRAIN: ("--config", where, "--records", "nowhere", "--run", "out"),
    }[module]
    said = refused(module, *arguments, *([override] if how == "override" else []))
    assert f"{where}:\n  " in said and words in said


@pytest.mark.parametrize("module", [BEAM, TRAIN])
def test_a_key_that_stands_twice(module, cases, here, refused):
    (here / "mine.yaml").write_text(
        (config_file.SHIPPED / "smoke_2d.yaml").read_text().replace("train:\n", "train:\n  epochs: 3\n")
    )
    arguments = {
        BEAM: ("--config", "mine.yaml", "--input", cases, "--output", "out"),
        TRAIN: ("--config", "mine.yaml", "--records", "nowhere", "--run", "out"),
    }[module]
    said = refused(module, *arguments)
    assert "mine.yaml" in said and "epochs stands twice" in said and "Keep one" in said


@pytest.mark.parametrize("module", [BEAM, TRAIN])
def test_a_config_that_is_not_there(module, cases, here, refused):
    arguments = {
        BEAM: ("--config", "smok_2d.yaml", "--input", cases, "--output", "out"),
        TRAIN: ("--config", "smok_2d.yaml", "--run", "out"),
    }[module]
    said = refused(module, *arguments)
    assert f"neither a file {here / 'smok_2d.yaml'} nor among the shipped ones in {config_file.SHIPPED}" in said
    assert "cun.yaml" in said and "Did you mean smoke_2d.yaml?" in said


# --- records --------------------------------------------------------------------------------------------


@pytest.fixture
def records(record_set, here):
    """A copy to spoil, and the arguments with which it is trained on."""
    shutil.copytree(record_set.folder, here / "records")
    own = [text for text in record_set.overrides if not text.startswith("data.records")]
    return here / "records", ("--config", "smoke_2d.yaml", "--records", "records", "--run", "run", *own)


def test_records_that_are_not_there(refused, here):
    said = refused(TRAIN, "--config", "smoke_2d.yaml", "--records", "nowhere", "--run", "run")
    assert "nowhere: no dataset.json" in said
    assert "tfbrats prepare --config smoke_2d.yaml --input" in said


def test_training_on_records_of_another_config(records, refused):
    said = refused(TRAIN, *records[1], "lws.contour_width_mm=7", "records.seed=5")
    assert "records: these records were written with another configuration" in said
    assert "contour_width_mm: 7" in said and "records.seed: 5, there 0" in said
    assert "Use the config they were written with, or write them again" in said


def test_writing_into_records_of_another_config(records, record_set, refused):
    own = [text for text in records[1][6:] if text.startswith("records.")]
    arguments = ("--config", "smoke_2d.yaml", "--input", record_set.cases, "--output", "records", *own)
    said = refused(BEAM, *arguments, "records.dropped_fraction=0.5")
    assert "records: holds records of another configuration" in said
    assert "records.dropped_fraction: 0.5, there" in said
    assert "Choose another --output, or pass --overwrite" in said


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_tfrecord_with_a_flipped_byte(records, refused, place):
    shard = sorted(records[0].glob("train-*.tfrecord"))[1]
    content = bytearray(shard.read_bytes())
    content[int(place * len(content))] ^= 0xFF
    shard.write_bytes(content)
    said = refused(TRAIN, *records[1])
    assert f"records/{shard.name}: damaged: its checksum" in said
    assert "Run tfbrats prepare again: it rewrites only what does not match" in said
    assert said.count(".tfrecord: ") == 1  # the others are sound


def test_a_tfrecord_that_is_missing_or_cut_off(records, refused):
    first, second = sorted(records[0].glob("train-*.tfrecord"))[:2]
    first.unlink()
    truncated(second)
    said = refused(TRAIN, *records[1])
    assert f"{first.name}: missing. Run tfbrats prepare again" in said
    assert f"{second.name}: {second.stat().st_size} bytes; dataset.json says" in said


# --- regions, patches and volumes -----------------------------------------------------------------------

B_SMALL = (
    "--config",
    "smoke_3d.yaml",
    "sampling.patch_size=8",
    "cascade.stride=8",
    "sampling.patches_per_case=2",
)


@pytest.fixture
def patch_training(patch_records, here):
    """`patch_training(kind, *more)`: arguments that train on a link to the shared records of a kind."""

    def of(kind, *more, config_name="smoke_3d.yaml"):
        if not (here / kind).exists():
            shutil.copytree(patch_records.folders[kind], here / kind)
        own = (*patch_records.overrides, f"records.kind={kind}") if config_name == "smoke_3d.yaml" else ()
        return ("--config", config_name, "--records", kind, "--run", "run", *own, *more)

    return of


@pytest.mark.parametrize("module", [BEAM, TRAIN])
@pytest.mark.parametrize(
    ("name", "override", "words"),
    [
        ("msm.yaml", "region=core", ("region = 'core': Input should be 'all', 'wt', 'tc' or 'et'",)),
        ("cun.yaml", "region=wt", ("unknown key region; the sections are model, data",)),
        ("msm.yaml", "cascade.stride=65", ("cascade.stride 65", "sampling.patch_size 64", "would be in none")),
        ("msm.yaml", "sampling.boxes=predicted", ("sampling.boxes=predicted needs records.kind=volumes",)),
        ("msm.yaml", "model.width=5", ("model.width 5 is odd", "ET's pyramid")),
        ("msm.yaml", "sampling.patch_size=60", ("sampling.patch_size = 60", "multiple of 8")),
    ],
)
def test_a_region_or_a_way_of_cutting_that_is_none(module, name, override, words, cases, refused):
    arguments = {
        BEAM: ("--config", name, "--input", cases, "--output", "out"),
        TRAIN: ("--config", name, "--records", "nowhere", "--run", "out"),
    }[module]
    said = refused(module, *arguments, override)
    assert f"{name}:\n  " in said and all(word in said for word in words), said


def test_training_on_records_of_another_kind(patch_training, records, refused):
    said = refused(TRAIN, *patch_training("volumes", "records.kind=patches"))
    assert "volumes: holds volumes; this config (msm) trains on patches" in said
    assert "or pass records.kind=volumes" in said
    said = refused(TRAIN, *patch_training("patches", "records.kind=volumes"))
    assert "or pass records.kind=patches" in said
    said = refused(TRAIN, *patch_training("volumes", config_name="smoke_2d.yaml"))
    assert "volumes: holds volumes; this config (cun) trains on slices. Write them with this config" in said
    said = refused(TRAIN, "--config", "smoke_3d.yaml", "--records", "records", "--run", "run")
    assert "records: holds slices; this config (msm) trains on volumes. Write them with this config" in said


@pytest.mark.parametrize(
    "override", ["sampling.patch_size=8", "cascade.margin=4", "sampling.patches_per_case=7"]
)
def test_training_on_patches_that_were_cut_another_way(patch_training, refused, override):
    said = refused(TRAIN, *patch_training("patches", override))
    key, _, value = override.partition("=")
    assert f"{key}: {value}, there " in said and "written with another configuration" in said


def test_training_on_patches_of_another_region_and_writing_into_them(cases, here, monkeypatch, refused):
    wt = (*B_SMALL, "records.kind=patches", "records.split=[1, 0, 0]")
    monkeypatch.setattr(sys, "argv", [BEAM])
    beam = importlib.import_module(BEAM)
    assert beam.main([*wt, "region=wt", "--input", str(cases), "--output", str(here / "wt")]) == 0
    said = refused(TRAIN, *wt, "region=tc", "--records", "wt", "--run", "run")
    assert (
        "wt: holds patches of WT, none of TC. Train region=wt on it, or write the others into another" in said
    )
    said = refused(TRAIN, *wt, "--records", "wt", "--run", "run")
    assert "none of TC, ET" in said
    said = refused(BEAM, *wt, "region=tc", "--input", cases, "--output", "wt")
    assert "wt: holds records of another configuration" in said and "regions: ['TC'], there ['WT']" in said
    assert "Choose another --output, or pass --overwrite" in said


def test_exporting_a_run_that_lacks_networks(cascade_run, here, refused):
    shutil.copytree(cascade_run.folder, here / "run")
    shutil.rmtree(here / "run" / "tc")
    said = refused(EXPORT, "--run", "run", "--output", "models/msm")
    assert "run: no checkpoint of TC yet. Train at least one epoch first (region=tc)" in said
    said = refused(EXPORT, "--run", "run", "--output", "models/msm", "cascade.mask=multiply")
    assert "cascade.mask=multiply: settled by training" in said and "may be chosen anew" in said


# --- models and servers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [PREDICT, BATCH])
def test_predicting_with_what_is_no_model(module, cases, model, here, refused):
    (here / "empty").mkdir()
    for path in ("nowhere/1", "empty", cases):
        said = refused(module, "--model", path, "--input", cases, "--output", "out")
        assert f"{path}: no tfbrats.json here" in said
    shutil.copytree(model, here / "1")
    (here / "1" / "tfbrats.json").write_text(json.dumps({"format": 1}))
    said = refused(module, "--model", "1", "--input", cases, "--output", "out")
    assert "1/tfbrats.json: " in said and "Export the model again" in said


def test_exporting_what_is_no_run(cases, refused):
    for path in ("nowhere", cases):
        said = refused(EXPORT, "--run", path, "--output", "models/cun")
        assert f"{path}: no run here (no config.yaml). Train one with tfbrats train" in said


def test_exporting_a_run_with_an_unknown_key(here, refused):
    (here / "run").mkdir()
    (here / "run" / "config.yaml").write_text(config_file.load("smoke_2d.yaml").to_yaml() + "colour: red\n")
    said = refused(EXPORT, "--run", "run", "--output", "models/cun")
    assert "run/config.yaml:\n  unknown key colour" in said


def asking(server_, cases, *more):
    return ("--server", server_, "--input", cases, "--output", "out/seg.nii.gz", *more)


def test_a_server_that_is_not_there(cases, nobody, refused):
    said = refused(CLIENT, *asking(nobody, cases, "--model-name", "tiny", "--connect-timeout", 0.3))
    assert f"{nobody}: no gRPC server answers there" in said
    assert "Check host and port" in said and "tfbrats serve --model_base_path" in said


def test_an_unknown_model_version_or_signature(cases, served, refused):
    said = refused(CLIENT, *asking(served.address, cases, "--model-name", "nobody"))
    assert f"{served.address} serves no nobody" in said and "Check --model-name and --model-version" in said
    said = refused(CLIENT, *asking(served.address, cases, "--model-name", "tiny", "--model-version", 9))
    assert (
        f"{served.address} serves no tiny version 9" in said
        and "Check --model-name and --model-version" in said
    )
    said = refused(CLIENT, *asking(served.address, cases, "--model-name", "tiny", "--signature", "nobodys"))
    assert "--signature nobodys: takes no whole case" in said and "Leave it out, or give" in said


def test_serving_what_is_no_model(cases, model, refused):
    for path, words in {
        "nowhere": "no such folder. Give the folder that holds a model's versions",
        cases: "no version in it",
        model: "give its parent folder",
    }.items():
        said = refused(SERVER, "--model_base_path", path, "--port", 0)
        assert f"{path}: " in said and words in said


# --- places to write to ---------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [BEAM, PREDICT, CLIENT, EVALUATE, "tfbrats.phantom"])
def test_an_output_that_cannot_be_written(module, cases, model, served, here, refused):
    (here / "file").write_text("of a person")
    arguments = {
        EVALUATE: ("--prediction", "p", "--reference", cases, "--output", "file", "--workers", 1),
        "tfbrats.phantom": ("--output", "file", "--count", 1, "--shape", 32, 32, 20),
    }
    (here / "p").mkdir()
    shutil.copy(path_of(cases, "seg"), here / "p" / f"{CASE}.nii.gz")
    said = refused(module, *(arguments.get(module) or reading(module, cases, model, served, "file")))
    assert "file" in said and "cannot be written (" in said and "Choose another place" in said


def test_a_run_that_cannot_be_written(records, here, refused):
    (here / "file").write_text("of a person")
    said = refused(TRAIN, *records[1], "run.dir=unused", "--run", "file")
    assert "file/.training: cannot be written (" in said and "Choose another place" in said


# --- in a shell -----------------------------------------------------------------------------------------


def test_a_shell_sees_the_exit_code_and_one_message(cases, here, nobody):
    a_web_page(path_of(cases, "flair"))
    before = everything_under(here)
    asked = [
        [INSPECT, cases],
        [CLIENT, *asking(nobody, path_of(cases, "t1").parent, "--model-name", "m", "--connect-timeout", 0.3)],
        [BEAM, "--config", "smoke_2d.yaml", "--input", cases, "--output", "out", "modl.width=2"],
    ]
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", *map(str, arguments)],
                    cwd=here,
                    env={**os.environ, "TMPDIR": str(here / "tmp")},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
            for arguments in asked
        ]
        said = [process.communicate(timeout=100)[0] for process in running]
    assert [process.returncode for process in running] == [1, 1, 1]
    for text, words in zip(
        said, (f"{CASE}_flair.nii.gz: an HTML", "no gRPC server answers", "did you mean model?"), strict=True
    ):
        assert words in text and "Traceback" not in text
    assert everything_under(here) == before
