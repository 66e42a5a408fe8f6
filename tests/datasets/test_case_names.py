"""Whose labels: what ids and folders' names tell, with names as the data sets were published."""

import pytest

from tfbrats.datasets import case_names, layouts
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS
from tfbrats.machine import files

IDS = [
    ("Brats17_2013_10_1", "2017"),
    ("Brats17_TCIA_192_1", "2017"),
    ("Brats18_CBICA_AAB_1", "2018"),
    ("BraTS19_TMC_06290_1", "2019"),
    ("BraTS20_Training_355", "2020"),
    ("BraTS20_Validation_001", "2020"),
    ("BraTS2021_00495", "2021"),
    ("BraTS-GLI-00005-000", "2023"),
    ("BraTS-GLI-00005-001", "2023"),
    ("BraTS-GLI-02405-100", "2024"),
    ("BraTS-GLI-02405-103", "2024"),
    ("BraTS-PED-00002-000", "ped"),
    ("brats-ped-00150-000", "ped"),
    ("BraTS-SSA-00002-000", "ssa"),
    ("BraTS-MET-00630-001", "met"),
    ("BraTS-MEN-00004-000", "men"),
    ("UPENN-GBM-00001_11", "upenn"),
    ("UPENN-GBM-00001_21", "upenn"),
    ("UCSF-PDGM-0004", "ucsf"),
    ("UCSF-PDGM-0429_FU003d", "ucsf"),
]
FOLDERS = [
    ("BraTS2021", "2021"),
    ("MICCAI_BraTS17_Data_Training", "2017"),
    ("Brats17TrainingData", "2017"),
    ("MICCAI_BraTS_2018_Data_Training", "2018"),
    ("MICCAI_BraTS_2019_Data_Training", "2019"),
    ("MICCAI_BraTS2020_TrainingData", "2020"),
    ("MICCAI_BraTS2020_ValidationData", "2020"),
    ("BraTS2020", "2020"),
    ("BraTS2021_Training_Data", "2021"),
    ("RSNA_ASNR_MICCAI_BraTS2021_TrainingData_16July2021", "2021"),
    ("ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData", "2023"),
    ("ASNR-MICCAI-BraTS2023-SSA-Challenge-TrainingData_V2", "ssa"),
    ("ASNR-MICCAI-BraTS2023-PED-Challenge-TrainingData", "ped"),
    ("BraTS2024-PED-Challenge-TrainingData", "ped"),
    ("BraTS2024-BraTS-GLI-TrainingData", "2024"),
    ("MICCAI-LH-BraTS2025-MET-Challenge-TrainingData", "met"),
    ("MICCAI-BraTS2026-GLI-Challenge-TrainingData", "2026"),
]
NO_DATA_SETS = [
    *(
        "2024-05-01",
        "brats_2024-05-01",
        "brats-2021-11-03",
        "2021",
        "trials2024",
        "brats_ours",
        "brats",
        "brats_models",
    ),
    *("copy of BraTS2023", "BraTS2021_predictions", "BraTS2020-vs-BraTS2021", "my BraTS2021 copy", "BraTS2022"),
    *(
        "BraTS2021-2024-05-01",
        "results_BraTS2021",
        "BraTS2023",
        "BraTS2024",
    ),  # since 2023 a year is several challenges
]


def told(case_id, folder=""):
    telling = case_names.tell(case_id, folder)
    return telling and (telling.schema.edition, telling.folder)


@pytest.mark.parametrize(("case_id", "edition"), IDS)
@pytest.mark.parametrize("folder", ["", "/data/2024-05-01/x", "/BraTS2021/brats 2019/BraTS2020"])
def test_an_id_tells_its_table_whatever_stands_in_the_path(case_id, edition, folder):
    assert told(case_id, folder) == (edition, None)


@pytest.mark.parametrize(("name", "edition"), FOLDERS)
def test_a_folder_named_like_a_published_set_tells_the_table_of_other_ids(name, edition):
    assert told("patient7", f"/data/2019/{name}/HGG/patient7") == (edition, name)
    assert told("BraTS-PED-00002-000", f"/data/{name}/x") == ("ped", None)


@pytest.mark.parametrize("name", NO_DATA_SETS)
def test_no_other_folder_tells_a_table(name):
    assert told("patient7", f"/data/{name}/patient7") is None


def test_the_innermost_published_folder_counts():
    assert told("x1", "/BraTS2021/MICCAI_BraTS2020_TrainingData/x1") == (
        "2020",
        "MICCAI_BraTS2020_TrainingData",
    )


@pytest.mark.parametrize("year", ["2024", "2025", "2026"])
def test_a_gliomas_time_point_is_of_the_year_that_its_folder_names(year):
    folder = f"MICCAI-BraTS{year}-GLI-Challenge-TrainingData"
    assert told("BraTS-GLI-00005-000", f"/{folder}/x") == (year, folder)
    assert told("BraTS-GLI-00005-101", f"/{folder}/x")[0] == year
    assert told("BraTS-GLI-00005-101", "/ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/x") == ("2024", None)


@pytest.mark.parametrize(
    ("case_id", "said"),
    [
        ("BraTS-MEN-RT-0012-1", "MEN-RT.*t1c alone"),
        ("brats-men-rt-0012-1", "MEN-RT"),
        ("BraTS-Path-00012", "PATH.*no MRI"),
    ],
)
@pytest.mark.parametrize("edition", [None, "men"])
def test_a_challenge_without_the_regions_is_refused_by_name(place, case_id, said, edition):
    files.write_bytes(files.join(place, case_id, f"{case_id}_t1c.nii.gz"), b"")
    with pytest.raises(InputError, match=rf"{case_id}.*{said}.*no WT, TC and ET"):
        layouts.find(place, edition)


def test_a_challenge_that_is_not_known_is_asked_for_whatever_its_folder(place):
    case_id = "BraTS-GoAT-00012"
    for kind in ("t1c", "seg"):
        files.write_bytes(files.join(place, "BraTS2021", case_id, f"{case_id}-{kind}.nii.gz"), b"")
    with pytest.raises(InputError, match=rf"edition of {case_id} .*--edition with one of .*2023.*ped"):
        layouts.find(place)
    assert layouts.find(place, "2023").cases[0].schema == EDITIONS["2023"]


def test_a_guess_from_a_folder_is_noted_wherever_in_it_one_points(place):
    for case_id in ("p1", "p2"):
        for kind in ("t1", "t1ce", "t2", "flair", "seg"):
            files.write_bytes(files.join(place, "BraTS2021", case_id, f"{case_id}_{kind}.nii.gz"), b"")
    for below, count in ((("BraTS2021",), 2), (("BraTS2021", "p2"), 1), ((), 2)):
        dataset = layouts.find(files.join(place, *below))
        assert dataset.editions == ["2021"]
        (note,) = dataset.notes
        assert note.startswith(f"edition 2021 is taken from the folder's name BraTS2021 (cases: {count})")
        assert dataset.guesses == dataset.notes


def test_an_id_of_another_challenge_than_its_folder_wins_and_nothing_is_guessed(place):
    case_id = "BraTS-PED-00002-000"
    for kind in ("t1n", "seg"):
        files.write_bytes(
            files.join(place, "BraTS2024-BraTS-GLI-TrainingData", case_id, f"{case_id}-{kind}.nii"), b""
        )
    dataset = layouts.find(place)
    assert dataset.editions == ["ped"] and not dataset.notes


def test_names_without_a_mask_are_read_and_the_values_written_are_told(place):
    for kind in ("t1", "t1ce", "t2", "flair"):
        files.write_bytes(files.join(place, "p1", f"p1_{kind}.nii.gz"), b"")
    dataset = layouts.find(place)
    (note,) = dataset.guesses
    assert dataset.editions == ["2023"] and note.startswith("p1: nothing tells the edition")
    assert not layouts.find(place, "2021").guesses


def test_an_edition_that_overrules_ids_is_told_where_its_table_is_another(place):
    for kind in ("t1", "seg"):
        files.write_bytes(files.join(place, "BraTS2021_00001", f"BraTS2021_00001_{kind}.nii.gz"), b"")
    assert layouts.find(place, "2024").guesses == ("--edition 2024 is taken for 1 case whose names tell 2021",)
    assert not layouts.find(place, "2020").guesses  # the same table
