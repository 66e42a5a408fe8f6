"""Layouts as others publish them, read by names alone: TCIA, BIDS, BraTS-Toolkit, Kaggle, nnU-Net."""

import time

import pytest

from tfbrats.cases import case, nifti
from tfbrats.datasets import brats_folders, layouts, scan_names
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES, Tissue
from tfbrats.machine import files
from tfbrats.phantoms import data_sets, simulation


def touch(place, *names):
    for name in names:
        files.write_bytes(files.join(place, *name.split("/")), b"")


def images_of(entry):
    return {modality: files.name(path) for modality, path, _ in entry.images}


# --- TCIA -----------------------------------------------------------------------------------------------


def test_upenn_gbm_as_published(place):
    for case_id in ("UPENN-GBM-00001_11", "UPENN-GBM-00002_11"):
        for kind in ("T1", "T1GD", "T2", "FLAIR"):
            touch(place, f"NIfTI-files/images_structural/{case_id}/{case_id}_{kind}.nii.gz")
            unstripped = f"{case_id}/{case_id}_{kind}_unstripped.nii.gz"
            touch(place, f"NIfTI-files/images_structural_unstripped/{unstripped}")
        touch(place, f"NIfTI-files/automated_segm/{case_id}_automated_approx_segm.nii.gz")
        touch(place, f"NIfTI-files/images_DTI/{case_id}/{case_id}_DTI_FA.nii.gz")
        touch(place, f"NIfTI-files/images_DSC/{case_id}/{case_id}_DSC_ap-rCBV.nii.gz")
    touch(place, "NIfTI-files/images_segm/UPENN-GBM-00001_11_segm.nii.gz")
    dataset = layouts.find(place)
    first, second = dataset.cases
    assert (first.case_id, second.case_id) == ("UPENN-GBM-00001_11", "UPENN-GBM-00002_11")
    for found in dataset.cases:
        kinds = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1GD", "t2": "T2"}
        assert images_of(found) == {m: f"{found.case_id}_{kind}.nii.gz" for m, kind in kinds.items()}
        assert all("/images_structural/" in path for _, path, _ in found.images)
        assert found.schema == EDITIONS["upenn"] and found.layout.startswith("UPenn-GBM")
        assert not found.notes and not found.problems
    assert files.name(first.label) == "UPENN-GBM-00001_11_segm.nii.gz"
    assert second.label is None and not second.label_expected  # the publisher drew some alone
    notes = "\n".join(dataset.notes)
    assert "1 of 2 cases have no expert's mask" in notes
    assert "_unstripped.nii.gz and 7 more files: the skull is in it" in notes
    assert "a program drew it" in notes
    assert len(dataset.notes) < 10


def test_ucsf_pdgm_as_published(place):
    others = ("SWI", "DWI", "DWI_bias", "ADC", "ASL", "DTI_eddy_FA", "DTI_eddy_MD")
    masks = ("brain_segmentation", "brain_parenchyma_segmentation", "tumor_segmentation")
    scans = ("T1", "T1c", "T2", "FLAIR", "T1_bias", "T1c_bias", "T2_bias", "FLAIR_bias")
    for case_id in ("UCSF-PDGM-0004", "UCSF-PDGM-0429_FU003d"):
        touch(place, *(f"{case_id}_nifti/{case_id}_{kind}.nii.gz" for kind in (*scans, *masks, *others)))
    dataset = layouts.find(place)
    assert [found.case_id for found in dataset.cases] == ["UCSF-PDGM-0004", "UCSF-PDGM-0429_FU003d"]
    for found in dataset.cases:
        kinds = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1c", "t2": "T2"}
        assert images_of(found) == {m: f"{found.case_id}_{kind}.nii.gz" for m, kind in kinds.items()}
        assert files.name(found.label) == f"{found.case_id}_tumor_segmentation.nii.gz"
        assert found.schema == EDITIONS["ucsf"] and not found.problems
        assert not found.notes
    notes = "\n".join(dataset.notes)
    assert "_FLAIR_bias.nii.gz and 7 more files: a bias-corrected copy" in notes
    assert "_tumor_segmentation" not in notes and len(dataset.notes) < 10


@pytest.mark.parametrize("edition", ["upenn", "ucsf"])
def test_tcias_phantoms_are_the_tumours_of_other_editions(tmp_path, edition):
    data_sets.write_dataset(tmp_path, 1, edition, seed=1, shape=(32, 32, 20), first=2)
    (found,) = layouts.find(tmp_path).cases
    _, tissues = simulation.simulate((32, 32, 20), 1, 2)
    assert (case.load(found, need_label=True).label == tissues).all()


# --- BIDS -----------------------------------------------------------------------------------------------


def bids(subject, session=None, mask="label-tumor_dseg"):
    name = f"{subject}_ses-{session}" if session else subject
    folder = f"{subject}/ses-{session}/anat" if session else f"{subject}/anat"
    scans = [f"{folder}/{name}_{end}.nii.gz" for end in ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR")]
    return [*scans, f"derivatives/manual/{folder}/{name}_{mask}.nii.gz"]


def test_bids_with_and_without_sessions(place):
    touch(
        place,
        *bids("sub-001"),
        *bids("sub-002", "01"),
        *bids("sub-002", "02"),
        "sub-001/func/sub-001_task-x_bold.nii.gz",
    )
    dataset = layouts.find(place, "2021")
    assert [found.case_id for found in dataset.cases] == ["sub-001", "sub-002_ses-01", "sub-002_ses-02"]
    for found in dataset.cases:
        assert images_of(found) == {
            "flair": f"{found.case_id}_FLAIR.nii.gz",
            "t1": f"{found.case_id}_T1w.nii.gz",
            "t1ce": f"{found.case_id}_ce-gadolinium_T1w.nii.gz",
            "t2": f"{found.case_id}_T2w.nii.gz",
        }
        assert files.name(found.label) == f"{found.case_id}_label-tumor_dseg.nii.gz" and not found.problems
        assert found.layout.startswith("BIDS") and found.label_expected
    (note,) = dataset.notes
    assert "sub-001_task-x_bold.nii.gz: another kind of file" in note


def test_bids_with_its_raw_data_and_derivatives_side_by_side(place):
    for path in (*bids("sub-001"), *bids("sub-002", "01")):
        touch(place, path if path.startswith("derivatives") else f"rawdata/{path}")
    touch(place, *(f"sourcedata/{path}" for path in bids("sub-001")[:4]))
    touch(place, "sourcedata/sub-001/anat/sub-001_label-tumor_dseg.nii.gz")
    dataset = layouts.find(place, "2021")
    for found in dataset.cases:
        assert "/derivatives/manual/" in found.label and not found.problems and not found.notes
        assert all("/rawdata/" in path for _, path, _ in found.images)
    assert [found.case_id for found in dataset.cases] == ["sub-001", "sub-002_ses-01"]
    (note,) = dataset.notes
    assert "/sourcedata/" in note and "and 4 more files: under sourcedata, left out" in note


def test_bids_source_data_alone_are_read(tmp_path):
    touch(tmp_path, *(f"sourcedata/{path}" for path in bids("sub-001")[:4]))
    assert [found.case_id for found in layouts.find(tmp_path, "2021").cases] == ["sub-001"]


def test_a_bids_mask_whose_subject_is_in_two_places_says_so(tmp_path):
    *scans, mask = bids("sub-001")
    touch(tmp_path, mask, *(path.replace("sub-001", "sub-003") for path in scans))
    touch(tmp_path, *(f"{site}/{path}" for path in scans for site in ("a", "b")))
    with pytest.raises(InputError, match=r"sub-001 stands in .*/a/sub-001/anat and in .*/b/sub-001/anat"):
        layouts.find(tmp_path, "2021")


def test_bids_with_masks_asks_for_the_edition_and_without_does_not(place):
    touch(place, *bids("sub-001"))
    with pytest.raises(InputError, match=r"edition of sub-001 .*--edition with one of 2017"):
        layouts.find(place)
    files.remove(files.join(place, "derivatives"))
    (found,) = layouts.find(place).cases
    assert found.label is None and len(found.images) == 4


@pytest.mark.parametrize(
    "name",
    [
        *("sub-001_label-tumor_mask", "sub-001_desc-tumor_dseg", "sub-001_space-T1w_label-lesion_mask"),
        *(
            "sub-001_desc-tumorSegmentation_mask",
            "sub-001_label-tumour_desc-manual_dseg",
            "sub-001_label-lesion_roi",
        ),
        *("sub-001_acq-iso_space-MNI152_label-tumor_seg", "sub-001_ce-gadolinium_desc-lesion_mask"),
    ],
)
def test_bids_masks_whose_entities_name_a_tumour_are_taken(place, name):
    touch(place, *bids("sub-001")[:4], f"derivatives/seg/sub-001/anat/{name}.nii.gz")
    (found,) = layouts.find(place, "2021").cases
    assert files.name(found.label) == f"{name}.nii.gz"


@pytest.mark.parametrize(
    ("pipeline", "name"),
    [
        ("fmriprep", "sub-001_desc-brain_mask"),
        ("fmriprep", "sub-001_dseg"),
        ("fmriprep", "sub-001_desc-aseg_dseg"),
        ("freesurfer", "sub-001_label-tumor_dseg"),
        ("hdglio-auto", "sub-001_label-tumor_dseg"),
        ("nnunet", "sub-001_desc-tumor_mask"),
        ("seg", "sub-001_desc-predTumor_mask"),
        ("seg", "sub-001_label-GM_probseg"),
        ("seg", "sub-001_mask"),
    ],
)
def test_bids_masks_of_other_things_are_not_taken(place, pipeline, name):
    touch(place, *bids("sub-001")[:4], f"derivatives/{pipeline}/sub-001/anat/{name}.nii.gz")
    (found,) = layouts.find(place).cases
    assert found.label is None
    assert f"{name}.nii.gz is not taken as its segmentation" in found.notes[0]
    assert "rename it to sub-001_label-tumor_dseg.nii.gz" in found.notes[0]


def test_a_folder_of_derivatives_may_say_that_a_mask_is_of_the_tumour(place):
    touch(place, *bids("sub-001")[:4], "derivatives/tumor_masks/sub-001/anat/sub-001_dseg.nii.gz")
    assert layouts.find(place, "2021").cases[0].label.endswith("sub-001_dseg.nii.gz")


def test_two_runs_and_two_masks_are_problems_that_name_them(place):
    touch(place, *bids("sub-001"), "sub-001/anat/sub-001_run-2_T2w.nii.gz")
    touch(place, "derivatives/other/sub-001/anat/sub-001_label-lesion_mask.nii.gz")
    (found,) = layouts.find(place, "2021").cases
    assert len(found.problems) == 2
    assert (
        "sub-001_T2w.nii.gz" in found.problems[0]
        and "sub-001_run-2_T2w.nii.gz are both t2" in found.problems[0]
    )
    assert "sub-001_label-tumor_dseg.nii.gz" in found.problems[1] and "label-lesion_mask" in found.problems[1]


def test_scans_under_derivatives_are_read_where_one_points_to_them_alone(place):
    touch(place, *bids("sub-001")[:4])
    scans = [f"sub-001/anat/sub-001_space-SRI_desc-brain_{end}.nii.gz" for end in ("T1w", "T2w")]
    touch(place, *(f"derivatives/prep/{name}" for name in scans))
    dataset = layouts.find(place)
    assert all("/derivatives/" not in path for path in dataset.cases[0].paths()) and len(dataset.notes) == 3
    (found,) = layouts.find(files.join(place, "derivatives", "prep")).cases
    assert images_of(found) == {"t1": files.name(scans[0]), "t2": files.name(scans[1])}


def test_one_subject_of_bids_is_a_data_set_of_one(place):
    touch(place, *bids("sub-002", "01")[:4], *bids("sub-002", "02")[:4])
    (found,) = layouts.find(files.join(place, "sub-002", "ses-01")).cases
    assert found.case_id == "sub-002_ses-01" and len(found.images) == 4


# --- BraTS-Toolkit, Kaggle ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        "p1/p1_{fla,t1,t1c,t2}",
        "p1/p1_{fla_bet,t1_bet,t1c_bet,t2_bet}",
        "p1/p1_hdbet_brats_{fla,t1,t1c,t2}",
        "p1/hdbet_brats-space/hdbet_brats_{fla,t1,t1c,t2}",
        "p1/{fla,t1,t1c,t2}",
        "p1/{FLAIR,T1w,T1wCE,T2w}/anything",
        "p1/{FLAIR,T1w,T1wCE,T2w}/Image-{FLAIR,T1w,T1wCE,T2w}",
        "p1/p1_{flair,t1,t1ce,t2}.nii/0000_brain_{flair,t1,t1ce,t2}",
        "{FLAIR,T1w,T1wCE,T2w}/p1",
        "{FLAIR,T1w,T1wCE,T2w}/p1_{flair,t1,t1ce,t2}",
    ],
)
def test_a_case_of_other_tools_is_read_by_names(place, names):
    def spelt(n):
        text = names
        while "{" in text:
            start, end = text.index("{"), text.index("}")
            text = text[:start] + text[start + 1 : end].split(",")[n] + text[end + 1 :]
        return f"{text}.nii.gz"

    touch(place, *map(spelt, range(4)))
    if names.startswith("{"):
        touch(place, *(spelt(n).replace("p1", "p2") for n in range(4)))
    dataset = layouts.find(place, "2021")
    found = dataset.cases[0]
    assert [one.case_id for one in dataset.cases] == (["p1", "p2"] if names.startswith("{") else ["p1"])
    assert {m: path.removeprefix(str(place)).strip("/").removesuffix(".nii.gz") for m, path, _ in found.images}
    for n, modality in enumerate(("flair", "t1", "t1ce", "t2")):
        assert next(path for m, path, _ in found.images if m == modality).endswith(spelt(n))
    assert not found.problems and not dataset.notes


def test_of_a_scan_with_skull_and_its_stripped_copy_the_copy_is_read(place):
    touch(place, *(f"p1/p1_{kind}{end}.nii.gz" for kind in ("fla", "t1", "t1c", "t2") for end in ("", "_bet")))
    dataset = layouts.find(place, "2021")
    (found,) = dataset.cases
    assert images_of(found)["flair"] == "p1_fla_bet.nii.gz" and not found.problems and not found.notes
    assert len(dataset.notes) == 4 and all("the skull is in it, left out" in note for note in dataset.notes)


def test_a_folder_a_modality_may_have_one_of_the_mask(place):
    touch(place, *(f"p1/{kind}/a.nii.gz" for kind in ("FLAIR", "T1w", "T1wCE", "T2w", "seg")))
    touch(place, *(f"p2/{kind}/a.nii.gz" for kind in ("FLAIR", "T1w", "T1wCE", "T2w", "brain_mask")))
    first, second = layouts.find(place, "2021").cases
    assert first.label.endswith("p1/seg/a.nii.gz") and second.label is None


@pytest.mark.parametrize(
    ("name", "is_taken"),
    [("000_seg_x", True), ("my", True), ("sam_seg", False), ("wt", False), ("brain", False)],
)
def test_of_a_mask_in_a_folder_of_its_own_the_folder_tells_unless_its_name_speaks_against_it(
    place, name, is_taken
):
    touch(
        place,
        *(f"p1/{kind}/{kind}.nii.gz" for kind in ("FLAIR", "T1w", "T1wCE", "T2w")),
        f"p1/seg/{name}.nii.gz",
    )
    (found,) = layouts.find(place, "2021").cases
    assert (found.label is not None) is is_taken


def test_kaggles_folder_a_file_has_the_mask_too(place):
    names = {kind: f"brain_{kind}" for kind in ("flair", "t1", "t1ce", "t2")} | {"seg": "final_seg"}
    case_id = "BraTS2021_00000"
    touch(place, *(f"{case_id}/{case_id}_{k}.nii/00000057_{name}.nii" for k, name in names.items()))
    (found,) = layouts.find(place).cases
    assert found.case_id == case_id and found.schema == EDITIONS["2021"]
    assert found.label.endswith("00000057_final_seg.nii") and [m for m, *_ in found.images] == list(MODALITIES)


def test_inpaintings_scans_are_refused_by_name(place):
    case_id = "BraTS-GLI-00005-000"
    touch(
        place, *(f"{case_id}/{case_id}-{kind}.nii.gz" for kind in ("t1n", "t1n-voided", "mask", "mask-healthy"))
    )
    (found,) = layouts.find(place).cases
    assert found.label is None and "inpainting" in found.problems[0]


# --- nnU-Net --------------------------------------------------------------------------------------------


def test_a_mask_that_holds_nnunets_ignore_is_refused_and_others_are_read(tmp_path):
    data_sets.write_dataset(tmp_path, 1, "nnunet", seed=1, shape=(32, 32, 20), first=2)
    content = files.read_json(tmp_path / "dataset.json")
    content["labels"] = {
        "background": 0,
        "whole_tumor": [1, 2, 3],
        "tumor_core": [2, 3],
        "enhancing_tumor": 3,
        "ignore": 4,
    }
    files.write_json(tmp_path / "dataset.json", content)
    dataset = layouts.find(tmp_path)
    (found,) = dataset.cases
    assert "value 4 is called ignore" in dataset.notes[0]
    loaded = case.load(found, need_label=True)
    _, tissues = simulation.simulate((32, 32, 20), 1, 2)
    assert (loaded.label == tissues).all()
    labelled = loaded.grid.to_file(found.schema.to_values(loaded.label, "x"))
    labelled[0, 0, 0] = 4
    files.write_bytes(found.label, nifti.to_bytes(labelled, loaded.grid, "x.nii.gz"))
    with pytest.raises(case.CaseError, match=r"label values \[4\].*calls ignore.*nobody labelled"):
        case.load(found, need_label=True)


def test_results_beside_nnunets_scans_are_left_out(place):
    channels = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    labels = {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3}
    files.write_json(files.join(place, "dataset.json"), {"channel_names": channels, "labels": labels})
    touch(
        place, *(f"imagesTr/a_{n:04d}.nii.gz" for n in range(4)), "imagesTr/a.nii.gz", "imagesTr/tfbrats.json"
    )
    dataset = layouts.find(place)
    assert len(dataset.cases) == 1 and len(dataset.cases[0].images) == 4
    assert all(channel is None for _, _, channel in dataset.cases[0].images)
    assert "1 segmentation by tfbrats" in dataset.notes[0]


def test_a_dataset_json_is_believed_before_ids_and_overruled_with_a_note(place):
    channels = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    labels = {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3}
    files.write_json(files.join(place, "dataset.json"), {"channel_names": channels, "labels": labels})
    case_id = "BraTS2021_00001"
    touch(place, *(f"imagesTr/{case_id}_{n:04d}.nii.gz" for n in range(4)), f"labelsTr/{case_id}.nii.gz")
    (found,) = layouts.find(place).cases
    assert dict(found.schema.values) == {0: Tissue.BACKGROUND, 1: Tissue.ED, 2: Tissue.NCR, 3: Tissue.ET}
    assert layouts.find(place, "2023").guesses == (
        "--edition 2023 is taken for 1 case whose names tell nnunet",
    )


def test_a_word_for_the_stripped_scan_may_stand_before_the_modality(place):
    names = [f"brain_{kind}" for kind in ("t1n", "t1c", "t2w", "t2f")]
    touch(place, *(f"Patient_3/Time_1/Patient_3_Time_1_{name}.nii.gz" for name in (*names, "tumorMask")))
    dataset = layouts.find(place, "2024")
    (found,) = dataset.cases
    assert found.case_id == "Patient_3_Time_1" and len(found.images) == 4 and not dataset.notes
    assert files.name(found.label) == "Patient_3_Time_1_tumorMask.nii.gz"


def test_a_large_set_in_one_folder_is_sorted_in_seconds():
    kinds = ("t1", "t1ce", "t2", "flair", "seg")
    paths = [f"/data/BraTS2021_{n:05d}_{kind}.nii.gz" for n in range(1251) for kind in kinds]
    leftovers = scan_names.Leftovers()
    start = time.process_time()
    cases = brats_folders.read(paths, leftovers)
    assert len(cases) == 1251 and all(len(found.masks) == 1 for found in cases) and not leftovers.notes()
    assert time.process_time() - start < 5


def test_bids_names_in_one_folder_are_one_case(place):
    touch(
        place,
        *(f"sub-001_{end}.nii.gz" for end in ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR", "label-tumor_mask")),
    )
    (found,) = layouts.find(place, "2021").cases
    assert found.case_id == "sub-001" and len(found.images) == 4 and found.label


# --- nnU-Net's folders ----------------------------------------------------------------------------------


def nnunet(place, *masks, cases=("imagesTr/c1", "imagesTr/c2", "imagesTs/c3")):
    labels = {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3}
    channels = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    files.write_json(files.join(place, "dataset.json"), {"channel_names": channels, "labels": labels})
    touch(place, *(f"{case_id}_{n:04d}.nii.gz" for case_id in cases for n in range(4)), *masks)
    return layouts.find(place)


def test_a_mask_in_another_letter_case_is_its_cases_and_told(tmp_path):
    dataset = nnunet(tmp_path, "labelsTr/C1.nii.gz", "labelsTr/c2.nii.gz")
    first, second, third = dataset.cases
    assert files.name(first.label) == "C1.nii.gz" and "misnamed C1.nii.gz" in first.notes[0]
    assert files.name(second.label) == "c2.nii.gz" and not second.notes
    assert third.label is None and not third.label_expected and not dataset.notes


def test_a_mask_that_no_scan_has_the_name_of_is_told(place):
    dataset = nnunet(place, "labelsTr/c1.nii.gz", "labelsTr/c9.nii.gz", "labelsTr/c3.nii.gz")
    assert [bool(one.label) for one in dataset.cases] == [True, False, False]
    assert [note.split("/")[-1] for note in dataset.notes] == [
        "c3.nii.gz: no scan in imagesTr has its name, left out",
        "c9.nii.gz: no scan in imagesTr has its name, left out",
    ]


def test_two_files_of_one_name_are_a_problem_that_names_both(tmp_path):
    dataset = nnunet(tmp_path, "labelsTr/c1.nii.gz", "labelsTr/c1.nii", "imagesTr/c2_0003.nii")
    assert [one.problems for one in dataset.cases] == [
        ("c1.nii and c1.nii.gz are both seg. Keep one of them.",),
        ("c2_0003.nii and c2_0003.nii.gz are both flair. Keep one of them.",),
        (),
    ]


def test_masks_of_the_test_images_are_read(tmp_path):
    dataset = nnunet(tmp_path, "labelsTr/c1.nii.gz", "labelsTr/c2.nii.gz", "labelsTs/c3.nii.gz")
    assert [files.name(one.label) for one in dataset.cases] == ["c1.nii.gz", "c2.nii.gz", "c3.nii.gz"]
    (note,) = dataset.notes
    assert "labelsTs: masks of 1 case in imagesTs, read as those in labelsTr" in note


# --- outputs that would be read as references -----------------------------------------------------------


def check_output(place, output, *scans, edition="2021"):
    touch(place, *scans)
    layouts.check_outputs(layouts.find(place, edition).cases, [files.join(place, *output.split("/"))])


UPENN_CASE = "UPENN-GBM-00001_11"
PLACES = {  # scans, an output that the reader would take, one that it would not
    "upenn": (
        [
            f"images_structural/{UPENN_CASE}/{UPENN_CASE}_{kind}.nii.gz"
            for kind in ("T1", "T1GD", "T2", "FLAIR")
        ],
        f"images_segm/{UPENN_CASE}_segm.nii.gz",
        f"automated_segm/{UPENN_CASE}_segm.nii.gz",
    ),
    "bids": (bids("sub-001")[:4], bids("sub-001")[4], "derivatives/tfbrats/sub-001/anat/sub-001_dseg.nii.gz"),
    "folders": ([f"c1/{kind}/x.nii.gz" for kind in MODALITIES], "c1/seg/c1.nii.gz", "c1/out/c1.nii.gz"),
    "visits": ([f"P1/2019-01-01/{kind}.nii" for kind in MODALITIES], "P1/2019-01-01/seg.nii", "P1/seg.nii"),
}


@pytest.mark.parametrize("layout", PLACES)
def test_a_prediction_is_not_written_where_any_reader_would_take_it_for_an_experts(place, layout):
    scans, taken, left = PLACES[layout]
    with pytest.raises(InputError, match="would be read as the expert's mask of"):
        check_output(place, taken, *scans)
    check_output(place, left, *scans)


def test_nor_into_nnunets_masks(place):
    cases = nnunet(place, "labelsTr/c1.nii.gz").cases
    for name in ("labelsTr/c2.nii.gz", "labelsTs/c3.nii.gz"):
        with pytest.raises(InputError, match=r"would be read as the expert's mask of c[23]"):
            layouts.check_outputs(cases, [files.join(place, *name.split("/"))])
    layouts.check_outputs(cases, [files.join(place, "predictions", "c2.nii.gz")])


# --- spaces ---------------------------------------------------------------------------------------------


def test_names_may_have_spaces(tmp_path):
    touch(
        tmp_path, *(f"my data/Patient 01/Patient 01 {kind}.nii.gz" for kind in ("t1", "t1ce", "t2", "t2 flair"))
    )
    touch(tmp_path, "my data/Patient 01/Patient 01 tumor seg.nii.gz")
    touch(tmp_path, *(f"my data/Patient 02/{kind} brain.nii.gz" for kind in MODALITIES))
    first, second = layouts.find(tmp_path, "2020").cases
    assert (first.case_id, second.case_id) == ("Patient 01", "Patient 02")
    assert images_of(first)["flair"] == "Patient 01 t2 flair.nii.gz" and len(first.images) == 4
    assert files.name(first.label) == "Patient 01 tumor seg.nii.gz" and not first.notes
    assert images_of(second) == {kind: f"{kind} brain.nii.gz" for kind in MODALITIES}
