"""What predict keeps, refuses and goes on with; a rule stands in the place of the network."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import uuid
import zipfile

import numpy as np
import pytest
import tiny_model

from tfbrats import evaluate, predict
from tfbrats.cases import case, nifti
from tfbrats.datasets import id_tables, layouts
from tfbrats.errors import InputError
from tfbrats.inference import saved_segmenter
from tfbrats.labels import EDITIONS, MODALITIES
from tfbrats.machine import files
from tfbrats.predictions import model_card, seen

IDS = ("BraTS20_Training_001", "BraTS20_Training_002")


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


def test_guesses_and_another_spacing_are_told_before_a_case_is_segmented(
    model, dataset, tmp_path, capsys, monkeypatch, without_codes
):
    without_codes(dataset / IDS[1])
    coarse = tmp_path / "coarse"
    shutil.copytree(model, coarse)
    card = tiny_model.card().model_copy(update={"spacing_mm": (1.0, 1.0, 2.0)})
    (coarse / model_card.FILE).write_text(card.to_json())
    true = saved_segmenter.SavedSegmenter.segment
    monkeypatch.setattr(
        saved_segmenter.SavedSegmenter, "segment", lambda *arguments: print("segmented") or true(*arguments)
    )
    run(coarse, dataset, tmp_path / "out", "--provenance")
    lines = [line for line in capsys.readouterr().out.splitlines() if line[:4] in ("note", "segm")]
    spacing = "its voxels are 1 x 1 x 1 mm, and the model tiny was trained on 1 x 1 x 2 mm"
    assert lines[0].startswith(f"note: {IDS[0]}: {spacing}") and lines[1] == "segmented"
    assert lines[2].startswith(f"note: {IDS[1]}: {IDS[1]}_flair.nii.gz, {IDS[1]}_t1.nii.gz, ")
    assert "(LPS)" in lines[2] and spacing in lines[3] and lines[4] == "segmented" and len(lines) == 5
    assert len(json.loads((tmp_path / "out" / f"{IDS[1]}.json").read_text())["notes"]) == 2


def test_training_cases_are_told_at_the_end(model, dataset, tmp_path, capsys):
    run(model, dataset, tmp_path / "silent")
    assert "trained the model" not in capsys.readouterr().out
    known = shutil.copytree(model, tmp_path / "models" / "tiny" / "1")
    carried = {"training_data": seen.hashes_of({"train": IDS[:1], "validation": [], "test": IDS[1:]})}
    (known / model_card.FILE).write_text(tiny_model.card().model_copy(update=carried).to_json())
    run(known, dataset, tmp_path / "out")
    assert "note: the model has seen 1 of 2 cases (1 trained the model); mean scores" in capsys.readouterr().out
    run(known, dataset, tmp_path / "test", "--case", IDS[1])
    assert "note:" not in capsys.readouterr().out


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
@pytest.mark.parametrize("damage", ["truncated", "missing", "empty"])
def test_a_damaged_model_is_named_with_the_cure(model, dataset, tmp_path, name, damage):
    shutil.copytree(model, tmp_path / "1")
    content = (tmp_path / "1" / name).read_bytes()
    (tmp_path / "1" / name).unlink()
    if damage != "missing":
        (tmp_path / "1" / name).write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
    with pytest.raises(
        InputError, match=rf"{tmp_path / '1'}: the SavedModel cannot be loaded .*export it again"
    ):
        run(tmp_path / "1", dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_card_of_another_model_is_said_before_any_case(model, dataset, tmp_path):
    shutil.copytree(model, tmp_path / "1")
    signatures = {"int16": {"outputs": {"segmentation": "", "tiles": ""}}}
    card = model_card.read(model).model_copy(update={"signatures": signatures})
    (tmp_path / "1" / model_card.FILE).write_text(card.to_json())
    with pytest.raises(InputError, match=r"1: signature int16 is not what tfbrats\.json says"):
        run(tmp_path / "1", dataset, tmp_path / "out")


def test_probabilities_come_when_they_are_asked_for(model, dataset):
    loaded = case.load(layouts.find(dataset).cases[0])
    segmenter = saved_segmenter.SavedSegmenter(str(model))
    alone, both = segmenter.segment(loaded), segmenter.segment(loaded, probabilities=True)
    assert alone.probabilities is None
    assert both.probabilities.shape == (*loaded.image.shape[:3], 3)
    assert np.array_equal(alone.tissues, both.tissues)


def test_a_case_that_the_graph_refuses_is_named_and_the_others_are_done(model, dataset, tmp_path):
    first = layouts.find(dataset).cases[0]
    ((path, _),) = [(path, channel) for modality, path, channel in first.images if modality == "t2"]
    loaded = case.load(first)
    bright = loaded.image[..., MODALITIES.index("t2")].astype(np.float64)
    bright = np.round(bright * ((tiny_model.TOO_BRIGHT + 1) / bright.max())).astype(np.int16)
    content = nifti.to_bytes(loaded.grid.to_file(bright), loaded.grid, path)
    (dataset / first.case_id / f"{first.case_id}_t2.nii.gz").write_bytes(content)
    with pytest.raises(InputError, match=rf"{first.case_id}: the model refuses it: .*t2 is too bright"):
        run(model, dataset, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["BraTS20_Training_002.nii.gz"]


def test_a_place_that_cannot_be_written_to_is_refused_before_the_model_is_loaded(
    model, dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(saved_segmenter, "SavedSegmenter", lambda _: pytest.fail("loaded"))
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(InputError, match="file: cannot be written"):
        run(model, dataset, tmp_path / "file")


def test_another_model_that_writes_into_the_folder_meanwhile_ends_the_command(
    model, dataset, tmp_path, monkeypatch
):
    out, real = tmp_path / "out", saved_segmenter.SavedSegmenter.segment
    other = model_card.read(model).model_copy(update={"version": 9})

    def segment(self, loaded, *asked):
        out.mkdir(exist_ok=True)
        (out / "tfbrats.json").write_text(other.to_json())
        return real(self, loaded, *asked)

    monkeypatch.setattr(saved_segmenter.SavedSegmenter, "segment", segment)
    with pytest.raises(InputError, match=r"another command has begun .* version 9"):
        run(model, dataset, out)
    assert [path.name for path in out.iterdir()] == ["tfbrats.json"]


def test_a_model_in_a_store_is_loaded_as_one_on_the_disk(model, dataset, tmp_path):
    store = f"memory://{uuid.uuid4().hex}/models/tiny/1"
    for path in files.walk(model):
        files.write_bytes(store + path.removeprefix(str(model)), files.read_bytes(path))
    run(model, dataset, tmp_path / "disk")
    run(store, dataset, tmp_path / "store")
    assert contents(tmp_path / "store") == contents(tmp_path / "disk") != {}
    files.remove(files.join(store, "saved_model.pb"))
    with pytest.raises(InputError, match=rf"{store}: the SavedModel cannot be loaded .*export it again"):
        run(store, dataset, tmp_path / "out")


# --- one's own scans ------------------------------------------------------------------------------------

NAMES = dict(zip(MODALITIES, ("a", "b", "c", "d"), strict=True))


@pytest.fixture
def own(dataset, tmp_path):
    """Four files of any names, in no data set."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for modality, name in NAMES.items():
        shutil.copy(dataset / IDS[1] / f"{IDS[1]}_{modality}.nii.gz", folder / f"{name}.nii.gz")
    return folder


def flags(own, *left_out):
    return [
        text
        for modality, name in NAMES.items()
        if modality not in left_out
        for text in (f"--{modality}", f"{own}/{name}.nii.gz")
    ]


@pytest.fixture
def another(tmp_path):
    """A model in two versions, which write in the values of 2023."""
    for version in (1, 12):
        folder = tiny_model.write(tmp_path / "models" / "cun", version, "2023")
        (folder / model_card.FILE).write_text(tiny_model.card(version, "2023").to_json())
    return folder.parent


def test_own_scans_are_segmented_in_the_values_of_the_newest_version(another, own, dataset, tmp_path, capsys):
    seg = tmp_path / "seg.nii.gz"
    predict.main(["--model", str(another), *flags(own), "--output", str(seg)])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{another}: its newest version is taken, 12"
    assert said[1].startswith("mine: WT ") and said[1].endswith(" ml")
    assert said[2].startswith(f"1 segmentation by tiny version 12 in {seg}; values: ") and "3 ET" in said[2]
    assert said[3].startswith(f"next: look at {seg} over the scans")
    assert not (tmp_path / "volumes.csv").exists() and not (tmp_path / "tfbrats.json").exists()
    run(another, dataset, tmp_path / "out", "--case", IDS[1], "--edition", "2023")
    assert seg.read_bytes() == (tmp_path / "out" / f"{IDS[1]}.nii.gz").read_bytes()
    values = {int(value) for value in np.unique(nifti.read(seg).array)}
    assert 3 in values and 4 not in values


def test_own_scans_in_a_folder_of_any_names_are_one_patient(another, own, tmp_path, capsys):
    for old, name in {"a": "AX_FLAIR", "b": "Smith_T1", "c": "Smith_T1_post", "d": "t2_tse"}.items():
        (own / f"{old}.nii.gz").rename(own / f"{name}.nii.gz")
    (own / "Smith_seg.nii.gz").write_bytes(b"no edition tells what is in it, and nobody asks")
    run(another, own, tmp_path / "out")
    assert "note: mine: by their names, flair AX_FLAIR" in capsys.readouterr().out
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["mine.nii.gz", "tfbrats.json", "volumes.csv"]
    assert (tmp_path / "out" / "volumes.csv").read_text().splitlines()[1].startswith("mine,")


def test_a_patient_s_folder_with_a_mask_of_no_edition_is_segmented(another, own, tmp_path):
    for modality, name in NAMES.items():
        (own / f"{name}.nii.gz").rename(own / f"{modality}.nii.gz")
    (own / "seg.nii.gz").write_bytes(b"?")
    run(another, own, tmp_path / "out")
    assert (tmp_path / "out" / "mine.nii.gz").exists()


def test_scans_that_the_model_does_not_take_are_refused_by_name(another, own, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_segmenter, "SavedSegmenter", lambda _: pytest.fail("loaded"))
    asked = ["--model", str(another), "--output", str(tmp_path / "out")]
    with pytest.raises(InputError, match=r"takes flair, t1, t1ce, t2; found .*Give --t1ce FILE --t2 FILE too"):
        predict.main([*asked, *flags(own, "t1ce", "t2")])
    of_two = tiny_model.card(12).model_copy(update={"modalities": ("flair", "t1ce")})
    (another / "12" / model_card.FILE).write_text(of_two.to_json())
    with pytest.raises(InputError, match=r"takes flair, t1ce, and not t1, t2\. Leave --t1 --t2 out"):
        predict.main([*asked, *flags(own)])
    for more, said in (
        (["--input", str(own), *flags(own)], "--input and --flair: give a folder, or"),
        ([], r"which scans\? Give --input FOLDER"),
        ([*flags(own), "--case", "x"], "--case and --cases choose among"),
    ):
        with pytest.raises(InputError, match=said):
            predict.main([*asked, *more])


def test_scans_that_lie_on_different_grids_are_told_with_the_tools(another, own, tmp_path):
    grid = nifti.new_grid((10, 11, 12))
    image = np.zeros(grid.file_shape, np.int16)
    image[2:8, 2:8, 2:8] = 100
    (own / "c.nii.gz").write_bytes(nifti.to_bytes(image, grid, "c.nii.gz"))
    tools = r"c\.nii\.gz: shape .*ANTs, elastix, BraTS Toolkit; docs/start/your-own-case"
    with pytest.raises(InputError, match=tools):
        predict.main(["--model", str(another), *flags(own), "--output", str(tmp_path / "out")])


def test_one_file_holds_one_case_and_is_not_replaced_unasked(model, dataset, tmp_path):
    seg = tmp_path / "seg.nii.gz"
    with pytest.raises(InputError, match=r"2 cases for one output file: .*--case, or give a folder"):
        run(model, dataset, seg)
    with pytest.raises(InputError, match=r"seg\.png: an output file ends in \.nii\.gz"):
        run(model, dataset, tmp_path / "seg.png")
    run(model, dataset, seg, "--case", IDS[0], "--probabilities")
    assert (tmp_path / "seg_probabilities.nii.gz").exists()
    with pytest.raises(InputError, match=r"seg\.nii\.gz exists\. .*--overwrite"):
        run(model, dataset, seg, "--case", IDS[1])


def test_what_looks_odd_is_said_and_kept_beside_the_segmentation(another, own, tmp_path, capsys):
    shutil.copy(own / "b.nii.gz", own / "d.nii.gz")
    asked = ["--model", str(another), *flags(own), "--output", str(tmp_path / "out"), "--provenance"]
    predict.main(asked)
    assert "note: mine: t1 and t2 hold the same voxels" in capsys.readouterr().out
    assert "t1 and t2 hold" in (tmp_path / "out" / "mine.json").read_text()


def test_real_scans_under_other_names_are_segmented_as_the_case_they_are(another, real_cases, tmp_path, capsys):
    folder = min(path for path in real_cases.iterdir() if path.is_dir())
    (tmp_path / "p1").mkdir()
    for modality, name in zip(MODALITIES, ("FLAIR", "T1_native", "T1_KM", "T2_tse"), strict=True):
        shutil.copy(folder / f"{folder.name}_{modality}.nii.gz", tmp_path / "p1" / f"{name}.nii.gz")
    run(another, tmp_path / "p1", tmp_path / "out")
    said = capsys.readouterr().out
    assert said.count("note: ") == 1 and "t1ce T1_KM.nii.gz" in said  # the names; nothing odd in the scans
    run(another, folder, tmp_path / "same", "--edition", "2023")
    same = tmp_path / "same" / f"{folder.name}.nii.gz"
    assert (tmp_path / "out" / "p1.nii.gz").read_bytes() == same.read_bytes()


# --- which cases, their volumes, what comes next --------------------------------------------------------


def test_cases_are_chosen_by_a_file_or_between_commas(model, dataset, tmp_path):
    (tmp_path / "ids.txt").write_text(f"{IDS[1]}\n")
    run(model, dataset, tmp_path / "one", "--cases", str(tmp_path / "ids.txt"))
    run(model, dataset, tmp_path / "two", "--cases", ", ".join(IDS))
    assert id_tables.case_ids_of("P 07, P 08") == ["P 07", "P 08"]
    assert len(contents(tmp_path / "one")) == 1 and len(contents(tmp_path / "two")) == 2


def test_volumes_are_told_and_kept_from_run_to_run(model, dataset, tmp_path, capsys):
    out = tmp_path / "out"
    run(model, dataset, out, "--case", IDS[0])
    (row,) = (out / "volumes.csv").read_text().splitlines()[1:]
    said = capsys.readouterr().out
    wt, tc, et = map(float, row.split(",")[1:])
    assert f"{IDS[0]}: WT {wt:.1f} ml, TC {tc:.1f} ml, ET {et:.1f} ml\n" in said and wt > 0
    run(model, dataset, out)
    assert (out / "volumes.csv").read_text().splitlines()[1] == row
    (out / "volumes.csv").unlink()  # of an older version
    run(model, dataset, out)
    lines = (out / "volumes.csv").read_text().splitlines()
    assert lines[1] == row and [line.split(",")[0] for line in lines] == ["case_id", *IDS]


def test_the_last_line_says_what_comes_next(model, dataset, tmp_path, capsys):
    run(model, dataset, tmp_path / "out")
    last = capsys.readouterr().out.splitlines()[-1]
    places = f"--prediction {tmp_path / 'out'} --reference {dataset} --output scores"
    assert last == f"next: tfbrats evaluate {places}"
    evaluate.main([*last.split()[3:-1], str(tmp_path / "scores")])
    run(model, dataset, tmp_path / "one", "--case", IDS[1])
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"--case {IDS[1]} --output scores" in last
    evaluate.main([*last.split()[3:-1], str(tmp_path / "scores_of_one")])


def test_the_values_of_kept_files_are_not_stated_as_those_of_this_run(another, dataset, tmp_path, capsys):
    def said(*more):
        capsys.readouterr()
        run(another, dataset, tmp_path / "out", *more)
        (line,) = [line for line in capsys.readouterr().out.splitlines() if " in " in line and " ET" in line]
        return line.partition(" in ")[2].partition("; ")[2]

    new, old = EDITIONS["2023"].describe(), EDITIONS["2020"].describe()
    assert said("--edition", "2023", "--case", IDS[0]) == f"values: {new}"
    kept = "kept, in the values that it was written in"
    assert said("--edition", "2020", "--case", IDS[0]) == f"{kept} (--overwrite writes {old})"
    assert said("--edition", "2020") == f"values of 1: {old}; 1 {kept} (--overwrite writes {old})"
    assert said("--edition", "2020", "--overwrite") == f"values: {old}"


def test_a_patient_who_lacks_a_scan_costs_none_of_the_others(another, own, tmp_path):
    for old, name in {"a": "AX_FLAIR", "b": "Smith_T1", "c": "Smith_T1_post", "d": "t2_tse"}.items():
        (own / f"{old}.nii.gz").rename(own / f"{name}.nii.gz")
    shutil.copytree(own, tmp_path / "patients" / "one")
    shutil.copytree(own, tmp_path / "patients" / "two")
    (tmp_path / "patients" / "two" / "t2_tse.nii.gz").unlink()
    with pytest.raises(InputError, match=r"could not be segmented:\ntwo: no t2; found AX_FLAIR"):
        run(another, tmp_path / "patients", tmp_path / "out")
    assert (tmp_path / "out" / "one.nii.gz").exists()
    with pytest.raises(InputError, match=r"^two: the model tiny takes .*Name all by"):
        run(another, tmp_path / "patients" / "two", tmp_path / "out")


def test_results_may_lie_beside_the_scans_that_they_are_of(another, own, capsys):
    for old, name in {"a": "AX_FLAIR", "b": "Smith_T1", "c": "Smith_T1_post", "d": "t2_tse"}.items():
        (own / f"{old}.nii.gz").rename(own / f"{name}.nii.gz")
    run(another, own, own)
    run(another, own, own)
    assert "1 of 1 cases are done already" in capsys.readouterr().out


def test_what_must_not_be_mixed_is_refused_before_the_model_is_loaded(
    model, another, dataset, tmp_path, monkeypatch
):
    run(model, dataset, tmp_path / "out", "--case", IDS[0])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "volumes.csv").write_text("mine")
    monkeypatch.setattr(saved_segmenter, "SavedSegmenter", lambda _: pytest.fail("loaded"))
    with pytest.raises(InputError, match="holds segmentations of another model"):
        run(another, dataset, tmp_path / "out")
    with pytest.raises(InputError, match=r"volumes\.csv: no table of volumes"):
        run(another, dataset, tmp_path / "other")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--help",), 0, "usage: tfbrats predict"),
        (("--modle", "x"), 2, "did you mean --model?"),
        (("--model", "none", "--input", ".", "--output", "o"), 1, "none: no tfbrats.json here"),
        (("--model", "MODEL", "--input", "x", "--output", "o"), 1, "x: no such folder."),
        (("--model", "MODEL", "--t1", "x.nii", "--output", "o"), 1, "--t1 x.nii: no such file."),
    ],
)
def test_what_needs_no_tensorflow_is_answered_without_it(model, tmp_path, arguments, code, said):
    program = (
        "import sys; from tfbrats import predict; from tfbrats.terminal import command\n"
        "try: command.run(predict.main)\n"
        "finally: print(sorted({'tensorflow', 'scipy', 'nibabel', 'SimpleITK'} & set(sys.modules)))\n"
    )
    given = [str(model) if text == "MODEL" else text for text in arguments]
    ended = subprocess.run(
        [sys.executable, "-c", program, *given], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == code and said in ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == "[]"


# --- where a segmentation comes from --------------------------------------------------------------------


def test_a_case_without_the_file_beside_it_is_segmented_again_when_that_is_wanted(
    model, dataset, tmp_path, capsys
):
    out = tmp_path / "out"
    run(model, dataset, out)
    run(model, dataset, out, "--provenance")
    assert "done already" not in capsys.readouterr().out
    run(model, dataset, out, "--provenance")
    assert "2 of 2 cases are done already" in capsys.readouterr().out
    for path in out.glob("*.nii.gz"):
        told = json.loads((out / path.name.replace(".nii.gz", ".json")).read_text())
        assert told["segmentation"]["file"] == path.name


def test_a_segmentation_that_is_replaced_takes_the_old_file_beside_it_along(model, dataset, tmp_path):
    run(model, dataset, tmp_path / "out", "--provenance")
    run(model, dataset, tmp_path / "out", "--overwrite")
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [
        *(".csv", ".gz", ".gz", ".json")  # volumes; the model's card
    ]


# --- what goes wrong with one case, and what earlier commands left --------------------------------------


def test_a_fault_that_nobody_expected_costs_its_case_alone_and_shows_where(
    model, dataset, tmp_path, monkeypatch, capsys
):
    real = saved_segmenter.SavedSegmenter.segment

    def segment(self, loaded, *asked):
        if loaded.case_id == IDS[0]:
            raise RuntimeError("out of luck")
        return real(self, loaded, *asked)

    monkeypatch.setattr(saved_segmenter.SavedSegmenter, "segment", segment)
    with pytest.raises(InputError, match=rf"could not be segmented:\n{IDS[0]}: RuntimeError: out of luck$"):
        run(model, dataset, tmp_path / "out")
    assert list(contents(tmp_path / "out")) == [pathlib.Path(f"{IDS[1]}.nii.gz")]
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_another_file_in_the_place_of_the_one_beside_is_refused_before_the_model_is_loaded(
    model, dataset, tmp_path, monkeypatch, overwrite
):
    monkeypatch.setattr(saved_segmenter, "SavedSegmenter", lambda _: pytest.fail("loaded"))
    theirs = tmp_path / "out" / f"{IDS[1]}.json"
    theirs.parent.mkdir()
    theirs.write_text('{"RepetitionTime": 2.3}')
    with pytest.raises(InputError, match=rf"{IDS[1]}\.json: there already, and not written by --provenance"):
        run(model, dataset, tmp_path / "out", "--provenance", *overwrite)
    assert theirs.read_text() == '{"RepetitionTime": 2.3}'


def test_of_another_model_s_results_nothing_outlives_them(model, dataset, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "other").mkdir()
    run(model, dataset, out, "--provenance", "--probabilities")
    notes = out / f"{IDS[0]}_notes.json"
    notes.write_text("{}")
    other = tmp_path / "other" / "2"
    shutil.copytree(model, other)
    (other / model_card.FILE).write_text(tiny_model.card(2).to_json())
    (dataset / IDS[1] / f"{IDS[1]}_t2.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=rf"{IDS[1]}: .*empty"):
        run(other, dataset, out, "--provenance", "--overwrite")
    found = sorted(path.name for path in out.iterdir())
    assert found == [f"{IDS[0]}.json", f"{IDS[0]}.nii.gz", notes.name, model_card.FILE, "volumes.csv"]
    assert json.loads((out / f"{IDS[0]}.json").read_text())["model"]["version"] == 2


def test_what_a_killed_command_left_half_written_is_swept_when_it_is_old(model, dataset, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    old, new, strange = (
        out / f".{name}.partial-12345678" for name in (f"{IDS[0]}.nii.gz", f"{IDS[1]}.nii.gz", "notes.txt")
    )
    for path in (old, new, strange):
        path.write_bytes(b"half")
    for path in (old, strange):
        os.utime(path, (time.time() - 7200,) * 2)
    run(model, dataset, out)
    assert not old.exists() and strange.exists()
    assert new.exists()  # of a command that may be at work


# --- uploads --------------------------------------------------------------------------------------------

FULL = (240, 240, 155)


def write_case(folder, case_id, ending, shape=FULL):
    """A block of brain with some voxels that the rules of tiny_model mark, on BraTS' own grid."""
    grid = nifti.new_grid(shape)
    for suffix in ending:
        image = np.zeros(shape, np.int16)
        image[10:20, 10:20, 5:10] = 300
        image[12:15, 12:15, 6:8] = 900
        path = folder / case_id / f"{case_id}{suffix}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(nifti.to_bytes(image, grid, path.name, level=1))


UNTIL_2021 = [f"_{modality}" for modality in MODALITIES]
SINCE_2023 = ["-t2f", "-t1n", "-t1c", "-t2w"]


@pytest.mark.parametrize(
    "edition, names, ending, enhancing",
    [
        ("2021", ("BraTS2021_00003", "BraTS2021_00007"), UNTIL_2021, 4),
        ("2023", ("BraTS-GLI-00003-000", "BraTS-GLI-00007-001"), SINCE_2023, 3),
    ],
)
def test_what_is_packed_for_upload_is_what_the_challenge_takes(
    model, tmp_path, capsys, edition, names, ending, enhancing
):
    for name in names:
        write_case(tmp_path / "cases", name, ending)
    out, archive = tmp_path / "out", tmp_path / "up.zip"
    run(model, tmp_path / "cases", out, "--probabilities", "--submission", str(archive))
    assert f"accepted: 2 files, packed as {archive}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases", "out", "up.zip"]
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == [f"{name}.nii.gz" for name in names]  # no card, no probabilities
        array, stored = nifti.read_stored(packed.read(f"{names[0]}.nii.gz"), names[0])
    assert stored.dtype == np.uint8 and stored.placement.shape == FULL
    assert stored.placement.qform.tolist() == [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert set(np.unique(array)) == {0, enhancing} <= set(EDITIONS[edition].tissue_of_value)
    # The same command again predicts nothing and packs the same bytes.
    before = archive.read_bytes()
    run(model, tmp_path / "cases", out, "--submission", str(archive))
    assert "2 of 2 cases are done already" in capsys.readouterr().out
    assert archive.read_bytes() == before


def test_scans_off_the_grid_are_predicted_and_their_upload_is_refused(model, dataset, tmp_path, capsys):
    archive = tmp_path / "up.zip"
    with pytest.raises(InputError) as refused:
        run(model, dataset, tmp_path / "out", "--submission", str(archive))
    assert f"{archive}: not written; the challenge would refuse it:" in str(refused.value)
    for case_id in ("BraTS20_Training_001", "BraTS20_Training_002"):
        assert f"{case_id}.nii.gz: shape (32, 32, 20); expected (240, 240, 155)" in str(refused.value)
        assert (tmp_path / "out" / f"{case_id}.nii.gz").exists()
    assert not archive.exists()
    # Said with the first case already, once.
    assert capsys.readouterr().out.count("BraTS20_Training_001: the upload will be refused for it: shape") == 1
    archive.write_bytes(b"older")
    with pytest.raises(InputError, match=r"not written \(the one that lies there is older\)"):
        run(model, dataset, tmp_path / "out", "--submission", str(archive))
    assert archive.read_bytes() == b"older"


def test_the_upload_is_of_the_cases_named_alone(model, tmp_path):
    for name in ("BraTS2021_00003", "BraTS2021_00007"):
        write_case(tmp_path / "cases", name, UNTIL_2021)
    archive = tmp_path / "up.zip"
    run(model, tmp_path / "cases", tmp_path / "out", "--case", "BraTS2021_00007", "--submission", str(archive))
    assert zipfile.ZipFile(archive).namelist() == ["BraTS2021_00007.nii.gz"]


def test_no_upload_without_every_case(model, tmp_path):
    write_case(tmp_path / "cases", "BraTS2021_00003", UNTIL_2021)
    write_case(tmp_path / "cases", "BraTS2021_00007", UNTIL_2021)
    (tmp_path / "cases" / "BraTS2021_00007" / "BraTS2021_00007_t2.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"(?s)BraTS2021_00007: .*empty.*up\.zip: not written"):
        run(model, tmp_path / "cases", tmp_path / "out", "--submission", str(tmp_path / "up.zip"))
    assert not (tmp_path / "up.zip").exists()
    assert (tmp_path / "out" / "BraTS2021_00003.nii.gz").exists()


@pytest.mark.parametrize(
    "edition, archive, more, words",
    [
        ("2020", "up.tar", [], r"up\.tar: expected the name of an archive that ends in \.zip"),
        ("msd", "up.zip", [], "edition msd has no upload check"),
        ("nnunet", "up.zip", ["--edition", "2021"], r"knows no cases named like GLIOMA_001, .* \(2 such\)"),
    ],
)
def test_what_could_never_be_uploaded_is_refused_before_the_model_is_loaded(
    model, tiny_dataset, tmp_path, monkeypatch, edition, archive, more, words
):
    monkeypatch.setattr(saved_segmenter, "SavedSegmenter", lambda _: pytest.fail("loaded"))
    with pytest.raises(InputError, match=words):
        run(
            model,
            tiny_dataset(edition),
            tmp_path / "out",
            "--submission",
            str(tmp_path / archive),
            *more,
        )
    assert not (tmp_path / "out").exists()
