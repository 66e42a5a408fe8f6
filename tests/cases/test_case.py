"""Cases are read, refused and written back: every fault by name, every header as it came."""

import dataclasses
import gzip
import itertools
import zlib

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfbrats.cases import case, nifti, rejected
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES, Tissue
from tfbrats.machine import files, gunzip
from tfbrats.phantoms import data_sets, simulation

SHAPE = (24, 26, 18)
CASE = "BraTS2021_00003"


@pytest.fixture
def folder(place):
    """One sound case of the 2021 edition, on the disk and in memory."""
    data_sets.write_dataset(place, 1, "2021", seed=5, shape=SHAPE, first=3)
    return files.join(place, CASE)


def path_of(folder, kind):
    return files.join(folder, f"{CASE}_{kind}.nii.gz")


def change(path, voxels=None, header=None, dtype=None):
    """Rewrites a NIfTI file with its array or its header changed."""
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(files.read_bytes(path)))
    array = np.asanyarray(image.dataobj)
    array = array.astype(dtype or array.dtype)
    array = array if voxels is None else voxels(array)
    image.header.set_data_dtype(array.dtype)
    changed = nibabel.Nifti1Image(array, None, image.header)
    if header is not None:
        header(changed)
    files.write_bytes(path, gzip.compress(changed.to_bytes()))


def faults_of(folder):
    """Every fault of the folder's one case."""
    return faults_in(layouts.find(folder).cases[0])


def faults_in(entry):
    """Every fault of a case, its name in front; none of a sound one."""
    try:
        case.load(entry, need_label=entry.label_expected)
    except case.CaseError as error:
        assert str(error) == "\n".join(f"{entry.case_id}: {fault}" for fault in error.faults)
        return [f"{entry.case_id}: {fault}" for fault in error.faults]
    return []


def only_fault(folder, *words):
    (fault,) = faults_of(folder)
    assert fault.startswith(f"{CASE}: ")
    for word in words:
        assert word in fault, fault


# --- reading --------------------------------------------------------------------------------------------


def test_a_sound_case_has_no_fault_and_its_channels_come_in_the_order_asked_for(folder):
    assert faults_of(folder) == []
    found = layouts.find(folder).cases[0]
    loaded = case.load(found, modalities=("t2", "flair"))
    image, tissues = simulation.simulate(SHAPE, 5, 3)
    assert loaded.modalities == ("t2", "flair")
    assert np.array_equal(loaded.image[..., 0], image[..., MODALITIES.index("t2")])
    assert np.array_equal(loaded.image[..., 1], image[..., MODALITIES.index("flair")])
    assert np.array_equal(loaded.label, tissues)
    assert loaded.image.dtype == np.int16


def test_plain_and_compressed_files_hold_the_same_case(folder):
    before = case.load(layouts.find(folder).cases[0])
    for kind in (*MODALITIES, "seg"):
        content = gzip.decompress(files.read_bytes(path_of(folder, kind)))
        files.write_bytes(path_of(folder, kind).removesuffix(".gz"), content)
        files.remove(path_of(folder, kind))
    after = case.load(layouts.find(folder).cases[0])
    assert np.array_equal(before.image, after.image)
    assert np.array_equal(before.label, after.label)


def test_fractions_and_scaled_files_are_read_as_float32(folder):
    change(path_of(folder, "t1"), lambda a: a / 4, dtype=np.float64)
    t1 = case.load(layouts.find(folder).cases[0]).image[..., MODALITIES.index("t1")]
    expected = simulation.simulate(SHAPE, 5, 3)[0][..., MODALITIES.index("t1")] / 4
    assert t1.dtype == np.float32
    assert np.array_equal(t1, expected.astype(np.float32))


def test_a_prediction_needs_no_mask_and_a_training_case_does(folder):
    files.remove(path_of(folder, "seg"))
    found = layouts.find(folder).cases[0]
    assert case.load(found).label is None
    with pytest.raises(case.CaseError, match=rf"{CASE}: no segmentation; found .*_t1\.nii\.gz"):
        case.load(found, need_label=True)


# --- faults ---------------------------------------------------------------------------------------------


def test_a_missing_modality_is_named_beside_what_was_found(folder):
    files.remove(path_of(folder, "t1ce"))
    only_fault(folder, "no t1ce", f"{CASE}_t1.nii.gz")


def test_a_web_page_saved_as_an_image_is_called_one(folder):
    files.write_bytes(path_of(folder, "t2"), b"\n<!DOCTYPE html><html>Please log in</html>")
    only_fault(folder, f"{CASE}_t2.nii.gz", "HTML", "Download it again")


def test_an_empty_file_is_called_empty(folder):
    files.write_bytes(path_of(folder, "flair"), b"")
    only_fault(folder, f"{CASE}_flair.nii.gz", "empty")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.98])
def test_a_truncated_compressed_file_is_refused(folder, share):
    content = files.read_bytes(path_of(folder, "t1"))
    files.write_bytes(path_of(folder, "t1"), content[: int(share * len(content))])
    only_fault(folder, f"{CASE}_t1.nii.gz", "truncated or damaged")


def test_a_truncated_plain_file_is_refused_with_its_sizes(folder):
    content = gzip.decompress(files.read_bytes(path_of(folder, "t1")))[:-100]
    files.remove(path_of(folder, "t1"))
    files.write_bytes(path_of(folder, "t1").removesuffix(".gz"), content)
    only_fault(folder, f"{CASE}_t1.nii: truncated", str(len(content)), str(len(content) + 100))


@pytest.mark.parametrize("compress", [gzip.compress, bytes])
@pytest.mark.parametrize("slope, scaled", [((1, 0), False), ((0, 0), False), ((2, 0), True), ((1, 3), True)])
def test_a_file_tells_how_it_is_stored(compress, slope, scaled):
    image = nibabel.Nifti1Image(np.ones((4, 5, 6), np.int16), None)
    image.set_qform(np.diag([-2.0, 3, 4, 1]), 1)
    image.set_sform(np.diag([5.0, 6, 7, 1]), 2)
    content = bytearray(image.to_bytes())
    content[112:120] = np.array(slope, "<f4").tobytes()
    array, stored = nifti.read_stored(compress(bytes(content) + b"more"), "x.nii")
    assert stored.dtype == np.int16 and stored.scaled is scaled and stored.unused_bytes == 4
    assert array.min() == array.max() == ({(2, 0): 2, (1, 3): 4}.get(slope, 1))
    placement = stored.placement
    assert placement.shape == (4, 5, 6) and (placement.qform_code, placement.sform_code) == (1, 2)
    assert np.allclose(placement.qform, np.diag([-2, 3, 4, 1]))
    assert np.array_equal(placement.sform, np.diag([5, 6, 7, 1]))


def test_what_is_written_on_a_grid_lies_where_the_grid_says(folder):
    loaded = case.load(layouts.find(folder).cases[0])
    content = nifti.to_bytes(loaded.grid.to_file(loaded.label), loaded.grid, "x.nii.gz")
    written, told = nifti.read_stored(content, "x.nii.gz")[1].placement, loaded.grid.placement
    assert written.shape == told.shape and np.array_equal(written.qform, told.qform)
    assert (written.qform_code, written.sform_code) == (told.qform_code, told.sform_code)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_file_of_several_gzip_members_and_zeros_behind_them_is_read_whole(folder, parts):
    before = case.load(layouts.find(folder).cases[0])
    content = gzip.decompress(files.read_bytes(path_of(folder, "t1")))
    ends = [n * len(content) // parts for n in range(parts + 1)]
    members = [gzip.compress(content[a:b]) for a, b in itertools.pairwise(ends)]
    files.write_bytes(path_of(folder, "t1"), b"".join(members) + bytes(512))
    assert np.array_equal(case.load(layouts.find(folder).cases[0]).image, before.image)


@pytest.mark.parametrize("second", [b"one", b"two", b"other"])
def test_of_members_with_nothing_behind_them_none_is_left_out(second):
    """Also where the second has the first one's length, and its checksum too."""
    assert gunzip.unpacked(gzip.compress(b"one") + gzip.compress(second), "scan.nii.gz") == b"one" + second


@pytest.mark.parametrize("flags", [0x08, 0xE0])
def test_what_begins_like_a_member_by_chance_is_data(flags):
    data = b"a" + bytes([0x1F, 0x8B, 8, flags]) * 9
    assert gunzip.unpacked(gzip.compress(data, 0), "scan.nii.gz") == data


@pytest.mark.parametrize("behind", [b"not gzip at all, and longer than a header", b"\x1f\x8b", b"?"])
def test_what_is_not_gzip_behind_gzip_data_is_refused(folder, behind):
    content = files.read_bytes(path_of(folder, "t1"))
    files.write_bytes(path_of(folder, "t1"), content + behind)
    only_fault(folder, f"{CASE}_t1.nii.gz", "truncated or damaged gzip data", "Copy or download it again")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_gzip_is_refused_where_the_standard_library_refuses_it(tmp_path, data):
    whole = nibabel.Nifti1Image(np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6), np.eye(4)).to_bytes()
    content = bytearray(gzip.compress(whole))
    content[data.draw(st.integers(2, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    cut = bytes(content[: data.draw(st.integers(len(content) - 12, len(content)))])
    files.write_bytes(tmp_path / "scan.nii.gz", cut)
    try:
        expected = gzip.decompress(cut)
    except (EOFError, OSError, zlib.error):
        with pytest.raises(InputError, match=r"scan\.nii\.gz: truncated or damaged gzip data"):
            nifti.read(tmp_path / "scan.nii.gz")
    else:
        assert expected == whole
        assert np.array_equal(nifti.read(tmp_path / "scan.nii.gz").array.ravel("F")[:2], [0, 30])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_voxels_are_what_nibabel_reads_whatever_their_type_order_shape_and_place(tmp_path, data):
    kind = data.draw(st.sampled_from(["i2", "u1", "i4", "f4", "f8", "u2", "i1", "c8", "u8"]))
    dtype = np.dtype(kind).newbyteorder(data.draw(st.sampled_from("<>")))
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=3, max_size=4)))
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    image = nibabel.Nifti1Image(array, np.eye(4), nibabel.Nifti1Header(endianness=dtype.byteorder))
    image.header.set_data_dtype(dtype)
    if data.draw(st.booleans()):  # moves the voxels back
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a long note" * 9))
    name = tmp_path / data.draw(st.sampled_from(["scan.nii", "scan.nii.gz"]))
    nibabel.save(image, name)
    read = nifti.read(name).array
    assert read.shape == shape and read.dtype.newbyteorder("=") == np.dtype(kind)
    assert np.array_equal(read, array)


@pytest.mark.parametrize("offset", [-1e6, -8, 0, 1e9, np.nan, np.inf])
def test_voxels_that_would_lie_outside_the_file_are_never_read(tmp_path, offset):
    content = bytearray(nibabel.Nifti1Image(np.ones((4, 5, 6), np.int16), np.eye(4)).to_bytes())
    content[108:112] = np.array(offset, "<f4").tobytes()
    files.write_bytes(tmp_path / "scan.nii", bytes(content))
    try:
        array = nifti.read(tmp_path / "scan.nii").array
    except InputError as error:
        assert "scan.nii" in str(error)
    else:
        expected = nibabel.Nifti1Image.from_bytes(bytes(content))
        assert np.array_equal(array, np.asanyarray(expected.dataobj))


def test_something_else_under_the_name_of_an_image_is_refused(folder):
    files.write_bytes(path_of(folder, "t1"), gzip.compress(b"PK\x03\x04" * 500))
    only_fault(folder, f"{CASE}_t1.nii.gz", "not a NIfTI file")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_byte_is_noticed_or_changes_nothing(tiny_dataset, tmp_path, data):
    content = files.read_bytes(layouts.find(tiny_dataset("2020")).cases[0].label)
    place = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content)
    damaged[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "damaged_seg.nii.gz"
    files.write_bytes(path, bytes(damaged))
    whole = gzip.decompress(content)
    try:
        volume = nifti.read(path)
    except InputError as error:
        assert "damaged_seg.nii.gz" in str(error)
        return
    reference = nibabel.Nifti1Image.from_bytes(whole)
    assert np.array_equal(volume.array, np.asanyarray(reference.dataobj))
    assert np.array_equal(volume.grid.affine, reference.affine)


def test_a_flipped_byte_in_the_voxels_fails_the_checksum(folder):
    content = bytearray(files.read_bytes(path_of(folder, "t2")))
    content[len(content) // 2] ^= 0x10
    files.write_bytes(path_of(folder, "t2"), bytes(content))
    only_fault(folder, f"{CASE}_t2.nii.gz", "damaged")


def test_a_differing_affine_is_an_error_not_a_warning(folder):
    def shift(image):
        affine = image.header.get_best_affine()
        affine[0, 3] += 2
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)

    change(path_of(folder, "t2"), header=shift)
    only_fault(folder, f"{CASE}_t2.nii.gz", "affine", f"{CASE}_flair.nii.gz", "Resample")


def test_a_mask_on_another_grid_is_an_error(folder):
    change(path_of(folder, "seg"), header=lambda image: image.set_sform(np.diag([1, 1, 1, 1]), 1))
    only_fault(folder, f"{CASE}_seg.nii.gz", "affine")


def test_a_differing_shape_is_an_error_with_both_shapes(folder):
    change(path_of(folder, "t1"), lambda a: a[:-1])
    only_fault(folder, f"{CASE}_t1.nii.gz", "shape (23, 26, 18) against (24, 26, 18)")


def test_a_differing_spacing_is_an_error_with_both_spacings(folder):
    def stretch(image):
        affine = image.header.get_best_affine()
        affine[:, 2] *= 2
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)

    change(path_of(folder, "t1"), header=stretch)
    only_fault(folder, f"{CASE}_t1.nii.gz", "spacing [1. 1. 2.] mm against [1. 1. 1.] mm")


@pytest.mark.parametrize(
    "bad, dtype", [(np.nan, np.float32), (np.inf, np.float32), (-np.inf, np.float32), (1e300, np.float64)]
)
def test_voxels_that_are_no_number_or_too_large_for_one_are_counted(folder, bad, dtype):
    def spoil(array):
        array[3, 4, 5] = array[5, 4, 3] = bad
        return array

    change(path_of(folder, "flair"), spoil, dtype=dtype)
    only_fault(folder, f"{CASE}_flair.nii.gz", "2 voxels of flair are NaN or infinite")


@pytest.mark.parametrize("kind", ["t1", "seg"])
@pytest.mark.parametrize("dtype", [[("R", "u1"), ("G", "u1"), ("B", "u1")], np.complex64])
def test_colours_and_complex_numbers_are_refused(folder, kind, dtype):
    change(path_of(folder, kind), lambda a: np.zeros(a.shape, dtype))
    only_fault(folder, f"{CASE}_{kind}.nii.gz", "voxels of type", "expected one")


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_modality_is_refused(folder, value):
    change(path_of(folder, "t1ce"), lambda a: np.full_like(a, value))
    only_fault(folder, f"{CASE}_t1ce.nii.gz", f"t1ce is {value} everywhere")


def test_label_values_of_another_edition_are_refused_with_the_cure(folder):
    change(path_of(folder, "seg"), lambda a: np.where(a == 4, 3, a))
    only_fault(folder, f"{CASE}_seg.nii.gz", "[3]", "edition 2021", "--edition 2023")


@pytest.mark.parametrize("value", [-1, 5, 255])
def test_label_values_of_no_edition_are_refused(folder, value):
    change(path_of(folder, "seg"), lambda a: np.where(a == 2, value, a), dtype=np.int16)
    only_fault(folder, f"{CASE}_seg.nii.gz", f"[{value}]")


def test_an_interpolated_mask_is_refused(folder):
    change(path_of(folder, "seg"), lambda a: a * 0.5, dtype=np.float32)
    only_fault(folder, f"{CASE}_seg.nii.gz", "not whole numbers", "nearest")


def test_a_mask_of_whole_floats_is_taken(folder):
    before = case.load(layouts.find(folder).cases[0]).label
    change(path_of(folder, "seg"), dtype=np.float64)
    assert np.array_equal(case.load(layouts.find(folder).cases[0]).label, before)


def test_probabilities_in_the_place_of_a_mask_are_refused(folder):
    change(path_of(folder, "seg"), lambda a: np.stack([a > 0, a == 4, a == 1], -1).astype(np.uint8))
    only_fault(folder, f"{CASE}_seg.nii.gz", "(24, 26, 18, 3)", "three dimensions", "one-hot")
    with pytest.raises(InputError, match=r"_seg\.nii\.gz.*three dimensions"):
        case.load_label(path_of(folder, "seg"), EDITIONS["2021"])


def test_a_skull_is_noticed(folder):
    for modality in MODALITIES:
        change(path_of(folder, modality), lambda a: a + np.random.default_rng(0).integers(1, 9, a.shape))
    only_fault(folder, "flair, t1, t1ce, t2", "corners", "skull", "Strip it")


def test_a_background_of_one_value_is_noticed(folder):
    change(path_of(folder, "t1"), lambda a: a + 10)
    only_fault(folder, "t1: the background is 10; expected 0")


def test_all_faults_of_a_case_come_at_once(folder):
    files.remove(path_of(folder, "t1"))
    files.write_bytes(path_of(folder, "t2"), b"")
    change(path_of(folder, "flair"), lambda a: np.zeros_like(a))
    change(path_of(folder, "seg"), lambda a: a + 5)
    faults = faults_of(folder)
    assert len(faults) == 4
    for word in ("no t1;", "_t2.nii.gz: the file is empty", "flair is 0 everywhere", "label values"):
        assert sum(word in fault for fault in faults) == 1


def test_two_files_of_one_modality_are_a_fault(folder):
    files.write_bytes(files.join(folder, f"{CASE}_t1.nii"), b"anything")
    assert any("both t1" in fault for fault in faults_of(folder))


def test_a_stacked_file_with_too_few_channels_is_refused(tiny_dataset, tmp_path):
    source = layouts.find(tiny_dataset("msd")).cases[0]
    image = nibabel.load(source.images[0][1])
    array = np.asanyarray(image.dataobj)[..., :3]
    nibabel.save(nibabel.Nifti1Image(array, image.affine), tmp_path / "x.nii.gz")
    broken = dataclasses.replace(
        source, images=tuple((m, str(tmp_path / "x.nii.gz"), channel) for m, _, channel in source.images)
    )
    (fault,) = faults_in(broken)
    assert "x.nii.gz" in fault and "channel 3" in fault


def test_a_rejected_case_says_what_to_do_and_its_json_has_no_traceback():
    faulty = rejected.Rejected.by(InputError("a: no t1."), "a", "read")
    ours = rejected.Rejected.by(ZeroDivisionError("ours"), "a", "prepare")
    assert (faulty.reason, faulty.hint, faulty.traceback) == ("a: no t1.", rejected.LIST_FAULTS, "")
    assert ours.reason == "ZeroDivisionError: ours" and "please report it" in ours.hint
    assert "ZeroDivisionError: ours" in ours.traceback
    assert faulty.model_dump_json() == (
        '{"case_id":"a","stage":"read","reason":"a: no t1.",'
        '"hint":"tfbrats inspect lists every fault of every case"}'
    )
    assert "traceback" not in ours.model_dump() and "traceback" not in ours.model_dump_json()


# --- the grid: a marked corner comes back at the same ijk -----------------------------------------------


AXES = [("L", "P", "S"), ("R", "A", "S"), ("P", "I", "R"), ("S", "L", "A")]
CODES = [(1, 1), (0, 2), (1, 0), (3, 4), (0, 0)]


def reference_file(path, axes, codes, spacing_mm=(1.0, 1.0, 1.0), kind=nibabel.Nifti1Image, byte_order="<"):
    """A NIfTI file whose array is not symmetric in anything, made by nibabel alone."""
    shape = (5, 6, 7)
    ras = nibabel.orientations.axcodes2ornt(axes)
    affine = np.zeros((4, 4))
    for axis, (target, flip) in enumerate(ras):
        affine[int(target), axis] = flip * spacing_mm[axis]
    affine[:3, 3] = (3.5, -20.25, 11)
    affine[3, 3] = 1
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    header = kind.header_class(endianness=byte_order)
    header.set_data_dtype(array.dtype)
    image = kind(array, None, header)
    image.set_sform(affine, codes[1])
    qform = affine.copy()
    qform[:3, 3] += codes[0] != codes[1]  # where the codes differ, so may the transforms
    image.set_qform(qform, codes[0])
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return image


def grid_of(path):
    return case.load_label(path, _AnyValue())[1]


class _AnyValue:
    """Stands in for a label schema where the voxels' values do not matter."""

    def to_tissues(self, values, where):
        return values.astype(np.int16)


@pytest.mark.parametrize("axes", AXES, ids="".join)
@pytest.mark.parametrize("codes", CODES, ids=str)
def test_a_segmentation_keeps_affine_qform_sform_and_codes(tmp_path, axes, codes):
    reference_file(tmp_path / "scan.nii.gz", axes, codes, spacing_mm=(1.0, 1.25, 3.0))
    reference = nibabel.load(tmp_path / "scan.nii.gz")
    grid = grid_of(tmp_path / "scan.nii.gz")
    tissues = np.zeros(grid.from_file(np.zeros(grid.file_shape)).shape, np.uint8)
    case.save_segmentation(tmp_path / "seg.nii.gz", tissues, grid, EDITIONS["2021"])
    written = nibabel.load(tmp_path / "seg.nii.gz")
    assert written.shape == reference.shape
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(written.affine, reference.affine)
    for form in ("get_qform", "get_sform"):
        ours, code = getattr(written, form)(coded=True)
        theirs, expected = getattr(reference, form)(coded=True)
        assert code == expected
        assert (ours is None and theirs is None) or np.array_equal(ours, theirs)
    assert np.array_equal(written.header["pixdim"][:4], reference.header["pixdim"][:4])
    assert written.header.get_xyzt_units()[0] == reference.header.get_xyzt_units()[0]


@pytest.mark.parametrize("axes", AXES, ids="".join)
def test_a_marked_voxel_comes_back_at_the_same_place_of_the_file(tmp_path, axes):
    reference_file(tmp_path / "scan.nii.gz", axes, (1, 1))
    marked = np.zeros((5, 6, 7), np.uint8)
    marked[0, 5, 1] = 4
    marked[4, 0, 6] = 1
    image = nibabel.load(tmp_path / "scan.nii.gz")
    nibabel.save(nibabel.Nifti1Image(marked, image.affine, image.header), tmp_path / "mask.nii.gz")
    tissues, grid = case.load_label(tmp_path / "mask.nii.gz", EDITIONS["2021"])
    assert (tissues == Tissue.ET).sum() == (tissues == Tissue.NCR).sum() == 1
    case.save_segmentation(tmp_path / "again.nii.gz", tissues, grid, EDITIONS["2021"])
    assert np.array_equal(np.asanyarray(nibabel.load(tmp_path / "again.nii.gz").dataobj), marked)


@pytest.mark.parametrize("axes", AXES, ids="".join)
def test_inside_the_package_axes_point_left_back_and_up_whatever_the_file(tmp_path, axes):
    image = reference_file(tmp_path / "scan.nii.gz", axes, (1, 1), spacing_mm=(1.0, 2.0, 4.0))
    stored, grid = case.load_label(tmp_path / "scan.nii.gz", _AnyValue())
    array = np.asanyarray(image.dataobj)
    for step, world in (((1, 0, 0), (-1, 0, 0)), ((0, 1, 0), (0, -1, 0)), ((0, 0, 1), (0, 0, 1))):
        here = np.argwhere(array == stored[0, 0, 0])[0]
        there = np.argwhere(array == stored[step])[0]
        mm = image.affine[:3, :3] @ (there - here)
        assert np.array_equal(np.sign(mm), world)
    assert np.array_equal(grid.to_file(grid.from_file(array)), array)


@pytest.mark.parametrize("axes", AXES, ids="".join)
def test_anisotropic_cases_lie_the_same_way_whatever_the_axes_of_their_files(tmp_path, axes):
    spacing_mm = (1.5, 1.0, 2.5)
    data_sets.write_dataset(tmp_path, 1, "2021", 5, SHAPE, first=3, spacing_mm=spacing_mm, axes=axes)
    found = layouts.find(tmp_path).cases[0]
    loaded = case.load(found)
    image, tissues = simulation.simulate(SHAPE, 5, 3, spacing_mm)
    assert loaded.spacing_mm == spacing_mm
    assert np.array_equal(loaded.image, image)
    assert np.array_equal(loaded.label, tissues)
    on_disk = nibabel.load(found.label)
    assert nibabel.aff2axcodes(on_disk.affine) == axes
    case.save_segmentation(tmp_path / "again.nii", loaded.label, loaded.grid, loaded.schema)
    again = nibabel.load(tmp_path / "again.nii")
    assert np.array_equal(np.asanyarray(again.dataobj), np.asanyarray(on_disk.dataobj))
    assert np.array_equal(again.affine, on_disk.affine)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti_1_and_2_of_either_byte_order_are_read_and_written_alike(tmp_path, kind, byte_order):
    reference_file(tmp_path / "scan.nii.gz", AXES[1], (1, 1), kind=kind, byte_order=byte_order)
    stored, grid = case.load_label(tmp_path / "scan.nii.gz", _AnyValue())
    tissues = (stored % 4).astype(np.uint8)
    case.save_segmentation(tmp_path / "seg.nii.gz", tissues, grid, EDITIONS["2021"])
    again, new = case.load_label(tmp_path / "seg.nii.gz", EDITIONS["2021"])
    assert np.array_equal(again, tissues)
    assert np.array_equal(new.affine, grid.affine)
    assert type(nibabel.load(tmp_path / "seg.nii.gz")) is kind


def test_the_grid_of_a_phantom_is_that_of_the_challenge():
    grid = nifti.new_grid((240, 240, 155))
    expected = [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert np.array_equal(grid.affine, expected)
    assert np.array_equal(grid.header.get_qform(), expected)


# --- writing --------------------------------------------------------------------------------------------


def test_probabilities_are_written_with_regions_last(folder):
    loaded = case.load(layouts.find(folder).cases[0])
    probabilities = np.random.default_rng(0).random((*SHAPE, 3))
    path = files.join(folder, "probabilities.nii.gz")
    case.save_probabilities(path, probabilities, loaded.grid)
    volume = nifti.read(path)
    array = volume.array
    assert array.dtype == np.float32
    assert np.array_equal(array, loaded.grid.to_file(probabilities.astype(np.float32)))
    assert np.array_equal(volume.grid.affine, loaded.grid.affine)


def test_the_same_segmentation_is_the_same_bytes(folder):
    loaded = case.load(layouts.find(folder).cases[0])
    written = []
    for name in ("a.nii.gz", "b.nii.gz"):
        case.save_segmentation(files.join(folder, name), loaded.label, loaded.grid, loaded.schema)
        written.append(files.read_bytes(files.join(folder, name)))
    assert written[0] == written[1]


def test_a_segmentation_of_another_shape_is_refused_and_nothing_is_written(folder):
    loaded = case.load(layouts.find(folder).cases[0])
    with pytest.raises(InputError, match=r"x\.nii\.gz: shape \(23, 26, 18\)"):
        case.save_segmentation(files.join(folder, "x.nii.gz"), loaded.label[1:], loaded.grid, loaded.schema)
    assert not files.exists(files.join(folder, "x.nii.gz"))


def test_a_tissue_that_the_edition_lacks_is_refused_and_nothing_is_written(folder):
    loaded = case.load(layouts.find(folder).cases[0])
    tissues = np.full_like(loaded.label, Tissue.RC)
    with pytest.raises(InputError, match=r"x\.nii\.gz.*RC"):
        case.save_segmentation(files.join(folder, "x.nii.gz"), tissues, loaded.grid, loaded.schema)
    assert not any("x.nii" in path for path in files.walk(folder))


def test_what_cannot_be_read_back_leaves_nothing_behind(folder, monkeypatch):
    loaded = case.load(layouts.find(folder).cases[0])
    true_bytes = nifti.to_bytes
    monkeypatch.setattr(nifti, "to_bytes", lambda array, *rest: true_bytes(array[::-1], *rest))
    before = list(files.walk(folder))
    with pytest.raises(OSError, match="nothing was kept"):
        case.save_segmentation(files.join(folder, "x.nii.gz"), loaded.label, loaded.grid, loaded.schema)
    assert list(files.walk(folder)) == before


def test_real_cases_are_read_and_their_masks_written_back_value_for_value(real_cases, tmp_path):
    found = layouts.find(real_cases).cases[0]
    assert found.schema.edition == "2021"
    loaded = case.load(found, need_label=True)
    case.save_segmentation(tmp_path / "seg.nii.gz", loaded.label, loaded.grid, loaded.schema)
    original, again = nibabel.load(found.label), nibabel.load(tmp_path / "seg.nii.gz")
    assert np.array_equal(np.asanyarray(original.dataobj), np.asanyarray(again.dataobj))
    assert np.array_equal(original.affine, again.affine)
    for key in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units"):
        assert np.array_equal(original.header[key], again.header[key])
    assert np.array_equal(original.header["pixdim"][:4], again.header["pixdim"][:4])
