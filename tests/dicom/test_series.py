"""Series as volumes: where they lie and what they hold as SimpleITK reads them; or refused, and why."""

import dicom_files
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import RLELossless

from tfbrats.cases import nifti
from tfbrats.dicom import geometry, headers, parsing, pixels
from tfbrats.errors import InputError

SHAPE = (14, 11, 12)  # columns, rows, slices
OBLIQUE = dicom_files.affine((0.9, 1.1, 2.5), dicom_files.TURN)


def values(seed=0, low=-500, high=3000, dtype=np.int16):
    return np.random.default_rng(seed).integers(low, high, SHAPE).astype(dtype)


def read(folder):
    """The only series below a folder: its volume, where it lies, notes."""
    (series,) = headers.series_below(folder)
    place = geometry.of(series)
    return *pixels.volume(series, place), place


def by_itk(folder, enhanced):
    """[columns, rows, slices] and its affine, LPS, as SimpleITK reads the same files."""
    if enhanced:
        image = sitk.ReadImage(str(folder / "enhanced.dcm"))
    else:
        image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), affine


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("turn", [None, dicom_files.TURN, np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]])])
def test_voxels_and_their_places_are_those_that_simpleitk_reads(tmp_path, enhanced, turn):
    placed = dicom_files.affine((0.9, 1.1, 2.5), turn) @ np.diag([1, 1, -1 if turn is not None else 1, 1])
    placed[:3, 2] = np.cross(placed[:3, 0], placed[:3, 1]) / (0.9 * 1.1) * 2.5  # slices along the normal
    folder = dicom_files.write(tmp_path / "s", values(), placed, enhanced=enhanced, shuffled=not enhanced)
    array, notes, place = read(folder)
    theirs, their_affine = by_itk(folder, enhanced)
    np.testing.assert_array_equal(array, values())
    np.testing.assert_array_equal(array, theirs)
    np.testing.assert_allclose(place.affine, their_affine, atol=1e-3)
    np.testing.assert_allclose(place.affine, placed, atol=1e-3)
    assert notes == [] and array.dtype == np.int16
    grid = nifti.grid_of(place.shape, place.affine_ras)  # as NIfTI the same places
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ grid.affine, their_affine, atol=1e-3)


def test_the_frames_of_an_enhanced_file_are_put_in_order(tmp_path):
    folder = dicom_files.write(tmp_path / "s", values(), OBLIQUE, enhanced=True)
    array, _, place = read(folder)
    np.testing.assert_array_equal(array, values())
    np.testing.assert_allclose(place.affine, OBLIQUE, atol=1e-6)


def test_a_slope_and_an_intercept_are_applied_as_simpleitk_does(tmp_path):
    more = {"RescaleSlope": "0.5", "RescaleIntercept": "-3"}
    folder = dicom_files.write(tmp_path / "s", values(), OBLIQUE, **more)
    array, _, _ = read(folder)
    np.testing.assert_array_equal(array, by_itk(folder, False)[0].astype(np.float32))
    np.testing.assert_array_equal(array, values() * np.float32(0.5) - 3)
    more = {"RescaleSlope": "2", "RescaleIntercept": "-1024"}
    array, _, _ = read(dicom_files.write(tmp_path / "t", values(), OBLIQUE, **more))
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array, values() * 2 - 1024)


def test_each_frame_of_an_enhanced_file_has_a_slope_of_its_own(tmp_path):
    def change(group, k):
        group.PixelValueTransformationSequence[0].RescaleSlope = k + 1

    array, _, _ = read(
        dicom_files.write(tmp_path / "s", values(high=50), OBLIQUE, enhanced=True, change=change)
    )
    np.testing.assert_array_equal(array, values(high=50) * np.arange(1, SHAPE[2] + 1))


def test_large_unsigned_values_stay_whole(tmp_path):
    array, _, _ = read(dicom_files.write(tmp_path / "s", values(low=0, high=60000, dtype=np.uint16), OBLIQUE))
    assert array.dtype == np.int32
    np.testing.assert_array_equal(array, values(low=0, high=60000, dtype=np.uint16))


def test_monochrome1_is_turned_and_told(tmp_path):
    stored = values(low=0, high=4096, dtype=np.uint16)
    more = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    array, notes, _ = read(dicom_files.write(tmp_path / "s", stored, OBLIQUE, **more))
    np.testing.assert_array_equal(array, 4095 - stored.astype(int))
    assert notes == ["MONOCHROME1: its grey values are turned, so that bright is large"]
    more = {"PhotometricInterpretation": "MONOCHROME1"}
    array, _, _ = read(dicom_files.write(tmp_path / "t", values(), OBLIQUE, **more))
    np.testing.assert_array_equal(array, -1 - values().astype(int))


def test_a_compressed_series_is_read_where_its_decoder_is_there(tmp_path):
    folder = dicom_files.write(tmp_path / "s", values(), OBLIQUE)
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        image.compress(RLELossless)
        image.save_as(path)
    np.testing.assert_array_equal(read(folder)[0], values())


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.100"])
def test_a_decoder_that_is_missing_is_told_with_the_cure(tmp_path, syntax, monkeypatch):
    class Missing:
        is_available = False
        missing_dependencies = ("gdcm - requires gdcm>=3",)

    if syntax.endswith("70"):  # JPEG lossless, as if nothing read it; of MPEG nothing does
        monkeypatch.setattr("pydicom.pixels.get_decoder", lambda uid: Missing)
    folder = dicom_files.write(tmp_path / "s", values(), OBLIQUE)
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        image.file_meta.TransferSyntaxUID = syntax
        image.PixelData = pydicom.encaps.encapsulate([b"\0" * 16])
        image["PixelData"].is_undefined_length = True
        image.save_as(path, enforce_file_format=True)
    with pytest.raises(
        InputError, match=r"compressed \((JPEG Lossless|MPEG2).*no decoder.*\n  pip install pylib"
    ):
        read(folder)


def test_copies_of_a_file_count_once(tmp_path):
    folder = dicom_files.write(tmp_path / "s", values(), OBLIQUE)
    (folder / "again").write_bytes((folder / "IM0003").read_bytes())
    (series,) = headers.series_below(folder)
    assert series.doubled == 1
    np.testing.assert_array_equal(read(folder)[0], values())


def test_a_damaged_file_is_told(tmp_path):
    folder = dicom_files.write(tmp_path / "s", values(), OBLIQUE)
    path = folder / "IM0004"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"series 1: the pixels of IM0004 cannot be read"):
        read(folder)


# --- what makes no volume -------------------------------------------------------------------------------


def _moved(k_moved, by):
    def change(image, k):
        if k == k_moved:
            image.ImagePositionPatient = [x + y for x, y in zip(image.ImagePositionPatient, by, strict=True)]

    return change


def _sheared(image, k):
    image.ImagePositionPatient = [image.ImagePositionPatient[0] + 0.2 * k, *image.ImagePositionPatient[1:]]


def _two(keyword, a, b):
    """Two images at each place, which differ in an entry."""

    def change(image, k):
        image.ImagePositionPatient = [0, 0, k // 2]
        setattr(image, keyword, a if k % 2 else b)

    return change


def _of_last(**entries):
    def change(image, k):
        if k == SHAPE[2] - 1:
            for keyword, value in entries.items():
                setattr(image, keyword, value)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_moved(5, (0, 0, 0.2)), r"unevenly spaced, 0\.8 to 1\.2 mm apart"),
        (_sheared, r"shifted against the one before it, 2\.2 mm.*tilted gantry"),
        (_two("EchoTime", 12, 90), r"12 images at 6 places, up to 2 at one\. They differ in echo time \(12"),
        (_two("TemporalPositionIdentifier", 1, 2), r"They differ in time point \(1, 2\)"),
        (_two("DiffusionBValue", 0.0, 1000.0), r"They differ in b-value"),
        (
            _two("ImageType", ["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]),
            "differ in kind of image",
        ),
        (_two("ImageComments", "a", "b"), r"Nothing tells which of them is the scan"),
        (_of_last(FrameOfReferenceUID="1.2.3"), r"2 frames of reference in one series"),
        (_of_last(ImageOrientationPatient=[1, 0, 0, 0, 0, 1]), r"not parallel: a localizer"),
        (_of_last(PixelSpacing=[2, 1]), r"pixels of 2 sizes"),
        (_of_last(Rows=SHAPE[1] - 1), r"images of 2 sizes"),
        (_of_last(SamplesPerPixel=3), r"in colour"),
        (lambda image, k: image.__delattr__("ImagePositionPatient"), r"does not tell where its voxels lie"),
    ],
)
def test_images_that_make_no_volume_are_refused_with_the_reason(tmp_path, change, said):
    dicom_files.write(tmp_path / "s", values(), dicom_files.affine(), 7, "AX T1", change=change)
    with pytest.raises(InputError, match=rf"^series 7 \(AX T1\): .*{said}"):
        read(tmp_path / "s")


def test_missing_slices_are_counted(tmp_path):
    folder = dicom_files.write(tmp_path / "s", values(), OBLIQUE, shuffled=False)
    for k in (4, 5, 8):
        (folder / f"IM{k:04d}").unlink()
    with pytest.raises(
        InputError, match=r"3 of its slices are missing: they lie 2\.5 mm apart, but in 2 places up to 7\.5"
    ):
        read(folder)


def test_several_time_points_of_an_enhanced_file_are_refused(tmp_path):
    def change(group, k):
        group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, k // 2]
        group.FrameContentSequence[0].TemporalPositionIndex = k % 2 + 1

    dicom_files.write(tmp_path / "s", values(), OBLIQUE, enhanced=True, change=change)
    with pytest.raises(InputError, match=r"12 images at 6 places.*time point \(1, 2\)"):
        read(tmp_path / "s")


def test_one_image_alone_is_no_volume(tmp_path):
    folder = dicom_files.write(tmp_path / "s", values()[..., :1], OBLIQUE)
    with pytest.raises(InputError, match="one image; expected the slices of a volume"):
        read(folder)


def test_without_pydicom_the_line_to_install_it_is_told(tmp_path, monkeypatch):
    folder = dicom_files.write(tmp_path / "s", values(), OBLIQUE)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(
        parsing.MissingPackageError, match=r"(?s)needs the package pydicom.*pip install 'tfbrats\[dicom\]'"
    ):
        headers.series_below(folder)
