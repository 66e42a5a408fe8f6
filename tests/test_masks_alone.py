"""References without images: which file is which case's, in every arrangement."""

import json

import pytest

from tfbrats import masks_alone, pairs
from tfbrats.command import InputError

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
