"""What predict keeps, refuses and goes on with; a rule stands in the place of the network."""

import shutil

import pytest
import tiny_model

from tfbrats import case, layouts, model_card, predict
from tfbrats.command import InputError
from tfbrats.labels import MODALITIES


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A version's folder. Read only."""
    path = tiny_model.write(tmp_path_factory.mktemp("models") / "tiny")
    (path / model_card.FILE).write_text(tiny_model.card().to_json())
    return path


@pytest.fixture
def dataset(tiny_dataset, tmp_path):
    """A copy to spoil."""
    shutil.copytree(tiny_dataset("2020"), tmp_path / "cases")
    return tmp_path / "cases"


def run(model, dataset, output, *more):
    return predict.main(["--model", str(model), "--input", str(dataset), "--output", str(output), *more])


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.nii*")}


def test_what_is_kept_from_an_earlier_run_is_said(model, dataset, tmp_path, capsys):
    run(model, dataset, tmp_path / "out", "--case", "BraTS20_Training_001")
    assert "done already" not in capsys.readouterr().out
    run(model, dataset, tmp_path / "out")
    assert "1 of 2 cases are done already and are kept (--overwrite redoes them)" in capsys.readouterr().out
    run(model, dataset, tmp_path / "out", "--overwrite")
    assert "done already" not in capsys.readouterr().out


def test_probabilities_that_are_wanted_later_are_still_written(model, dataset, tmp_path):
    run(model, dataset, tmp_path / "out")
    assert len(contents(tmp_path / "out")) == 2
    run(model, dataset, tmp_path / "out", "--probabilities")
    assert len(contents(tmp_path / "out")) == 4


@pytest.mark.parametrize("edition, folder", [("msd", "imagesTr"), ("msd", "labelsTr"), ("nnunet", "labelsTr")])
def test_files_of_the_input_are_neither_overwritten_nor_taken_for_results(
    model, tiny_dataset, tmp_path, edition, folder
):
    shutil.copytree(tiny_dataset(edition), tmp_path / "cases")
    before = contents(tmp_path / "cases")
    for more in ([], ["--overwrite"]):
        with pytest.raises(InputError, match=rf"{folder}/.* belongs to the input.*another --output"):
            run(model, tmp_path / "cases", tmp_path / "cases" / folder, *more)
    assert contents(tmp_path / "cases") == before


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_model_is_named_with_the_cure(model, dataset, tmp_path, name, damage):
    shutil.copytree(model, tmp_path / "1")
    content = (tmp_path / "1" / name).read_bytes()
    (tmp_path / "1" / name).unlink()
    if damage == "truncated":
        (tmp_path / "1" / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(
        InputError, match=rf"{tmp_path / '1'}: the SavedModel cannot be loaded .*export it again"
    ):
        run(tmp_path / "1", dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_case_that_the_graph_refuses_is_named_and_the_others_are_done(model, dataset, tmp_path):
    first = layouts.find(dataset).cases[0]
    ((path, _),) = [(path, channel) for modality, path, channel in first.images if modality == "t2"]
    loaded = case.load(first)
    bright = loaded.image[..., MODALITIES.index("t2")].copy()
    bright[16, 16, 10] = tiny_model.TOO_BRIGHT + 1
    content = case.to_nifti_bytes(loaded.grid.to_file(bright), loaded.grid, path)
    (dataset / first.case_id / f"{first.case_id}_t2.nii.gz").write_bytes(content)
    with pytest.raises(InputError, match=rf"{first.case_id}: the model refuses it: .*t2 is too bright"):
        run(model, dataset, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["BraTS20_Training_002.nii.gz"]


def test_a_place_that_cannot_be_written_to_is_refused_before_the_model_is_loaded(
    dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(predict, "SavedSegmenter", lambda _: pytest.fail("loaded"))
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(InputError, match="file: cannot be written"):
        run("models/any/1", dataset, tmp_path / "file")


def test_another_model_that_writes_into_the_folder_meanwhile_ends_the_command(
    model, dataset, tmp_path, monkeypatch
):
    out, real = tmp_path / "out", predict.SavedSegmenter.segment
    other = model_card.read(model).model_copy(update={"version": 9})

    def segment(self, loaded):
        out.mkdir(exist_ok=True)
        (out / "tfbrats.json").write_text(other.to_json())
        return real(self, loaded)

    monkeypatch.setattr(predict.SavedSegmenter, "segment", segment)
    with pytest.raises(InputError, match=r"another command has begun .* version 9"):
        run(model, dataset, out)
    assert [path.name for path in out.iterdir()] == ["tfbrats.json"]
