import json
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from tfbrats import phantom
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.labels import MODALITIES, Tissue, region_mask
from tfbrats.machine import files
from tfbrats.phantoms import data_sets, phantom_files, simulation, tumour

SHAPE = (48, 48, 32)
SEED = 11
NUMBERS = range(24)


@pytest.fixture(scope="module")
def simulated():
    """24 cases: (image, tissues) by number."""
    return {number: simulation.simulate(SHAPE, SEED, number) for number in NUMBERS}


# --- one case -------------------------------------------------------------------------------------------


def test_a_case_is_the_same_each_time_and_another_for_another_number_or_seed():
    image, tissues = simulation.simulate(SHAPE, 1, 2)
    again, tissues_again = simulation.simulate(SHAPE, 1, 2)
    assert np.array_equal(image, again) and np.array_equal(tissues, tissues_again)
    for seed, number in ((1, 3), (2, 2)):
        assert not np.array_equal(tissues, simulation.simulate(SHAPE, seed, number)[1])


def test_the_background_is_exactly_0_and_the_brain_nowhere(simulated):
    for image, tissues in simulated.values():
        brain = (image > 0).all(axis=-1)
        assert image.dtype == np.int16 and tissues.dtype == np.uint8
        assert not image[~brain].any()
        assert not tissues[~brain].any()
        assert not image[:: SHAPE[0] - 1, :: SHAPE[1] - 1, :: SHAPE[2] - 1].any()
        assert 0.1 < brain.mean() < 0.35
        pieces, count = ndimage.label(brain)
        assert np.bincount(pieces.ravel())[1:].max() > 0.97 * brain.sum() or count == 1


def test_no_brain_is_symmetric(simulated):
    for image, _ in simulated.values():
        brain = image[..., 0] > 0
        assert (brain != brain[::-1]).mean() > 0.002


def test_tumours_come_in_sizes_from_a_hundredth_to_an_eighth_of_the_brain(simulated):
    shares = [region_mask(t, "WT").sum() / (i[..., 0] > 0).sum() for i, t in simulated.values()]
    assert 0.005 < min(shares) < 0.03
    assert 0.07 < max(shares) < 0.13


def test_tumours_lie_in_both_halves_in_front_and_behind(simulated):
    centres = np.array([ndimage.center_of_mass(region_mask(t, "WT")) for _, t in simulated.values()])
    side = centres[:, :2] / SHAPE[:2] - 0.5
    assert {tuple(quadrant) for quadrant in side > 0} == {(a, b) for a in (False, True) for b in (False, True)}


def test_the_enhancing_rim_lies_round_the_necrosis(simulated):
    for number, (_, tissues) in simulated.items():
        if not tumour.is_enhancing(SEED, number):
            continue
        core = region_mask(tissues, "TC")
        inner = ndimage.distance_transform_edt(core)
        assert inner[tissues == Tissue.NCR].mean() > inner[tissues == Tissue.ET].mean()


def test_one_case_in_eight_does_not_enhance():
    for seed in range(5):
        silent = [n for n in range(40) if not tumour.is_enhancing(seed, n)]
        assert len(silent) == 5
    without = next(n for n in range(8) if not tumour.is_enhancing(SEED, n))
    tissues = simulation.simulate(SHAPE, SEED, without)[1]
    assert not (tissues == Tissue.ET).any() and (tissues == Tissue.NCR).any()


def test_rarely_a_tumour_has_no_oedema(simulated):
    assert sum(not (tissues == Tissue.ED).any() for _, tissues in simulated.values()) == 1


def contrast(image, tissues, modality, tissue):
    """Mean signal of a tissue over that of healthy white matter: the brighter half in T1."""
    values, t1 = (image[..., MODALITIES.index(m)].astype(float) for m in (modality, "t1"))
    healthy = (t1 > 0) & (tissues == 0)
    white = healthy & (t1 > np.median(t1[healthy]))
    return values[tissues == tissue].mean() / values[white].mean()


@pytest.mark.parametrize(
    ("modality", "tissue", "brighter"),
    [
        ("flair", Tissue.ED, True),
        ("t2", Tissue.ED, True),
        ("t1", Tissue.ED, False),
        ("t1ce", Tissue.ET, True),
        ("t1ce", Tissue.NCR, False),
        ("t1", Tissue.NCR, False),
        ("t2", Tissue.NCR, True),
    ],
)
def test_tissues_look_as_radiologists_expect(simulated, modality, tissue, brighter):
    ratios = [
        contrast(image, tissues, modality, tissue)
        for image, tissues in simulated.values()
        if (tissues == tissue).sum() > 20
    ]
    assert len(ratios) > 15
    assert np.mean((np.array(ratios) > 1) == brighter) > 0.9


def test_the_enhancing_rim_shows_in_t1ce_and_not_in_t1(simulated):
    for image, tissues in simulated.values():
        if (tissues == Tissue.ET).sum() > 20:
            assert contrast(image, tissues, "t1ce", Tissue.ET) > 1.2 * contrast(image, tissues, "t1", Tissue.ET)


def test_one_threshold_does_not_find_the_tumour(simulated):
    best = []
    for image, tissues in simulated.values():
        flair, whole = image[..., 0], region_mask(tissues, "WT")
        cuts = [flair >= np.percentile(flair[flair > 0], p) for p in range(50, 100, 2)]
        best.append(max(2 * (c & whole).sum() / (c.sum() + whole.sum()) for c in cuts))
    assert np.mean(best) < 0.75


def test_scanners_have_no_common_unit(simulated):
    means = np.array([image[image[..., 0] > 0].mean(axis=0) for image, _ in simulated.values()])
    assert (means.max(axis=0) / means.min(axis=0) > 4).all()


def test_a_resected_case_has_its_cavity_inside_the_core_and_is_otherwise_the_same():
    image, tissues = simulation.simulate(SHAPE, SEED, 4)
    operated, operated_tissues = simulation.simulate(SHAPE, SEED, 4, resected=True)
    cavity = operated_tissues == Tissue.RC
    assert cavity.sum() > 5
    assert region_mask(tissues, "TC")[cavity].all()
    assert np.array_equal(operated_tissues[~cavity], tissues[~cavity])
    assert np.array_equal(operated[tissues == 0], image[tissues == 0])


@pytest.mark.parametrize("shape", [simulation.LEAST_SHAPE, (33, 47, 21), (24, 60, 16), (96, 24, 40)])
def test_any_shape_down_to_the_least_holds_a_brain_with_a_tumour(shape):
    for number in range(8):
        image, tissues = simulation.simulate(shape, 0, number)
        assert tissues.shape == shape and image.shape == (*shape, 4)
        assert region_mask(tissues, "WT").sum() >= 12
        assert region_mask(tissues, "TC").any()
        assert (tissues == Tissue.ET).any() == tumour.is_enhancing(0, number)


@pytest.mark.parametrize("shape", [(23, 40, 40), (40, 40, 15), (40, 40)])
def test_a_shape_too_small_is_refused(shape):
    with pytest.raises(InputError, match="24, 24, 16"):
        simulation.simulate(shape, 0, 0)


# --- a data set -----------------------------------------------------------------------------------------


def contents(folder):
    return {path[len(str(folder)) :]: files.read_bytes(path) for path in files.walk(folder)}


def test_a_case_is_the_same_file_however_many_are_written(tmp_path):
    data_sets.write_dataset(tmp_path / "few", 1, "2021", 7, simulation.LEAST_SHAPE, first=2)
    data_sets.write_dataset(tmp_path / "many", 4, "2021", 7, simulation.LEAST_SHAPE)
    many = contents(tmp_path / "many")
    assert contents(tmp_path / "few").items() <= many.items()
    assert len(many) == 20


def test_the_ids_returned_are_those_found(tiny_dataset, tmp_path):
    for edition in phantom_files.EDITIONS:
        ids = data_sets.write_dataset(tmp_path / edition, 2, edition, 0, simulation.LEAST_SHAPE, first=9)
        assert ids == [phantom_files.case_id(edition, number) for number in (9, 10)]
        assert ids == [case.case_id for case in layouts.find(tmp_path / edition).cases]


@pytest.mark.parametrize("edition", ["msd", "nnunet", "2019", "2020"])
def test_more_cases_added_later_join_the_table(place, edition):
    data_sets.write_dataset(place, 1, edition, 0, simulation.LEAST_SHAPE)
    data_sets.write_dataset(place, 2, edition, 0, simulation.LEAST_SHAPE, first=1)
    cases = layouts.find(place).cases
    assert len(cases) == 3
    if edition in ("msd", "nnunet"):
        assert files.read_json(files.join(place, "dataset.json"))["numTraining"] == 3
    else:
        table = files.read_bytes(files.join(place, "name_mapping.csv")).decode().splitlines()
        assert [line.split(",")[1] for line in table[1:]] == [case.case_id for case in cases]


def test_the_decathlons_file_is_4d_in_its_own_order(tmp_path):
    data_sets.write_dataset(tmp_path, 1, "msd", 3, SHAPE)
    content = json.loads((tmp_path / "dataset.json").read_text())
    stored = np.asanyarray(nibabel.load(tmp_path / content["training"][0]["image"]).dataobj)
    image, _ = simulation.simulate(SHAPE, 3, 0)
    assert list(content["modality"].values()) == ["FLAIR", "T1w", "T1gd", "T2w"]
    for channel, modality in enumerate(("flair", "t1", "t1ce", "t2")):
        assert np.array_equal(stored[..., channel], image[..., MODALITIES.index(modality)])


def test_nnunets_channels_are_in_another_order_than_ours(tmp_path):
    data_sets.write_dataset(tmp_path, 1, "nnunet", 3, simulation.LEAST_SHAPE)
    names = json.loads((tmp_path / "dataset.json").read_text())["channel_names"]
    assert tuple(names[str(c)].lower() for c in range(4)) != MODALITIES


def test_cavities_are_written_in_2024_alone(tmp_path):
    for edition in ("2023", "2024"):
        data_sets.write_dataset(tmp_path / edition, 4, edition, 0, simulation.LEAST_SHAPE)
    values = {
        edition: [np.unique(nibabel.load(c.label).dataobj) for c in layouts.find(tmp_path / edition).cases]
        for edition in ("2023", "2024")
    }
    assert not any(4 in one for one in values["2023"])
    assert [4 in one for one in values["2024"]] == [data_sets.is_resected(0, n) for n in range(4)]
    assert sum(4 in one for one in values["2024"]) == 2


def test_grades_are_folders_until_2019(tmp_path):
    data_sets.write_dataset(tmp_path, 8, "2018", 1, simulation.LEAST_SHAPE)
    assert sorted(child.name for child in tmp_path.iterdir()) == ["HGG", "LGG"]


def test_an_unknown_edition_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(InputError, match=r"2022.*2021.*nnunet"):
        data_sets.write_dataset(tmp_path, 1, "2022", 0)


def test_the_command_writes_what_it_says(tmp_path):
    arguments = ["--output", str(tmp_path / "out"), "--count", "2", "--edition", "2023", "--seed", "4"]
    arguments += ["--shape", "24", "24", "16", "--first", "3"]
    done = subprocess.run(
        [sys.executable, "-m", "tfbrats.phantom", *arguments], capture_output=True, text=True, check=True
    )
    written, following = done.stdout.splitlines()
    assert written.startswith("2 simulated cases, BraTS-GLI-00003-000 to BraTS-GLI-00004-000, are in ")
    assert following == f"next: tfbrats inspect {tmp_path / 'out'}"
    assert done.stderr == ""  # no bar where there is no terminal
    assert len(layouts.find(tmp_path / "out").cases) == 2


@pytest.mark.parametrize(
    "wrong", [["--count", "0"], ["--first", "-1"], ["--seed", "-5"], ["--shape", "8", "8", "8"]]
)
def test_an_impossible_argument_is_refused_and_nothing_is_written(tmp_path, wrong):
    with pytest.raises(InputError):
        phantom.main(["--output", str(tmp_path / "out"), *wrong])
    assert not (tmp_path / "out").exists()


def test_the_old_name_of_count_works_and_the_new_one_is_said(tmp_path, capsys):
    phantom.main(["--output", str(tmp_path), "--cases", "1", "--shape", "24", "24", "16"])
    said = capsys.readouterr()
    assert said.err == "note: --cases is now --count\n"
    assert said.out.startswith(f"1 simulated case, BraTS20_Training_000, is in {tmp_path}\n")
