"""Which file is the expert's mask: by words, and never because it is alone."""

import pytest

from tfbrats.datasets import layouts, references
from tfbrats.errors import InputError
from tfbrats.machine import files

CASE = "BraTS2021_00001"
SCANS = ("t1", "t1ce", "t2", "flair")

TAKEN = [
    *(
        "_seg",
        "-seg",
        "_Seg",
        "_segm",
        "_Segm",
        "_segmentation",
        "_tumor_segmentation",
        "_tumour_mask",
        "_lesion",
    ),
    *(
        "_tumorseg",
        "_TumorSegmentation",
        "_seg_GlistrBoost_ManuallyCorrected",
        "_GlistrBoost_ManuallyCorrected",
    ),
    *("_manual_seg", "_seg_manual", "_final_seg", "_gt_seg", "_lesion-mask", "_tumour"),
]
REFUSED = [  # ending, a word of the reason
    ("_brain_segmentation", "brain"),
    ("_brain_parenchyma_segmentation", "brain"),
    ("_brainmask", "brain"),
    ("_brain_seg", "brain"),
    ("_tissue_seg", "tissue"),
    ("_aseg", "aseg"),
    ("_aparc_aseg", "aparc"),
    ("_auto_seg", "program"),
    ("_seg_auto", "program"),
    ("_automated_approx_segm", "program"),
    ("_pred_seg", "program"),
    ("_seg_pred", "program"),
    ("_prediction_seg", "program"),
    ("_output_seg", "program"),
    ("_nnunet_seg", "program"),
    ("_synthseg", "synthseg"),
    ("_fastsurfer_seg", "program"),
    ("_GlistrBoost_seg", "program"),
    ("_ventricle_seg", "ventricle"),
    ("_csf_seg", "csf"),
    ("_wm_seg", "wm"),
    ("_gm_mask", "gm"),
    ("_mask", "what it is a mask of"),
    ("_label", "what it is a mask of"),
    ("_hippo_seg", "hippo"),
    ("_t1ce_seg", "t1ce"),
    ("_seg_ET", "et"),
    ("_seg_v2", "v2"),
]


def write(place, *names):
    for name in names:
        files.write_bytes(files.join(place, *name.split("/")), b"")


def write_case(place, *masks, case_id=CASE):
    write(
        place,
        *(f"{case_id}/{case_id}_{kind}.nii.gz" for kind in SCANS),
        *(f"{case_id}/{mask}" for mask in masks),
    )


@pytest.mark.parametrize("ending", TAKEN)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_names_that_mean_a_tumours_mask_are_taken(tmp_path, ending, suffix):
    write_case(tmp_path, f"{CASE}{ending}{suffix}")
    dataset = layouts.find(tmp_path)
    (found,) = dataset.cases
    assert files.name(found.label) == f"{CASE}{ending}{suffix}"
    assert not found.notes and not found.problems and not dataset.notes


@pytest.mark.parametrize(("ending", "reason"), REFUSED)
def test_a_mask_of_something_else_is_not_taken_though_it_is_alone(tmp_path, ending, reason):
    write_case(tmp_path, f"{CASE}{ending}.nii.gz")
    dataset = layouts.find(tmp_path)
    (found,) = dataset.cases
    assert found.label is None and not dataset.notes
    (note,) = found.notes
    assert note.startswith(f"{CASE}{ending}.nii.gz is not taken as its segmentation: ") and reason in note
    assert f"rename it to {CASE}_seg.nii.gz" in note


@pytest.mark.parametrize(
    "name",
    [
        "brain_seg.nii.gz",
        "aseg.nii",
        "another_seg.nii.gz",
        "pred.seg.nii",
        "wm_seg.nii",
        "aparc.a2009s+aseg.nii",
    ],
)
def test_nor_is_one_whose_name_is_not_the_cases(tmp_path, name):
    write_case(tmp_path, name)
    (found,) = layouts.find(tmp_path).cases
    assert found.label is None and name in found.notes[0]


@pytest.mark.parametrize("name", ["seg.nii.gz", "tumor_seg.nii", "Segmentation.nii.gz", "tumour.nii.gz"])
def test_a_mask_called_by_what_it_is_belongs_to_the_folders_only_case(tmp_path, name):
    write_case(tmp_path, name)
    (found,) = layouts.find(tmp_path).cases
    assert files.name(found.label) == name and not found.notes


@pytest.mark.parametrize("name", ["W39_1998.09.19_Segm.nii", "P104_seg.nii", "1998-9-19_tumor_seg.nii.gz"])
def test_another_id_or_a_date_before_the_words_is_told_and_passed_over(tmp_path, name):
    write_case(tmp_path, name)
    (found,) = layouts.find(tmp_path).cases
    assert files.name(found.label) == name and f"misnamed {name}" in found.notes[0]


OTHERS_SEGS = [
    *("T1_seg", "unet3d_seg", "sam_seg", "ms_lesion_seg", "tumor_bed_mask", "gtv_seg", "et_seg"),
    *("seg_ET", "wt_seg", "seg_wt", "seg_old", "seg_v2", "seg_v02", "seg_t1space"),
    *("sim_seg", "my_seg", "sam22_seg", "GTV01_seg", "wm01_seg", "t1_01_seg"),
]


@pytest.mark.parametrize("stem", OTHERS_SEGS)
def test_short_words_and_words_with_a_number_are_no_other_ids(tmp_path, stem):
    write_case(tmp_path, f"{stem}.nii.gz")
    (found,) = layouts.find(tmp_path).cases
    assert found.label is None and f"{stem}.nii.gz is not taken as its segmentation" in found.notes[0]


@pytest.mark.parametrize("ending", ["_wt_seg", "_whole_tumor_seg", "_tumor_core_mask", "_edema_seg"])
def test_a_mask_of_one_region_is_not_that_of_the_tissues(tmp_path, ending):
    write_case(tmp_path, f"{CASE}{ending}.nii.gz")
    (found,) = layouts.find(tmp_path).cases
    assert found.label is None and "of one region alone" in found.notes[0]


def test_a_mask_in_brats_values_is_the_tumours(tmp_path):
    write_case(tmp_path, f"{CASE}_BraTS_tumor_seg.nii.gz")
    (found,) = layouts.find(tmp_path).cases
    assert files.name(found.label) == f"{CASE}_BraTS_tumor_seg.nii.gz" and not found.notes
    assert references.words_of("FeTS_BraTSSeg") == ["fets", "brats", "seg"]


def test_a_mask_of_another_case_is_not_lent(tmp_path):
    write_case(tmp_path, "BraTS2021_00002_seg.nii.gz")
    write_case(tmp_path, "P4_seg.nii.gz", case_id="BraTS2021_00003")
    write_case(tmp_path, case_id="P4")
    first, second, third = layouts.find(tmp_path, "2021").cases
    assert [one.label for one in (first, second, third)] == [None, None, None]
    assert "by its name it is another case's" in first.notes[0] and "another case's" in second.notes[0]


def test_two_that_could_be_the_mask_are_a_problem_that_names_both(tmp_path):
    write_case(tmp_path, f"{CASE}_seg.nii.gz", f"{CASE}_tumor_segmentation.nii.gz")
    (found,) = layouts.find(tmp_path).cases
    (problem,) = found.problems
    assert f"{CASE}_seg.nii.gz and {CASE}_tumor_segmentation.nii.gz" in problem


def test_beside_the_experts_mask_others_are_left_out_in_one_note_each(tmp_path):
    write_case(tmp_path, f"{CASE}_seg.nii.gz", f"{CASE}_brain_seg.nii.gz", f"{CASE}_pred_seg.nii.gz")
    dataset = layouts.find(tmp_path)
    (found,) = dataset.cases
    assert files.name(found.label) == f"{CASE}_seg.nii.gz" and not found.notes and not found.problems
    assert len(dataset.notes) == 2 and all("not taken as an expert's mask" in note for note in dataset.notes)


# --- the own output -------------------------------------------------------------------------------------


def test_results_inside_a_data_set_are_neither_cases_nor_references(place):
    write_case(place, f"{CASE}_seg.nii.gz")
    write_case(place, case_id="BraTS2021_00002")
    write(place, "out/tfbrats.json", "out/BraTS2021_00001.nii.gz", "out/BraTS2021_00002.nii.gz")
    dataset = layouts.find(place)
    assert [bool(one.label) for one in dataset.cases] == [True, False]
    (note,) = dataset.notes
    assert "2 segmentations by tfbrats" in note and "/out:" in note


def test_a_result_in_a_cases_own_folder_is_not_its_mask(place):
    write_case(place, "tfbrats.json", f"{CASE}.nii.gz", f"{CASE}_probabilities.nii.gz")
    dataset = layouts.find(place)
    assert [one.label for one in dataset.cases] == [None] and "2 segmentations by tfbrats" in dataset.notes[0]


def test_a_file_named_as_its_case_alone_is_no_mask_without_a_card_either(place):
    write_case(place, f"{CASE}.nii.gz")
    dataset = layouts.find(place)
    assert dataset.cases[0].label is None and "named as its case alone" in dataset.notes[0]


def test_a_mask_with_the_files_of_provenance_is_a_prediction(place):
    write_case(place, f"{CASE}_seg.nii.gz")
    beside = files.join(place, CASE, f"{CASE}_seg.json")
    files.write_json(beside, {"labels": "of somebody else"})
    assert layouts.find(place).cases[0].label
    files.write_json(beside, {"model": {"name": "m", "tfbrats_json_sha256": "0"}})
    (found,) = layouts.find(place).cases
    assert found.label is None and f"{CASE}_seg.nii.gz was predicted by tfbrats" in found.notes[0]


def test_an_experts_mask_beside_a_card_and_its_scans_stays(place):
    names = [f"{CASE}_{kind}.nii.gz" for kind in (*SCANS, "seg")]
    write(place, *names, "tfbrats.json", f"{CASE}.nii.gz")
    dataset = layouts.find(place)
    assert files.name(dataset.cases[0].label) == f"{CASE}_seg.nii.gz"
    assert "1 segmentation by tfbrats" in dataset.notes[0]


def test_results_in_labelstr_are_no_references(place):
    content = {"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}}
    labels = {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3}
    files.write_json(files.join(place, "dataset.json"), {**content, "labels": labels})
    write(place, *(f"imagesTr/a_{n:04d}.nii.gz" for n in range(4)), "labelsTr/a.nii.gz")
    assert layouts.find(place).cases[0].label
    write(place, "labelsTr/tfbrats.json")
    dataset = layouts.find(place)
    assert dataset.cases[0].label is None and "/labelsTr: 1 segmentation by tfbrats" in dataset.notes[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [("tumor_seg-v2", ["tumor", "seg", "v2"]), ("TumorSegmentation", ["tumor", "segmentation"]), ("", [])],
)
def test_names_are_parted_into_words(text, words):
    assert references.words_of(text) == words


def test_words_in_any_script_are_words(tmp_path):
    write_case(tmp_path, "мозг_seg.nii.gz")
    (found,) = layouts.find(tmp_path).cases
    assert found.label is None and "мозг" in found.notes[0]


def test_a_file_beside_a_mask_that_is_no_json_changes_nothing(place):
    write_case(place, f"{CASE}_seg.nii.gz", f"{CASE}_seg.json")
    assert layouts.find(place).cases[0].label


@pytest.mark.parametrize("name", [f"{CASE}_seg.nii.gz", "seg.nii.gz", f"{CASE}_tumor_segmentation.nii"])
def test_a_prediction_is_not_written_where_it_would_be_read_as_an_experts(place, name):
    write_case(place)
    cases = layouts.find(place).cases
    with pytest.raises(InputError, match=f"{name}: would be read as the expert's mask of {CASE}"):
        layouts.check_outputs(cases, [files.join(place, CASE, name)])
    layouts.check_outputs(cases, [files.join(place, CASE, f"{CASE}.nii.gz"), files.join(place, "out", name)])
