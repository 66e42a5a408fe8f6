"""One absurd voxel is named with its file by every command; masks that were scaled are the labels they were."""

import pathlib
import sys

import nibabel
import numpy as np
import pytest
import tiny_model

from tfbrats import inspect
from tfbrats.cases import case, preprocess, voxels
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES, Tissue
from tfbrats.phantoms import data_sets, simulation
from tfbrats.predictions import model_card, provenance, results

SHAPE = (24, 26, 18)
CASE = "BraTS2021_00003"


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    data_sets.write_dataset(tmp_path / "cases", 1, "2021", seed=5, shape=SHAPE, first=3)
    return tmp_path / "cases" / CASE


def rewrite(path, change, dtype, slope=1.0, inter=0.0):
    """Writes `change(voxels)` as this type, to be read times `slope` plus `inter`."""
    image = nibabel.load(path)
    array = np.asarray(change(np.asanyarray(image.dataobj).astype(dtype)), dtype)
    header = image.header.copy()
    header.set_data_dtype(dtype)
    again = nibabel.Nifti1Image(array, None, header)
    again.header.set_slope_inter(slope, inter)
    nibabel.save(again, path)


def with_voxel(value, *places):
    def change(array):
        for place in places or [(7, 8, 9)]:
            array[place] = value
        return array

    return change


def file_of(folder, kind):
    return folder / f"{CASE}_{kind}.nii.gz"


# --- scans ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1e30, np.float32),
        (-3e38, np.float32),
        (1e9, np.float32),
        (1e9, np.int32),
        (-(2**31), np.int32),
        (2**32 - 1, np.uint32),
        (1e6, np.float64),
    ],
)
def test_one_absurd_voxel_is_named_with_file_place_and_value(folder, value, dtype):
    rewrite(file_of(folder, "t1ce"), with_voxel(value), dtype)
    (fault,) = inspect.inspect(folder)["faults"]
    assert f"{CASE}_t1ce.nii.gz: voxel (7, 8, 9) of t1ce is {np.asarray(value, dtype)[()]:.7g}" in fault
    assert "Set it to 0" in fault


def test_several_are_counted_and_the_furthest_is_named(folder):
    rewrite(file_of(folder, "t2"), with_voxel(-1e12, (7, 8, 9), (1, 2, 3)), np.float32)
    (fault,) = inspect.inspect(folder)["faults"]
    assert "2 voxels of t2 stand out, the furthest with -1e+12 at (1, 2, 3)" in fault


def test_a_filler_in_half_of_the_volume_is_named_too(folder):
    rewrite(file_of(folder, "flair"), lambda a: np.where(a == 0, -3.4028235e38, a), np.float32)
    (fault,) = inspect.inspect(folder)["faults"]
    assert "flair stand out, the furthest with -3.402823e+38" in fault and "no scanner measures that" in fault


@pytest.mark.parametrize("value", [1e5, 1e8, -1e9])
def test_a_whole_slice_of_absurd_voxels_does_not_hide_itself(folder, value):
    """Over one voxel in a hundred of the brain: the 99th percentile is one of them."""

    def change(array):
        array = array.astype(np.float32)
        array[:, :, array.shape[2] // 2] = np.where(array[:, :, array.shape[2] // 2] == 0, 0, value)
        return array

    rewrite(file_of(folder, "t1ce"), change, np.float32)
    (fault,) = inspect.inspect(folder)["faults"]
    assert "voxels of t1ce stand out" in fault and "half of its brain is below" in fault
    assert "they alone decide mean and deviation" in fault and "Set them to 0" in fault


def test_one_modality_with_a_background_is_a_fault(folder):
    """The brain is where any modality is not 0: one file with padding makes a brain of the whole volume."""
    rewrite(file_of(folder, "t2"), lambda array: np.where(array == 0, -1000, array), np.int16)
    (fault,) = inspect.inspect(folder)["faults"]
    assert "t2: the background is -1000; expected 0. Set it to 0" in fault
    noise = np.random.default_rng(0)
    rewrite(file_of(folder, "t2"), lambda a: np.where(a < 1, noise.integers(1, 9, a.shape), a), np.int16)
    (fault,) = inspect.inspect(folder)["faults"]
    assert "t2: the corners of the volume are not 0: skull or air is still there" in fault


def test_what_would_ruin_the_z_score_is_a_fault_and_what_would_not_is_a_note(tmp_path):
    """In a volume of full size one bright voxel changes nothing; far brighter, it decides everything."""
    scan = np.zeros((120, 120, 100), np.float32)
    scan[20:100, 20:100, 20:80] = np.random.default_rng(0).normal(300, 60, (80, 80, 60))
    brain = scan != 0
    before = preprocess.statistics(scan[..., None], brain)[1][0]
    for value, ruined in ((10_000.0, False), (50_000.0, False), (200_000.0, True), (-1e6, True)):
        scan[50, 51, 52] = value
        deviation = preprocess.statistics(scan[..., None], brain)[1][0]
        assert bool(deviation > 2 * before) is ruined
        faults, notes = voxels.intensity_faults("x.nii", "t1", scan)
        assert (len(faults), len(notes)) == ((1, 0) if ruined else (0, 1 if value > 22_000 else 0))
        assert all(f"voxel (50, 51, 52) of t1 is {value:.7g}" in text for text in (*faults, *notes))


@pytest.mark.parametrize(
    "scan",
    [
        lambda brain: brain * 15956 / brain.max(),  # bright vessels
        lambda brain: np.minimum(brain * 60, 32767),  # saturated
        lambda brain: (brain - brain.mean()) / brain.std() * (brain != 0),  # z-scored already
        lambda brain: brain * 1e-6,
        lambda brain: brain * 1e5,
    ],
)
def test_sound_scans_of_any_scale_are_left_alone(scan):
    image, _ = simulation.simulate((60, 60, 40), 5, 3)
    for m in range(len(MODALITIES)):
        array = scan(image[..., m].astype(np.float64)).astype(np.float32)
        assert voxels.intensity_faults("x.nii", "t1", array) == ([], [])


# --- the same by every command --------------------------------------------------------------------------


def attempt(folder, output, card=None, tell=lambda note: None):
    def segment(loaded):
        return results.Segmentation(np.zeros(loaded.image.shape[:3], np.uint8), None, None, chosen)

    chosen = card or tiny_model.card()
    entry = layouts.find(folder).cases[0]
    return results.attempt(
        segment, entry, chosen, results.target(CASE, output, with_provenance=True), tell=tell
    )


def test_what_segments_a_case_refuses_an_absurd_voxel_as_inspect_does(folder, tmp_path):
    rewrite(file_of(folder, "t1"), with_voxel(1e30), np.float32)
    done = attempt(folder, tmp_path / "results")
    assert done.fault.stage == "read"
    assert done.fault.reason == inspect.inspect(folder)["faults"][0]


def test_a_mask_outside_the_brain_is_found_by_inspect_with_the_words_of_the_record_job(folder):
    def flipped_away(array):
        moved = np.zeros_like(array)
        moved[:2, :2, :2] = array.max()
        return moved

    rewrite(file_of(folder, "seg"), flipped_away, np.uint8)
    entry = layouts.find(folder).cases[0]
    loaded = case.load(entry)
    with pytest.raises(InputError) as told:
        preprocess.prepare(loaded, (), 4)
    assert "lies wholly outside the brain" in str(told.value)
    assert inspect.inspect(folder)["faults"] == [str(told.value)]
    assert inspect.main([str(folder)]) == 1


def test_a_mask_mostly_outside_the_brain_is_noted(folder):
    def moved(array):
        inside = array[array > 0]
        copy = np.zeros_like(array)
        copy[:2, :2, :2] = 1
        copy[np.unravel_index(np.flatnonzero(array)[0], array.shape)] = inside[0]
        return copy

    rewrite(file_of(folder, "seg"), moved, np.uint8)
    report = inspect.inspect(folder)
    assert report["sound"]
    assert any("89 % of its segmentation lies outside the brain" in note for note in report["notes"])


def test_another_spacing_than_the_models_is_told_before_the_case_is_segmented(tmp_path):
    data_sets.write_dataset(tmp_path / "cases", 1, "2021", 5, SHAPE, first=3, spacing_mm=(1.0, 1.0, 3.0))
    order = []
    card = tiny_model.card()

    def segment(loaded):
        order.append("segmented")
        return results.Segmentation(np.zeros(loaded.image.shape[:3], np.uint8), None, None, card)

    entry = layouts.find(tmp_path / "cases").cases[0]
    target = results.target(CASE, tmp_path / "results", with_provenance=True)
    done = results.attempt(segment, entry, card, target, tell=order.append)
    assert done.fault is None and order[1:] == ["segmented"]
    assert order[0].startswith(
        f"its voxels are 1 x 1 x 3 mm, and the model {card.name} was trained on 1 x 1 x 1 mm"
    )
    assert done.notes == (order[0],)
    beside = pathlib.Path(provenance.path_of(target.segmentation)).read_text()
    assert order[0] in beside


@pytest.mark.parametrize(
    ("side", "told"), [(1.0, False), (1.04, False), (0.96, False), (1.06, True), (2.0, True)]
)
def test_a_few_percent_of_spacing_are_nothing(folder, tmp_path, side, told):
    card = tiny_model.card().model_copy(update={"spacing_mm": (1.0, side, 1.0)})
    notes = attempt(folder, tmp_path / "results", card).notes
    assert bool(notes) is told


def test_of_very_many_notes_the_first_are_told_and_the_rest_is_counted():
    notes = {f"case{n:02}": ("a", "b") for n in range(30)}
    lines = results.notes_told(notes)
    assert lines[:3] == ["note: case00: a", "note: case00: b", "note: case01: a"]
    assert len(lines) == 21 and lines[-1].startswith("note: and 40 more")
    assert results.notes_told({"case": ("a",)}) == ["note: case: a"]


# --- masks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "slope", "inter"),
    [
        (np.uint8, 1.0, 0.0),
        (np.uint16, 1.0, 0.0),
        (np.int64, 1.0, 0.0),
        (np.float64, 1.0, 0.0),
        (np.int16, 4 / 32767, 0.0),  # 3.9999
        (np.uint8, 4 / 255, 0.0),  # 1.0039, 2.0078
        (np.int16, 0.99999, 0.0),
        (np.float32, 1.00001, 0.0),
        (np.int16, 4 / 65530, 2.0),
        (np.int16, 0.5, -3.0),
    ],
)
def test_a_mask_that_was_scaled_is_read_as_the_labels_it_was(folder, dtype, slope, inter):
    before = case.load(layouts.find(folder).cases[0]).label
    assert {Tissue.NCR, Tissue.ED, Tissue.ET} <= set(np.unique(before))
    rewrite(file_of(folder, "seg"), lambda a: np.round((a - inter) / slope), dtype, slope, inter)
    report = inspect.inspect(folder)
    loaded = case.load(layouts.find(folder).cases[0])
    assert np.array_equal(loaded.label, before) and report["sound"]
    exact = slope in (1.0, 0.5)
    assert report["notes"] == ([] if exact else [f"{CASE}: {loaded.notes[0]}"])
    if not exact:
        assert f"{CASE}_seg.nii.gz: its labels are up to" in loaded.notes[0]
        assert "scl_slope" in loaded.notes[0]
        _, grid = case.load_label(file_of(folder, "seg"), EDITIONS["2021"])
        assert grid.notes == (loaded.notes[0].removeprefix(f"{CASE}_seg.nii.gz: "),)


@pytest.mark.parametrize(
    ("change", "dtype", "slope", "words"),
    [
        (lambda a: a * 0.5, np.float32, 1.0, ["not whole numbers, e.g. 0.5", "nearest neighbours"]),
        (
            lambda a: (a > 0) * 0.83,
            np.float32,
            1.0,
            ["e.g. 0.83", "these are probabilities. Threshold them first"],
        ),
        (lambda a: np.where(a == 4, 3.99, a), np.float32, 1.0, ["not whole numbers, e.g. 3.99"]),
        (lambda a: a * 10, np.int16, 0.13, ["not whole numbers", "scl_slope 0.13, scl_inter 0"]),
        (lambda a: a, np.int16, 2.0, ["label values [8]", "scl_slope 2, scl_inter 0"]),
        (lambda a: np.where(a == 2, -1, a), np.int16, 1.0, ["label values [-1]"]),
        (lambda a: np.where(a == 2, 255, a), np.uint8, 1.0, ["label values [255]"]),
        (lambda a: np.where(a == 2, np.nan, a), np.float32, 1.0, ["not whole numbers, e.g. nan"]),
    ],
)
def test_a_mask_that_is_none_is_refused_and_its_scaling_is_told(folder, change, dtype, slope, words):
    rewrite(file_of(folder, "seg"), change, dtype, slope)
    (fault,) = inspect.inspect(folder)["faults"]
    assert all(word in fault for word in [f"{CASE}_seg.nii.gz: ", *words]), fault
    assert ("scl_slope" in fault) is (slope != 1)


def test_a_missing_package_is_no_fault_of_the_case(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    card = tiny_model.card(n4=tiny_model.of_caller("flair"))
    entry = layouts.find(folder).cases[0]
    target = results.target(CASE, tmp_path / "results", with_provenance=False)
    with pytest.raises(preprocess.MissingPackageError, match="pip install SimpleITK"):
        results.attempt(lambda loaded: model_card.inputs(card, loaded), entry, card, target)
