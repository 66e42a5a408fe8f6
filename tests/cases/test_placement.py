"""What a header says about space is what SimpleITK reads, or it is refused; whatever is read can be written."""

import gzip
import itertools
import json
import logging
import struct
import warnings

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfbrats import inspect
from tfbrats.cases import case, nifti
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS
from tfbrats.machine import files
from tfbrats.phantoms import data_sets, simulation

SHAPE = (24, 26, 18)
CASE = "BraTS2021_00003"
SFORM = np.array([[-1.0, 0, 0, 10], [0, -1, 0, 20], [0, 0, 1, -30]])
UNIT = (0.0, 0.0, 1.0)


def changed(matrix, row, column, value):
    copy = np.array(matrix)
    copy[row, column] = value
    return copy


def header_bytes(
    codes=(1, 1), pixdim=(1, 1, 1, 1), quaternion=UNIT, sform=SFORM, units=2, shape=(5, 6, 7), order="<"
):
    """A NIfTI-1 file of int16 voxels 0, 1, 2, ... in whose header these fields stand as they are given."""
    array = np.arange(np.prod(shape), dtype=np.dtype("i2").newbyteorder(order))
    content = bytearray(352) + array.tobytes()
    for place, kind, values in (
        (0, "i", [348]),
        (40, "h", [len(shape), *shape, *[1] * (7 - len(shape))]),
        (70, "h", [4, 16]),
        (76, "f", pixdim),
        (108, "f", [352, 1, 0]),
        (252, "h", codes),
        (256, "f", [*quaternion, 10, 20, -30]),
        (280, "f", np.ravel(sform)),
    ):
        struct.pack_into(f"{order}{len(values)}{kind}", content, place, *values)
    content[123] = units
    content[344:348] = b"n+1\0"
    return content


def itk_reads(path):
    """Spacing, origin and direction."""
    image = sitk.ReadImage(str(path))
    return image.GetSpacing(), image.GetOrigin(), np.reshape(image.GetDirection(), (3, 3))


def ours(grid):
    """The same of our reading: ITK's world points left and back."""
    affine = np.diag([-1, -1, 1, 1]) @ grid.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return spacing, affine[:3, 3], affine[:3, :3] / spacing


def same(one, other, atol):
    return all(np.allclose(a, b, rtol=0, atol=atol) for a, b in zip(one, other, strict=True))


SHIFTED = changed(SFORM, 0, 3, 13)
FLIPPED = changed(SFORM, 0, 0, 1)
SKEWED, HAIR_SKEWED = changed(changed(SFORM, 0, 1, 0.2), 1, 1, -(0.96**0.5)), changed(SFORM, 0, 1, 0.004)
NAN = np.nan

# name: (fields, words of the note; None for no note). All are read as SimpleITK reads them.
READ = {
    "nothing unusual": ({}, None),
    "no unit, as many tools write": ({"units": 0}, None),
    "seconds for the fourth axis": ({"units": 10}, None),
    "a unit of no standard": ({"units": 7}, "xyzt_units 7"),
    "micrometres": (
        {"units": 3, "pixdim": (1, 1000, 1000, 1000), "sform": SFORM * 1000},
        "micrometres (xyzt_units 3): converted to mm",
    ),
    "metres": ({"units": 1, "pixdim": (1, 0.001, 0.001, 0.001), "sform": SFORM / 1000}, "metres"),
    "micrometres by qform": ({"units": 3, "codes": (1, 0), "pixdim": (1, 900, 1000, 3000)}, "micrometres"),
    "qform alone": ({"codes": (1, 0), "pixdim": (1, 1, 2, 3)}, None),
    "qform alone, qfac -1": ({"codes": (1, 0), "pixdim": (-1, 1, 2, 3)}, None),
    "qform alone, qfac 0": ({"codes": (1, 0), "pixdim": (0, 1, 1, 1)}, None),
    "qform alone, qfac 7": ({"codes": (1, 0), "pixdim": (7, 1, 1, 1)}, "qfac) is 7: taken as 1"),
    "qform alone, qfac -7": ({"codes": (1, 0), "pixdim": (-7, 1, 1, 1)}, "qfac) is -7: taken as -1"),
    "sform alone": ({"codes": (0, 1), "quaternion": (9, 9, 9)}, None),
    "codes of no standard": ({"codes": (9, 9)}, "sform_code 9 is no code of the standard: taken as 2"),
    "negative codes": ({"codes": (-1, 1)}, "qform_code -1"),
    "both codes 0": ({"codes": (0, 0), "pixdim": (1, 1, 2, 3)}, "left, back and head (LPS)"),
    "both codes 0, qfac -1": ({"codes": (0, 0), "pixdim": (-1, 1, 2, 3)}, "guessed, as SimpleITK does"),
    "a quaternion longer by rounding": ({"quaternion": (0, 0, 1.0000007)}, "longer than 1 by rounding"),
    "the same without sform": ({"quaternion": (0, 0, 1.0000007), "codes": (1, 0)}, "longer than 1 by rounding"),
    "and obliquely": ({"quaternion": (0.6, 0.5, 0.6248), "codes": (1, 0)}, "longer than 1 by rounding"),
    "a quaternion much longer": ({"quaternion": (0, 0, 2)}, "has the length 2; expected 1; its sform is used"),
    "a quaternion of NaN": ({"quaternion": (0, 0, NAN)}, "its quaternion is 0, 0, nan; its sform is used"),
    "pixdim 0 beside an sform": ({"pixdim": (1, 0, 1, 1)}, "pixdim is 0 x 1 x 1"),
    "pixdim NaN beside an sform": ({"pixdim": (1, 1, NAN, 1), "codes": (0, 1)}, "pixdim is 1 x nan x 1"),
    "an sform without axes": ({"sform": np.zeros((3, 4))}, "its sform has no three axes"),
    "a contradiction, scanner": ({"sform": SHIFTED}, "up to 3 mm apart: the sform is used"),
    "a contradiction, aligned": (
        {"sform": SHIFTED, "codes": (1, 2)},
        "up to 3 mm apart: the qform is used, as SimpleITK does; nibabel uses the sform",
    ),
    "a contradiction of scale": (
        {"sform": 2 * SFORM, "codes": (1, 4)},
        "the qform is used, as SimpleITK does",
    ),
    "a contradiction of left": ({"sform": FLIPPED}, "and along other axes: the sform is used"),
    "a sheared sform beside a qform": ({"sform": SKEWED}, "the qform is used"),
    "a small difference": ({"sform": changed(SFORM, 0, 3, 10.00001)}, None),
}

# name: (fields, words of the refusal)
REFUSED = {
    "negative pixdim": ({"pixdim": (1, -1, 1, 1)}, "pixdim is negative (-1 x 1 x 1)"),
    "pixdim 0 and nothing else": ({"pixdim": (1, 1, 0, 1), "codes": (0, 0)}, "pixdim is 1 x 0 x 1"),
    "pixdim 0 beside a qform": ({"pixdim": (1, 1, 0, 1), "codes": (1, 0)}, "pixdim is 1 x 0 x 1"),
    "pixdim NaN beside a qform": ({"pixdim": (1, 1, 1, NAN), "codes": (1, 0)}, "pixdim is 1 x 1 x nan"),
    "a long quaternion alone": ({"quaternion": (0, 0, 1.01), "codes": (1, 0)}, "has the length 1.01"),
    "a quaternion of NaN alone": ({"quaternion": (NAN, 0, 1), "codes": (1, 0)}, "quaternion is nan, 0, 1"),
    "NaN alone in the sform": ({"sform": changed(SFORM, 1, 1, NAN), "codes": (0, 1)}, "sform holds NaN"),
    "two axes along one line": (
        {"sform": [[-1, 0, -1, 0], [0, -1, 0, 0], [0, 0, 0, 0]], "codes": (0, 1)},
        "has no three axes",
    ),
    "shear alone": ({"sform": SKEWED, "codes": (0, 1)}, "12 degrees off a right angle"),
    "two voxel sizes": ({"sform": 2 * SFORM, "codes": (0, 1)}, "voxels of 2 x 2 x 2, its pixdim 1 x 1 x 1"),
    "left is right, not by the scanner": (
        {"sform": FLIPPED, "codes": (1, 2)},
        "other axes (LPS, RPS)",
    ),
    "micrometres called mm": (
        {"pixdim": (1, 1000, 1000, 1000), "sform": SFORM * 1000},
        "1000 x 1000 x 1000 mm",
    ),
    "mm called micrometres": ({"units": 3}, "0.001 x 0.001 x 0.001 mm"),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("order", "<>")
def test_a_header_is_read_as_simpleitk_reads_it_and_a_guess_is_noted(tmp_path, name, order):
    fields, note = READ[name]
    path = tmp_path / "scan.nii"
    path.write_bytes(header_bytes(**fields, order=order))
    grid = nifti.read(path).grid
    assert same(ours(grid), itk_reads(path), 1e-5)
    assert (not grid.notes) if note is None else any(note in one for one in grid.notes), grid.notes


@pytest.mark.parametrize("excess", [1e-9, 1e-7, 1e-5])
@pytest.mark.parametrize("codes", [(1, 1), (1, 0)])
def test_the_quaternion_of_a_nifti_2_file_may_be_rounded_too(tmp_path, excess, codes):
    image = nibabel.Nifti2Image(np.arange(210, dtype=np.int16).reshape(5, 6, 7), None)
    image.set_sform(np.vstack([SFORM, [0, 0, 0, 1]]), codes[1])
    image.set_qform(image.get_sform(), codes[0])
    content = bytearray(image.to_bytes())
    place = nibabel.Nifti2Header.template_dtype.fields["quatern_d"][1]
    struct.pack_into("<d", content, place, 1 + excess)
    (tmp_path / "scan.nii").write_bytes(content)
    grid = nifti.read(tmp_path / "scan.nii").grid
    assert np.allclose(grid.affine[:3], SFORM, rtol=0, atol=1e-5)
    assert bool(grid.notes) is (excess > 1e-6)
    nifti.write(tmp_path / "seg.nii", np.zeros(grid.file_shape, np.uint8), grid)
    again = nibabel.load(tmp_path / "seg.nii")
    assert np.allclose(again.affine, grid.affine) and np.allclose(again.header.get_qform(), grid.affine)


@pytest.mark.parametrize("name", REFUSED)
def test_a_header_that_programs_read_differently_is_refused_by_name(tmp_path, name):
    fields, words = REFUSED[name]
    path = tmp_path / "scan.nii"
    path.write_bytes(header_bytes(**fields))
    with pytest.raises(InputError) as told:
        nifti.read(path)
    assert str(told.value).startswith(f"{path}: ") and words in str(told.value)


def test_axes_a_hair_off_a_right_angle_are_taken_although_simpleitk_refuses_them(tmp_path):
    path = tmp_path / "scan.nii"
    path.write_bytes(header_bytes(sform=HAIR_SKEWED, codes=(0, 1)))
    with pytest.raises(RuntimeError, match="orthonormal"):
        itk_reads(path)
    grid = nifti.read(path).grid
    (note,) = grid.notes
    assert "0.23 degrees off a right angle" in note
    nifti.write(tmp_path / "seg.nii", np.zeros(grid.file_shape, np.uint8), grid)
    assert same(ours(grid), itk_reads(tmp_path / "seg.nii"), 4e-3)


@pytest.mark.parametrize("name", READ)
def test_a_segmentation_lies_where_its_scan_lies_for_simpleitk_and_for_nibabel(tmp_path, name, caplog):
    scan, written = tmp_path / "scan.nii", tmp_path / "seg.nii.gz"
    scan.write_bytes(header_bytes(**READ[name][0]))
    _, grid = case.load_label(scan, _Any())
    tissues = np.zeros(grid.from_file(np.zeros(grid.file_shape)).shape, np.uint8)
    tissues[0, 0, 0] = tissues[-1, 1, 2] = 3
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        case.save_segmentation(written, tissues, grid, EDITIONS["2021"])
        again = nibabel.load(written)
        assert np.isfinite(again.affine).all() and again.get_data_dtype() == np.uint8
        again.header.get_qform()
        # nibabel has nothing to repair in what we write.
        assert not [record for record in caplog.records if record.name.startswith("nibabel")]
    assert same(itk_reads(scan), itk_reads(written), 1e-6)
    assert np.array_equal(grid.to_file(tissues) == 3, np.asanyarray(again.dataobj) == 4)
    assert np.array_equal(case.load_label(written, EDITIONS["2021"])[0], tissues)


class _Any:
    """Stands in for a label schema where the voxels' values do not matter."""

    def to_tissues(self, values, where):
        return np.zeros(values.shape, np.uint8)


NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 0.5, 1.0000007, 1.01, 2.0, 1000.0, 0.001, NAN, np.inf])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_read_can_be_written_and_both_libraries_read_it_back(tmp_path, data):
    fields = {"codes": data.draw(st.sampled_from([*itertools.product((0, 1, 2), (0, 1, 2, 4)), (9, 9)]))}
    fields["units"] = data.draw(st.sampled_from([0, 2, 2, 10, 3, 1, 7]))
    pixdim, quaternion, sform = [1.0, 1, 1, 1], list(UNIT), np.array(SFORM)
    for _ in range(data.draw(st.integers(0, 2))):
        field = data.draw(st.sampled_from([pixdim, quaternion, sform.reshape(-1)]))
        field[data.draw(st.integers(0, len(field) - 1))] = data.draw(NUMBERS)
    scan, written = tmp_path / "scan.nii", tmp_path / "seg.nii"
    scan.write_bytes(header_bytes(pixdim=pixdim, quaternion=quaternion, sform=sform, **fields))
    try:
        grid = nifti.read(scan).grid
    except InputError as error:
        assert str(error).startswith(str(scan))
        return
    nifti.write(written, np.zeros(grid.file_shape, np.uint8), grid)
    assert np.isfinite(nibabel.load(written).affine).all()
    spacing, _, direction = itk_reads(written)
    assert np.allclose(spacing, ours(grid)[0], rtol=0.011)
    assert np.allclose(direction, ours(grid)[2], atol=0.011)


# --- of a whole case ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    data_sets.write_dataset(tmp_path, 1, "2021", seed=5, shape=SHAPE, first=3)
    return tmp_path / CASE


def rewrite(path, change):
    """Changes the bytes of the file inside the gzip."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(bytes(change(content) or content)))


def in_micrometres(content):
    content[123] = 3
    for place, count in ((80, 3), (268, 3), (280, 12)):
        values = np.array(struct.unpack_from(f"<{count}f", content, place)) * 1000
        struct.pack_into(f"<{count}f", content, place, *values)


def test_micrometres_give_the_same_volumes_as_mm_and_may_be_mixed_with_them(folder, capsys):
    before = inspect.inspect(folder)["cases"][0]
    for number, path in enumerate(sorted(folder.iterdir())):
        if number % 2 == 0:
            rewrite(path, in_micrometres)
    report = inspect.inspect(folder)
    (after,) = report["cases"]
    assert report["sound"] and after["spacing_mm"] == [1, 1, 1]
    assert after["volume_ml"] == before["volume_ml"] and before["volume_ml"]["WT"] > 0.03
    (note,) = report["notes"]
    assert note.startswith(f"{CASE}: {CASE}_flair.nii.gz, {CASE}_t1.nii.gz, {CASE}_t2.nii.gz: its header is in")


def test_one_note_a_case_names_its_files_and_what_was_guessed_about_left(folder, capsys):
    image, _ = simulation.simulate(SHAPE, 5, 3)
    for path in folder.iterdir():
        rewrite(path, lambda content: struct.pack_into("<2h", content, 252, 0, 0))
    report = inspect.inspect(folder)
    assert report["sound"]
    (note,) = report["notes"]
    assert f"{CASE}_t1.nii.gz and 2 more: qform_code and sform_code are 0" in note and "(LPS)" in note
    loaded = case.load(layouts.find(folder).cases[0])
    assert np.array_equal(loaded.image, image)  # as stored: phantoms are stored as LPS
    assert loaded.notes == (note.removeprefix(f"{CASE}: "),)
    assert inspect.main([str(folder)]) == 0
    assert note in capsys.readouterr().out


def test_nibabels_remarks_never_reach_the_screen(folder, capfd):
    def odd(content):
        struct.pack_into("<f", content, 76, 5)  # qfac
        struct.pack_into("<2h", content, 252, 77, -3)
        struct.pack_into("<f", content, 84, 0)  # a side
        struct.pack_into("<f", content, 108, 353)  # voxels at an odd place
        content[352:352] = b"\0"

    for path in folder.iterdir():
        rewrite(path, odd)
    assert inspect.main([str(folder), "--json"]) == 1
    said = capfd.readouterr()
    assert said.err == ""
    faults = json.loads(said.out)["faults"]
    assert len(faults) == 5 and all(f"{CASE}_" in fault and "pixdim is 1 x 0 x 1" in fault for fault in faults)


def test_the_notes_of_a_case_with_a_fault_are_told_too(folder):
    rewrite(folder / f"{CASE}_t1.nii.gz", in_micrometres)
    files.remove(folder / f"{CASE}_t2.nii.gz")
    report = inspect.inspect(folder)
    assert len(report["faults"]) == 1 and "no t2" in report["faults"][0]
    assert any("micrometres" in note for note in report["notes"])


def test_a_file_packed_twice_is_called_so(folder):
    path = folder / f"{CASE}_flair.nii.gz"
    path.write_bytes(gzip.compress(path.read_bytes()))
    (fault,) = inspect.inspect(folder)["faults"]
    assert f"{CASE}_flair.nii.gz: gzipped twice. Unpack it once" in fault


def test_a_modality_that_is_there_as_a_pair_of_files_is_named(folder):
    image = nibabel.load(folder / f"{CASE}_t1.nii.gz")
    nibabel.save(nibabel.Nifti1Pair(np.asanyarray(image.dataobj), image.affine), folder / f"{CASE}_t1.img")
    files.remove(folder / f"{CASE}_t1.nii.gz")
    (fault,) = inspect.inspect(folder)["faults"]
    assert "no t1; found" in fault and f"{CASE}_t1.hdr and .img are not read: convert them to .nii.gz" in fault


def test_a_name_that_says_otherwise_than_the_bytes_is_noted(folder):
    packed, plain = folder / f"{CASE}_flair.nii.gz", folder / f"{CASE}_t1.nii.gz"
    packed.rename(folder / f"{CASE}_flair.nii")
    plain.write_bytes(gzip.decompress(plain.read_bytes()))
    notes = case.load(layouts.find(folder).cases[0]).notes
    assert any(f"{CASE}_flair.nii: gzip data" in note for note in notes)
    assert any(f"{CASE}_t1.nii.gz: not compressed" in note for note in notes)


# --- the rest of the header -----------------------------------------------------------------------------


def test_voxels_that_would_lie_in_the_header_are_refused(tmp_path):
    """SimpleITK and nibabel read bytes of the header as voxels, each others."""
    for magic in (b"n+1\0", b"ni1\0"):
        content = header_bytes()
        struct.pack_into("<f", content, 108, 0)
        content[344:348] = magic
        (tmp_path / "scan.nii").write_bytes(content)
        with pytest.raises(InputError, match=r"scan\.nii: vox_offset 0 .* \.img beside it\? Convert it"):
            nifti.read(tmp_path / "scan.nii")


@pytest.mark.parametrize("axes", [(4, 5, 6, 7, 1), (4, 5, 6, 7, 0), (7, 5, 6, 7, 1, 1, 1, 1)])
def test_axes_of_length_one_are_no_axes(tmp_path, axes):
    content = header_bytes()
    struct.pack_into(f"<{len(axes)}h", content, 40, *axes)
    (tmp_path / "scan.nii").write_bytes(content)
    tissues, grid = case.load_label(tmp_path / "scan.nii", _Any())
    assert grid.file_shape == (5, 6, 7) == tissues.shape


@pytest.mark.parametrize(
    "axes", [(3, -5, 6, 7), (3, 5, 0, 7), (9, 5, 6, 7), (-1, 5, 6, 7), (0, 5, 6, 7), (2, 5, 6, 1)]
)
def test_axes_that_make_no_volume_are_refused(tmp_path, axes):
    content = header_bytes()
    struct.pack_into("<4h", content, 40, *axes)
    (tmp_path / "scan.nii").write_bytes(content)
    with pytest.raises(InputError, match=r"scan\.nii"):
        case.load_label(tmp_path / "scan.nii", _Any())


@pytest.mark.parametrize(
    ("scaling", "first", "note"),
    [
        ((NAN, 0), 1, None),
        ((np.inf, 3), 1, None),
        ((0, NAN), 1, None),
        ((0, 5), 1, "scl_slope is 0, so scl_inter 5 is not added"),
        ((1, NAN), 1, "scl_inter is nan: taken as 0"),
        ((2, np.inf), 2, "scl_inter is inf: taken as 0"),
        ((2, 1), 3, None),
        ((-1, 0), -1, None),
    ],
)
def test_a_scaling_that_means_nothing_is_none(tmp_path, scaling, first, note):
    content = header_bytes()
    struct.pack_into("<2f", content, 112, *scaling)
    (tmp_path / "scan.nii").write_bytes(content)
    volume = nifti.read(tmp_path / "scan.nii")
    assert volume.array[1, 0, 0] == first
    assert (volume.grid.notes == ()) if note is None else (note in volume.grid.notes[0])
