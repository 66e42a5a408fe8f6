"""`import tfbrats`: what it gives to programs, how it refuses, and what it leaves alone."""

import ast
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import keras
import mypy.api
import numpy as np
import pytest
import tensorflow as tf
import tiny_model

import tfbrats
from tfbrats import api_inputs, config_file
from tfbrats.cases import case, nifti
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES, Tissue
from tfbrats.predictions import results

ROOT = pathlib.Path(__file__).parent.parent
NAMES = [name for name in tfbrats.__all__ if not name.startswith("_")]
FUNCTIONS = [name for name in NAMES if name != "InputError"]


def in_a_fresh_process(code: str, **environment: str) -> subprocess.CompletedProcess:
    given = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    for name in ("TF_CPP_MIN_LOG_LEVEL", "TFBRATS_LOG"):
        if name not in environment:
            given.pop(name, None)
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=given)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> pathlib.Path:
    """Versions 1 and 2 of a model of thresholds, both with the label values of 2020."""
    base = tmp_path_factory.mktemp("models") / "tiny"
    for version in (1, 2):
        folder = tiny_model.write(base, version)
        (folder / "tfbrats.json").write_text(tiny_model.card(version).to_json())
    return base


@pytest.fixture(scope="module")
def model(model_folder):
    return tfbrats.load_model(model_folder)


@pytest.fixture(scope="module")
def simulated():
    return tfbrats.simulate_case(seed=3, shape=(40, 44, 24))


# --- the names ------------------------------------------------------------------------------------------


def test_no_name_is_a_module_s():
    for name in NAMES:
        assert not (ROOT / "tfbrats" / name).exists() and not (ROOT / "tfbrats" / f"{name}.py").exists(), name


def test_each_name_is_there_listed_and_documented():
    assert 8 <= len(FUNCTIONS) <= 10
    assert set(tfbrats.__all__) <= set(dir(tfbrats))
    for name in FUNCTIONS:
        function = getattr(tfbrats, name)
        assert isinstance(function, types.FunctionType)
        assert f"tfbrats.{name}(" in function.__doc__, f"{name}: no example"
        assert "Args:" in function.__doc__ and "Raises:" in function.__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'find_case'"):
        tfbrats.find_case  # noqa: B018


def test_a_type_checker_sees_the_same_names():
    stub = ast.parse((ROOT / "tfbrats" / "__init__.pyi").read_text())
    names = [alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(names) == sorted(NAMES)
    assert (ROOT / "tfbrats" / "py.typed").is_file()


def test_importing_it_loads_nothing_heavy_and_changes_nothing():
    code = (
        "import os, sys, warnings\n"
        "def all_of_it(): return dict(os.environ), list(warnings.filters), list(sys.meta_path)\n"
        "before = all_of_it()\n"
        "import tfbrats\n"
        "dir(tfbrats)\n"
        "assert before == all_of_it()\n"
        "assert not {'numpy', 'keras', 'tensorflow', 'tfbrats.api'} & set(sys.modules)\n"
        "import numpy\n"
        "before = all_of_it()\n"
        "tfbrats.load_model, tfbrats.read_records\n"
        "from tfbrats import score, find_cases\n"
        "assert not {'keras', 'tensorflow', 'scipy', 'matplotlib', 'nibabel'} & set(sys.modules)\n"
        "assert before == all_of_it()\n"
    )
    ended = in_a_fresh_process(code)
    assert ended.returncode == 0, ended.stderr


def test_loading_a_model_is_quiet_and_leaves_the_filters_of_warnings(model_folder):
    code = (
        "import sys, warnings, numpy\n"
        "warnings.simplefilter('always')\n"
        "before = list(warnings.filters)\n"
        "import tfbrats\n"
        f"model = tfbrats.load_model({str(model_folder)!r})\n"
        "segmentation = model.segment(tfbrats.simulate_case(shape=(32, 32, 24)))\n"
        "assert 'tensorflow' in sys.modules and warnings.filters == before\n"
        "print(segmentation)\n"
    )
    ended = in_a_fresh_process(code)
    assert ended.returncode == 0 and ended.stderr == ""
    assert ended.stdout.startswith("<Segmentation of simulated_0 by tiny version 2: WT ")


def test_a_person_who_wants_to_hear_tensorflow_hears_it():
    code = (
        "import os, tfbrats\n"
        "tfbrats.build_network('unet2d', width=2)\n"
        "assert 'GRPC_VERBOSITY' not in os.environ\n"
    )
    ended = in_a_fresh_process(code, TFBRATS_LOG="1")
    assert ended.returncode == 0, ended.stderr
    assert "cpu" in ended.stderr.lower()  # TensorFlow's line on the processor


def test_a_type_checker_runs_clean_over_the_public_names(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    told, errors, status = mypy.api.run(["--cache-dir", str(tmp_path / "cache")])
    assert (status, errors) == (0, ""), told
    program = tmp_path / "program.py"
    program.write_text(
        "import tfbrats\n"
        "case = tfbrats.load_case('folder')\n"
        "scores = tfbrats.score(tfbrats.load_model('models/cun').segment(case), case)\n"
        "reveal_type(case)\n"
        "reveal_type(scores['WT'].dice)\n"
        "reveal_type(tfbrats.find_cases('folder')['id'].case_id)\n"
        "reveal_type(tfbrats.train_model('cun'))\n"
        "tfbrats.score(case, case, spacing='1')\n"
        "tfbrats.find_case('folder')\n"
    )
    config = str(ROOT / "pyproject.toml")
    arguments = ["--strict", "--follow-imports=silent", "--config-file", config, str(program)]
    told, *_ = mypy.api.run(["--cache-dir", str(tmp_path / "cache"), *arguments])
    found = [line.partition(": ")[2] for line in told.splitlines() if line.startswith(str(program))]
    assert [line for line in found if line.startswith("note: Revealed")] == [
        'note: Revealed type is "tfbrats.cases.case.Case"',
        'note: Revealed type is "float"',
        'note: Revealed type is "str"',
        'note: Revealed type is "list[dict[str, Any]]"',
    ]
    assert len([line for line in found if "spacing" in line or "find_case" in line]) == 2, told


# --- cases ----------------------------------------------------------------------------------------------


def test_a_data_set_is_a_sequence_of_cases_by_their_ids(tiny_dataset):
    folder = tiny_dataset("2020")
    cases = tfbrats.find_cases(folder)
    assert repr(cases) == f"<Dataset {folder.name} at {folder}: 2 cases, edition 2020>"
    assert len(cases) == 2 and [entry.case_id for entry in cases] == [f"BraTS20_Training_00{n}" for n in (1, 2)]
    assert cases["BraTS20_Training_002"] is cases.cases[1]
    with pytest.raises(InputError, match=r"no case BraTS20_Training_009; it has BraTS20_Training_001"):
        cases["BraTS20_Training_009"]
    assert "BraTS20_Training_002" in cases and cases.cases[0] in cases
    assert "BraTS20_Training_009" not in cases and 0 not in cases
    with pytest.raises(InputError, match=r"by their ids, not by 0\. Write dataset\[ID\], or dataset\.cases\["):
        cases[0]


def test_a_data_set_whose_edition_nothing_tells_says_so(tiny_dataset, tmp_path):
    first, second = tfbrats.find_cases(tiny_dataset("2020"))
    for modality, path, _ in first.images:
        (tmp_path / "Smith").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "Smith" / f"Smith_{modality}.nii.gz")
    assert repr(tfbrats.find_cases(tmp_path)).endswith(": 1 case, edition not told>")
    assert repr(tfbrats.find_cases(tmp_path, "2021")).endswith(": 1 case, edition 2021>")
    shutil.copytree(pathlib.Path(second.label).parent, tmp_path / second.case_id)
    assert repr(tfbrats.find_cases(tmp_path)).endswith(": 2 cases, edition 2020 and not told of 1>")


def test_a_case_is_loaded_from_its_folder_or_from_what_was_found(tiny_dataset):
    folder = tiny_dataset("2020")
    loaded = tfbrats.load_case(folder / "BraTS20_Training_001")
    again = tfbrats.load_case(tfbrats.find_cases(folder)["BraTS20_Training_001"], modalities=("t2", "flair"))
    assert np.array_equal(loaded.image[..., [3, 0]], again.image) and np.array_equal(loaded.label, again.label)
    told = repr(loaded)
    assert told.startswith(
        "<Case BraTS20_Training_001: 32 x 32 x 20 voxels of 1 x 1 x 1 mm, flair t1 t1ce t2, WT"
    )
    assert told.endswith(f" {loaded.volumes_ml['WT']:.1f} ml>") and len(told) < 110


def test_one_case_is_asked_for_where_there_are_several(tiny_dataset):
    with pytest.raises(InputError, match=r"2 cases lie here \(BraTS20_Training_001, .*find_cases"):
        tfbrats.load_case(tiny_dataset("2020"))
    with pytest.raises(InputError, match="no such folder"):
        tfbrats.find_cases(tiny_dataset("2020") / "BraTS20_Training_009")


def test_scans_of_any_name_are_one_s_own_case(model, tiny_dataset, tmp_path):
    entry = tfbrats.find_cases(tiny_dataset("2020"))["BraTS20_Training_001"]
    named = {}
    for (modality, path, _), name in zip(entry.images, ("FLAIR", "T1_pre", "T1_post", "T2w"), strict=True):
        named[modality] = tmp_path / f"Smith_{name}.nii.gz"
        shutil.copy(path, named[modality])
    with pytest.warns(UserWarning, match="by their names, flair Smith_FLAIR.nii.gz"):
        found = tfbrats.load_case(tmp_path)
    assert np.array_equal(found.image, tfbrats.load_case(entry).image) and found.label is None
    mine = tfbrats.load_case(named, modalities=("t1ce",))
    assert mine.case_id == "Smith" and np.array_equal(mine.image[..., 0], found.image[..., 2])
    segmentation = model.segment(named)  # its names tell no edition: the model's values are written
    segmentation.save(tmp_path / "out" / "seg.nii.gz")
    assert np.array_equal(nifti.read(str(tmp_path / "out" / "seg.nii.gz")).array, segmentation.labels)
    with pytest.raises(InputError, match="no modality is called 'dwi'"):
        tfbrats.load_case({"dwi": named["t1"]})
    with pytest.raises(InputError, match="no such file"):
        tfbrats.load_case({"t1": tmp_path / "none.nii.gz"})


def _own_files(tiny_dataset, folder):
    folder.mkdir(parents=True)
    entry = tfbrats.find_cases(tiny_dataset("2020"))["BraTS20_Training_001"]
    for (_, path, _), name in zip(
        entry.images, ("AX_FLAIR", "Smith_T1", "Smith_T1_post", "t2_tse"), strict=True
    ):
        shutil.copy(path, folder / f"{name}.nii.gz")
    return folder, entry


def test_own_scans_are_loaded_with_an_edition_and_with_a_mask_too(tiny_dataset, tmp_path):
    folder, entry = _own_files(tiny_dataset, tmp_path / "pat")
    with pytest.warns(UserWarning, match="by their names") as warned:
        mine = tfbrats.load_case(folder, edition="2020")
    assert warned[0].filename == __file__
    assert mine.case_id == "pat" and mine.schema == EDITIONS["2020"] and not mine.edition_untold
    assert [one.case_id for one in tfbrats.find_cases(folder, "2023")] == ["pat"]
    shutil.copy(entry.label, folder / "Smith_seg.nii.gz")
    with pytest.warns(UserWarning, match=r"left out: .*Smith_seg\.nii\.gz"):
        assert tfbrats.load_case(folder).label is None


def test_a_mask_of_no_edition_is_not_read_by_a_guess(tiny_dataset, tmp_path):
    folder, entry = _own_files(tiny_dataset, tmp_path / "pat")
    for (modality, _, _), path in zip(entry.images, sorted(folder.iterdir()), strict=True):
        path.rename(folder / f"{modality}.nii.gz")
    shutil.copy(entry.label, folder / "seg.nii.gz")
    with pytest.raises(InputError, match=r"the edition of pat .* is not told"):
        tfbrats.load_case(folder)
    assert tfbrats.load_case(folder, edition="2020").label is not None


def test_a_case_of_no_edition_is_saved_in_the_model_s_values_however_it_is_handed_over(
    model, tiny_dataset, tmp_path
):
    folder, entry = _own_files(tiny_dataset, tmp_path / "pat")
    tissues = tfbrats.load_case(entry).label  # with every tissue in it

    def values_saved(given):
        found = dataclasses.replace(model.segment(given), tissues=tissues)
        found.save(tmp_path / "seg.nii.gz")
        return set(np.unique(nifti.read(str(tmp_path / "seg.nii.gz")).array))

    with pytest.warns(UserWarning, match="by their names"):
        assert values_saved(folder) == values_saved(tfbrats.load_case(folder)) == {0, 1, 2, 4}
        assert values_saved(tfbrats.load_case(folder, edition="2023")) == {0, 1, 2, 3}


def test_what_looks_odd_is_a_warning_at_the_caller_s_line(model, simulated):
    arrays = {name: simulated.image[..., n] for n, name in enumerate(MODALITIES)}
    twice = {**arrays, "t1ce": arrays["t1"]}
    for ask in (
        lambda: model.segment_arrays(twice),
        lambda: model.segment(api_inputs.case_of_arrays(twice, (1, 1, 1), EDITIONS["2020"])),
    ):
        with pytest.warns(UserWarning, match="arrays: t1 and t1ce hold the same voxels") as warned:
            ask()
        assert {one.filename for one in warned} == {__file__}


def test_a_simulated_case_is_the_one_that_the_command_writes(tiny_dataset, tmp_path):
    from tfbrats.phantoms import data_sets

    data_sets.write_dataset(tmp_path, 1, "2020", seed=7, shape=(32, 36, 20), first=0)
    written, simulated = tfbrats.load_case(tmp_path), tfbrats.simulate_case(seed=7, shape=(32, 36, 20))
    assert np.array_equal(written.image, simulated.image) and written.image.dtype == simulated.image.dtype
    assert np.array_equal(written.label, simulated.label)
    assert case.grid_differences(written.grid, simulated.grid) == []
    with pytest.raises(InputError, match="at least"):
        tfbrats.simulate_case(shape=(8, 8, 8))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": -1}, r"seed=-1: expected a whole number from 0"),
        ({"seed": 0.5}, r"seed=0\.5: expected a whole number from 0"),
        ({"shape": (96.5, 96, 64)}, r"a side of shape=96\.5: expected a whole number"),
        ({"shape": 96}, "shape=96: expected three numbers of voxels"),
        ({"shape": (96, 96)}, r"shape=\(96, 96\): expected three numbers of voxels"),
        ({"spacing_mm": (0, 1, 1)}, r"spacing_mm=\(0, 1, 1\): expected three lengths over 0"),
        ({"spacing_mm": ("a", 1, 1)}, r"spacing_mm=\('a', 1, 1\): expected three lengths over 0"),
        ({"spacing_mm": 1}, "spacing_mm=1: expected three lengths over 0"),
    ],
)
def test_a_case_that_cannot_be_simulated_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        tfbrats.simulate_case(**given)


def test_modalities_are_named_in_any_spelling_and_one_alone_as_a_text(tiny_dataset):
    folder = tiny_dataset("2020") / "BraTS20_Training_001"
    whole = tfbrats.load_case(folder)
    two = tfbrats.load_case(folder, modalities=("FLAIR", "T1Gd"))
    assert two.modalities == ("flair", "t1ce") and np.array_equal(two.image, whole.image[..., [0, 2]])
    assert tfbrats.load_case(folder, modalities="flair").modalities == ("flair",)
    for wrong, message in (
        ("dwi", "no modality is called 'dwi': flair, t1, t1ce, t2"),
        (("t1", "T1"), "t1 is given twice"),
        ((), "names none"),
    ):
        with pytest.raises(InputError, match=message):
            tfbrats.load_case(folder, modalities=wrong)


def test_cases_and_segmentations_are_compared_by_which_they_are(model, simulated):
    again, found = tfbrats.simulate_case(seed=3, shape=(40, 44, 24)), model.segment(simulated)
    assert simulated == simulated and simulated != again and len({simulated, again, simulated}) == 2
    assert found == found and found != model.segment(simulated) and len({found, simulated}) == 2


def test_a_case_without_a_segmentation_says_so(simulated):
    scans = {name: simulated.image[..., n] for n, name in enumerate(simulated.modalities)}
    bare = api_inputs.case_of_arrays(scans, (1, 1, 1), EDITIONS["2020"])
    assert repr(bare).endswith(", no segmentation>") and bare.volumes_ml is None
    with pytest.raises(InputError, match=r"the case arrays has no segmentation to score"):
        tfbrats.score(bare, simulated)


# --- models ---------------------------------------------------------------------------------------------


def test_the_newest_version_of_a_model_is_taken_or_the_one_that_is_named(model, model_folder):
    assert model.card.version == 2 and model.folder == str(model_folder / "2")
    assert repr(model) == (
        f"<Model tiny version 2 at {model_folder}/2: flair t1 t1ce t2 in, 0 BACKGROUND, 1 NCR, 2 ED, 4 ET out>"
    )
    assert tfbrats.load_model(str(model_folder / "1")).card.version == 1
    with pytest.raises(InputError, match=r"tfbrats\.json"):
        tfbrats.load_model(model_folder.parent / "none")


def test_a_segmentation_holds_labels_tissues_and_volumes(model, simulated):
    found = model.segment(simulated)
    volumes = {name: simulated.image[..., n] for n, name in enumerate(MODALITIES)}
    expected = tiny_model.tissues_by_rule(volumes)
    assert np.array_equal(found.tissues, expected) and found.probabilities is None
    assert np.array_equal(found.labels, np.array([0, 1, 2, 4], np.uint8)[expected]) and 4 in found.labels
    assert found.volumes_ml["WT"] == pytest.approx((expected > 0).sum() / 1000)
    assert found.volumes_ml["ET"] == pytest.approx((expected == Tissue.ET).sum() / 1000)
    assert repr(found).startswith("<Segmentation of simulated_3 by tiny version 2: WT ")
    asked = model.segment(simulated, probabilities=True)
    assert asked.probabilities.shape == (*expected.shape, 3) and asked.probabilities.dtype == np.float32


def test_arrays_are_segmented_as_a_case_is(model, simulated):
    arrays = {name: simulated.image[..., n].astype(np.float64) for n, name in enumerate(MODALITIES)}
    backwards = dict(reversed(arrays.items()))
    other_names = dict(zip(("FLAIR", "t1n", "T1Gd", "t2w"), arrays.values(), strict=True))
    expected = model.segment(simulated)
    for given in (arrays, backwards, other_names):
        assert np.array_equal(model.segment_arrays(given).labels, expected.labels)
    with pytest.warns(UserWarning, match=r"voxels are 1 x 1 x 2 mm"):
        thick = model.segment_arrays(arrays, spacing_mm=(1, 1, 2))
    assert thick.volumes_ml["WT"] == pytest.approx(2 * expected.volumes_ml["WT"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("t2"), "takes flair, t1, t1ce, t2; received flair, t1, t1ce"),
        (lambda a: a.update(dwi=a["t1"]), "no modality is called 'dwi': flair, t1, t1ce, t2"),
        (lambda a: a.update(T1Gd=a["t1"]), "t1ce is given twice, once as 'T1Gd'"),
        (lambda a: a.update(t2=a["t2"][:-1]), "one shape; found .*'t2': \\(39, 44, 24\\)"),
        (lambda a: a.update(t2=a["t2"][0]), "volumes \\[I, J, K\\]"),
        (lambda a: a.update(t2=np.full(a["t2"].shape, np.nan)), "an array: .* of t2 are NaN"),
        (lambda a: a.update(t2=a["t2"] + 100), "t2: the background is 100; expected 0"),
        (lambda a: a.clear(), "found none"),
    ],
)
def test_arrays_that_no_scan_is_are_refused(model, simulated, change, message):
    arrays = {name: simulated.image[..., n].astype(np.float32) for n, name in enumerate(MODALITIES)}
    change(arrays)
    with pytest.raises(InputError, match=message):
        model.segment_arrays(arrays)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, float("nan")), ("a", 1, 1), 1])
def test_a_spacing_that_is_none_is_refused(model, simulated, spacing):
    arrays = {name: simulated.image[..., n] for n, name in enumerate(MODALITIES)}
    with pytest.raises(InputError, match="three lengths over 0"):
        model.segment_arrays(arrays, spacing_mm=spacing)
    with pytest.raises(InputError, match="three lengths over 0"):
        tfbrats.score(simulated.label, simulated.label, spacing_mm=spacing)


def test_a_saved_segmentation_is_what_the_command_would_write(model, tiny_dataset, tmp_path):
    """Of a data set whose values are not the model's: a case's own are written, or those of an edition."""
    entry = tfbrats.find_cases(tiny_dataset("2023")).cases[0]
    found = model.segment(entry)
    found = dataclasses.replace(found, tissues=tfbrats.load_case(entry).label)  # with every tissue in it
    path = tmp_path / "seg.nii.gz"
    found.save(path)
    results.write(entry, found.case, found, results.target(entry.case_id, tmp_path / "commands"))
    assert path.read_bytes() == (tmp_path / "commands" / f"{entry.case_id}.nii.gz").read_bytes()
    assert set(np.unique(nifti.read(str(path)).array)) == {0, 1, 2, 3} and 4 in found.labels
    found.save(path, edition="2020")
    assert 4 in nifti.read(str(path)).array
    assert tfbrats.score(found, tfbrats.load_case(entry))["WT"].dice == 1


def test_a_segmentation_is_saved_as_nifti_alone(model, simulated, tmp_path):
    found = model.segment(simulated)
    with pytest.raises(InputError, match=r"ends in \.nii\.gz or \.nii"):
        found.save(tmp_path / "seg.png")
    with pytest.raises(InputError, match="edition '1999' is unknown"):
        found.save(tmp_path / "seg.nii.gz", edition="1999")
    alone = results.Segmentation(found.tissues, None, None, found.card)
    for ask in (lambda: alone.save(tmp_path / "seg.nii.gz"), lambda: alone.volumes_ml):
        with pytest.raises(InputError, match="knows no case"):
            ask()
    assert (
        repr(alone) == "<Segmentation by tiny version 2: 40 x 44 x 24 voxels>" and alone._repr_html_() is None
    )
    assert not list(tmp_path.iterdir())


# --- scores ---------------------------------------------------------------------------------------------


def cubes() -> tuple[np.ndarray, np.ndarray]:
    """A reference of 4 x 4 x 4 enhancing voxels, and a prediction of it moved by one voxel along i."""
    reference = np.zeros((12, 12, 12), np.uint8)
    reference[4:8, 4:8, 4:8] = 3
    return np.roll(reference, 1, axis=0), reference


def test_two_arrays_are_scored_with_their_spacing():
    scores = tfbrats.score(*cubes(), spacing_mm=(2, 1, 1))
    assert scores["WT"].dice == scores.ET.dice == 0.75 and scores.ET.sensitivity == 0.75
    assert scores.WT.hausdorff_mm == 2 and scores.WT.volume_ml == pytest.approx(0.128)
    assert [row.region for row in scores] == ["WT", "TC", "ET"]
    with pytest.raises(InputError, match=r"no region 'wt'"):
        scores["wt"]


def test_scores_print_as_a_table():
    prediction, reference = cubes()
    lines = repr(tfbrats.score(prediction, reference, spacing_mm=(1, 1, 1))).splitlines()
    assert lines[0].split("  ")[0] == "region" and len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["WT", "0.750", "1.0", "0.750", "0.990", "0.1", "0.1"]
    lines = repr(tfbrats.score(0 * prediction, reference, (1, 1, 1), empty="nan")).splitlines()
    assert lines[3].split() == [
        "ET",
        "0.000",
        "undefined",
        *lines[3].split()[3:7],
        *["absent", "from", "the", "prediction"],
    ]
    assert all(len(line) <= 110 for line in lines)


def test_values_that_an_edition_has_not_are_refused_and_another_edition_reads_them():
    prediction, reference = cubes()
    prediction[prediction == 3] = 4
    with pytest.raises(InputError, match=r"prediction: label values \[4\] are not in edition 2023"):
        tfbrats.score(prediction, reference, spacing_mm=(1, 1, 1))
    both = (np.where(side > 0, 4, 0) for side in (prediction, reference))
    assert tfbrats.score(*both, spacing_mm=(1, 1, 1), edition="2020").ET.dice == 0.75
    with pytest.raises(InputError, match="edition '1999' is unknown"):
        tfbrats.score(prediction, reference, spacing_mm=(1, 1, 1), edition="1999")


def test_what_does_not_lie_on_one_grid_is_not_scored(model, simulated):
    prediction, reference = cubes()
    with pytest.raises(InputError, match="give spacing_mm"):
        tfbrats.score(prediction, reference)
    with pytest.raises(InputError, match="expected one shape"):
        tfbrats.score(prediction[1:], reference, spacing_mm=(1, 1, 1))
    with pytest.raises(InputError, match="expected label values"):
        tfbrats.score(prediction[0], reference[0], spacing_mm=(1, 1, 1))
    other = tfbrats.simulate_case(seed=1, shape=(40, 44, 24), spacing_mm=(1, 1, 2))
    with pytest.raises(InputError, match="one grid: spacing"):
        tfbrats.score(simulated, other)
    with pytest.raises(InputError, match=r"voxels are \(1.0, 1.0, 1.0\) mm. Leave it out"):
        tfbrats.score(simulated, simulated, spacing_mm=(1, 1, 2))
    assert tfbrats.score(simulated.label, simulated).WT.dice == 1
    of_nibabel = simulated.label[::-1, ::-1]  # RAS
    assert tfbrats.score(of_nibabel[::-1, ::-1], simulated).WT.dice == 1
    assert tfbrats.score(of_nibabel, simulated).WT.dice < 0.9


# --- networks, records, training ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "region", "outputs"),
    [
        ("unet2d", "", {"logits"}),
        ("bfcn", "", {"logits", "region_logits", "boundary_logits"}),
        ("cun_lws", "", {"branch1_logits", "branch2_logits", *(f"aux{n}_logits" for n in range(1, 9))}),
        ("msm", "et", {"logits"}),
        ("unet3d", "WT", {"logits"}),
    ],
)
def test_networks_are_built_by_name(config, region, outputs):
    network = tfbrats.build_network(config, width=4, region=region)
    assert isinstance(network, keras.Model) and set(network.output) == outputs
    assert tfbrats.build_network(config_file.load(config), 4, region).count_params() == network.count_params()


def test_a_region_is_asked_for_where_each_has_a_network():
    with pytest.raises(InputError, match=r"msm has a network for each region; give one of WT, TC, ET"):
        tfbrats.build_network("msm")
    with pytest.raises(InputError, match="cun is one network for all regions"):
        tfbrats.build_network("cun", region="WT")
    with pytest.raises(InputError, match=r"neither a file .* Did you mean cun_lws\?"):
        tfbrats.build_network("cun_lw")
    with pytest.raises(InputError, match=r"model\.width"):
        tfbrats.build_network("cun", width=0)


def test_slices_are_read_as_pairs(record_set):
    training = tfbrats.read_records(record_set.folder, batch_size=3)
    image, classes = next(iter(training))
    assert image.shape == (3, 48, 48, 4) and image.dtype == tf.float32
    assert classes.shape == (3, 48, 48) and classes.dtype == tf.int32
    assert 0 < tf.reduce_max(classes) <= 3
    assert len(training) == record_set.manifest.count("train") // 3 == sum(1 for _ in training)
    images = np.concatenate([image for image, _ in tfbrats.read_records(record_set.folder, "validation")])
    assert len(images) == record_set.manifest.count("validation") and images.any(axis=(1, 2, 3)).all()


def test_each_epoch_has_an_order_of_its_own_that_comes_again(record_set):
    first, again, second = (
        np.concatenate([image for image, _ in tfbrats.read_records(record_set.folder, epoch=epoch)])
        for epoch in (0, 0, 1)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, second)


@pytest.mark.parametrize("kind", ["patches", "volumes"])
def test_patches_are_read_as_pairs(patch_records, kind):
    config = patch_records.config(kind)
    for scales, name in ((3, "msm"), (1, "unet3d")):
        settings = config_file.overridden(config, [f"model.name={name}"])
        dataset = tfbrats.read_records(patch_records.folders[kind], config=settings, region="TC", batch_size=2)
        patch, target = next(iter(dataset))
        assert patch.shape == (2, 16, 16, 16, 4 * scales) and target.shape == (2, 16, 16, 16, 1)
        assert set(np.unique(target)) <= {0.0, 1.0} and target.dtype == tf.float32
    validation = tfbrats.read_records(patch_records.folders[kind], "validation", settings, "WT", 4)
    assert sum(len(patch) for patch, _ in validation) == 6


def test_stored_patches_tell_their_own_config(patch_records):
    patch, _ = next(iter(tfbrats.read_records(patch_records.folders["patches"], region="WT", batch_size=1)))
    assert patch.shape == (1, 16, 16, 16, 12)
    with pytest.raises(InputError, match="give one of WT, TC, ET"):
        tfbrats.read_records(patch_records.folders["patches"])


def test_records_that_are_not_there_or_damaged_are_told_before_anything_is_read(record_set, tmp_path):
    with pytest.raises(InputError, match=r"no dataset\.json"):
        tfbrats.read_records(tmp_path)
    for wrong in ({"batch_size": 0}, {"batch_size": "x"}, {"epoch": -1}, {"epoch": 0.5}):
        with pytest.raises(InputError, match=rf"{next(iter(wrong))}=.*: expected a whole number from [01]\."):
            tfbrats.read_records(record_set.folder, **wrong)
    with pytest.raises(InputError, match="no split 'training'; it has train, validation"):
        tfbrats.read_records(record_set.folder, "training")
    with pytest.raises(InputError, match=r"records\.slice_shape"):
        tfbrats.read_records(record_set.folder, config="cun")
    manifest = json.loads((pathlib.Path(record_set.folder) / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="missing"):
        tfbrats.read_records(tmp_path)


def test_a_network_of_ours_learns_by_keras_own_fit(record_set, tmp_path):
    network = tfbrats.build_network("unet2d", width=4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(0.01), loss)
    records = tfbrats.read_records(record_set.folder, batch_size=4)
    losses = network.fit(records, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    network.save(tmp_path / "unet2d.keras")
    again = keras.models.load_model(tmp_path / "unet2d.keras")
    assert again.evaluate(records, verbose=0) == network.evaluate(records, verbose=0)


def test_training_is_the_command_s(record_set, tmp_path):
    short = ("model.name=unet2d", "lws.enabled=false", "train.omega=0", "train.omega_floor=0")
    config = record_set.config(*short, "train.epochs=1", "train.steps_per_epoch=2")
    rows = tfbrats.train_model(config, records=record_set.folder, run=tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1] and (tmp_path / "run" / "history.csv").is_file()
    more = tfbrats.train_model(config, "train.epochs=2", run=tmp_path / "run")
    assert more[:1] == rows and len(more) == 2
    with pytest.raises(InputError, match=r"unknown key train\.epoch; did you mean train\.epochs"):
        tfbrats.train_model(config, "train.epoch=2", run=tmp_path / "run")


def test_a_case_of_files_is_segmented_and_scored_as_the_model_s_rule_says(model_folder, tiny_dataset):
    loaded = tfbrats.load_case(tiny_dataset("2020") / "BraTS20_Training_001")
    found = tfbrats.score(tfbrats.load_model(model_folder).segment(loaded), loaded)
    by_rule = tiny_model.tissues_by_rule({name: loaded.image[..., n] for n, name in enumerate(MODALITIES)})
    assert repr(found) == repr(tfbrats.score(by_rule, loaded.label, loaded.spacing_mm))
    assert 0 < found["WT"].dice < 1
