"""DICOM in, a model, NIfTI and DICOM-SEG out: the same answer at the same places. A rule is the model."""

import dicom_files
import nibabel
import numpy as np
import pydicom
import pytest
import tiny_model

from serving import client, server
from tfbrats import predict
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS
from tfbrats.machine import files
from tfbrats.predictions import model_card, own_scans

OBLIQUE = dicom_files.affine((0.9, 1.1, 2.5), dicom_files.TURN)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A version's folder. Read only."""
    path = tiny_model.write(tmp_path_factory.mktemp("models") / "tiny")
    (path / model_card.FILE).write_text(tiny_model.card().to_json())
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return dicom_files.write_study(tmp_path_factory.mktemp("DOE_JANE") / "study", OBLIQUE, flat=True)


def run(model, output, *more):
    predict.main(["--model", str(model), "--output", str(output), *more])


def labelled(path) -> dict[tuple, str]:
    """Place in mm, rounded to 0.01, LPS -> tissue, of every labelled voxel of a NIfTI file of 2020."""
    image = nibabel.load(path)
    array = np.asanyarray(image.dataobj)
    voxels = np.argwhere(array)
    places = voxels @ image.affine[:3, :3].T * [-1, -1, 1] + image.affine[:3, 3] * [-1, -1, 1]
    words = {value: tissue.name for value, tissue in EDITIONS["2020"].values}
    return {tuple(p): words[array[tuple(v)]] for p, v in zip(places.round(2) + 0.0, voxels, strict=True)}


def segmented(path) -> dict[tuple, str]:
    """The same of a DICOM-SEG, by its elements alone."""
    image = pydicom.dcmread(path)
    words = {s.SegmentNumber: s.SegmentLabel.partition(":")[0] for s in image.SegmentSequence}
    shared = image.SharedFunctionalGroupsSequence[0]
    way = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found = {}
    for group, plane in zip(image.PerFrameFunctionalGroupsSequence, image.pixel_array, strict=True):
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(plane)
        places = origin + np.outer(columns * between_columns, way[0]) + np.outer(rows * between_rows, way[1])
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found |= {tuple(place): words[number] for place in places.round(2) + 0.0}
    return found


@pytest.mark.parametrize("enhanced", [False, True])
def test_the_segmentation_in_both_forms_is_the_model_s_voxel_by_voxel(model, enhanced, tmp_path, capsys):
    root = dicom_files.write_study(tmp_path / "s", OBLIQUE, enhanced=enhanced, flat=not enhanced)
    run(model, tmp_path / "out", "--input", str(root), "--dicom-seg", "--provenance")
    (name,) = (path.name for path in (tmp_path / "out").glob("*.dcm"))
    stem = name.removesuffix(".dcm")
    nifti = tmp_path / "out" / f"{stem}.nii.gz"
    values = np.asanyarray(nibabel.load(nifti).dataobj)
    expected = tiny_model.tissues_by_rule(dicom_files.scans())
    np.testing.assert_array_equal(values, EDITIONS["2020"].to_values(expected, "expected"))
    inside = labelled(nifti)
    assert set(inside.values()) == {"NCR", "ED", "ET"} and len(inside) == np.count_nonzero(expected)
    assert segmented(tmp_path / "out" / name) == inside
    said = capsys.readouterr().out
    assert f"DICOM-SEG in {tmp_path}/out/{name}" in said and "t1ce is series 13" in said
    told = (
        said + (tmp_path / "out" / f"{stem}.json").read_text() + " ".join(files.walk(tmp_path / "out"))
    ).lower()
    assert "doe^jane" not in told and "mrn4711" not in told and stem.startswith("study-")


def test_a_second_run_goes_on_and_makes_an_object_that_was_not_asked_for_before(model, root, tmp_path, capsys):
    run(model, tmp_path / "out", "--input", str(root))
    assert not list((tmp_path / "out").glob("*.dcm"))
    run(model, tmp_path / "out", "--input", str(root), "--dicom-seg")
    (path,) = (tmp_path / "out").glob("*.dcm")
    first = path.read_bytes()
    capsys.readouterr()
    run(model, tmp_path / "out", "--input", str(root), "--dicom-seg")
    assert "1 of 1 cases are done already" in capsys.readouterr().out and path.read_bytes() == first
    run(model, tmp_path / "out", "--input", str(root), "--overwrite")
    assert not path.exists()  # it was of the segmentation that is replaced


def test_series_named_one_by_one_give_a_file_that_is_named(model, tmp_path):
    root = dicom_files.write_study(tmp_path / "study", OBLIQUE)
    named = [f"--{m}={root}/{n}" for n, m in enumerate(dicom_files.DESCRIPTIONS, 11)]
    run(model, tmp_path / "seg.nii.gz", *named, "--dicom-seg")
    assert segmented(tmp_path / "seg.dcm") == labelled(tmp_path / "seg.nii.gz")
    with pytest.raises(InputError, match=r"seg\.(nii\.gz|dcm) exists"):
        run(model, tmp_path / "seg.nii.gz", *named, "--dicom-seg")
    (tmp_path / "seg.nii.gz").unlink()
    with pytest.raises(InputError, match=r"seg\.dcm exists"):
        run(model, tmp_path / "seg.nii.gz", *named, "--dicom-seg")


def test_scans_that_were_converted_lie_on_the_series_they_came_from(model, tmp_path):
    """As after a conversion that turned the rows, registration to T1ce, and stripping."""
    root = dicom_files.write_study(tmp_path / "study", OBLIQUE)
    affine = np.diag([-1.0, -1, 1, 1]) @ OBLIQUE
    affine[:3, 3] += affine[:3, 1] * (dicom_files.SHAPE[1] - 1)
    affine[:3, 1] *= -1
    for name, array in dicom_files.scans().items():
        nibabel.save(nibabel.Nifti1Image(array[:, ::-1], affine), tmp_path / f"{name}.nii.gz")
    named = [f"--{m}={tmp_path}/{m}.nii.gz" for m in dicom_files.DESCRIPTIONS]
    run(model, tmp_path / "out", *named, "--dicom-seg", f"{root}/13")
    (path,) = (tmp_path / "out").glob("*.dcm")
    assert segmented(path) == labelled(path.with_suffix(".nii.gz")) != {}
    assert len(pydicom.dcmread(path).ReferencedSeriesSequence) == 1
    with pytest.raises(InputError, match=r"--dicom-seg: the scans are NIfTI files\. Name the DICOM series"):
        run(model, tmp_path / "out2", *named, "--dicom-seg")
    other = dicom_files.write(tmp_path / "o", dicom_files.scans()["t1"], dicom_files.affine(), 5, "T1")
    with pytest.raises(InputError, match=r"do not lie on series 5 \(T1\): up to"):
        run(model, tmp_path / "out2", *named, "--dicom-seg", str(other))
    with pytest.raises(InputError, match=r"the scans are DICOM themselves"):
        run(model, tmp_path / "out2", "--input", str(root), "--dicom-seg", str(other))
    assert not (tmp_path / "out2").exists()


def test_a_file_of_that_name_that_is_not_ours_is_left_alone(model, root, tmp_path):
    case_id = own_scans.find(str(root)).cases[0].case_id
    theirs = tmp_path / "out" / f"{case_id}.dcm"
    files.write_bytes(str(theirs), b"theirs")
    for more in ((), ("--overwrite",)):
        with pytest.raises(InputError, match=r"there already, and not written by --dicom-seg"):
            run(model, tmp_path / "out", "--input", str(root), "--dicom-seg", *more)
    run(model, tmp_path / "out", "--input", str(root), "--overwrite")
    assert theirs.read_bytes() == b"theirs"


def test_without_highdicom_the_line_to_install_it_comes_before_any_work(model, root, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "highdicom.seg", None)
    with pytest.raises(InputError, match=r"(?s)needs the package highdicom.*pip install 'tfbrats\[dicom\]'"):
        run(model, tmp_path / "out", "--input", str(root), "--dicom-seg")
    assert not (tmp_path / "out").exists()


def test_a_server_s_answer_is_written_alike(model, root, tmp_path):
    with server.start(model.parent) as served:
        arguments = ["--server", served.address, "--model-name", "tiny", "--input", str(root), "--dicom-seg"]
        client.main([*arguments, "--output", str(tmp_path / "called")])
    run(model, tmp_path / "predicted", "--input", str(root), "--dicom-seg")
    called, predicted = (sorted((tmp_path / name).glob("study-*")) for name in ("called", "predicted"))
    assert [path.name for path in called] == [path.name for path in predicted] and len(called) == 2
    assert called[1].read_bytes() == predicted[1].read_bytes()  # .nii.gz
    assert segmented(called[0]) == segmented(predicted[0])
