"""References without images: which file is which case's, in every arrangement."""

import json

import pytest

from tfbrats.errors import InputError
from tfbrats.scoring import masks_alone, pairs

ONE, TWO = "BraTS2021_00001", "BraTS2021_00002"


def made(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


ARRANGEMENTS = {
    "side by side": "{case}.nii.gz",
    "side by side, named as masks": "{case}_seg.nii",
    "a folder each": "{case}/{case}_seg.nii.gz",
    "a folder each, with a hyphen": "{case}/{case}-seg.nii.gz",
    "a folder each, named by what it is": "{case}/seg.nii.gz",
    "in words": "{case}/segmentation.nii.gz",
    "by grade": "HGG/{case}/{case}_seg.nii.gz",
    "nnU-Net's folder": "labelsTr/{case}.nii.gz",
    "as TCIA names them": "{case}/{case}_tumor_segmentation.nii.gz",
    "2017's tool": "{case}/{case}_seg_GlistrBoost_ManuallyCorrected.nii.gz",
}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_each_arrangement_gives_the_cases_their_files(arrangement, tmp_path):
    names = {case_id: ARRANGEMENTS[arrangement].format(case=case_id) for case_id in (ONE, TWO)}
    made(tmp_path / "r", *names.values())
    made(tmp_path / "p", f"{ONE}.nii.gz", f"{TWO}.nii.gz")
    matched = pairs.match(tmp_path / "p", tmp_path / "r")
    assert matched.faults == matched.notes == ()
    assert {pair.case_id: pair.reference for pair in matched.pairs} == {
        case_id: str(tmp_path / "r" / name) for case_id, name in names.items()
    }
    assert {pair.schema.edition for pair in matched.pairs} == {"2021"}


def test_hidden_files_are_no_references_and_a_brain_mask_is_left_out_with_a_note(tmp_path):
    made(
        tmp_path / ".hidden_above" / "r",
        *(f"{ONE}/{ONE}_seg.nii.gz", f"{ONE}/._{ONE}_seg.nii.gz", f".checkpoints/{TWO}_seg.nii.gz"),
        *(f"{ONE}/{ONE}_brain_mask.nii.gz", f"{ONE}/{ONE}_auto_seg.nii.gz", f"{ONE}/notes.txt"),
    )
    found = masks_alone.find(tmp_path / ".hidden_above" / "r")
    assert [mask.case_id for mask in found.references] == [ONE]
    (note,) = found.notes
    assert f"{ONE}_auto_seg.nii.gz and 1 more: not taken for a tumour's mask" in note


def test_two_masks_of_one_case_are_refused(tmp_path):
    made(tmp_path, f"a/{ONE}_seg.nii.gz", f"b/{ONE}.nii.gz")
    with pytest.raises(InputError, match=f"{ONE}: two references, .* Keep one"):
        masks_alone.find(tmp_path)


def test_a_folder_with_images_is_no_folder_of_masks_alone(tmp_path):
    assert masks_alone.find(made(tmp_path, f"{ONE}/{ONE}_seg.nii.gz", f"{ONE}/{ONE}_t1.nii.gz")).has_images


def test_the_table_of_nnunets_masks_is_that_of_its_dataset_json(tmp_path):
    made(tmp_path, f"labelsTr/{ONE}.nii.gz")
    labels = {"background": 0, "edema": 1, "non-enhancing": 2, "enhancing": 3}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    for folder in (tmp_path, tmp_path / "labelsTr"):
        (mask,) = masks_alone.find(folder).references
        assert mask.schema.describe() == "0 BACKGROUND, 1 ED, 2 NCR, 3 ET"
    (mask,) = masks_alone.find(tmp_path, "2023").references
    assert mask.schema.edition == "2023" and mask.names_say.edition == "nnunet"


def test_masks_of_a_data_set_whose_images_lie_elsewhere_are_references_too(tiny_dataset, tmp_path):
    root = tiny_dataset("2020")
    for name in ("BraTS20_Training_001", "BraTS20_Training_002"):
        (tmp_path / "r" / name).mkdir(parents=True)
        for path in (root / name).iterdir():
            if name.endswith("1") or path.name.endswith("_seg.nii.gz"):
                (tmp_path / "r" / name / path.name).symlink_to(path)
    made(tmp_path / "p", "BraTS20_Training_001.nii.gz", "BraTS20_Training_002.nii.gz")
    matched = pairs.match(tmp_path / "p", tmp_path / "r")
    assert matched.faults == ()
    assert [(pair.case_id[-3:], pair.source is None) for pair in matched.pairs] == [
        ("001", False),
        ("002", True),
    ]


OWN = {"case_id": ONE, "model": {"name": "x", "tfbrats_json_sha256": "ab"}}


@pytest.mark.parametrize(
    ("mask", "record", "content"),
    [
        (f"{ONE}.nii.gz", f"{ONE}.json", OWN),
        (f"{ONE}_seg.nii.gz", f"{ONE}_seg.json", OWN),
        (f"{ONE}/{ONE}.nii.gz", "tfbrats.json", {}),
        (f"fold_0/{ONE}.nii.gz", "fold_0/predict_from_raw_data_args.json", {}),
    ],
)
def test_what_a_program_predicted_is_no_reference_wherever_its_record_lies(tmp_path, mask, record, content):
    made(tmp_path / "r", mask, record)
    made(tmp_path / "p", f"{ONE}.nii.gz")
    (tmp_path / "r" / record).write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=r"1 segmentation by (tfbrats|nnU-Net), .*a prediction is no reference"
    ):
        pairs.match(tmp_path / "p", tmp_path / "r")
    (tmp_path / "r" / record).unlink()
    assert [pair.case_id for pair in pairs.match(tmp_path / "p", tmp_path / "r").pairs] == [ONE]


def test_a_folder_that_speaks_of_predictions_is_noted(tmp_path):
    (note,) = masks_alone.find(made(tmp_path / "predictions", f"{ONE}.nii.gz")).notes
    assert note.startswith("the folder's name predictions speaks of what a program predicts")
    assert masks_alone.find(made(tmp_path / "nnUNet_raw", f"D1/labelsTr/{ONE}.nii.gz")).notes == ()


@pytest.mark.parametrize(
    ("name", "is_taken"),
    [
        ("elsewhere/{case}_seg.nii.gz", True),
        ("nnunet_results/{case}_seg.nii.gz", False),
        ("automated_segm/{case}_segm.nii.gz", False),
        ("carded/{case}_seg.nii.gz", False),
    ],
)
@pytest.mark.parametrize("has_scans", [False, True])
def test_masks_elsewhere_in_a_data_set_are_references_only_of_experts_and_of_cases_without_scans(
    tmp_path, name, is_taken, has_scans
):
    made(tmp_path, *(f"data/{ONE}/{ONE}_{end}.nii.gz" for end in ("t1", "t1ce", "t2", "flair", "seg")))
    if has_scans:
        made(tmp_path, *(f"data/{TWO}/{TWO}_{end}.nii.gz" for end in ("t1", "t1ce", "t2", "flair")))
    made(tmp_path / "data", name.format(case=TWO), "carded/tfbrats.json")
    made(tmp_path / "p", f"{ONE}.nii.gz")
    matched = pairs.match(tmp_path / "p", tmp_path / "data", allow_missing=True)
    taken = [pair.reference for pair in matched.pairs if pair.case_id == TWO]
    path = str(tmp_path / "data" / name.format(case=TWO))
    assert taken == ([path] if is_taken and not has_scans else [])
    noted = f"the reference of {TWO} is {path}; its scans lie elsewhere" in matched.notes
    assert noted == bool(taken)


@pytest.mark.parametrize(
    "ending",
    ["_gt", "_label", "_manual_seg", "_seg_manual", "_GlistrBoost_ManuallyCorrected", "_label-tumor_dseg"],
)
def test_the_predictions_tell_where_the_case_id_ends(tmp_path, ending):
    ids = ["sub-01", "sub-01_ses-2"]
    made(tmp_path / "p", *(f"{case_id}.nii.gz" for case_id in ids))
    made(tmp_path / "r", *(f"{case_id}{ending}.nii.gz" for case_id in ids))
    matched = pairs.match(tmp_path / "p", tmp_path / "r", "2021")
    assert matched.faults == ()
    assert {pair.case_id: pair.reference for pair in matched.pairs} == {
        case_id: str(tmp_path / "r" / f"{case_id}{ending}.nii.gz") for case_id in ids
    }


@pytest.mark.parametrize("ending", ["_brain_mask", "_pred_seg", "_GlistrBoost", "_aseg"])
def test_masks_that_no_expert_drew_of_the_tumour_are_still_none(tmp_path, ending):
    made(tmp_path / "p", "sub-01.nii.gz")
    made(tmp_path / "r", f"sub-01{ending}.nii.gz", "sub-01_gt.nii.gz")
    (pair,) = pairs.match(tmp_path / "p", tmp_path / "r", "2021").pairs
    assert pair.reference.endswith("sub-01_gt.nii.gz")
