"""`tfbrats view` and `predict --view`: from names to a page; what is refused, and how."""

import json
import re
import shutil

import numpy as np
import pytest
import tiny_model

from tfbrats import labels, predict, view
from tfbrats.cases import case
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.predictions import provenance


@pytest.fixture
def one(tiny_dataset) -> layouts.CaseFiles:
    return layouts.find(tiny_dataset("2021")).cases[0]


@pytest.fixture
def predicted(one, tmp_path) -> str:
    """A folder with its reference moved by a voxel as the prediction, and a model's card."""
    loaded = case.load(one)
    folder = tmp_path / "predictions"
    folder.mkdir()
    path = folder / f"{one.case_id}.nii.gz"
    case.save_segmentation(path, np.roll(loaded.label, 1, axis=0), loaded.grid, loaded.schema)
    (folder / "tfbrats.json").write_text(tiny_model.card(edition="2021").to_json())
    return str(folder)


def data_of(path) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"))[1])


def test_the_reference_may_be_a_data_set_or_a_folder_of_segmentations(tiny_dataset, one, predicted, tmp_path):
    data_set, output = str(tiny_dataset("2021")), tmp_path / "case.html"
    pages = []
    for reference in (one.label, data_set, f"{predicted}/{one.case_id}.nii.gz", predicted):
        view.main([data_set, "--case", one.case_id, "--reference", reference, "--output", str(output)])
        pages.append(output.read_bytes())
    assert pages[0] == pages[1] != pages[2] == pages[3]
    other = next(entry for entry in layouts.find(data_set).cases if entry.case_id != one.case_id)
    with pytest.raises(InputError, match=f"no segmentation of {other.case_id} in it"):
        of_one = files.parent(one.label)
        view.main([data_set, "--case", other.case_id, "--reference", of_one, "--output", str(output)])


def test_a_case_with_its_own_segmentation_is_shown(tiny_dataset, one, tmp_path, capsys):
    output = tmp_path / "case.html"
    view.main([str(tiny_dataset("2021")), "--case", one.case_id, "--output", str(output)])
    assert re.match(rf"{one.case_id} is in {output}, \d\.\d MB; open it in a browser", capsys.readouterr().out)
    data = data_of(output)
    assert data["reference"] and not data["prediction"]


def test_a_prediction_is_found_by_the_case_s_name_and_its_model_by_the_card(
    tiny_dataset, one, predicted, tmp_path
):
    output = tmp_path / "case.html"
    whole = str(tiny_dataset("2021"))
    for prediction in (predicted, f"{predicted}/{one.case_id}.nii.gz"):
        view.main([whole, "--case", one.case_id, "--prediction", prediction, "--output", str(output)])
        text = output.read_text(encoding="utf-8")
        assert data_of(output)["prediction"] and data_of(output)["reference"]
        assert "predicted by tiny version 1" in text and "thresholds, for tests" in text
        assert text.encode()[:1024].count(provenance.PAGE_MARK) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{whole}", "--output", "case.html"), r"2 cases: .* Give one case's folder, or name one with --case"),
        (("{whole}/none", "--output", "case.html"), "no such folder"),
        (("{whole}", "--case", "X", "--output", "case.html"), r"no case X; it has"),
        (("{whole}", "--output", "case.png"), r"the page is an \.html file"),
        (("{whole}", "--prediction", "none", "--output", "case.html"), "--prediction none: no such file"),
        (("{whole}", "--reference", "none", "--output", "case.html"), "--reference none: no such file"),
        (("{one}", "--prediction", "{whole}", "--output", "case.html"), r"no .*\.nii\.gz in it. Name the file"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_its_name(
    tiny_dataset, one, arguments, words, tmp_path, monkeypatch
):
    whole = str(tiny_dataset("2021"))
    places = {"whole": whole, "one": f"{whole}/{one.case_id}"}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        view.main([text.format(**places) for text in arguments])
    assert list(tmp_path.iterdir()) == []


def test_a_prediction_on_another_grid_is_refused(tiny_dataset, one, predicted, tmp_path):
    from tfbrats.cases import nifti

    path = f"{predicted}/{one.case_id}.nii.gz"
    grid = nifti.new_grid((30, 30, 20))
    case.save_segmentation(path, np.zeros((30, 30, 20), np.uint8), grid, one.schema)
    arguments = ["--case", one.case_id, "--prediction", predicted, "--output", str(tmp_path / "case.html")]
    with pytest.raises(InputError, match=r"--prediction .*shape \(30, 30, 20\) against .* of the case's scans"):
        view.main([str(tiny_dataset("2021")), *arguments])


def test_own_scans_need_an_edition_or_a_card_for_their_segmentation(one, predicted, tmp_path):
    folder = tmp_path / "patient"
    folder.mkdir()
    for modality, path, _ in one.images[:2]:  # two scans are enough to look at
        shutil.copy(path, folder / f"{modality}.nii.gz")
    segmentation, output = f"{predicted}/{one.case_id}.nii.gz", tmp_path / "patient.html"
    view.main([str(folder), "--prediction", segmentation, "--output", str(output)])
    assert data_of(output)["modalities"] == ["flair", "t1"]
    alone = str(shutil.copy(segmentation, tmp_path / "alone.nii.gz"))
    with pytest.raises(InputError, match=r"in which label values it is. Give --edition"):
        view.main([str(folder), "--prediction", alone, "--output", str(output)])
    view.main([str(folder), "--prediction", alone, "--edition", "2021", "--output", str(output)])


def test_predict_writes_a_page_beside_each_segmentation_and_an_outdated_one_goes(
    tiny_dataset, tmp_path, capsys
):
    model, output = tiny_model.write(tmp_path / "tiny"), tmp_path / "out"
    (model / "tfbrats.json").write_text(tiny_model.card().to_json())
    arguments = ["--model", str(model), "--input", str(tiny_dataset("2020")), "--output", str(output)]
    predict.main([*arguments, "--view"])
    ids = [entry.case_id for entry in layouts.find(tiny_dataset("2020"))]
    assert all(f"{case_id}: {output}/{case_id}.html shows it" in capsys.readouterr().out for case_id in ids[:1])
    for case_id in ids:
        assert data_of(output / f"{case_id}.html")["prediction"]
    (output / f"{ids[1]}.html").write_text("somebody's own page")
    predict.main([*arguments, "--overwrite"])
    assert sorted(path.name for path in output.glob("*.html")) == [f"{ids[1]}.html"]
    assert labels.EDITIONS["2020"].describe() in capsys.readouterr().out
