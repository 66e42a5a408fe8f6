"""How the files of a simulated case are named in every edition and layout, and what tables lie beside them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tfbrats import labels
from tfbrats.datasets.label_names import schema_from_names
from tfbrats.labels import LabelSchema
from tfbrats.machine import files

_UNTIL_2021 = {"flair": "_flair", "t1": "_t1", "t1ce": "_t1ce", "t2": "_t2", "seg": "_seg"}
_SINCE_2023 = {"flair": "-t2f", "t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", "seg": "-seg"}
_UPENN = {"flair": "_FLAIR", "t1": "_T1", "t1ce": "_T1GD", "t2": "_T2", "seg": "_segm"}
_UCSF = {"flair": "_FLAIR", "t1": "_T1", "t1ce": "_T1c", "t2": "_T2", "seg": "_tumor_segmentation"}
# Edition -> id of case n, and the folder that a case lies in, where it is not the case's own alone.
_CASE_ID = {
    "2017": "Brats17_TCIA_{:03d}_1",
    "2018": "Brats18_TCIA01_{:03d}_1",
    "2019": "BraTS19_TCIA01_{:03d}_1",
    "2020": "BraTS20_Training_{:03d}",
    "2021": "BraTS2021_{:05d}",
    "2023": "BraTS-GLI-{:05d}-000",
    "2024": "BraTS-GLI-{:05d}-100",
    "2025": "BraTS-GLI-{:05d}-100",
    "2026": "BraTS-GLI-{:05d}-100",
    "ped": "BraTS-PED-{:05d}-000",
    "ssa": "BraTS-SSA-{:05d}-000",
    "met": "BraTS-MET-{:05d}-000",
    "men": "BraTS-MEN-{:05d}-000",
    "upenn": "UPENN-GBM-{:05d}_11",
    "ucsf": "UCSF-PDGM-{:04d}",
    "msd": "BRATS_{:03d}",
    "nnunet": "GLIOMA_{:03d}",
}
EDITIONS = tuple(_CASE_ID)
# An id after treatment is the same from 2024 on: the folder tells the year.
_DATA_SET = {year: f"MICCAI-BraTS{year}-GLI-Challenge-TrainingData" for year in ("2025", "2026")}
_MISNAMED = ("2020", 355, "W39_1998.09.19_Segm.nii.gz")  # as in the real set
MSD_CHANNELS = {"FLAIR": "flair", "T1w": "t1", "T1gd": "t1ce", "T2w": "t2"}
_NNUNET_CHANNELS = {"T1": "t1", "T1ce": "t1ce", "T2": "t2", "FLAIR": "flair"}
_NNUNET_LABELS = {
    "background": 0,
    "whole tumor": [1, 2, 3],
    "tumor core": [2, 3],
    "enhancing tumor": [3],
}


def case_id(edition: str, number: int) -> str:
    """The name of case `number`."""
    return _CASE_ID[edition].format(number)


def schema(edition: str) -> LabelSchema:
    """The label values that the masks of an edition have."""
    return labels.EDITIONS.get(edition) or schema_from_names(_NNUNET_LABELS, "nnU-Net")


def paths(output: str | os.PathLike, edition: str, number: int, grade: str) -> dict[str, str]:
    """Where a case's files go: modality or "seg" -> path; the Decathlon's four modalities share one file.

    Args:
        grade: "HGG" or "LGG", a folder until 2019.
    """
    name = case_id(edition, number)
    if edition in ("msd", "nnunet"):
        return _paths_below_a_table(output, edition, name)
    folder = files.join(output, *_folders(edition, grade), f"{name}_nifti" if edition == "ucsf" else name)
    places = {kind: files.join(folder, f"{name}{end}.nii.gz") for kind, end in _endings(edition).items()}
    if edition == "upenn":
        places["seg"] = files.join(output, "images_segm", files.name(places["seg"]))
    if (edition, number) == _MISNAMED[:2]:
        places["seg"] = files.join(folder, _MISNAMED[2])
    return places


def _paths_below_a_table(output: str | os.PathLike, edition: str, name: str) -> dict[str, str]:
    """The files of a case of the Decathlon or of nnU-Net."""
    if edition == "msd":
        ending_of = dict.fromkeys(MSD_CHANNELS.values(), "")
    else:
        ending_of = {modality: f"_{channel:04d}" for channel, modality in enumerate(_NNUNET_CHANNELS.values())}
    scans = {m: files.join(output, "imagesTr", f"{name}{ending}.nii.gz") for m, ending in ending_of.items()}
    return {**scans, "seg": files.join(output, "labelsTr", f"{name}.nii.gz")}


def _endings(edition: str) -> Mapping[str, str]:
    """Modality or "seg" -> what stands behind the case's name."""
    if edition in ("upenn", "ucsf"):
        return {"upenn": _UPENN, "ucsf": _UCSF}[edition]
    return _UNTIL_2021 if edition in ("2017", "2018", "2019", "2020", "2021") else _SINCE_2023


def _folders(edition: str, grade: str) -> list[str]:
    """The folders between the data set's and the case's own."""
    if edition in ("2017", "2018", "2019"):
        return [grade]
    if edition == "upenn":
        return ["images_structural"]
    return [_DATA_SET[edition]] if edition in _DATA_SET else []


def write_tables(output: str, edition: str, grades: Mapping[str, str]) -> None:
    """Writes dataset.json or name_mapping.csv, where the edition has one, over all cases that lie there.

    Args:
        grades: of the cases that are new: case id -> "HGG" or "LGG".
    """
    if edition in ("2019", "2020"):
        _write_name_mapping(files.join(output, "name_mapping.csv"), edition, grades)
    if edition in ("msd", "nnunet"):
        case_ids = [
            files.name(path).removesuffix(".nii.gz")
            for path in files.walk(files.join(output, "labelsTr"))
            if not files.name(path).startswith(".")
        ]
        content = _msd_table(case_ids) if edition == "msd" else _nnunet_table(case_ids)
        files.write_json(files.join(output, "dataset.json"), content)


def _write_name_mapping(path: str, edition: str, grades: Mapping[str, str]) -> None:
    """The challenge's table of grades; the rows that are there stay."""
    if files.exists(path):
        rows = [line.split(",") for line in files.read_bytes(path).decode().splitlines()[1:]]
        grades = {**{name: grade for grade, name in rows}, **grades}
    lines = [f"Grade,BraTS_{edition}_subject_ID", *(f"{grades[name]},{name}" for name in sorted(grades))]
    files.write_bytes(path, ("\n".join(lines) + "\n").encode())


def _msd_table(case_ids: Sequence[str]) -> dict[str, Any]:
    return {
        "name": "BRATS",
        "description": "Simulated gliomas in the layout of the Medical Segmentation Decathlon, Task01",
        "tensorImageSize": "4D",
        "modality": {str(channel): text for channel, text in enumerate(MSD_CHANNELS)},
        "labels": {
            "0": "background",
            "1": "edema",
            "2": "non-enhancing tumor",
            "3": "enhancing tumour",
        },
        "numTraining": len(case_ids),
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in case_ids
        ],
        "test": [],
    }


def _nnunet_table(case_ids: Sequence[str]) -> dict[str, Any]:
    return {
        "channel_names": {str(channel): text for channel, text in enumerate(_NNUNET_CHANNELS)},
        "labels": _NNUNET_LABELS,
        "regions_class_order": [1, 2, 3],
        "numTraining": len(case_ids),
        "file_ending": ".nii.gz",
    }
