"""Folds on one record set: each sees what records of its own would show it, and none is trained twice."""

import json
import pathlib

import pytest

from beam_pipelines import nifti_to_tfrecord
from tfbrats import train
from tfbrats.cases import dealing, split_files
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.records import tfrecord, verify
from tfbrats.records.manifest import Manifest, check_identity, of_fold, read_manifest
from tfbrats.runs.folder import RunFolder
from tfbrats.training import loop
from tfbrats.workflows import whole_run

DROPPED = ("records.dropped_fraction=0.5",)
SMALL = (*DROPPED, "train.epochs=1", "train.steps_per_epoch=1")


def _prepared(record_set, path, output, *more) -> str:
    overrides = [text for text in record_set.overrides if not text.startswith("data.records")]
    arguments = ["--config", "smoke_2d.yaml", "--input", str(record_set.cases), "--output", str(output)]
    nifti_to_tfrecord.main([*arguments, "--splits", str(path), *more, *overrides, *DROPPED])
    return str(output)


@pytest.fixture(scope="module")
def folds_file(record_set, tmp_path_factory) -> pathlib.Path:
    """Two folds of four cases."""
    path = tmp_path_factory.mktemp("folds") / "folds.json"
    split_files.write(path, dealing.folds(layouts.find(record_set.cases), 2, 0))
    return path


@pytest.fixture(scope="module")
def records(record_set, folds_file, tmp_path_factory) -> str:
    return _prepared(record_set, folds_file, tmp_path_factory.mktemp("records") / "folds")


def _examples(folder: str, manifest: Manifest, split: str) -> list[bytes]:
    shards = manifest.shards_of(split)
    return sorted(bytes(one) for s in shards for one in tfrecord.read_records(files.join(folder, s.file)))


# --- records --------------------------------------------------------------------------------------------


def test_a_fold_sees_in_the_records_of_all_what_records_of_its_own_hold(
    record_set, folds_file, records, tmp_path
):
    whole = read_manifest(records)
    for number, fold in enumerate(split_files.read_folds(folds_file)):
        view = of_fold(whole, fold, records)
        assert {split: list(ids) for split, ids in view.cases.items()} == fold
        assert view.split_sha256 == split_files.sha256_of_split(fold)
        if number == 0:  # one is enough: preparing takes seconds
            own = _prepared(record_set, folds_file, tmp_path / "own", "--fold", "0")
            alone = read_manifest(own)
            for split in ("train", "validation"):
                assert _examples(records, view, split) == _examples(own, alone, split) != []
            assert view.examples == alone.examples
            assert view.examples["train"] < view.examples["validation"]  # two cases each: training drops some


def test_records_of_folds_are_sound_are_kept_and_are_no_split_of_their_own(
    record_set, folds_file, records, capsys
):
    whole = read_manifest(records)
    assert verify.verify(records, whole).faults == []
    with pytest.raises(InputError, match=r"holds records of folds.*--folds FILE"):
        check_identity(whole, record_set.config(f"data.records={records}", *DROPPED), records)
    capsys.readouterr()
    _prepared(record_set, folds_file, records)
    said = capsys.readouterr().out
    assert f"{len(whole.shards)} of {len(whole.shards)} shards are finished already" in said
    assert "2 folds, which hold out 2, 2 cases" in said and "left out" not in said


def test_volumes_serve_training_and_validation_and_lie_there_once(records):
    whole = read_manifest(records)
    once = whole.model_copy(
        update={"kind": "volumes", "shards": tuple(s for s in whole.shards if s.split == "train")}
    )
    held = [[row.case_id for row in shard.cases] for shard in once.shards]
    fold = {"train": [i for ids in held[1:] for i in ids], "validation": held[0], "test": []}
    view = of_fold(once, fold, records)
    assert [shard.split for shard in view.shards] == ["validation", *["train"] * (len(held) - 1)]
    assert view.shards_sha256() == once.shards_sha256()


def test_records_of_other_folds_are_refused(record_set, folds_file, records):
    whole, first = read_manifest(records), split_files.read(folds_file, 0)
    one, other, *_ = (shard for shard in whole.shards if shard.split == "train")
    joined = one.model_copy(update={"cases": one.cases + other.cases})
    (a,), (b,) = ([row.case_id for row in shard.cases] for shard in (one, other))
    with pytest.raises(InputError, match=f"{one.file} holds cases of several splits"):
        of_fold(
            whole.model_copy(update={"shards": (joined,)}),
            {"train": [a], "validation": [b], "test": []},
            records,
        )
    with pytest.raises(InputError, match=r"they lack .*nobody"):
        of_fold(whole, {**first, "train": [*first["train"], "nobody"]}, records)
    with pytest.raises(InputError, match="as it is wanted"):  # never validated on: slices are missing
        of_fold(record_set.manifest, first, record_set.folder)


@pytest.mark.parametrize(
    "held_out", [[["a"], ["a", "b"]], [["a"], []]], ids=["a case in two folds", "a case in none"]
)
def test_only_a_cross_validation_shares_records(held_out, tmp_path):
    folds = [{"train": sorted({"a", "b"} - set(ids)), "validation": ids, "test": []} for ids in held_out]
    with pytest.raises(InputError, match="no folds of a cross-validation: fold"):
        split_files.check_cross_validation(folds, tmp_path / "folds.json")


# --- training -------------------------------------------------------------------------------------------


def test_what_is_missing_is_trained_fold_by_fold_however_often_it_is_killed(
    record_set, folds_file, records, tmp_path, monkeypatch, capsys
):
    overrides = [text for text in record_set.overrides if not text.startswith("data.records")]
    home = tmp_path / "runs"
    line = ["--config", "smoke_2d.yaml", "--records", records, "--run", str(home), *overrides, *SMALL]
    line += ["--folds", str(folds_file)]
    train.main([*line, "--fold", "1"])
    assert sorted(path.name for path in home.iterdir()) == ["fold1", "folds.json"]
    stamp = (home / "fold1" / "history.csv").stat().st_mtime_ns

    real, steps = loop.Training.train_epoch, []

    def killed(self):
        steps.append(self.recipe.home.path)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Training, "train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        train.main(line)
    monkeypatch.setattr(loop.Training, "train_epoch", lambda self: steps.append("again") or real(self))
    train.main(line)
    assert steps == [str(home / "fold0"), "again"]
    assert "fold 1 of 0 to 1: trained already" in capsys.readouterr().out
    assert (home / "fold1" / "history.csv").stat().st_mtime_ns == stamp
    folds = split_files.read_folds(folds_file)
    for number, fold in enumerate(folds):
        run = RunFolder(home / f"fold{number}")
        assert {key: run.splits[key] for key in fold} == fold and not run.unfinished()

    # What began from nothing does not go on from a model; nor is the second trained before the first is told.
    with pytest.raises(InputError, match="fold0 holds a run that began from nothing"):
        train.main([*line, "--from", str(home / "fold1")])

    # Nobody goes on with it by another way.
    with pytest.raises(InputError, match="holds records of folds"):
        train.main([text for text in line if text not in ("--folds", str(folds_file))])
    other = tmp_path / "other.json"
    split_files.write(other, folds[::-1])
    with pytest.raises(InputError, match="was begun on other folds"):
        train.main([*line[:-1], str(other)])
    settings = record_set.config(f"data.records={records}", f"run.dir={home / 'fold0'}", *SMALL)
    with pytest.raises(InputError, match="trained on another split"):
        whole_run.train(settings, fold=folds[1])


def test_what_is_no_fold_is_told_at_the_door(record_set, folds_file, records, tmp_path):
    line = ["--config", "smoke_2d.yaml", "--records", records, "--run", str(tmp_path / "run")]
    with pytest.raises(InputError, match="--fold 1 needs --folds"):
        train.main([*line, "--fold", "1"])
    with pytest.raises(InputError, match="no fold 7"):
        train.main([*line, "--folds", str(folds_file), "--fold", "7"])
    one = tmp_path / "one.json"
    one.write_text(json.dumps({"train": ["a"], "validation": ["b"]}))
    with pytest.raises(InputError, match="one split, no folds"):
        train.main([*line, "--folds", str(one)])
    folds = split_files.read_folds(folds_file)
    (held_out, *_), (kept, *_) = folds[1]["validation"], folds[1]["train"]
    for change, words in (
        ({"train": sorted([*folds[1]["train"], held_out])}, f"fold 1 both trains and validates on {held_out}"),
        ({"train": folds[1]["train"][1:], "test": [kept]}, f"fold 1 keeps {kept} for testing"),
    ):
        own = tmp_path / "own.json"
        split_files.write(own, [folds[0], {**folds[1], **change}], overwrite=True)
        with pytest.raises(InputError, match=words):
            train.main([*line, "--folds", str(own)])
    assert not (tmp_path / "run").exists()
