"""What looks odd in scans is said, with what to do; sound ones pass without a word."""

import numpy as np
import pytest
import tiny_model

from tfbrats.cases import case, nifti
from tfbrats.datasets import layouts
from tfbrats.labels import EDITIONS, MODALITIES
from tfbrats.phantoms import simulation
from tfbrats.predictions import doubts


def of(image, spacing_mm=(1.0, 1.0, 1.0)):
    return doubts.of(
        case.Case(
            case_id="p",
            patient_id="p",
            image=image,
            modalities=MODALITIES,
            label=None,
            spacing_mm=spacing_mm,
            schema=EDITIONS["2020"],
            grid=nifti.new_grid(image.shape[:3]),
        )
    )


@pytest.fixture
def phantom():
    return simulation.simulate((48, 48, 32), 1, 1)[0]


def test_a_simulated_case_raises_no_doubt(phantom):
    assert of(phantom) == []


def test_real_cases_raise_no_doubt(real_cases):
    for entry in layouts.find(real_cases).cases[:2]:
        assert doubts.of(case.load(entry, read_label=False)) == []


def test_more_than_a_brain_s_volume_looks_like_a_skull(phantom):
    side = (3.2 / (np.count_nonzero(phantom[..., 0]) / 1e6)) ** (1 / 3)
    (note,) = of(phantom, (side,) * 3)
    assert (
        note.startswith("3.2 l of voxels are not 0, but a brain has 1 to 2 l: ")
        and "HD-BET, SynthStrip" in note
        and doubts.PAGE in note
    )


def test_a_volume_that_is_nearly_full_looks_like_air_or_a_skull():
    image = np.random.default_rng(0).integers(1, 900, (20, 20, 20, 4)).astype(np.int16)
    image[:2] = 0
    (note,) = of(image)
    assert note.startswith("90 % of the voxels are not 0, but a brain fills ")


def test_scans_that_lie_elsewhere_are_told_with_how_much_each_covers(phantom):
    moved = phantom.copy()
    moved[..., 2] = np.roll(moved[..., 2], 12, axis=0)
    (note,) = of(moved)
    assert (
        "cover different places (share of all non-zero voxels: " in note
        and "t1ce 6" in note
        and "co-registered" in note
    )


def test_a_scan_that_is_there_twice_is_told_by_both_names(phantom):
    phantom[..., 3] = phantom[..., 1]
    (note,) = of(phantom)
    assert note.startswith("t1 and t2 hold the same voxels")
    phantom[:] = phantom[..., :1]
    assert of(phantom)[0].startswith("flair and t1 and t1ce and t2 hold the same voxels")


def test_an_empty_case_is_no_division_by_zero():
    notes = of(np.zeros((4, 4, 4, 4), np.int16))
    assert any("hold the same voxels" in note for note in notes)


# --- what a model asks of its caller --------------------------------------------------------------------


def test_a_caller_of_today_s_model_sends_raw_scans_and_of_an_older_one_corrects_them_first():
    raw, axes, grid, skull, voxels = doubts.asked_of_caller(tiny_model.card(n4=tiny_model.of_graph("t1", "t2")))
    assert raw == "raw scans: N4 of t1, t2 and the z-score are done in the model"
    assert axes == "axes LPS: indices grow towards the patient's left, the back, the head"
    assert grid.startswith("one grid: flair, t1, t1ce, t2 ") and skull.startswith("no skull: ")
    assert voxels == "voxels of 1 x 1 x 1 mm, as in training"
    (without, *rest) = doubts.asked_of_caller(tiny_model.card())
    assert without == "raw scans: the z-score is done in the model" and rest == [axes, grid, skull, voxels]
    (first, *rest) = doubts.asked_of_caller(tiny_model.card(n4=tiny_model.of_caller("flair")))
    assert first.startswith(
        "N4 DONE BEFORE: flair corrected by SimpleITK at shrink factor 4 and sent as float32"
    )
    assert rest == [axes, grid, skull, voxels]


def test_axes_that_are_not_ours_are_told_as_the_card_has_them():
    card = tiny_model.card().model_copy(update={"axes": "RAS"})
    assert doubts.asked_of_caller(card)[1] == (
        "axes RAS: indices grow towards the patient's right, the front, the head"
    )


def test_who_asks_a_bare_network_does_n4_and_z_score_himself():
    wants = doubts.asked_of_network(tiny_model.card(n4=tiny_model.of_graph("t1")))
    assert wants == ("N4 of t1 at shrink factor 4", "z-score over the brain, background 0", "axes LPS")
    assert doubts.asked_of_network(tiny_model.card())[0].startswith("z-score")
