"""Writes MR series as a scanner does: an image a file, or enhanced, all in one. Of arrays, for tests."""

import pathlib

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR, ENHANCED = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
STUDY, SPACE = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["space"])
NAME, PATIENT_ID = "Doe^Jane", "MRN4711"
# Oblique, no axis along the patient's: rows, columns and normal of the images, LPS.
TURN = np.linalg.qr(np.array([[0.9, 0.2, -0.3], [-0.1, 0.95, 0.25], [0.4, -0.2, 0.9]]))[0]
TURN = TURN * np.sign(np.linalg.det(TURN))


def affine(spacing_mm=(1.0, 1.0, 1.0), turn=None, origin=(-31.25, 12.5, -47.75)) -> np.ndarray:
    """Voxel (column, row, slice) -> mm, LPS."""
    placed = np.eye(4)
    placed[:3, :3] = (np.eye(3) if turn is None else turn) * np.asarray(spacing_mm)
    placed[:3, 3] = origin
    return placed


def _common(number: int, description: str, more: dict, sop_class: str, uid: str) -> Dataset:
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = sop_class, uid
    image.StudyInstanceUID, image.FrameOfReferenceUID = STUDY, SPACE
    image.SeriesInstanceUID = generate_uid(entropy_srcs=[STUDY, str(number)])
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = NAME, PATIENT_ID, "", "O"
    image.StudyDate = image.ContentDate = image.SeriesDate = image.AcquisitionDate = "20200102"
    image.StudyTime = image.ContentTime = image.SeriesTime = image.AcquisitionTime = "101500"
    image.StudyID, image.AccessionNumber, image.ReferringPhysicianName = "1", "", ""
    image.Modality, image.SeriesNumber, image.SeriesDescription = "MR", number, description
    image.Manufacturer, image.PositionReferenceIndicator = "tests", ""
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    image.ScanningSequence, image.SequenceVariant, image.ScanOptions = "SE", "NONE", ""
    image.MRAcquisitionType, image.EchoTime, image.RepetitionTime = "3D", 10, 500
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    for keyword, value in more.items():
        setattr(image, keyword, value)
    return image


def _pixels(image: Dataset, array: np.ndarray) -> None:
    """[..., rows, columns], int16 or uint16."""
    image.PixelRepresentation = int(array.dtype.kind == "i")
    image.Rows, image.Columns = array.shape[-2:]
    image.PixelData = np.ascontiguousarray(array).tobytes()


def _save(image: Dataset, path: pathlib.Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    FileDataset(str(path), image, preamble=b"\0" * 128, file_meta=meta).save_as(path, enforce_file_format=True)


def write(
    folder, array, placed, number=1, description="", enhanced=False, change=None, shuffled=True, **more
) -> pathlib.Path:
    """Writes [columns, rows, slices] as a series; returns its folder.

    Args:
        placed: affine, as `affine` gives it.
        change: called with each image, or an enhanced one's frame's group, and its slice, before it is saved.
        shuffled: the files' names, or the frames of an enhanced one, tell no order.
        more: entries of every header, by keyword.
    """
    folder = pathlib.Path(folder)
    slices = np.asarray(array).transpose(2, 1, 0)
    lengths = np.linalg.norm(placed[:3, :3], axis=0)
    directions = (placed[:3, :3] / lengths).T
    orientation = [f"{x:.14g}"[:16] for x in directions[:2].ravel()]
    spacing = [round(float(side), 9) for side in (lengths[1], lengths[0])]
    positions = [[f"{x:.12g}" for x in (placed @ [0, 0, k, 1])[:3]] for k in range(len(slices))]
    order = np.random.default_rng(number).permutation(len(slices)) if shuffled else np.arange(len(slices))
    if enhanced:
        _write_enhanced(
            folder / "enhanced.dcm", slices, orientation, spacing, positions, lengths[2], order, locals()
        )
        return folder
    for name, k in enumerate(order):
        uid = generate_uid(entropy_srcs=[STUDY, str(number), str(k)])
        image = _common(number, description, more, MR, uid)
        image.InstanceNumber, image.AcquisitionNumber = int(k) + 1, 1
        image.ImagePositionPatient, image.ImageOrientationPatient = positions[k], orientation
        image.PixelSpacing, image.SliceThickness = spacing, float(lengths[2])
        _pixels(image, slices[k])
        if change:
            change(image, int(k))
        _save(image, folder / f"IM{name:04d}")
    return folder


def _item(**entries) -> Sequence:
    item = Dataset()
    for keyword, value in entries.items():
        setattr(item, keyword, value)
    return Sequence([item])


def _write_enhanced(path, slices, orientation, spacing, positions, thickness, order, given) -> None:
    number, more, change = given["number"], given["more"], given["change"]
    image = _common(
        number, given["description"], more, ENHANCED, generate_uid(entropy_srcs=[STUDY, str(number), "e"])
    )
    image.InstanceNumber, image.NumberOfFrames = 1, len(slices)
    image.AcquisitionDateTime = "20200102101500"
    shared = Dataset()
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=orientation)
    shared.PixelMeasuresSequence = _item(PixelSpacing=spacing, SliceThickness=float(thickness))
    image.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for k in order:
        group = Dataset()
        group.PlanePositionSequence = _item(ImagePositionPatient=positions[k])
        group.FrameContentSequence = _item(
            StackID="1", InStackPositionNumber=int(k) + 1, DimensionIndexValues=[1, int(k) + 1]
        )
        group.PixelValueTransformationSequence = _item(RescaleSlope=1, RescaleIntercept=0, RescaleType="US")
        if change:
            change(group, int(k))
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence = Sequence(groups)
    _pixels(image, slices[order])
    _save(image, path)


def corrected(path, **entries) -> None:
    """Writes entries into a file that is there."""
    image = pydicom.dcmread(path)
    for keyword, value in entries.items():
        setattr(image, keyword, value)
    image.save_as(path)


# --- a study --------------------------------------------------------------------------------------------

DESCRIPTIONS = {
    "flair": "AX T2 FLAIR",
    "t1": "SAG T1 MPRAGE",
    "t1ce": "SAG T1 MPRAGE POST GD",
    "t2": "AX T2 TSE",
}
SHAPE = (24, 20, 16)


def scans(shape=SHAPE, seed=0) -> dict[str, np.ndarray]:
    """Four scans of something without a skull, int16: `tiny_model.RULES` finds all three tissues in it."""
    rng = np.random.default_rng(seed)
    brain = np.zeros(shape, bool)
    brain[3:-3, 3:-3, 2:-2] = True
    images = {name: np.where(brain, rng.integers(100, 600, shape), 0).astype(np.int16) for name in DESCRIPTIONS}
    images["flair"][6:14, 5:12, 4:11] = 800
    images["t1"][8:12, 6:10, 5:9] = 700
    images["t1ce"][9:12, 7:9, 5:8] = 900
    return images


def write_study(root, placed, enhanced=False, flat=False, images=None, **more) -> pathlib.Path:
    """Writes four series into folders of their numbers, 11 to 14, or all into one."""
    images = scans() if images is None else images
    for number, (modality, array) in enumerate(images.items(), 11):
        folder = pathlib.Path(root) / str(number)
        write(folder, array, placed, number, DESCRIPTIONS[modality], enhanced, **more)
        if flat:
            for path in folder.iterdir():
                path.rename(pathlib.Path(root) / f"{number}_{path.name}")
            folder.rmdir()
    return pathlib.Path(root)
