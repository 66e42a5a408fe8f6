"""DICOM that somebody made to harm: it ends in a message, in bounded memory, and never in other voxels."""

import itertools
import struct
import tracemalloc
import zlib

import dicom_files
import numpy as np
import pydicom
import pytest

from tfbrats.dicom import geometry, headers, parsing, pixels, scan_series, study
from tfbrats.errors import InputError

_ITEM = b"\xfe\xff\x00\xe0"
_PER_FRAME, _PIXELS = struct.pack("<HH", 0x5200, 0x9230), struct.pack("<HH", 0x7FE0, 0x0010)
_UNDEFINED, _END = struct.pack("<I", 2**32 - 1), b"\xfe\xff\xdd\xe0\0\0\0\0"


@pytest.fixture
def single(tmp_path):
    """A series of single images; its folder."""
    return dicom_files.write(
        tmp_path / "s", dicom_files.scans((8, 7, 4))["t1"], dicom_files.affine(), 1, "AX T1", shuffled=False
    )


@pytest.fixture
def enhanced(tmp_path):
    """The bytes of an enhanced image."""
    folder = dicom_files.write(
        tmp_path / "e", dicom_files.scans((8, 7, 4))["t1"], dicom_files.affine(), 1, "AX T1", enhanced=True
    )
    return (folder / "enhanced.dcm").read_bytes()


def volume(place):
    (series,) = headers.series_below(place)
    return pixels.volume(series, geometry.of(series))[0]


def _with_items(content: bytes, count: int, defined: bool) -> bytes:
    """An enhanced image whose frames' sequence holds so many empty items."""
    items = (_ITEM + bytes(4)) * count
    length, end = (struct.pack("<I", len(items)), b"") if defined else (_UNDEFINED, _END)
    before, behind = content[: content.index(_PER_FRAME)], content[content.index(_PIXELS) :]
    return before + _PER_FRAME + b"SQ\0\0" + length + items + end + behind


@pytest.mark.parametrize("defined", [True, False])
def test_a_header_of_a_million_empty_items_is_refused_before_each_becomes_an_object(
    tmp_path, enhanced, defined
):
    path = tmp_path / "many.dcm"
    path.write_bytes(_with_items(enhanced, 1_000_000, defined))  # 8 MB; of pydicom's objects 1.4 GB
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"many\.dcm: its header is longer than that of any image"):
            headers.series_below(path, allowance=parsing.Allowance(items=10_000))
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


def test_items_behind_the_pixels_are_not_read(tmp_path, enhanced):
    """Some programs write there; a million of them would be a gigabyte."""
    path = tmp_path / "behind.dcm"
    private = struct.pack("<HH", 0x7FE1, 0x1001) + b"SQ\0\0" + _UNDEFINED
    path.write_bytes(enhanced + private + (_ITEM + bytes(4)) * 200_000 + _END)
    tracemalloc.start()
    try:
        assert volume(path).shape == (8, 7, 4)
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


def test_a_value_that_claims_to_be_long_is_refused(tmp_path, enhanced):
    path = tmp_path / "long.dcm"
    place = enhanced.index(_PER_FRAME)
    path.write_bytes(enhanced[:place] + _PER_FRAME + b"SQ\0\0" + struct.pack("<I", 2**31) + bytes(99))
    with pytest.raises(InputError, match=r"longer than that of any image, or says so"):
        headers.series_below(path)


def test_a_deflated_header_is_refused_with_the_way_to_unpack_it(tmp_path, single):
    """A megabyte of it may be a gigabyte of header."""
    path = single / "IM0000"
    image = pydicom.dcmread(path)
    image.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    image.save_as(path)
    assert zlib  # the syntax is that of zlib without its head
    with pytest.raises(InputError, match=r"IM0000: its header is deflated.*dcmconv"):
        headers.series_below(single)


def test_what_may_be_read_is_counted_over_files(single):
    allowance = parsing.Allowance(bytes=10_000)
    headers.series_below(single / "IM0000", allowance=allowance)
    assert 0 < allowance.bytes < 10_000
    with pytest.raises(InputError, match="longer than"):
        for _ in range(99):
            headers.series_below(single / "IM0001", allowance=allowance)


def test_signs_that_steer_a_terminal_are_not_shown(tmp_path):
    folder = dicom_files.write(
        tmp_path,
        dicom_files.scans((8, 7, 3))["t1"],
        dicom_files.affine(),
        1,
        "T1\x1b[2J\x1b]0;owned\x07 " + 200 * "x",
    )
    (series,) = headers.series_below(folder)
    assert series.name.isprintable() and len(series.name) < 120


def _of_enhanced(keyword, value):
    def change(image):
        setattr(image, keyword, value)

    return change


@pytest.mark.parametrize(
    ("keyword", "value", "said"),
    [
        ("Rows", None, "Rows"),
        ("Rows", 0, "rows"),
        ("SeriesNumber", "4\\5", "not as DICOM asks for"),
        ("PixelSpacing", ["0", "1"], "pixels of 0 x 1 mm"),
        ("PixelSpacing", ["-1", "1"], "pixels of -1 x 1 mm"),
        ("ImagePositionPatient", ["1", "nan", "2"], "no numbers"),
        ("ImageOrientationPatient", None, r"where its voxels lie \(no ImageOrientationPatient\)"),
        ("ImageOrientationPatient", ["1", "0", "0", "0", "inf", "0"], "no numbers"),
        ("RescaleSlope", "nan", "slope of nan"),
        ("BitsStored", 0, None),
        ("BitsAllocated", 12, "pixels of IM0000 cannot be read"),
        ("Rows", 60000, "images of 2 sizes"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_odd_entry_is_told(single, keyword, value, said):
    path = single / "IM0000"
    image = pydicom.dcmread(path)
    if value is None:
        delattr(image, keyword)
    else:
        setattr(image, keyword, value)
    image.save_as(path)
    if said is None:  # what it means is pydicom's affair, as long as it is a volume or an InputError
        try:
            assert volume(single).shape == (8, 7, 4)
        except InputError:
            return
    else:
        with pytest.raises(InputError, match=said):
            volume(single)


def test_frames_that_are_told_and_not_there_are_refused(tmp_path, enhanced):
    path = tmp_path / "few.dcm"
    path.write_bytes(enhanced)
    image = pydicom.dcmread(path)
    image.NumberOfFrames, image.PixelData = 3, image.PixelData[: 3 * 8 * 7 * 2]
    image.save_as(path)
    with pytest.raises(InputError, match=r"few\.dcm"):
        volume(path)


def test_a_count_of_frames_below_0_is_refused(single):
    """It would make room for others where voxels are counted."""
    path = single / "IM0000"
    image = pydicom.dcmread(path)
    image.NumberOfFrames = -1000
    image.save_as(path)
    with pytest.raises(InputError, match="NumberOfFrames is -1000"):
        headers.series_below(path)


def test_values_beyond_int32_do_not_turn_round(tmp_path):
    """65535 times a slope of 100,000 is 6.5 billion, which int32 made a number below 0 without a word."""
    array = np.full((8, 7, 3), 65535, np.uint16)
    array[0] = 0
    folder = dicom_files.write(tmp_path, array, dicom_files.affine(), RescaleSlope=100_000, RescaleIntercept=0)
    found = volume(folder)
    assert found.dtype == np.float32 and found.max() == np.float32(65535e5) and found.min() == 0


def test_very_many_series_of_a_kind_are_not_tried_in_every_choice(monkeypatch):
    """400 of each scan would be 26 thousand million choices."""
    places = itertools.count()
    monkeypatch.setattr(scan_series.geometry, "of", lambda series: next(places))
    series = {name: [None] * 400 for name in ("flair", "t1", "t1ce", "t2")}
    scans = {name: [scan_series.Scan(one, name, "") for one in some] for name, some in series.items()}
    with pytest.raises(InputError, match="1600 series may be one of the four scans"):
        scan_series._one_of_each(scans, [], "study")


def test_a_study_with_a_damaged_entry_is_told_by_the_door(tmp_path):
    root = dicom_files.write_study(tmp_path / "s", dicom_files.affine())
    path = next((root / "11").iterdir())
    content = path.read_bytes()
    place = content.index(b"SAG T1") if b"SAG T1" in content else content.index(b"AX T2 FLAIR")
    path.write_bytes(content[: place - 4] + b"\x55\xae" + content[place - 2 :])  # a kind of value that none is
    with pytest.raises(InputError, match=r"as DICOM asks for|cannot be read"):
        study.find(root)


def test_a_number_of_an_odd_length_is_told(single):
    """pydicom has an error of its own for it."""
    path = single / "IM0000"
    rows = struct.pack("<HH", 0x0028, 0x0010) + b"US" + struct.pack("<H", 2)
    content = path.read_bytes()
    place = content.index(rows)
    path.write_bytes(
        content[: place + 6]
        + struct.pack("<H", 3)
        + content[place + 8 : place + 10]
        + b"\0"
        + content[place + 10 :]
    )
    with pytest.raises(InputError, match="IM0000: a header is not as DICOM asks for"):
        headers.series_below(single)


def test_an_image_longer_than_nifti_holds_is_refused(single):
    for path in single.iterdir():
        image = pydicom.dcmread(path)
        image.Columns = 63_750
        image.save_as(path)
    with pytest.raises(InputError, match=r"63750 x 7 x 4 voxels; NIfTI, .* at most 32767 along an axis"):
        volume(single)
