"""The brain, its z-score, its crop and its bias field."""

import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import SimpleITK as sitk

from tfbrats import labels
from tfbrats.cases import bias, boxes, case, nifti, preprocess
from tfbrats.errors import InputError
from tfbrats.phantoms import simulation

SHAPE = (40, 40, 28)


@pytest.fixture(scope="module")
def head():
    """(image [I, J, K, M] without negative voxels, brain) of a simulated case."""
    image, _ = simulation.simulate(SHAPE, 5, 1)
    return image, preprocess.brain_mask(image)


def a_case(image, label=None, modalities=labels.MODALITIES):
    return case.Case(
        case_id="Case_1",
        patient_id="Case_1",
        image=image,
        modalities=modalities,
        label=label,
        spacing_mm=(1.0, 1.0, 1.0),
        schema=labels.EDITIONS["2020"],
        grid=nifti.new_grid(image.shape[:3]),
    )


def test_the_brain_is_where_any_modality_differs_from_0_negative_voxels_included():
    image = np.zeros((3, 1, 1, 2), np.float32)
    image[1, 0, 0, 0] = -4.5
    image[2, 0, 0, 1] = 2
    assert preprocess.brain_mask(image).ravel().tolist() == [False, True, True]


def test_z_score_has_mean_0_and_deviation_1_in_the_brain_and_is_exactly_0_outside(head):
    image, brain = head
    image = image.copy()
    image[brain] -= 300  # interpolated scans have negative voxels
    scaled = preprocess.z_score(image, brain)
    assert scaled.dtype == np.float32
    assert np.abs(scaled[brain].mean(axis=0, dtype=np.float64)).max() < 1e-5
    assert np.abs(scaled[brain].std(axis=0, dtype=np.float64) - 1).max() < 1e-5
    assert not scaled[~brain].any()


def test_z_score_does_not_depend_on_the_scanner_s_unit(head):
    image, brain = head
    ours = preprocess.z_score(image, brain)
    theirs = preprocess.z_score(image.astype(np.float32) * 3.5, brain)
    assert np.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("value", [7, 0.1, -3.3, 1e-30])
def test_a_modality_that_is_constant_in_the_brain_becomes_0_not_nan(value):
    brain = np.zeros((7, 8, 9), bool)
    brain[2:5, 1:7, 3:8] = True
    image = np.zeros((*brain.shape, 2), np.float32)
    image[brain] = [value, 1]
    image[2, 1, 3, 1] = 2
    scaled = preprocess.z_score(image, brain)
    assert not scaled[..., 0].any()
    assert scaled[..., 1].std() > 0


def test_an_image_without_brain_is_an_error_that_names_the_case():
    empty = a_case(np.zeros((4, 4, 4, 4), np.int16))
    with pytest.raises(InputError, match=r"Case_1: no voxel differs from 0"):
        preprocess.prepare(empty, (), 4)


def test_a_segmentation_wholly_outside_the_brain_is_an_error_and_partly_is_none():
    image = np.zeros((6, 6, 6, 4), np.int16)
    image[2:4, 2:4, 2:4] = np.arange(32).reshape(2, 2, 2, 4) + 1
    label = np.zeros((6, 6, 6), np.uint8)
    label[0, 0, 0] = 2
    with pytest.raises(InputError, match=r"Case_1: the segmentation lies wholly outside the brain"):
        preprocess.prepare(a_case(image, label), (), 4)
    label[2, 2, 2] = 2
    assert preprocess.prepare(a_case(image, label), (), 4).label.sum() == 2
    label[:] = 0  # a case without tumour is sound
    assert not preprocess.prepare(a_case(image, label), (), 4).label.any()


def test_a_marked_voxel_of_the_prepared_case_is_found_where_it_was(head):
    image, brain = head
    at = tuple(np.argwhere(brain)[len(np.argwhere(brain)) // 2])
    label = np.zeros(SHAPE, np.uint8)
    label[at] = labels.Tissue.ET
    prepared = preprocess.prepare(a_case(image, label), (), 4)
    assert prepared.shape_ijk == SHAPE
    assert np.array_equal(boxes.uncrop(prepared.label, prepared.box_ijk, SHAPE), label)
    assert np.array_equal(boxes.uncrop(prepared.brain, prepared.box_ijk, SHAPE), brain)
    whole = boxes.uncrop(prepared.image, prepared.box_ijk, SHAPE)
    assert np.array_equal(whole, preprocess.z_score(image, brain))


# --- bias field: ours -----------------------------------------------------------------------------------


def test_only_the_named_modalities_are_corrected(head):
    image, brain = head
    one = a_case(image)
    assert preprocess.correct_bias(one, (), 4) is image  # int16 stays int16
    corrected = preprocess.correct_bias(one, ("t1",), 4)
    at = labels.MODALITIES.index("t1")
    assert corrected.dtype == np.float32
    assert np.array_equal(corrected[..., at], bias.corrected(image[..., at], brain, 4))
    rest = [m for m in range(4) if m != at]
    assert np.array_equal(corrected[..., rest], image[..., rest])
    assert not np.array_equal(corrected[..., at], image[..., at])


@pytest.mark.parametrize("modalities_at_once", [2, 9])
def test_modalities_corrected_side_by_side_are_the_same_bits(head, modalities_at_once):
    one = a_case(head[0])
    in_turn = preprocess.correct_bias(one, labels.MODALITIES, 2)
    assert np.array_equal(preprocess.correct_bias(one, labels.MODALITIES, 2, modalities_at_once), in_turn)


# --- bias field: SimpleITK's ----------------------------------------------------------------------------


def test_simpleitk_s_n4_is_asked_for_by_name_and_finds_the_same_field(head):
    image, brain = head
    one = a_case(image)
    ours, itk = (preprocess.correct_bias(one, ("t2",), 2, n4=whose) for whose in ("ours", "itk"))
    at = labels.MODALITIES.index("t2")
    assert np.array_equal(itk[..., at], preprocess.corrected_by_itk(image[..., at], brain, 2, one.spacing_mm))
    assert not np.array_equal(itk[..., at], image[..., at])
    assert not np.array_equal(itk[..., at], ours[..., at])
    assert 100 * np.abs(itk[brain][:, at] / ours[brain][:, at] - 1).mean() < 0.05


def test_simpleitk_s_n4_of_a_volume_without_positive_voxel_gives_it_back(head):
    image, brain = head
    volume = -image[..., 0].astype(np.float32)
    assert np.array_equal(preprocess.corrected_by_itk(volume, brain, 4), volume)


@pytest.fixture
def itk_s_globals():
    """What a program around us may have set, put back."""
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    threader = sitk.ProcessObject.GetGlobalDefaultThreader()
    yield
    sitk.ProcessObject.SetGlobalDefaultThreader(threader)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def test_simpleitk_s_n4_gives_the_same_bits_whatever_the_global_settings_of_threads(head, itk_s_globals):
    image, brain = head
    first = preprocess.corrected_by_itk(image[..., 2], brain, 2)
    for threader, threads in (("Platform", 3), ("Pool", 2)):
        sitk.ProcessObject.SetGlobalDefaultThreader(threader)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
        assert np.array_equal(preprocess.corrected_by_itk(image[..., 2], brain, 2), first)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot bind a process to a core")
def test_simpleitk_s_n4_gives_the_same_bits_on_a_machine_with_one_core():
    program = (
        "import hashlib, os, sys\n"
        "if sys.argv[1] == 'one': os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])\n"
        "from tfbrats.cases import preprocess\n"
        "from tfbrats.phantoms import simulation\n"
        "image = simulation.simulate((32, 32, 20), 5, 1)[0]\n"
        "field = preprocess.corrected_by_itk(image[..., 0], preprocess.brain_mask(image), 2)\n"
        "print(hashlib.sha256(field.tobytes()).hexdigest())\n"
    )
    root = pathlib.Path(preprocess.__file__).parents[2]
    one, all_cores = (
        subprocess.run(
            [sys.executable, "-c", program, cores], cwd=root, capture_output=True, text=True, check=True
        ).stdout
        for cores in ("one", "all")
    )
    assert one == all_cores != ""


def test_simpleitk_s_n4_of_one_modality_leaves_python_to_other_threads(head):
    image, brain = head
    ended = threading.Event()
    worker = threading.Thread(
        target=lambda: (preprocess.corrected_by_itk(image[..., 0], brain, 2), ended.set())
    )
    worker.start()
    turns = 0
    while not ended.is_set():  # held, it would let this thread run once before and once after
        turns += 1
        time.sleep(0.001)
    worker.join()
    assert turns > 10


# --- without SimpleITK ----------------------------------------------------------------------------------


def test_without_simpleitk_cases_are_prepared_and_its_n4_says_what_to_install(head, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)  # Python's way to say: it is not there
    loaded = a_case(head[0])
    assert preprocess.prepare(loaded, ("flair",), 4).image.shape[-1] == 4
    with pytest.raises(preprocess.MissingPackageError, match=r"needs SimpleITK: .*pip install SimpleITK"):
        preprocess.prepare(loaded, ("flair",), 4, "itk")


@pytest.mark.parametrize("order", ["C", "F"])
def test_halves_are_the_image_in_float16_and_c_order(order):
    image = np.random.default_rng(1).standard_normal((7, 5, 6, 3)).astype(np.float32, order=order)
    for part in (image, image[:, :, 2], image[1:4, ::-1]):
        halves = preprocess.in_float16(part)
        assert halves.flags.c_contiguous
        assert np.array_equal(halves, part.astype(np.float16)) and halves.dtype == np.float16
