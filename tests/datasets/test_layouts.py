import unicodedata

import nibabel
import numpy as np
import pytest

from tfbrats.cases import case, dealing
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES
from tfbrats.machine import files
from tfbrats.phantoms import data_sets, simulation


def touch(place, *names, content=b""):
    for name in names:
        files.write_bytes(files.join(place, *name.split("/")), content)


def brats_names(case_id, ending=".nii.gz", seg=True):
    kinds = ["t1", "t1ce", "t2", "flair"] + ["seg"] * seg
    return [f"{case_id}/{case_id}_{kind}{ending}" for kind in kinds]


def raw_values(path):
    return np.asanyarray(nibabel.load(path).dataobj)


# --- every edition --------------------------------------------------------------------------------------

EXPECTED = {  # edition -> case ids, layout's first words
    "2017": ("Brats17_TCIA_00{}_1", "BraTS folders"),
    "2018": ("Brats18_TCIA01_00{}_1", "BraTS folders"),
    "2019": ("BraTS19_TCIA01_00{}_1", "BraTS folders"),
    "2020": ("BraTS20_Training_00{}", "BraTS folders"),
    "2021": ("BraTS2021_0000{}", "BraTS folders"),
    "2023": ("BraTS-GLI-0000{}-000", "BraTS folders"),
    "2024": ("BraTS-GLI-0000{}-100", "BraTS folders"),
    "ped": ("BraTS-PED-0000{}-000", "BraTS folders"),
    "ssa": ("BraTS-SSA-0000{}-000", "BraTS folders"),
    "met": ("BraTS-MET-0000{}-000", "BraTS folders"),
    "men": ("BraTS-MEN-0000{}-000", "BraTS folders"),
    "upenn": ("UPENN-GBM-0000{}_11", "UPenn-GBM"),
    "ucsf": ("UCSF-PDGM-000{}", "UCSF-PDGM"),
    "msd": ("BRATS_00{}", "MSD Task01"),
    "nnunet": ("GLIOMA_00{}", "nnU-Net raw"),
}


@pytest.mark.parametrize("edition", EXPECTED)
def test_every_edition_is_recognised_by_its_names(tiny_dataset, edition):
    dataset = layouts.find(tiny_dataset(edition))
    pattern, layout = EXPECTED[edition]
    assert [found.case_id for found in dataset.cases] == [pattern.format(n) for n in (1, 2)]
    assert dataset.editions == [edition]
    assert len(dataset.layouts) == 1 and dataset.layouts[0].startswith(layout)
    assert not dataset.notes
    for found in dataset.cases:
        assert [m for m, _, _ in found.images] == list(MODALITIES)
        assert found.label and found.label_expected and not found.problems


@pytest.mark.parametrize("edition", EXPECTED)
def test_every_edition_is_read_and_written_back_in_its_own_label_values(tiny_dataset, tmp_path, edition):
    schema_values = {value for value, _ in layouts.find(tiny_dataset(edition)).cases[0].schema.values}
    for found in layouts.find(tiny_dataset(edition)).cases:
        loaded = case.load(found, need_label=True)
        path = tmp_path / f"{found.case_id}.nii.gz"
        case.save_segmentation(path, loaded.label, loaded.grid, loaded.schema)
        original = raw_values(found.label)
        assert np.array_equal(raw_values(path), original)
        assert raw_values(path).dtype == np.uint8
        assert set(np.unique(original)) <= schema_values and original.any()
        assert np.array_equal(case.load_label(path, found.schema)[0], loaded.label)


@pytest.mark.parametrize("edition", EXPECTED)
def test_every_edition_gives_the_same_case_whatever_its_channel_order_and_values(tiny_dataset, edition):
    found = layouts.find(tiny_dataset(edition)).cases[1]
    number = 2
    resected = edition == "2024" and data_sets.is_resected(1, number)
    image, tissues = simulation.simulate((32, 32, 20), 1, number, resected=resected)
    if edition == "ped":
        tissues = data_sets.with_cyst(tissues)
    loaded = case.load(found)
    assert np.array_equal(loaded.image, image)
    assert np.array_equal(loaded.label, tissues)


def test_the_decathlon_file_holds_other_values_than_brats_for_the_same_tumour(tiny_dataset):
    msd, brats = (raw_values(layouts.find(tiny_dataset(e)).cases[0].label) for e in ("msd", "2020"))
    assert np.array_equal(msd == 1, brats == 2)
    assert np.array_equal(msd == 2, brats == 1)
    assert np.array_equal(msd == 3, brats == 4)
    assert (msd == 1).any() and (msd == 2).any()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
def test_names_are_understood_in_any_letter_case_and_both_endings(place, ending, spell):
    touch(
        place, *(f"BraTS20_Training_001/BraTS20_Training_001_{spell(k)}{ending}" for k in [*MODALITIES, "seg"])
    )
    (found,) = layouts.find(place).cases
    assert found.case_id == "BraTS20_Training_001"
    for modality, path, channel in found.images:
        assert files.name(path).lower().startswith(f"brats20_training_001_{modality}.nii")
        assert channel is None
    assert "seg" in files.name(found.label).lower()


@pytest.mark.parametrize(
    ("case_id", "edition", "patient"),
    [
        ("Brats17_2013_10_1", "2017", "Brats17_2013_10"),
        ("Brats18_CBICA_AAB_1", "2018", "Brats18_CBICA_AAB"),
        ("BraTS19_TMC_06290_1", "2019", "BraTS19_TMC_06290"),
        ("BraTS20_Training_355", "2020", "BraTS20_Training_355"),
        ("BraTS20_Validation_001", "2020", "BraTS20_Validation_001"),
        ("BraTS2021_00495", "2021", "BraTS2021_00495"),
        ("BraTS-GLI-00005-000", "2023", "BraTS-GLI-00005"),
        ("BraTS-GLI-00005-001", "2023", "BraTS-GLI-00005"),
        ("BraTS-GLI-02405-100", "2024", "BraTS-GLI-02405"),
        ("BraTS-GLI-02405-103", "2024", "BraTS-GLI-02405"),
    ],
)
def test_edition_and_patient_are_read_from_real_names(place, case_id, edition, patient):
    kinds = (
        ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")
        if "GLI" in case_id
        else ("_t1", "_t1ce", "_t2", "_flair", "_seg")
    )
    touch(place, *(f"{case_id}/{case_id}{kind}.nii.gz" for kind in kinds))
    (found,) = layouts.find(place).cases
    assert (found.schema.edition, found.patient_id) == (edition, patient)


def test_a_folder_named_2024_tells_the_edition_of_early_time_points(place):
    touch(place, *(f"BraTS2024-GLI/BraTS-GLI-00005-000/BraTS-GLI-00005-000-{k}.nii.gz" for k in ("t1n", "seg")))
    assert layouts.find(place).editions == ["2024"]


@pytest.mark.parametrize(
    ("folder", "edition"),
    [
        ("BraTS2023/2024-11-03", "2023"),  # a date is no edition
        ("trials2024/BraTS-GLI", "2023"),
        ("BraTS2024/copy of BraTS2023", "2024"),  # a copy is no published name
        ("ASNR-MICCAI-BraTS2023-GLI/BraTS 2024", "2024"),  # the innermost says it
    ],
)
def test_only_the_name_of_a_published_data_set_tells_the_edition(place, folder, edition):
    touch(place, f"{folder}/BraTS-GLI-00005-000/BraTS-GLI-00005-000-t1n.nii.gz")
    assert layouts.find(place).editions == [edition]


def test_time_points_of_one_patient_share_a_patient_id(place):
    for case_id in ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00006-000"):
        touch(place, *(f"{case_id}/{case_id}-{kind}.nii.gz" for kind in ("t1n", "t1c", "t2w", "t2f")))
    assert [c.patient_id[-5:] for c in layouts.find(place).cases] == ["00005", "00005", "00006"]


def test_grades_in_folders_are_looked_into(place):
    touch(place, *(f"HGG/{n}" for n in brats_names("Brats18_TCIA01_131_1")))
    touch(place, *(f"LGG/{n}" for n in brats_names("Brats18_TCIA09_141_1")))
    assert len(layouts.find(place).cases) == 2


@pytest.mark.parametrize("edition", ["2017", "2018", "2019", "2020"])
def test_a_grade_is_told_by_its_folder_or_by_the_table(tmp_path, edition):
    data_sets.write_dataset(tmp_path, 8, edition, 1, simulation.LEAST_SHAPE)
    dataset = layouts.find(tmp_path)
    expected = [data_sets._grade(1, n) for n in range(8)]
    assert [dataset.grade_of(one) for one in dataset.cases] == expected and set(expected) == {"HGG", "LGG"}
    assert len(dataset.table_grades) == (8 if edition in ("2019", "2020") else 0) and not dataset.notes


def test_no_grade_is_known_where_nothing_tells_it(place):
    touch(place, *(f"gliomas/{name}" for name in brats_names("BraTS2021_00001")))
    dataset = layouts.find(place)
    assert [dataset.grade_of(one) for one in dataset.cases] == [None]


@pytest.mark.parametrize("where", ["name_mapping.csv", "tables/Name_Mapping (1).csv"])
@pytest.mark.parametrize(
    "text",
    [
        "Grade,BraTS_2020_subject_ID\nHGG,BraTS20_Training_001\nLGG,BraTS20_Training_002\n",
        "\ufeffBraTS_2019_subject_ID; grade \r\nBraTS20_Training_001; HGG\r\nbrats20_training_002;lgg\r\n",
        'Tumor_Grade\tTCIA\t"2020"\nHGG\tNA\tBraTS20_Training_001\nLGG\tTCGA-1\tBraTS20_Training_002',
    ],
)
def test_a_table_is_understood_wherever_it_lies_and_whatever_its_columns_are_called(place, where, text):
    touch(place, *brats_names("BraTS20_Training_001"), *brats_names("BraTS20_Training_002"))
    touch(place, *brats_names("BraTS20_Training_003"))
    touch(place, where, content=text.encode())
    dataset = layouts.find(place)
    assert [dataset.grade_of(one) for one in dataset.cases] == ["HGG", "LGG", None]
    assert not dataset.notes


@pytest.mark.parametrize(
    ("text", "grades", "note"),
    [
        ("Grade,ID\nNA,BraTS20_Training_001\n,BraTS20_Training_002\nHGG\n\n", [None, None], None),
        ("ID,Age\nBraTS20_Training_001,60\n", [None, None], "has no column Grade, but 'ID,Age'; not used"),
        ("", [None, None], "has no column Grade"),
        (b"\x00\xff\xfe\r\r\n\x1b[2J", [None, None], "no column Grade"),
        ("Grade,ID\nHGG," + "x" * 200_000, [None, None], "cannot be read as a table"),
        (
            "Grade,ID\nGBM,BraTS20_Training_001\nGBM,BraTS20_Training_002\n",
            [None, None],
            "BraTS20_Training_001 and 1 more: grade GBM in name_mapping.csv; taken as unknown",
        ),
        (
            "Grade,ID\nHGG,BraTS20_Training_001\nLGG,BraTS20_Training_001\nLGG,BraTS20_Training_002\n",
            [None, "LGG"],
            "BraTS20_Training_001: grade HGG and LGG in name_mapping.csv; taken as unknown",
        ),
    ],
)
def test_what_a_table_does_not_tell_is_unknown_and_what_is_odd_is_noted(place, text, grades, note):
    touch(place, *brats_names("BraTS20_Training_001"), *brats_names("BraTS20_Training_002"))
    touch(place, "name_mapping.csv", content=text if isinstance(text, bytes) else text.encode())
    dataset = layouts.find(place)
    assert [dataset.grade_of(one) for one in dataset.cases] == grades
    assert [note in found for found in dataset.notes] == [True] * bool(note)


def test_a_table_of_grades_is_read_as_all_tables_of_ids_are(place):
    touch(place, *brats_names("BraTS20_Training_001"))
    text = "\nGrade\tBraTS_2020_subject_ID\nHGG\tBraTS20_Training_001\n"
    touch(place, "name_mapping.csv", content=text.encode("utf-16"))  # Excel's "Unicode text"
    touch(place, "name_mapping (1).csv", content=b"PK\x03\x04")
    dataset = layouts.find(place)
    assert dataset.grade_of(dataset.cases[0]) == "HGG"
    (note, *_) = dataset.notes
    assert note.endswith("name_mapping (1).csv: is a workbook, and no text; no grade is taken from it")


def test_a_folder_is_believed_before_the_table_and_the_innermost_before_others(place):
    touch(place, *(f"HGG/LGG/{name}" for name in brats_names("BraTS19_CBICA_AAB_1")))
    touch(place, "name_mapping.csv", content=b"Grade,ID\nHGG,BraTS19_CBICA_AAB_1\n")
    dataset = layouts.find(place)
    assert dataset.grade_of(dataset.cases[0]) == "LGG"
    (note,) = dataset.notes
    assert note == "BraTS19_CBICA_AAB_1: grade HGG in name_mapping.csv; taken as LGG, as its folder says"


def test_2017s_masks_named_after_their_tool_are_masks(place):
    touch(place, *brats_names("Brats17_TCIA_001_1", seg=False))
    touch(place, "Brats17_TCIA_001_1/Brats17_TCIA_001_1_seg_GlistrBoost_ManuallyCorrected.nii.gz")
    dataset = layouts.find(place)
    assert dataset.cases[0].label.endswith("ManuallyCorrected.nii.gz")
    assert not dataset.notes


def test_an_edition_given_by_hand_overrides_the_names(place):
    touch(place, *brats_names("BraTS2021_00001"))
    assert layouts.find(place, edition="2023").cases[0].schema == EDITIONS["2023"]
    with pytest.raises(InputError, match=r"edition '2022' is unknown; choose from .*2021.*msd"):
        layouts.find(place, edition="2022")


def test_an_edition_that_no_name_tells_is_asked_for(place):
    touch(place, *brats_names("patient7"))
    with pytest.raises(InputError, match=r"edition of patient7 .*--edition"):
        layouts.find(place)
    assert layouts.find(place, edition="2020").cases[0].case_id == "patient7"


# --- quirks ---------------------------------------------------------------------------------------------


def test_the_misnamed_mask_of_case_355_is_recognised_and_noted(tmp_path):
    data_sets.write_dataset(tmp_path, 2, "2020", seed=3, shape=(24, 24, 16), first=354)
    dataset = layouts.find(tmp_path)
    first, misnamed = dataset.cases
    assert misnamed.case_id == "BraTS20_Training_355"
    assert files.name(misnamed.label) == "W39_1998.09.19_Segm.nii.gz"
    assert any("W39_1998.09.19_Segm.nii.gz" in note for note in misnamed.notes)
    assert not first.notes and not dataset.notes
    assert case.load(misnamed, need_label=True).label.any()


@pytest.mark.parametrize("mask", ["W39_1998.09.19_Segm.nii", "P17_2001_seg.nii.gz", "AAA12_seg.nii"])
def test_a_lone_mask_of_another_name_is_taken_and_noted(place, mask):
    touch(place, *brats_names("BraTS20_Training_355", seg=False), f"BraTS20_Training_355/{mask}")
    (found,) = layouts.find(place).cases
    assert files.name(found.label) == mask
    assert mask in found.notes[0]


def test_two_masks_of_other_names_are_a_problem_that_names_both(place):
    touch(place, *brats_names("BraTS20_Training_001", seg=False))
    touch(place, "BraTS20_Training_001/A12_Segm.nii", "BraTS20_Training_001/B34_Segm.nii")
    (found,) = layouts.find(place).cases
    (problem,) = found.problems
    assert "A12_Segm.nii" in problem and "B34_Segm.nii" in problem and not found.notes


def test_a_mask_is_not_lent_to_the_neighbour_in_one_folder(place):
    names = brats_names("BraTS2021_00001", seg=False) + brats_names("BraTS2021_00002", seg=False)
    touch(place, *(n.split("/")[1] for n in names), "BraTS2021_00003_seg.nii.gz")
    dataset = layouts.find(place)
    assert [found.label for found in dataset.cases] == [None, None]
    assert "BraTS2021_00003_seg.nii.gz" in dataset.notes[0]


def test_files_of_macos_are_passed_over(place):
    names = brats_names("BraTS20_Training_001")
    touch(place, *names, *(n.replace("/", "/._") for n in names), ".DS_Store")
    dataset = layouts.find(place)
    assert len(dataset.cases) == 1 and not dataset.notes and not dataset.cases[0].problems


def test_one_cases_folder_is_a_data_set_of_one(place):
    touch(place, *brats_names("BraTS2021_00495"))
    (found,) = layouts.find(files.join(place, "BraTS2021_00495")).cases
    assert found.case_id == "BraTS2021_00495" and found.label


def test_cases_may_lie_side_by_side_in_one_folder(place):
    names = brats_names("BraTS2021_00001") + brats_names("BraTS2021_00002")
    touch(place, *(n.split("/")[1] for n in names))
    cases = layouts.find(place).cases
    assert [(c.case_id, len(c.images), files.name(c.label)) for c in cases] == [
        (f"BraTS2021_0000{n}", 4, f"BraTS2021_0000{n}_seg.nii.gz") for n in (1, 2)
    ]


def test_two_files_for_one_modality_are_a_problem_that_names_both(place):
    touch(place, *brats_names("BraTS2021_00001"), "BraTS2021_00001/BraTS2021_00001_t1.nii")
    (found,) = layouts.find(place).cases
    (problem,) = found.problems
    assert "BraTS2021_00001_t1.nii " in problem and "BraTS2021_00001_t1.nii.gz" in problem
    assert "both t1" in problem


def test_a_case_in_two_folders_is_refused(place):
    touch(place, *(f"{copy}/{name}" for copy in "ab" for name in brats_names("BraTS2021_00001")))
    with pytest.raises(InputError, match=r"twice: BraTS2021_00001.*/a/BraTS.* and in .*/b/BraTS"):
        layouts.find(place)


def test_files_that_are_not_understood_are_listed(place):
    touch(place, *brats_names("BraTS2021_00001"), "BraTS2021_00001/atlas.nii.gz")
    (note,) = layouts.find(place).notes
    assert "atlas.nii.gz" in note and "left out" in note


def test_a_lacking_mask_is_expected_only_where_others_have_one(place):
    touch(place, *brats_names("BraTS2021_00001"), *brats_names("BraTS2021_00002", seg=False))
    assert [(bool(c.label), c.label_expected) for c in layouts.find(place).cases] == [
        (True, True),
        (False, True),
    ]
    files.remove(files.join(place, "BraTS2021_00001"))
    assert not layouts.find(place).cases[0].label_expected


# --- nothing found --------------------------------------------------------------------------------------


def test_an_empty_folder_is_an_error_that_lists_the_layouts(tmp_path):
    with pytest.raises(InputError) as error:
        layouts.find(tmp_path)
    assert all(layout in str(error.value) for layout in layouts.LAYOUTS)
    assert "no file" in str(error.value)


def test_a_folder_of_other_things_is_an_error_that_shows_some(place):
    touch(place, "brain.png", "notes/readme.txt")
    with pytest.raises(InputError, match=r"(?s)no case found among 2 files.*brain\.png"):
        layouts.find(place)


def test_a_folder_that_is_not_there_is_named(place):
    with pytest.raises(InputError, match="elsewhere: no such folder"):
        layouts.find(files.join(place, "elsewhere"))


def test_a_file_of_the_input_is_no_place_for_an_output(place):
    touch(place, *brats_names("BraTS2021_00001"))
    cases = layouts.find(place).cases
    layouts.check_outputs(cases, [files.join(place, "BraTS2021_00001.nii.gz")])
    for path in cases[0].paths():
        with pytest.raises(InputError, match="never overwritten"):
            layouts.check_outputs(cases, [files.join(place, "x.nii"), path])


# --- dataset.json ---------------------------------------------------------------------------------------


def nnunet(place, channels, labels, names):
    files.write_json(
        files.join(place, "dataset.json"),
        {"channel_names": channels, "labels": labels, "file_ending": ".nii.gz"},
    )
    touch(place, *names)


PLAIN = {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3}
ORDER = {"0": "T1Gd", "1": "T2", "2": "FLAIR", "3": "T1"}


def test_nnunets_channels_are_read_by_name_not_by_place(place):
    nnunet(place, ORDER, PLAIN, [f"imagesTr/case_{c:04d}.nii.gz" for c in range(4)] + ["labelsTr/case.nii.gz"])
    (found,) = layouts.find(place).cases
    by_modality = {m: files.name(path)[5:9] for m, path, _ in found.images}
    assert by_modality == {"flair": "0002", "t1": "0003", "t1ce": "0000", "t2": "0001"}


def test_a_missing_channel_of_nnunet_is_a_missing_modality(place):
    nnunet(place, ORDER, PLAIN, [f"imagesTr/case_{c:04d}.nii.gz" for c in (0, 1, 3)] + ["labelsTr/case.nii.gz"])
    (found,) = layouts.find(place).cases
    assert {m for m, _, _ in found.images} == set(MODALITIES) - {"flair"}


def test_test_images_of_nnunet_need_no_mask(place):
    names = [f"images{part}/{part}_{c:04d}.nii.gz" for part in ("Tr", "Ts") for c in range(4)]
    nnunet(place, ORDER, PLAIN, [*names, "labelsTr/Tr.nii.gz"])
    training, test = layouts.find(place).cases
    assert (training.label_expected, test.label_expected) == (True, False)
    assert test.label is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"labels": PLAIN}, "channel_names"),
        ({"channel_names": ORDER}, "labels"),
        ({"channel_names": {"0": "CT"}, "labels": PLAIN}, "CT"),
        ({"channel_names": {"T1": "0"}, "labels": PLAIN}, "channel 'T1'"),
        ({"channel_names": ORDER, "labels": {"background": 0, "liver": 1}}, "liver"),
        ([1, 2], "channel_names"),
    ],
)
def test_a_dataset_json_of_something_else_is_refused_by_name(place, content, said):
    files.write_json(files.join(place, "dataset.json"), content)
    touch(place, "imagesTr/case_0000.nii.gz")
    with pytest.raises(InputError, match=rf"dataset\.json.*{said}"):
        layouts.find(place)


def test_a_decathlon_and_brats_folders_may_lie_under_one_root(place):
    files.write_json(
        files.join(place, "Task01", "dataset.json"),
        {
            "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
            "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        },
    )
    touch(place, "Task01/imagesTr/BRATS_001.nii.gz", "Task01/labelsTr/BRATS_001.nii.gz")
    touch(place, *(f"brats/{name}" for name in brats_names("BraTS2021_00001")))
    dataset = layouts.find(place)
    assert dataset.editions == ["2021", "msd"]
    decathlon = dataset.cases[0]
    assert [channel for _, _, channel in decathlon.images] == [0, 1, 2, 3]
    assert decathlon.schema == EDITIONS["msd"]


# --- visits, and cases without masks --------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        "{patient}/{visit}/{kind}.nii.gz",
        "{patient}/{visit}/{visit}_{kind}.nii.gz",
        "set/{patient}/{visit}_{kind}.nii.gz",
    ],
)
@pytest.mark.parametrize("visit", ["2019-01-01", "week-000-1", "baseline", "visit2", "T1"])
def test_visits_in_folders_of_a_patient_are_the_patients(tmp_path, pattern, visit):
    for patient in ("P1", "P2"):
        for date in (visit, "2020-01-02"):
            names = (pattern.format(patient=patient, visit=date, kind=k) for k in (*MODALITIES, "seg"))
            touch(tmp_path, *names)
    dataset = layouts.find(tmp_path, "2020")
    assert dataset.patient_of == {f"{p}_{v}": p for p in ("P1", "P2") for v in (visit, "2020-01-02")}
    for one in dataset.cases:
        assert files.parent(one.label) == files.parent(one.images[0][1]) and not one.problems


def test_one_patients_name_in_several_folders_of_visits(place):
    for visit in ("2019-01-01", "2020-01-02"):
        touch(place, *(f"Pat1/{visit}/Pat1_{kind}.nii.gz" for kind in (*MODALITIES, "seg")))
    touch(place, *(f"Pat2/2019-01-01/Pat2_{kind}.nii.gz" for kind in (*MODALITIES, "seg")))
    dataset = layouts.find(place, "2020")
    assert dataset.patient_of == {"Pat1_2019-01-01": "Pat1", "Pat1_2020-01-02": "Pat1", "Pat2": "Pat2"}
    assert all(one.label and one.case_id[:4] in one.label for one in dataset.cases)


def test_a_visit_has_one_id_whichever_folder_is_given(tmp_path, monkeypatch):
    touch(tmp_path, *(f"P1/2019-01-01/{kind}.nii.gz" for kind in MODALITIES))
    monkeypatch.chdir(tmp_path / "P1")
    for root in (tmp_path, tmp_path / "P1" / "2019-01-01", "2019-01-01", ".."):
        assert [one.case_id for one in layouts.find(root, "2020").cases] == ["P1_2019-01-01"]


@pytest.mark.parametrize("folder", ["images/D01", "train/M3", "scan_001", "sets/study5", "2019-01-01"])
def test_a_case_below_no_patients_folder_keeps_its_name(tmp_path, folder):
    touch(tmp_path, *(f"{folder}/{kind}.nii.gz" for kind in MODALITIES))
    assert [one.case_id for one in layouts.find(tmp_path, "2020").cases] == [folder.rsplit("/", 1)[-1]]


def test_one_name_in_two_folders_is_an_error_that_names_the_scans_folders(place):
    for site in ("a", "b"):
        touch(place, *(f"{site}/case/{kind}.nii.gz" for kind in (*MODALITIES, "seg")))
    with pytest.raises(InputError, match=r"/a/case and in .*/b/case.* copies; .*put the patient's name"):
        layouts.find(place, "2020")


@pytest.mark.parametrize(
    ("folder", "case_id"),
    [
        ("MICCAI_BraTS2020_ValidationData", "BraTS20_Validation_001"),
        ("other", "BraTS20_Validation_001"),
        ("Brats17ValidationData", "Brats17_CBICA_ACE_1"),
        ("RSNA-ASNR-MICCAI-BraTS-2021/BraTS2021_ValidationSet", "BraTS2021_00009"),
        ("ASNR-MICCAI-BraTS2023-GLI-Challenge-ValidationData", "BraTS-GLI-00009-000"),
    ],
)
def test_a_challenges_validation_cases_lack_no_mask_and_are_in_no_split(tmp_path, folder, case_id):
    touch(tmp_path, *brats_names("BraTS20_Training_001"))
    touch(tmp_path, *(f"{folder}/{name}" for name in brats_names(case_id, seg=False)))
    dataset = layouts.find(tmp_path)
    expected = {one.case_id: one.label_expected for one in dataset.cases}
    assert expected == {case_id: False, "BraTS20_Training_001": True}
    assert any(note.startswith("1 case of a challenge's validation") for note in dataset.notes)
    split = dealing.split_cases(dataset, (1, 0, 0), 0)
    assert split == {"train": ["BraTS20_Training_001"], "validation": [], "test": []}


def test_a_training_case_without_its_mask_is_missed(tmp_path):
    for case_id, seg in (("BraTS20_Training_001", True), ("BraTS20_Training_002", False)):
        touch(tmp_path, *(f"BraTS2020_TrainingData/{name}" for name in brats_names(case_id, seg=seg)))
    assert [one.label_expected for one in layouts.find(tmp_path).cases] == [True, True]


def test_where_no_case_is_found_the_reasons_are_told(place):
    touch(place, "sub-01/anat/sub-01_label-tumor_dseg.nii.gz", "derivatives/n4/sub-01/anat/sub-01_T1w.nii.gz")
    with pytest.raises(
        InputError, match=r"no case found among 2 files(.|\n)*T1w.nii.gz: a scan under derivatives"
    ):
        layouts.find(place)


@pytest.mark.parametrize(
    ("folder", "files_id", "is_told"),
    [
        ("BraTS2021_00001", "BraTS2021_00002", True),
        ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", True),
        ("BraTS-GLI-00001", "BraTS-GLI-00001-001", False),
        ("train", "BraTS2021_00002", False),
        ("001", "0001", False),
    ],
)
def test_a_folder_with_another_cases_name_than_its_files_is_told(tmp_path, folder, files_id, is_told):
    touch(tmp_path, *(f"{folder}/{files_id}_{kind}.nii.gz" for kind in (*MODALITIES, "seg")))
    (found,) = layouts.find(tmp_path, "2021").cases
    assert found.case_id == files_id and found.label
    assert found.notes == (f"its folder is named {folder}: its files' names are taken",) * is_told


def test_one_name_in_two_spellings_of_its_accents_is_one_name_twice(place):
    """A copy by way of a Mac: NFC and NFD look the same."""
    for folder, form in (("one", "NFC"), ("two", "NFD")):
        case_id = unicodedata.normalize(form, "BraTS20_Größe_1")
        touch(place, *(f"{folder}/{case_id}/{case_id}_{kind}.nii.gz" for kind in ("flair", "t1", "t1ce", "t2")))
    with pytest.raises(InputError, match="case ids occur twice: BraTS20_Größe_1"):
        layouts.find(place)
