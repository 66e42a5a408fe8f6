"""A DICOM-SEG as others read it: voxels, places, codes, references; and what it is not made of."""

import pathlib
import shutil
import subprocess

import dicom_files
import highdicom
import numpy as np
import pydicom
import pytest

from tfbrats.cases import case, nifti
from tfbrats.dicom import headers, segmentation_object, study
from tfbrats.dicom.segmentation_object import Algorithm
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, Tissue
from tfbrats.predictions import own_scans

OBLIQUE = dicom_files.affine((0.9, 1.1, 2.5), dicom_files.TURN)
ALGORITHM = Algorithm("cun", "3", "tfbrats 0.1.0", {"config_sha256": "ab12", "n4": "t1, t1ce by tfbrats"})


def tissues_of_series(**others):
    """Label map on the axes of the series, [columns, rows, slices]."""
    tissues = np.zeros(dicom_files.SHAPE, np.uint8)
    tissues[6:14, 5:12, 4:11] = Tissue.ED
    tissues[8:12, 6:10, 5:9] = Tissue.NCR
    tissues[9:12, 7:9, 5:8] = Tissue.ET
    for name, place in others.items():
        tissues[place] = Tissue[name]
    return tissues


@pytest.fixture(scope="module", params=[False, True], ids=["single", "enhanced"])
def read(request, tmp_path_factory):
    """A study that was read: itself, and its loaded case."""
    root = dicom_files.write_study(tmp_path_factory.mktemp("study"), OBLIQUE, enhanced=request.param)
    dataset = own_scans.find(str(root))
    (entry,) = dataset.cases
    return dataset.studies[entry.case_id], case.load(entry)


def made(read, tissues, edition="2020"):
    place, loaded = read
    content = segmentation_object.content(
        place, loaded.grid.from_file(tissues), loaded.grid, EDITIONS[edition], ALGORITHM
    )
    return pydicom.dcmread(pydicom.filebase.DicomBytesIO(content)), content


def by_highdicom(content) -> np.ndarray:
    """Numbers of segments on the source's axes, as highdicom puts its frames into space."""
    volume = highdicom.seg.Segmentation.from_dataset(content, copy=False).get_volume(
        combine_segments=True, allow_missing_positions=True
    )
    return volume.match_geometry(
        highdicom.Volume(
            affine=OBLIQUE[:, [2, 1, 0, 3]],
            array=np.zeros(dicom_files.SHAPE[::-1], np.uint8),
            coordinate_system="PATIENT",
        )
    ).array.transpose(2, 1, 0)


def test_labels_are_where_they_were_to_the_voxel(read):
    tissues = tissues_of_series()
    image, _ = made(read, tissues)
    again = by_highdicom(image)
    number_of = {1: Tissue.NCR, 2: Tissue.ED, 3: Tissue.ET}
    np.testing.assert_array_equal(again, tissues)  # here the numbers are the tissues' own
    assert {n: s.SegmentLabel.partition(":")[0] for n, s in enumerate(image.SegmentSequence, 1)} == {
        n: tissue.name for n, tissue in number_of.items()
    }


def test_each_frame_refers_to_the_images_that_lie_where_it_lies(read):
    place, _ = read
    image, _ = made(read, tissues_of_series())
    assert image.FrameOfReferenceUID == dicom_files.SPACE and image.StudyInstanceUID == dicom_files.STUDY
    referred = {one.SeriesInstanceUID for one in image.ReferencedSeriesSequence}
    assert referred == {series.uid for series in place.scans.values()}
    positions = {}
    for series in place.scans.values():
        for frame in headers.frames_of(series):
            positions[frame.sop_uid, frame.index + 1 if series.is_multi_frame else None] = frame.position
    for group in image.PerFrameFunctionalGroupsSequence:
        sources = group.DerivationImageSequence[0].SourceImageSequence
        assert len(sources) == 4
        for source in sources:
            key = source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber")
            own = [float(x) for x in group.PlanePositionSequence[0].ImagePositionPatient]
            np.testing.assert_allclose(positions[key], own, atol=1e-3)


def test_tissues_and_the_model_are_told_in_codes(read):
    image, _ = made(read, tissues_of_series())
    codes = [(s.SegmentedPropertyTypeCodeSequence[0].CodeValue, s.SegmentLabel) for s in image.SegmentSequence]
    assert codes == [
        ("6574001", "NCR: necrotic and non-enhancing tumour core"),
        ("79654002", "ED: oedema"),
        ("C113842", "ET: enhancing tumour"),
    ]
    for segment in image.SegmentSequence:
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("cun", "3")
        assert algorithm.AlgorithmSource == "tfbrats 0.1.0" and "ab12" in algorithm.AlgorithmParameters
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.AnatomicRegionSequence[0].CodeMeaning == "Brain"
    assert image.PatientName == dicom_files.NAME and image.PatientID == dicom_files.PATIENT_ID


@pytest.mark.parametrize(
    ("edition", "others", "expected"),
    [
        ("2023", {}, [("NCR", "SCT"), ("ED", "SCT"), ("ET", "NCIt")]),
        ("2024", {}, [("NETC", "NCIt"), ("SNFH", "SCT"), ("ET", "NCIt")]),
        (
            "2024",
            {"RC": np.s_[3:5, 4:6, 4:6]},
            [("NETC", "NCIt"), ("SNFH", "SCT"), ("ET", "NCIt"), ("RC", "99TFBRATS")],
        ),
        ("ped", {"CC": np.s_[3:5, 4:6, 4:6]}, [("NETC", "NCIt"), ("ED", "SCT"), ("ET", "NCIt"), ("CC", "SCT")]),
    ],
)
def test_segments_have_the_words_of_the_edition(read, edition, others, expected):
    image, _ = made(read, tissues_of_series(**others), edition)
    schemes = [
        (s.SegmentLabel.partition(":")[0], s.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator)
        for s in image.SegmentSequence
    ]
    assert schemes == expected
    numbers = [0, 1, 2, 3, 4, 4]  # of tissues; the one beyond the three comes fourth
    np.testing.assert_array_equal(by_highdicom(image), np.take(numbers, tissues_of_series(**others)))


def test_a_brain_without_a_tumour_is_an_object_too(read):
    image, _ = made(read, np.zeros(dicom_files.SHAPE, np.uint8))
    assert len(image.SegmentSequence) == 3 and not image.pixel_array.any()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not there (Debian: dicom3tools)")
@pytest.mark.parametrize("others", [{}, {"RC": np.s_[3:5, 4:6, 4:6]}])
def test_it_conforms_to_the_standard(read, tmp_path, others):
    _, content = made(read, tissues_of_series(**others), "2024")
    (tmp_path / "seg.dcm").write_bytes(content)
    ended = subprocess.run(
        ["dciodvfy", "-new", str(tmp_path / "seg.dcm")], check=False, capture_output=True, text=True
    )
    said = ended.stdout + ended.stderr
    assert "Segmentation" in said and "Error" not in said, said


def test_scans_of_another_grid_are_not_put_onto_a_series(read):
    place, loaded = read
    moved = np.diag([-1.0, -1, 1, 1]) @ OBLIQUE
    moved[2, 3] += 0.01
    for grid, said in (
        (nifti.grid_of(dicom_files.SHAPE, moved), r"up to 0\.01 mm apart"),
        (nifti.grid_of((8, 8, 8), moved), r"\(8, 8, 8\) voxels against"),
    ):
        with pytest.raises(InputError, match=rf"case: .*do not lie on series 13.*{said}"):
            segmentation_object.check_grid(place, grid, "case")
    segmentation_object.check_grid(place, loaded.grid, "case")


def test_a_file_of_somebody_else_is_not_taken_for_ours(read, tmp_path):
    _, content = made(read, tissues_of_series())
    ours, theirs = tmp_path / "a.dcm", tmp_path / "b.dcm"
    ours.write_bytes(content)
    other = pydicom.dcmread(ours)
    other.Manufacturer = "somebody"
    other.save_as(theirs)
    segmentation_object.check([str(ours), str(tmp_path / "none.dcm")])
    with pytest.raises(InputError, match=r"b\.dcm: there already"):
        segmentation_object.check([str(theirs)])
    for name in ("a", "b"):
        segmentation_object.drop(str(tmp_path / f"{name}.nii.gz"))
    assert [path.name for path in pathlib.Path(tmp_path).iterdir()] == ["b.dcm"]


def test_directions_may_be_told_of_each_frame_as_some_scanners_do(tmp_path):
    root = dicom_files.write_study(tmp_path / "study", OBLIQUE, enhanced=True)
    for path in root.rglob("*.dcm"):
        image = pydicom.dcmread(path)
        (shared,) = image.SharedFunctionalGroupsSequence
        for group in image.PerFrameFunctionalGroupsSequence:
            group.PlaneOrientationSequence = shared.PlaneOrientationSequence
            group.PixelMeasuresSequence = shared.PixelMeasuresSequence
        del shared.PlaneOrientationSequence, shared.PixelMeasuresSequence
        image.save_as(path)
    dataset = own_scans.find(str(root))
    (entry,) = dataset.cases
    image, _ = made((dataset.studies[entry.case_id], case.load(entry)), tissues_of_series())
    np.testing.assert_array_equal(by_highdicom(image), tissues_of_series())
    assert len(image.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence) == 4


def test_a_de_identified_series_that_lacks_entries_will_do(tmp_path):
    folder = dicom_files.write(tmp_path / "s", dicom_files.scans()["t1ce"], OBLIQUE, description="T1 POST")
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        for keyword in ("PatientName", "PatientBirthDate", "StudyID", "AccessionNumber", "StudyTime"):
            delattr(image, keyword)
        image.save_as(path)
    place = study.alone(str(folder), "--dicom-seg")
    content = segmentation_object.content(
        place, place.grid.from_file(tissues_of_series()), place.grid, EDITIONS["2020"], ALGORITHM
    )
    np.testing.assert_array_equal(
        by_highdicom(pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))), tissues_of_series()
    )
