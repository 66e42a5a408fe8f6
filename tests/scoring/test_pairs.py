"""Names alone decide which prediction belongs to which reference."""

import shutil
import unicodedata

import pytest

from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.scoring import pairs

ONE, TWO, THREE = (f"BraTS20_Training_00{n}" for n in (1, 2, 3))


@pytest.fixture
def folders(tmp_path):
    """Predictions of cases 1 and 3, references of 1 and 2; no file holds an image."""
    for name in (f"p/{ONE}.nii.gz", f"p/{THREE}.nii.gz", f"r/{ONE}_seg.nii.gz", f"r/{TWO}_seg.nii.gz"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "p", tmp_path / "r"


def test_missing_and_extra_cases_are_faults_together_while_the_rest_is_paired(folders):
    found = pairs.match(*folders)
    assert [pair.case_id for pair in found.pairs] == [ONE]
    missing, extra = found.faults
    assert missing.startswith(f"{TWO}: no prediction; expected {folders[0]}/{TWO}.nii.gz.")
    assert "--allow-missing" in missing
    assert extra.startswith(f"{THREE}: ") and "has no reference" in extra
    assert found.missing == ()


def test_an_allowed_missing_case_is_paired_with_no_prediction_and_an_extra_one_stays_a_fault(folders):
    found = pairs.match(*folders, allow_missing=True)
    assert [(pair.case_id, pair.prediction is None) for pair in found.pairs] == [(ONE, False), (TWO, True)]
    assert found.missing == (TWO,)
    (fault,) = found.faults
    assert fault.startswith(f"{THREE}: ")


def test_naming_the_cases_leaves_extra_ones_out(folders):
    found = pairs.match(*folders, cases=[ONE, TWO], allow_missing=True)
    assert found.faults == () and len(found.pairs) == 2


def test_a_named_case_that_is_not_there_is_said_to_be_named_by_whom(folders):
    (fault,) = pairs.match(*folders, cases=[ONE, "x"], named_by="test in splits.json").faults
    assert fault.startswith("x: named by test in splits.json, but not in")


def test_a_missing_case_whose_reference_is_missing_too_cannot_be_scored_as_empty(tiny_dataset, tmp_path):
    root = shutil.copytree(tiny_dataset("2020"), tmp_path / "data")
    (root / TWO / f"{TWO}_seg.nii.gz").unlink()
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / f"{ONE}.nii.gz").write_bytes(b"")
    (fault,) = pairs.match(tmp_path / "p", root, allow_missing=True).faults
    assert fault.startswith(f"{TWO}: no segmentation in")


def test_whether_all_can_be_scored_is_known_before_there_are_predictions(folders, tiny_dataset, tmp_path):
    assert [pair.case_id for pair in pairs.references_of(folders[1], None, [TWO, ONE])] == [TWO, ONE]
    with pytest.raises(InputError, match=rf"no reference for 1 of 2 cases\n  {THREE}: not in {folders[1]}\.$"):
        pairs.references_of(folders[1], None, [ONE, THREE])
    root = shutil.copytree(tiny_dataset("2020"), tmp_path / "data")
    (root / TWO / f"{TWO}_seg.nii.gz").unlink()
    with pytest.raises(InputError, match=rf"{TWO}: no segmentation in .*Add or rename its file"):
        pairs.references_of(root, None, [ONE, TWO])


@pytest.mark.parametrize("folder", ["out", ""])
def test_what_tfbrats_predicted_is_no_reference(tmp_path, folder):
    for name in ("out/BraTS2021_00001.nii.gz", "out/tfbrats.json", "mine/BraTS2021_00001.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"1 segmentation by tfbrats.*a prediction is no reference"):
        pairs.match(tmp_path / "mine", tmp_path / folder)
    (tmp_path / "out" / "tfbrats.json").unlink()
    (pair,) = pairs.match(tmp_path / "mine", tmp_path / "out").pairs
    assert pair.reference.endswith("out/BraTS2021_00001.nii.gz")


def made(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "{}_seg",
        "{0}/{0}_seg",
        "{}/seg",
        "{}_pred",
        "{}-prediction",
        "{}_pred_seg",
        "{0}/anat/{0}_label-tumor_dseg",
    ],
)
def test_predictions_whose_names_say_more_than_the_case_are_read_with_one_note(tmp_path, name):
    r = made(tmp_path / "r", f"{ONE}_seg.nii.gz", f"{TWO}_seg.nii.gz")
    p = made(tmp_path / "p", *(f"{name.format(case_id)}.nii.gz" for case_id in (ONE, TWO)))
    found = pairs.match(p, r)
    assert found.faults == ()
    assert {pair.case_id: pair.prediction for pair in found.pairs} == {
        case_id: str(p / f"{name.format(case_id)}.nii.gz") for case_id in (ONE, TWO)
    }
    (note,) = found.notes
    assert note.startswith(f"{ONE}: its prediction is called") and "1 more" in note


def test_of_two_predictions_of_a_case_none_is_chosen(tmp_path):
    r = made(tmp_path / "r", f"{ONE}_seg.nii.gz", f"{TWO}_seg.nii.gz")
    p = made(tmp_path / "p", f"{ONE}.nii.gz", f"{ONE}_seg.nii.gz", f"{TWO}_seg.nii.gz", f"{TWO}_pred.nii.gz")
    extra, twice = sorted(pairs.match(p, r).faults)
    assert extra.startswith(f"{ONE}_seg: ") and "has no reference" in extra
    assert twice.startswith(f"{TWO}: predicted twice")


def test_an_ending_that_all_files_have_is_named_once(tmp_path):
    r = made(tmp_path / "r", f"{ONE}_seg.nii.gz", f"{TWO}_seg.nii.gz")
    p = made(tmp_path / "p", f"{ONE}_0000.nii.gz", f"{TWO}_0000.nii.gz")
    with pytest.raises(InputError, match=r"its files have _0000 behind the case id; .*Rename them\.$"):
        pairs.match(p, r)


def test_exchanged_sides_are_told_in_a_line(tmp_path):
    ends = ("t1", "t1ce", "t2", "flair", "seg")
    data = made(tmp_path / "data", *(f"{ONE}/{ONE}_{end}.nii.gz" for end in ends))
    p = made(tmp_path / "p", f"{ONE}.nii.gz")
    assert pairs.match(p, data).faults == ()
    (fault,) = pairs.match(data, p).faults
    assert "holds 4 scans, e.g." in fault and fault.endswith("the two may be exchanged.")


def test_a_prediction_whose_accents_are_stored_otherwise_is_the_cases(tmp_path):
    composed, apart = (unicodedata.normalize(form, "BraTS20_Größe_1") for form in ("NFC", "NFD"))
    for name in (f"mine/{apart}.nii.gz", f"experts/{composed}.nii.gz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    matched = pairs.match(tmp_path / "mine", tmp_path / "experts")
    assert [pair.case_id for pair in matched.pairs] == [composed] and not matched.faults
    assert "its letters are only spelt otherwise" in matched.notes[0]


def test_a_data_set_is_found_once_whatever_edition_is_given(tiny_dataset, tmp_path, monkeypatch):
    root = tiny_dataset("2020")
    by_names = {entry.case_id: entry.schema for entry in layouts.find(root).cases}
    calls = []
    real = layouts.find
    monkeypatch.setattr(layouts, "find", lambda *given: calls.append(given) or real(*given))
    for edition in (None, "2023"):
        references = pairs.references_of(root, edition, [ONE, TWO])
        names_say = {pair.case_id: pair.names_say for pair in references}
        assert names_say == (dict.fromkeys(by_names) if edition is None else by_names)
    assert len(calls) == 2


def test_names_that_do_not_tell_every_table_say_nothing(tiny_dataset, tmp_path):
    root = shutil.copytree(tiny_dataset("2020"), tmp_path / "data")
    for path in (root / TWO).iterdir():
        path.rename(path.with_name(path.name.replace(TWO, "patient7")))
    (root / TWO).rename(root / "patient7")
    with pytest.raises(InputError, match="the edition of patient7"):
        layouts.find(root)
    assert [pair.names_say for pair in pairs.references_of(root, "2023", [ONE, "patient7"])] == [None, None]
