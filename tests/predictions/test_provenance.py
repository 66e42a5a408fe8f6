"""The file beside a segmentation tells what it depends on, and nothing of who asked for it, when or where."""

import hashlib
import json
import pathlib
import shutil

import pytest
import tiny_model

from beam_pipelines import segment_cases
from serving import client, server
from tfbrats import predict
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.predictions import model_card, provenance, results

CASE = "BraTS20_Training_001"
TRAINED_ON = {
    "records_sha256": "ab" * 32,
    "config": {"model": {"name": "cun", "width": 8}, "train": {"seed": 0}},
}


def sha256(path) -> str:
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def card(**trained_on):
    return tiny_model.card().model_copy(update={"training_data": TRAINED_ON | trained_on})


@pytest.fixture
def segmentation(tmp_path):
    path = tmp_path / "out" / f"{CASE}.nii.gz"
    path.parent.mkdir()
    path.write_bytes(b"voxels")
    return path


def entry_of(dataset):
    return layouts.find(dataset).cases[0]


@pytest.mark.parametrize(
    ("segmentation", "beside"),
    [
        ("out/A.nii.gz", "out/A.json"),
        ("A.nii", "A.json"),
        ("gs://b/out/A.b.nii.gz", "gs://b/out/A.b.json"),
    ],
)
def test_it_lies_beside_the_segmentation(segmentation, beside):
    assert provenance.path_of(segmentation) == beside


def test_it_names_model_records_config_and_every_input_by_their_hashes(tiny_dataset, segmentation):
    entry = entry_of(tiny_dataset("2020"))
    model_card.keep(card(), segmentation.parent)
    content = json.loads(pathlib.Path(provenance.write(card(), entry, segmentation)).read_text())
    assert content["case_id"] == CASE
    assert content["segmentation"] == {"file": segmentation.name, "sha256": sha256(segmentation)}
    model = content["model"]
    assert (model["name"], model["version"]) == ("tiny", 1)
    assert model["records_sha256"] == TRAINED_ON["records_sha256"]
    assert model["tfbrats_json_sha256"] == sha256(segmentation.parent / model_card.FILE)
    assert {one["modality"]: (one["file"], one["sha256"]) for one in content["inputs"]} == {
        modality: (files.name(path), sha256(path)) for modality, path, _ in entry.images
    }
    assert content["written_by"].startswith("tfbrats ") and "channel" not in content["inputs"][0]


def test_the_config_s_hash_is_that_of_its_values_in_whatever_order_they_stand(tiny_dataset, segmentation):
    entry = entry_of(tiny_dataset("2020"))

    def hashed(config):
        return provenance.describe(card(config=config), entry, segmentation)["model"]["config_sha256"]

    turned = {"train": {"seed": 0}, "model": {"width": 8, "name": "cun"}}
    assert hashed(turned) == hashed(TRAINED_ON["config"])
    assert hashed(TRAINED_ON["config"] | {"train": {"seed": 1}}) != hashed(TRAINED_ON["config"])


def test_of_a_model_that_tells_no_config_there_is_no_hash_of_one(tiny_dataset, segmentation):
    silent = card().model_copy(update={"training_data": {"records_sha256": "ab" * 32}})
    content = provenance.describe(silent, entry_of(tiny_dataset("2020")), segmentation)
    assert content["model"]["config_sha256"] is None


def test_the_card_s_hash_is_that_of_its_file_though_an_older_version_wrote_it(
    tiny_dataset, segmentation, tmp_path
):
    older = {name: value for name, value in json.loads(card().to_json()).items() if name != "precision"}
    (tmp_path / model_card.FILE).write_text(json.dumps(older))
    content = provenance.describe(model_card.read(tmp_path), entry_of(tiny_dataset("2020")), segmentation)
    assert content["model"]["tfbrats_json_sha256"] == sha256(tmp_path / model_card.FILE)


def test_only_what_the_model_takes_is_an_input(tiny_dataset, segmentation):
    less = card().model_copy(update={"modalities": ("t1ce", "flair")})
    content = provenance.describe(less, entry_of(tiny_dataset("2020")), segmentation)
    assert [one["modality"] for one in content["inputs"]] == ["flair", "t1ce"]


def test_of_a_file_with_all_modalities_the_channel_is_told(tiny_dataset, segmentation):
    entry = entry_of(tiny_dataset("msd"))
    content = provenance.describe(card(), entry, segmentation)
    (path,) = {path for _, path, _ in entry.images}
    assert {one["sha256"] for one in content["inputs"]} == {sha256(path)}
    assert {one["modality"]: one["channel"] for one in content["inputs"]} == {
        modality: channel for modality, _, channel in entry.images
    }


def test_it_tells_no_path_and_is_the_same_wherever_the_files_lie(tiny_dataset, segmentation, tmp_path):
    shutil.copytree(tiny_dataset("2020"), tmp_path / "elsewhere" / "cases")
    shutil.copytree(segmentation.parent, tmp_path / "elsewhere" / "out")
    here = provenance.write(card(), entry_of(tiny_dataset("2020")), segmentation)
    there = provenance.write(
        card(), entry_of(tmp_path / "elsewhere" / "cases"), tmp_path / "elsewhere" / "out" / segmentation.name
    )
    assert pathlib.Path(here).read_bytes() == pathlib.Path(there).read_bytes()
    assert "/" not in pathlib.Path(here).read_text()


def test_a_changed_input_changes_it(tiny_dataset, segmentation, tmp_path):
    shutil.copytree(tiny_dataset("2020"), tmp_path / "cases")
    before = provenance.describe(card(), entry_of(tmp_path / "cases"), segmentation)
    path = tmp_path / "cases" / CASE / f"{CASE}_t2.nii.gz"
    path.write_bytes(path.read_bytes() + b"\0")
    after = provenance.describe(card(), entry_of(tmp_path / "cases"), segmentation)
    changed = [a["modality"] for a, b in zip(after["inputs"], before["inputs"], strict=True) if a != b]
    assert changed == ["t2"]


def test_it_goes_with_the_segmentation_that_it_tells_of(tiny_dataset, segmentation):
    beside = pathlib.Path(provenance.write(card(), entry_of(tiny_dataset("2020")), segmentation))
    provenance.drop(segmentation)
    provenance.drop(segmentation)
    assert not beside.exists() and segmentation.exists()


@pytest.mark.parametrize(
    "content", ['{"segmentation": 1, "model": "SIGNA", "inputs": []}', "[]", "my notes", b"\xff\xfe"]
)
def test_another_file_of_that_name_is_neither_taken_away_nor_replaced(tiny_dataset, segmentation, content):
    beside = segmentation.with_name(f"{CASE}.json")
    content = content if isinstance(content, bytes) else content.encode()
    beside.write_bytes(content)
    provenance.drop(segmentation)
    refused = pytest.raises(InputError, match=rf"{CASE}\.json: there already, and not written by --provenance")
    with refused:
        provenance.check([segmentation.with_name("A.nii.gz"), segmentation])
    with refused:
        provenance.write(card(), entry_of(tiny_dataset("2020")), segmentation)
    assert beside.read_bytes() == content


def test_an_earlier_one_of_ours_may_be_replaced(tiny_dataset, segmentation):
    provenance.write(card(), entry_of(tiny_dataset("2020")), segmentation)
    provenance.check([segmentation])


@pytest.mark.parametrize("name", ["tfbrats.nii.gz", "tfbrats.nii"])
def test_a_name_that_would_take_the_place_of_the_model_s_card_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"the name of a model's card\. Give the segmentation another name"):
        provenance.check([tmp_path / name])


def test_predict_the_client_and_the_beam_job_write_the_same_file(tiny_dataset, tmp_path):
    dataset = tiny_dataset("2020")
    model = tiny_model.write(tmp_path / "tiny")
    (model / model_card.FILE).write_text(tiny_model.card().to_json())
    common = ["--input", str(dataset), "--provenance"]
    predict.main(["--model", str(model), "--output", str(tmp_path / "predict"), *common])
    segment_cases.main(["--model", str(model), "--output", str(tmp_path / "job"), *common])
    with server.start(model.parent) as running:
        client.main(
            [
                "--server",
                running.address,
                "--model-name",
                "tiny",
                "--output",
                f"{tmp_path / 'client'}/",
                *common,
            ]
        )
    for folder in ("predict", "job", "client"):
        names = sorted({path.name for path in (tmp_path / folder).iterdir()} - {results.VOLUMES})
        assert names == [f"{CASE}.json", f"{CASE}.nii.gz", *_second_case(), model_card.FILE]
        for name in names:
            written, first = ((tmp_path / one / name).read_bytes() for one in (folder, "predict"))
            if folder == "client" and name != model_card.FILE and name.endswith(".json"):
                origin = json.loads(written)
                assert len(origin.pop("request_id")) == 16  # by which the server's log knows the call
                written, first = origin, json.loads(first)
            assert written == first, name
    tables = [(tmp_path / folder / results.VOLUMES).read_bytes() for folder in ("predict", "client")]
    assert tables[0] == tables[1]


def _second_case() -> list[str]:
    return [CASE.replace("001", "002") + ending for ending in (".json", ".nii.gz")]
