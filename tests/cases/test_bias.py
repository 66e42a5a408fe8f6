"""N4 of our own, held to SimpleITK's where that is right, and to what it means where it is not."""

import hashlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from tfbrats.cases import bias, case
from tfbrats.datasets import layouts

SHAPE = (60, 52, 40)
CENTRED = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
LOG_BIAS = 0.3 * CENTRED[0] + 0.15 * CENTRED[1] * CENTRED[2] - 0.1 * CENTRED[1] ** 2


@pytest.fixture(scope="module")
def tissues():
    """float32 [I, J, K]: three tissues in folds, a little noise and a smooth field, up to every border."""
    i, j, k = CENTRED
    folds = np.sin(9 * i) + np.sin(8 * j + 1) + np.sin(7 * k)
    tissue = np.select([folds > 0.9, folds > -0.4], [900.0, 650.0], 420.0)
    return ((tissue + np.random.default_rng(0).normal(0, 15, SHAPE)) * np.exp(LOG_BIAS)).astype(np.float32)


@pytest.fixture(scope="module")
def phantom(tissues):
    """(volume float32, brain): the same in the shape of a brain."""
    i, j, k = CENTRED
    brain = (i / 0.9) ** 2 + (j / 0.85) ** 2 + (k / 0.8) ** 2 < 1
    return np.where(brain, tissues, 0), brain


def by_itk(volume, mask, whole=None, iterations=(50,) * 4, threshold=0.001):
    """SimpleITK's log field [I, J, K] of a volume, and its iterations at the last level.

    Args:
        whole: a volume of full resolution to evaluate the field on.
    """
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    image = sitk.GetImageFromArray(np.asarray(volume, np.float32))
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations(iterations)
    corrector.SetConvergenceThreshold(threshold)
    corrector.Execute(image, sitk.GetImageFromArray((mask & (volume > 0)).astype(np.uint8)))
    grid = image if whole is None else sitk.GetImageFromArray(np.asarray(whole, np.float32))
    return sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(grid)), corrector.GetElapsedIterations()


def evaluated(lattice, shape):
    """A lattice's logarithms at every voxel."""
    rows = [bias.weights(points, size) for points, size in zip(lattice.shape, shape, strict=True)]
    return np.einsum("abc,ia,jb,kc->ijk", lattice, *rows)


def percent_apart(ours, theirs):
    return 100 * np.abs(np.expm1(ours - theirs))


# --- beside SimpleITK -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "most"),
    [
        (lambda volume, brain: (np.where(brain, volume, 0), brain), 1e-5),
        (lambda volume, brain: (volume, np.ones_like(brain)), 1e-5),
        (lambda volume, brain: (volume - 500, brain), 1e-5),
        (lambda volume, brain: (np.round(volume / 100), brain), 1e-5),
        (lambda volume, brain: (volume[3:, :25, 3:16], brain[3:, :25, 3:16]), 1e-5),
        (lambda volume, brain: (np.minimum(volume, 800), brain), 1e-4),  # a spike: SimpleITK's float32 shows
    ],
    ids=["plain", "every border", "negative", "few grey levels", "odd sizes", "saturated"],
)
def test_a_fixed_number_of_iterations_gives_simpleitk_s_field(tissues, phantom, change, most):
    volume, brain = change(*(array[::2, ::2, ::2] for array in (tissues, phantom[1])))
    found = bias.fit(volume, brain, iterations=3, threshold=0)
    assert found.iterations == (3, 3, 3, 3)
    assert found.lattice.shape == (11, 11, 11)
    theirs, _ = by_itk(volume, brain, iterations=(3,) * 4, threshold=0)
    fitted = brain & (volume > 0)
    assert np.abs(evaluated(found.lattice, volume.shape) - theirs)[fitted].max() < most


def test_the_field_at_full_resolution_and_the_iterations_are_simpleitk_s(phantom):
    volume, brain = phantom
    taken = bias.shrunk(SHAPE, 2)
    theirs, iterations = by_itk(volume[taken], brain[taken], volume)
    assert percent_apart(bias.log_field(volume, brain, 2), theirs)[brain].max() < 0.05
    found = bias.fit(volume[taken], brain[taken])
    # ITK counts an iteration more where none is left
    assert abs(found.iterations[-1] - iterations) <= 1


def test_on_a_real_volume_at_shrink_4(real_cases):
    one = layouts.find(real_cases).cases[0]
    volume = case.load(one, ("t1",), read_label=False).image[..., 0]
    brain = volume > 0
    taken = bias.shrunk(volume.shape, 4)
    theirs, _ = by_itk(volume[taken], brain[taken], volume)
    apart = percent_apart(bias.log_field(volume, brain, 4), theirs)[brain]
    assert apart.mean() < 0.02
    assert np.percentile(apart, 95) < 0.1


@pytest.mark.parametrize("shrink", [1, 2, 3, 4])
def test_the_voxels_that_are_fitted_are_those_of_simpleitk_s_shrink(shrink):
    shape = (240, 240, 155)
    volume = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    theirs = sitk.GetArrayFromImage(sitk.Shrink(sitk.GetImageFromArray(volume), [shrink] * 3))
    assert np.array_equal(volume[bias.shrunk(shape, shrink)], theirs)


# --- what it means --------------------------------------------------------------------------------------


def test_removes_a_known_smooth_bias(phantom):
    volume, brain = phantom
    left = (LOG_BIAS - bias.log_field(volume, brain, 2))[brain]
    assert LOG_BIAS[brain].std() > 0.1
    assert left.std() < 0.25 * LOG_BIAS[brain].std()


def test_corrected_is_the_volume_by_the_exponential_of_the_log_field(phantom):
    volume, brain = phantom
    corrected = bias.corrected(volume, brain, 3)
    assert corrected.dtype == np.float32
    assert np.allclose(corrected, volume / np.exp(bias.log_field(volume, brain, 3)), rtol=1e-6, atol=0)


def test_0_stays_0_and_negative_voxels_are_corrected_too(phantom):
    volume, brain = phantom
    negative = brain & (np.random.default_rng(1).random(SHAPE) < 0.02)
    volume = np.where(negative, -0.1 * volume, volume)
    corrected = bias.corrected(volume, brain, 4)
    assert np.isfinite(corrected).all()
    assert np.array_equal(np.sign(corrected), np.sign(volume))
    assert not np.array_equal(corrected[negative], volume[negative])


def test_the_field_at_full_resolution_has_no_blocks_of_the_shrunk_image(phantom):
    log_field = bias.log_field(*phantom, 4)
    steps = np.abs(np.diff(log_field, axis=0))[phantom[1][1:]]
    # A field of 4-voxel blocks stands still in three steps of four and jumps in the fourth.
    assert np.median(steps) > 0.002
    assert steps.max() < 8 * np.median(steps)


@pytest.mark.parametrize(
    ("volume", "mask"),
    [
        (np.ones((8, 8, 8)), np.zeros((8, 8, 8), bool)),
        (np.zeros((8, 8, 8)), np.ones((8, 8, 8), bool)),
        (-np.ones((8, 8, 8)), np.ones((8, 8, 8), bool)),
        (np.full((8, 8, 8), 700), np.ones((8, 8, 8), bool)),
        (np.arange(512.0).reshape(8, 8, 8), np.arange(512).reshape(8, 8, 8) == 77),
        (np.arange(1.0, 9).reshape(2, 2, 2), np.ones((2, 2, 2), bool)),
        (np.ones((1, 1, 1)), np.ones((1, 1, 1), bool)),
    ],
    ids=["empty mask", "zeros", "negative", "constant", "one voxel of mask", "2 x 2 x 2", "one voxel"],
)
def test_where_there_is_nothing_to_fit_the_field_is_0_and_the_volume_comes_back(volume, mask):
    assert not bias.log_field(volume, mask, 1).any()
    assert np.array_equal(bias.corrected(volume, mask, 2), volume.astype(np.float32))


@pytest.mark.parametrize("shape", [(40, 36, 1), (1, 30, 33), (5, 5, 5), (12, 10, 9), (64, 1, 1), (7, 90, 4)])
def test_any_size_gives_a_finite_field(shape):
    volume = np.random.default_rng(0).uniform(1, 1000, shape)
    for shrink in (1, 2, 4):
        log_field = bias.log_field(volume, np.ones(shape, bool), shrink)
        assert log_field.shape == shape
        assert np.isfinite(log_field).all()
        assert np.abs(log_field).max() < 5


def test_one_slice_is_corrected_in_its_plane(phantom):
    volume, brain = (array[:, :, 20:21] for array in phantom)
    left = (LOG_BIAS[:, :, 20:21] - bias.log_field(volume, brain, 1))[brain]
    assert left.std() < 0.5 * LOG_BIAS[:, :, 20:21][brain].std()


@pytest.mark.parametrize("size", [2, 5, 31, 240])
def test_the_weights_of_a_voxel_sum_to_1_and_the_ends_are_the_domain_s(size):
    weights = bias.weights(5, size)
    assert np.allclose(weights.sum(axis=1), 1)
    assert weights.min() >= 0
    assert np.allclose(weights[0], [1 / 6, 4 / 6, 1 / 6, 0, 0])
    assert np.allclose(weights[-1], [0, 0, 1 / 6, 4 / 6, 1 / 6], atol=2e-3)


def test_refinement_leaves_the_function_unchanged():
    lattice = np.random.default_rng(0).normal(size=(4, 5, 7))
    finer = bias.refined(lattice)
    assert finer.shape == (5, 7, 11)
    shape = (17, 20, 23)
    assert np.abs(evaluated(finer, shape) - evaluated(lattice, shape)).max() < 1e-12


def test_a_value_that_only_one_voxel_has_is_the_minimum_too():
    logs = np.log(np.random.default_rng(0).uniform(100, 200, 500))
    logs[0] = logs.min() - 1  # SimpleITK overlooks it here
    swapped = np.roll(logs, 7)
    assert np.allclose(np.roll(bias.sharpening_residual(logs), 7), bias.sharpening_residual(swapped))


# --- the same bits --------------------------------------------------------------------------------------


def test_dtype_and_order_in_memory_change_no_bit(phantom):
    volume, brain = np.round(phantom[0]).astype(np.int16), phantom[1]
    expected = bias.corrected(volume, brain, 3)
    stacked = np.stack([volume, volume], -1)[..., 1]
    for same in (volume.astype(np.float64), volume.astype(">i2"), np.asfortranarray(volume), stacked):
        assert np.array_equal(bias.corrected(same, brain, 3), expected)


def test_threads_and_processor_change_no_bit():
    """Two threads of BLAS where it would take them, its kernels of other processors, numpy's without AVX."""
    program = (
        "import hashlib\n"
        "import numpy as np\n"
        "from tfbrats.cases import bias\n"
        "random = np.random.default_rng(0)\n"
        "shape = (120, 130, 70)\n"
        "i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing='ij')\n"
        "brain = i**2 + j**2 + k**2 < 0.9\n"
        "volume = random.choice([400, 700, 900], shape) + random.normal(0, 20, shape)\n"
        "volume *= np.exp(i * 0.3 + j * k)\n"
        "corrected = bias.corrected(volume * brain, brain, 3)\n"
        "print(hashlib.sha256(corrected.tobytes()).hexdigest())\n"
    )
    ways = (
        {"OPENBLAS_NUM_THREADS": "1"},
        {"OPENBLAS_NUM_THREADS": "2"},
        {"OPENBLAS_CORETYPE": "Prescott"},
        {"OPENBLAS_CORETYPE": "Haswell"},
        {"NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX2 FMA3"},
    )
    root = pathlib.Path(bias.__file__).parents[2]
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program],
            cwd=root,
            env={**os.environ, **way},
            stdout=subprocess.PIPE,
            text=True,
        )
        for way in ways
    ]
    said = [one.communicate()[0] for one in running]
    assert not any(one.returncode for one in running)
    assert len(set(said)) == 1 and len(said[0]) == hashlib.sha256().digest_size * 2 + 1


def test_every_product_is_small_enough_for_one_thread(phantom, monkeypatch):
    """So that a worker keeps to its core: OpenBLAS shares out what has more than 2^18 multiplications."""
    sizes, matmul = [], np.matmul

    def counted(a, b, **more):
        sizes.append(a.shape[-2] * b.size)
        return matmul(a, b, **more)

    monkeypatch.setattr(np, "matmul", counted)
    bias.corrected(np.pad(phantom[0], 60), np.pad(phantom[1], 60), 1)
    assert max(sizes) <= 2**18
