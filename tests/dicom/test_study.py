"""A study at the door: which series is which scan, one patient, one grid; and no name of a patient anywhere."""

import gc

import dicom_files
import fsspec
import numpy as np
import pytest

import tfbrats
from tfbrats import inspect
from tfbrats.cases import case
from tfbrats.dicom import headers, scan_series, study
from tfbrats.errors import InputError
from tfbrats.labels import MODALITIES
from tfbrats.predictions import own_scans

OBLIQUE = dicom_files.affine((0.9, 1.1, 2.5), dicom_files.TURN)
STRAIGHT = dicom_files.affine((1, 1, 2))
NUMBERS = {"flair": "11", "t1": "12", "t1ce": "13", "t2": "14"}


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """A study in one folder, with other series among its own."""
    root = dicom_files.write_study(tmp_path_factory.mktemp("DOE_JANE") / "MRN4711", OBLIQUE, flat=True)
    rng = np.random.default_rng(3)
    others = {1: "LOCALIZER", 20: "AX DWI B1000", 21: "ADC", 22: "AX T2 STAR GRE", 23: "PERFUSION DSC"}
    for number, description in others.items():
        array = rng.integers(0, 900, (16, 16, 3 if number == 1 else 12)).astype(np.int16)
        dicom_files.write(root / "others", array, STRAIGHT, number, description)
        for path in (root / "others").iterdir():
            path.rename(root / f"{number}_{path.name}")
    (root / "README.txt").write_text("a disc")
    (root / "junk.dcm").write_bytes(b"not DICOM, but for its name")
    return root


def series_of(study_of_case):
    return {modality: series.number for modality, series in study_of_case.scans.items()}


def test_a_study_with_other_series_is_sorted_and_the_choice_told(flat):
    dataset = own_scans.find(str(flat))
    (entry,) = dataset.cases
    assert series_of(dataset.studies[entry.case_id]) == NUMBERS
    guess = dataset.guesses[0]
    assert "t1ce is series 13 (SAG T1 MPRAGE POST GD), by its description" in guess
    assert "left out: series 1 (LOCALIZER), series 20 (AX DWI B1000)" in guess and "--t2 DIR" in guess
    loaded = case.load(entry)
    for m, modality in enumerate(MODALITIES):
        np.testing.assert_array_equal(loaded.grid.to_file(loaded.image)[..., m], dicom_files.scans()[modality])
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ loaded.grid.affine, OBLIQUE, atol=1e-3)
    assert dataset.untold == {entry.case_id}


def test_no_name_of_the_patient_is_in_what_is_said(flat):
    dataset = own_scans.find(str(flat))
    (entry,) = dataset.cases
    said = " ".join((*dataset.guesses, entry.case_id, *(path for _, path, _ in entry.images))).lower()
    for private in ("doe", "jane", "mrn4711"):
        assert private not in said
    assert own_scans.find(str(flat)).cases[0].case_id == entry.case_id  # the same whenever it is read


def test_odd_values_of_a_header_are_not_printed(tmp_path, recwarn, capfd, caplog):
    """pydicom's warnings hold the value, which may be a name."""
    folder, space = dicom_files.write_study(tmp_path / "s", OBLIQUE), dicom_files.SPACE.encode()
    for path in folder.rglob("IM*"):
        path.write_bytes(path.read_bytes().replace(space, b"Jane Doe" + space[8:]))
    dataset = own_scans.find(str(folder))
    case.load(dataset.cases[0])
    printed = [str(warning.message) for warning in recwarn.list] + [*capfd.readouterr(), caplog.text]
    assert "Jane" not in "".join(printed)


def test_a_volume_in_memory_goes_with_its_case(flat):
    dataset = own_scans.find(str(flat))
    path = str(dataset.cases[0].images[0][1])
    held = own_scans.written_as(dataset, tfbrats.labels.EDITIONS["2020"])
    del dataset
    gc.collect()
    assert fsspec.filesystem("memory").exists(path)
    del held
    gc.collect()
    assert not fsspec.filesystem("memory").exists(path)


def test_series_are_named_one_by_one_by_folder_file_or_number(flat, tmp_path):
    root = dicom_files.write_study(tmp_path / "s", OBLIQUE, enhanced=True)
    given = {
        "flair": f"{root}/11",
        "t1": f"{root}/12/enhanced.dcm",
        "t1ce": f"{root}#13",
        "t2": f"{flat}#14",
    }
    dataset = own_scans.named(given)
    (entry,) = dataset.cases
    assert series_of(dataset.studies[entry.case_id]) == NUMBERS
    with pytest.warns(UserWarning) as told:
        loaded = tfbrats.load_case(str(root))
    assert len(told) == 2 and "the case is called study-" in str(told[1].message)
    np.testing.assert_array_equal(loaded.image, case.load(entry).image)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"SeriesDescription": "t1_mprage", "ContrastBolusAgent": "Gadovist"}, "t1ce"),
        ({"SeriesDescription": "t1_mprage", "ContrastBolusAgent": "NONE"}, "t1"),
        ({"SeriesDescription": "T1 pre", "ContrastBolusAgent": "Gadovist"}, "t1"),
        ({"SeriesDescription": "", "ProtocolName": "t2_tirm_tra_dark-fluid"}, "flair"),
        (
            {"SeriesDescription": "4711", "EchoTime": 100, "RepetitionTime": 9000, "InversionTime": 2500},
            "flair",
        ),
        ({"SeriesDescription": "4711", "EchoTime": 100, "RepetitionTime": 4000}, "t2"),
        ({"SeriesDescription": "4711", "EchoTime": 3, "RepetitionTime": 2300, "InversionTime": 900}, "t1"),
        (
            {"SeriesDescription": "4711", "EchoTime": 12, "RepetitionTime": 500, "ContrastBolusAgent": "Gd"},
            "t1ce",
        ),
        (
            {"SeriesDescription": "4711", "EchoTime": 100, "RepetitionTime": 4000, "DiffusionBValue": 1000.0},
            None,
        ),
        ({"SeriesDescription": "ep2d_diff_ADC", "EchoTime": 100, "RepetitionTime": 4000}, None),
        ({"SeriesDescription": "x", "EchoTime": 20, "RepetitionTime": 4000}, None),
    ],
)
def test_a_series_is_told_by_description_agent_and_sequence(tmp_path, more, expected):
    dicom_files.write(tmp_path / "s", dicom_files.scans()["t1"], STRAIGHT, **more)
    (series,) = headers.series_below(tmp_path / "s")
    scan = scan_series.scan_of(series)
    assert (scan and scan.modality) == expected


def test_of_copies_those_on_one_grid_are_taken(tmp_path):
    root = dicom_files.write_study(tmp_path / "s", OBLIQUE)
    for number, description in ((3, "AX T2 FLAIR"), (4, "SAG T1 MPRAGE")):  # as the scanner made them
        dicom_files.write(root / "raw" / str(number), dicom_files.scans()["t1"], STRAIGHT, number, description)
    dataset = own_scans.find(str(root))
    assert series_of(dataset.studies[dataset.cases[0].case_id]) == NUMBERS
    dicom_files.write(root / "raw" / "5", dicom_files.scans()["t1"], OBLIQUE, 5, "AX T2 FLAIR")
    with pytest.raises(
        InputError, match=r"series 3 .*series 5 .*series 11 .*each be flair; .*and 2 choices.*--flair DIR"
    ):
        own_scans.find(str(root))


def _changed(root, number, **entries):
    for path in (root / number).iterdir():
        dicom_files.corrected(path, **entries)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"PatientID": "MRN1234"}, r"patient's ID differs between flair, t1, t2 and t1ce"),
        ({"PatientName": "Roe^Richard"}, r"patient's name differs between flair, t1, t2 and t1ce"),
        ({"PatientBirthDate": "19700101"}, r"date of birth differs"),
        ({"StudyInstanceUID": "1.2.3"}, r"are of different studies"),
        ({"FrameOfReferenceUID": "1.2.3"}, r"flair, series 11 .*another frame of reference"),
    ],
)
def test_series_of_two_patients_or_spaces_make_no_case(tmp_path, entries, said):
    root = dicom_files.write_study(tmp_path / "s", OBLIQUE)
    _changed(root, "13", **entries)
    with pytest.raises(InputError, match=said) as raised:
        own_scans.named({modality: f"{root}/{number}" for modality, number in NUMBERS.items()})
    assert not any(word in str(raised.value) for word in ("Doe", "Roe", "MRN"))


def test_scans_on_other_grids_are_told_with_what_to_do(tmp_path):
    root = dicom_files.write_study(tmp_path / "s", OBLIQUE)
    given = {modality: f"{root}/{number}" for modality, number in NUMBERS.items()}
    moved = OBLIQUE.copy()
    moved[0, 3] += 0.5
    for placed, array, said in (
        (moved, dicom_files.scans()["t2"], r"t2, series 14 .*up to 0\.5 mm apart of t1ce"),
        (STRAIGHT, dicom_files.scans()["t2"], r"voxels of 1 x 1 x 2 mm against 0\.9 x 1\.1 x 2\.5 mm"),
        (OBLIQUE, dicom_files.scans()["t2"][..., :12], r"24 x 20 x 12 voxels against 24 x 20 x 16"),
    ):
        for path in (root / "14").iterdir():
            path.unlink()
        dicom_files.write(root / "14", array, placed, 14, "AX T2 TSE")
        with pytest.raises(InputError, match=rf"(?s){said}.*co-register.*--dicom-seg SERIES.*dicom\.md"):
            own_scans.named(given)


def test_what_is_no_study_of_one_patient_is_refused(tmp_path, flat):
    root = dicom_files.write_study(tmp_path / "s", OBLIQUE)
    _changed(root, "11", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4")
    with pytest.raises(InputError, match="series of 2 studies lie here"):
        own_scans.find(str(root))
    with pytest.raises(InputError, match=r"which series is which scan is not told: t1 series 12"):
        own_scans.find(str(root / "12"))
    with pytest.raises(InputError, match=rf"--t1 {flat}: expected one MR series; found 9: .*{flat}#1\."):
        own_scans.named({"t1": str(flat), "t2": f"{root}/14"})
    with pytest.raises(InputError, match=r"--t1 and --t2 name one series, series 12"):
        own_scans.named({"t1": f"{root}/12", "t2": f"{root}#12"})
    with pytest.raises(InputError, match=r"no DICOM image lies here"):
        (tmp_path / "empty").mkdir()
        study.named({"t1": str(tmp_path / "empty")})
    (tmp_path / "x.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"--t2 .*x\.nii\.gz: a NIfTI file, and others are DICOM"):
        own_scans.named({"t1": f"{root}/12", "t2": str(tmp_path / "x.nii.gz")})


def test_inspect_describes_a_study_and_says_what_comes_next(flat, capsys):
    assert inspect.main([str(flat)]) == 0
    said = capsys.readouterr().out
    assert "24 20 16" in said or "t1ce" in said
    assert "t1ce is series 13" in said and "tfbrats predict --model MODEL --input" in said


def test_a_scan_with_its_skull_is_refused_as_ever(tmp_path):
    images = {name: array + 50 for name, array in dicom_files.scans().items()}
    dataset = own_scans.find(str(dicom_files.write_study(tmp_path / "s", STRAIGHT, images=images)))
    with pytest.raises(case.CaseError, match="the background is 50; expected 0"):
        case.load(dataset.cases[0])
