"""Two sides, two tables: found or given, held against the values, and never wrong in silence."""

import dataclasses
import json

import numpy as np
import pytest

from tfbrats import report
from tfbrats.cases import case, nifti
from tfbrats.datasets import label_candidates
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, LabelSchema, Tissue
from tfbrats.scoring import case_scores, evaluation, label_tables, score_files
from tfbrats.scoring.pairs import Pair

SHAPE = (40, 40, 16)  # what a picture needs


def tissues():
    array = np.zeros(SHAPE, np.uint8)
    array[12:28, 12:28, 4:12] = Tissue.ED
    array[15:25, 15:25, 5:11] = Tissue.NCR
    array[18:22, 18:22, 6:10] = Tissue.ET
    return array


def save(folder, name, edition, array=None):
    path = folder / name
    array = tissues() if array is None else array
    case.save_segmentation(path, array, nifti.new_grid(SHAPE), EDITIONS[edition])
    return path


NAMES = {"2021": "BraTS2021_00001", "2023": "BraTS-GLI-00001-000", "2024": "BraTS-GLI-00001-100"}


def folders(root, reference, prediction):
    """A reference of one edition, and a perfect prediction in the values of another."""
    save(root / "r", f"{NAMES[reference]}_seg.nii.gz", reference)
    save(root / "p", f"{NAMES[reference]}.nii.gz", prediction)
    return root / "p", root / "r"


def dice(content):
    return [content.summary[region]["dice"].mean for region in ("WT", "TC", "ET")]


def test_the_advice_followed_to_the_letter_gives_the_true_score(tmp_path):
    sides = folders(tmp_path, "2021", "2023")
    with pytest.raises(InputError) as error:
        evaluation.evaluate(*sides)
    text = str(error.value)
    assert "the values 0, 1, 2, 3, which edition 2021 of the reference does not" in text
    assert (
        "--prediction-edition 2023 (1 NCR, 2 ED, 3 ET) or --prediction-edition msd (1 ED, 2 NCR, 3 ET)" in text
    )
    # Of 16 x 16 x 8 voxels 4 x 4 x 4 are ET, which both tables have as 3; the rest is exchanged in msd's.
    assert f"100.0% by 2023, {64 / 2048:.1%} by msd" in text
    content = evaluation.evaluate(*sides, prediction_edition="2023")
    assert dice(content) == [1, 1, 1] and content.warnings == []


@pytest.mark.parametrize("edition", ["2023", "2024"])
def test_a_table_that_contradicts_names_and_values_is_refused_for_the_reference(tmp_path, edition):
    sides = folders(tmp_path, "2021", "2023")
    with pytest.raises(
        InputError, match=rf"--edition {edition} .*the names say 2021.*Leave --edition out"
    ) as error:
        evaluation.evaluate(*sides, edition=edition)
    assert "--prediction-edition 2023" in str(error.value)
    # With a prediction that is right in the reference's own table, too.
    sides = folders(tmp_path, "2021", "2021")
    with pytest.raises(InputError, match=r"Leave --edition out\.$"):
        evaluation.evaluate(*sides, edition=edition)


def test_masks_rewritten_in_the_decathlons_table_are_read_as_said_with_a_note(tmp_path):
    sides = folders(tmp_path, "2023", "msd")
    save(tmp_path / "r", "BraTS-GLI-00001-000_seg.nii.gz", "msd")
    content = evaluation.evaluate(*sides, edition="msd")
    assert dice(content) == [1, 1, 1]
    # TC is 600 voxels, of which the names' own table would make the rest of 2048.
    assert content.rows[1]["reference_volume_ml"] == pytest.approx(0.6)
    (note,) = content.notes
    assert "--edition msd reads 1 as ED, but the names say 2023" in note and note.endswith("read as given")


def test_a_table_that_only_the_values_tell_is_believed(tmp_path):
    # Named as of 2021, written as of 2023: both sides, as nnU-Net's users have them.
    sides = folders(tmp_path, "2021", "2023")
    save(tmp_path / "r", "BraTS2021_00001_seg.nii.gz", "2023")
    with pytest.raises(InputError, match=r"label values \[3\] are not in edition 2021.*--edition"):
        evaluation.evaluate(*sides)
    with pytest.raises(InputError, match="faults: 1\n"):  # the prediction's table may be the reference's
        evaluation.evaluate(*sides)
    content = evaluation.evaluate(*sides, edition="2023")
    assert dice(content) == [1, 1, 1] and content.editions == ["2023"]


def test_a_cavity_where_enhancing_tumour_was_meant_is_not_overlooked(tmp_path):
    # 4 is enhancing tumour until 2021 and the cavity in 2024: the values fit, and ET would be 0.
    content = evaluation.evaluate(*folders(tmp_path, "2024", "2021"))
    assert dice(content) == [pytest.approx(2 * 1984 / (2048 + 1984)), pytest.approx(2 * 536 / (600 + 536)), 0]
    (warning,) = content.warnings
    assert warning.endswith("pass --prediction-edition 2021.")


def test_the_only_other_meaning_is_taken_and_noted(tmp_path):
    sides = folders(tmp_path, "2023", "2021")
    content = evaluation.evaluate(*sides)
    assert dice(content) == [1, 1, 1]
    (entry,) = content.tables
    assert (entry["reference"]["edition"], entry["prediction"]["edition"]) == ("2023", "2021")
    assert entry["prediction_told_by"].startswith("no other table")


def test_what_is_said_of_predictions_against_the_values_is_refused(tmp_path):
    sides = folders(tmp_path, "2021", "2021")
    with pytest.raises(
        InputError, match=r"--prediction-edition 2024 reads 4 as RC, which the reference \(2021\)"
    ):
        evaluation.evaluate(*sides, prediction_edition="2024")
    with pytest.raises(InputError, match=r"label values \[4\] are not in edition 2023, by which"):
        evaluation.evaluate(*sides, prediction_edition="2023")
    with pytest.raises(InputError, match="prediction edition '1999' is unknown"):
        evaluation.evaluate(*sides, prediction_edition="1999")


def test_tables_of_the_same_values_are_not_confused_in_silence(tmp_path):
    # nnU-Net's and the Decathlon's 1 and 2 are BraTS' 2 and 1: whole tumour and ET are right either way.
    sides = folders(tmp_path, "2023", "msd")
    content = evaluation.evaluate(*sides)
    # Reference TC: 600 voxels of NCR and ET; predicted: the 1448 that are ED, and the 64 of ET.
    assert dice(content) == [1, pytest.approx(2 * 64 / (600 + 1448 + 64)), 1]
    (warning,) = content.warnings
    assert "Dice WT 1.000, TC 1.000, ET 1.000, and now, by 2023" in warning
    assert warning.endswith("pass --prediction-edition msd.")
    content = evaluation.evaluate(*sides, prediction_edition="msd")
    assert dice(content) == [1, 1, 1] and content.warnings == []


def test_a_poor_prediction_is_not_taken_for_an_exchanged_one():
    counts = np.zeros((len(Tissue), len(Tissue)), np.int64)
    counts[1:4, 1:4] = [[30, 40, 10], [40, 60, 30], [10, 30, 30]]
    assert label_candidates.doubts([EDITIONS["2023"]], [counts], "p") == []


def exchanged(edition, order, noise=0):
    """Counts of a prediction that is right but for its values, of which (`order`) says what each should be."""
    counts = np.full((len(Tissue), len(Tissue)), noise, np.int64)
    counts[0, 0] = 10_000
    for tissue, written in zip((Tissue.NCR, Tissue.ED, Tissue.ET), order, strict=True):
        counts[tissue, written] += 100
    return label_candidates.doubts([EDITIONS[edition]], [counts], "p")


@pytest.mark.parametrize(
    ("edition", "order", "says"),
    [
        (
            "2021",
            (Tissue.ED, Tissue.NCR, Tissue.ET),
            "the values 1 and 2 seem exchanged: read as 1 ED, 2 NCR, 4 ET",
        ),
        (
            "2023",
            (Tissue.ET, Tissue.ED, Tissue.NCR),
            "the values 1 and 3 seem exchanged: read as 1 ET, 2 ED, 3 NCR",
        ),
        ("2023", (Tissue.ED, Tissue.NCR, Tissue.ET), "pass --prediction-edition msd"),
        ("2023", (Tissue.NCR, Tissue.ET, Tissue.ED), "the values 2 and 3 seem exchanged"),
    ],
)
def test_exchanged_values_are_told_whether_or_not_an_edition_has_them_so(edition, order, says):
    (warning,) = exchanged(edition, order)
    assert says in warning and "Dice WT 1.000, TC 1.000, ET 1.000, and now" in warning
    assert says.startswith("pass") or "Write the files again in the table of" in warning
    assert exchanged(edition, order, noise=90) == []  # too poor to tell
    assert exchanged(edition, (Tissue.NCR, Tissue.ED, Tissue.ET)) == []


def test_a_mask_of_one_region_is_not_scored_as_a_tissue_in_silence(tmp_path):
    sides = folders(tmp_path, "2021", "2021")
    save(sides[0], "BraTS2021_00001.nii.gz", "2021", (tissues() > 0).astype(np.uint8))
    (warning,) = evaluation.evaluate(*sides).warnings
    assert "all predictions hold the value 1 alone, read as NCR" in warning


def test_the_file_of_provenance_beside_a_prediction_tells_its_table(tmp_path):
    sides = folders(tmp_path, "2023", "msd")
    told = {"case_id": NAMES["2023"], "labels": EDITIONS["msd"].to_json(), "model": {}}
    (sides[0] / f"{NAMES['2023']}.json").write_text(json.dumps(told))
    content = evaluation.evaluate(*sides)
    assert dice(content) == [1, 1, 1] and content.warnings == []
    assert content.tables[0]["prediction_told_by"] == "the files of --provenance beside them say"


def test_nnunets_own_file_beside_its_predictions_tells_their_table(tmp_path):
    sides = folders(tmp_path, "2023", "msd")
    labels = {"background": 0, "edema": 1, "non-enhancing": 2, "enhancing": 3}
    (sides[0] / "dataset.json").write_text(json.dumps({"labels": labels}))
    content = evaluation.evaluate(*sides)
    assert dice(content) == [1, 1, 1] and content.warnings == []
    assert content.tables[0]["prediction_told_by"].endswith("dataset.json says")


def test_a_file_or_two_in_other_values_are_named_and_the_rest_is_not_reinterpreted(tmp_path):
    sides = folders(tmp_path, "2021", "2021")
    save(sides[1], "BraTS2021_00002_seg.nii.gz", "2021")
    save(sides[0], "BraTS2021_00002.nii.gz", "2023")
    with pytest.raises(
        InputError, match=r"faults: 1\n  BraTS2021_00002: .*label values \[3\].*--cases BraTS2021_00002"
    ):
        evaluation.evaluate(*sides)


def test_the_page_reads_each_side_as_it_was_scored(tmp_path):
    sides = folders(tmp_path, "2021", "2023")
    score_files.write(evaluation.evaluate(*sides, prediction_edition="2023"), tmp_path / "scores")
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    (one,) = summary["metric_per_case"]
    assert one["prediction_values"] == {"(1, 2, 4)": [1, 2, 3], "(1, 4)": [1, 3], "(4,)": [3]}
    report.write(tmp_path / "scores", *sides, tmp_path / "r.html", pictures=1)
    page = (tmp_path / "r.html").read_text()
    assert "prediction 2023 (0 BACKGROUND, 1 NCR, 2 ED, 3 ET), as --prediction-edition 2023 says" in page


def test_a_file_is_not_scored_against_itself(tmp_path):
    _, reference = folders(tmp_path, "2021", "2021")
    (reference / "BraTS2021_00001_seg.nii.gz").rename(reference / "BraTS2021_00001.nii.gz")
    with pytest.raises(InputError, match=r"BraTS2021_00001: .*prediction and reference are one file"):
        evaluation.evaluate(reference, reference)


# --- which tables hold these values ---------------------------------------------------------------------


PED = LabelSchema("ped", ((0, Tissue(0)), (1, Tissue.ET), (2, Tissue.NCR), (3, Tissue.CC), (4, Tissue.ED)))


@pytest.mark.parametrize(
    ("present", "like", "expected"),
    [
        ({0, 1, 2, 3}, "2021", ["2023", "msd"]),
        ({0, 3}, "2021", ["2023"]),  # whatever 1 and 2 would be
        ({0, 1, 2, 4}, "2023", ["2021"]),
        ({0, 1, 2, 3, 4}, "2023", ["2024"]),
        ({0, 1, 2, 9}, "2023", []),
    ],
)
def test_one_edition_stands_for_each_meaning(monkeypatch, present, like, expected):
    monkeypatch.setattr(
        label_candidates, "EDITIONS", {name: EDITIONS[name] for name in ("2020", "2021", "2023", "2024", "msd")}
    )
    assert [one.edition for one in label_candidates.candidates(present, EDITIONS[like])] == expected


def test_a_paediatric_table_explains_no_adults_labels(monkeypatch):
    monkeypatch.setattr(label_candidates, "EDITIONS", {"2021": EDITIONS["2021"], "ped": PED})
    assert label_candidates.candidates({0, 1, 2, 4}, EDITIONS["2023"]) == [EDITIONS["2021"]]
    monkeypatch.setattr(label_candidates, "EDITIONS", {"ped": PED})
    assert label_candidates.candidates({0, 1, 2, 4}, EDITIONS["2023"]) == [PED]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_the_values_of_a_file_are_read_whatever_it_is_stored_as(tmp_path, dtype):
    grid = nifti.new_grid(SHAPE)
    path = tmp_path / "x.nii.gz"
    path.write_bytes(nifti.to_bytes(grid.to_file(tissues()).astype(dtype), grid, path.name))
    assert label_tables.values_of(str(path)) == {0, 1, 2, 3}


def test_an_image_or_a_damaged_file_has_no_label_values(tmp_path):
    grid = nifti.new_grid(SHAPE)
    path = tmp_path / "x.nii.gz"
    image = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(grid.file_shape)
    path.write_bytes(nifti.to_bytes(image, grid, path.name))
    assert label_tables.values_of(str(path)) is None
    path.write_bytes(b"<html>")
    assert label_tables.values_of(str(path)) is None


def test_pairs_are_grouped_by_their_two_tables(tmp_path):
    one = Pair("a", "p/a.nii.gz", "r/a.nii.gz", EDITIONS["2021"], prediction_schema=EDITIONS["2023"])
    pairs = [
        one,
        dataclasses.replace(one, case_id="b"),
        dataclasses.replace(one, case_id="c", prediction_schema=None),
    ]
    entries = label_tables.as_json(pairs, dict.fromkeys("abc", ""))
    assert [entry["cases"] for entry in entries] == [["a", "b"], ["c"]]
    bare = [dataclasses.replace(pair, prediction_schema=None) for pair in pairs]
    back = label_tables.with_tables(bare, json.loads(json.dumps(entries)))
    assert [pair.written_in.values for pair in back] == [pair.written_in.values for pair in pairs]
    assert [pair.written_in for pair in label_tables.with_tables(bare, [])] == [EDITIONS["2021"]] * 3


@pytest.mark.parametrize("number", [1, 3])
def test_references_without_any_enhancing_tumour_by_the_table_given_are_not_read_in_silence(tmp_path, number):
    for n in range(number):
        save(tmp_path / "r", f"own{n}_seg.nii.gz", "2021")
        save(tmp_path / "p", f"own{n}.nii.gz", "2021")
    says = r"edition 2024 reads value 4 as resection cavity, and no mask has enhancing tumour; in edition 2017"
    if number == 1:
        (warning,) = evaluation.evaluate(tmp_path / "p", tmp_path / "r", edition="2024").warnings
        assert says in warning
    else:
        with pytest.raises(InputError, match=says):
            evaluation.evaluate(tmp_path / "p", tmp_path / "r", edition="2024")
    content = evaluation.evaluate(tmp_path / "p", tmp_path / "r", edition="2021")
    assert content.warnings == [] and dice(content) == [1, 1, 1]


def test_files_of_values_that_every_table_has_do_not_make_the_others_the_exception(tmp_path):
    sides = folders(tmp_path, "2021", "2021")
    no_et = np.where(tissues() == Tissue.ET, Tissue.NCR, tissues())
    for n, array in ((2, tissues()), (3, no_et)):
        save(sides[1], f"BraTS2021_0000{n}_seg.nii.gz", "2021", array)
        save(sides[0], f"BraTS2021_0000{n}.nii.gz", "2021", array)
    with pytest.raises(InputError) as error:
        evaluation.evaluate(*sides, prediction_edition="2023")
    assert "Others fit it" not in str(error.value) and "Leave --prediction-edition out" in str(error.value)


def test_a_dataset_json_that_the_predictions_contradict_is_passed_over_with_a_note(tmp_path):
    sides = folders(tmp_path, "2021", "2021")
    labels = {"background": 0, "edema": 1, "non-enhancing": 2, "enhancing": 3}
    (sides[0] / "dataset.json").write_text(json.dumps({"labels": labels}))
    content = evaluation.evaluate(*sides)
    assert dice(content) == [1, 1, 1]
    (note,) = content.notes
    assert note.endswith(
        "dataset.json says that the predictions are written as 0 BACKGROUND, 1 ED, 2 NCR, 3 ET, "
        "but they hold 4: passed over"
    )


@pytest.mark.parametrize("model", ["baseline", "waveloss"])
def test_public_models_predictions_of_real_cases_are_doubted_neither_alone_nor_together(real_masks, model):
    schema = EDITIONS["2020"]
    counts = []
    for path in sorted(real_masks.glob("*_seg.nii.gz")):
        predicted = real_masks / path.name.replace("_seg", f"_pred_{model}_attention")
        sides = [case.load_label(each, schema)[0] for each in (predicted, path)]
        counts.append(case_scores.tissue_pairs(*sides))
    assert len(counts) == 5
    assert [label_candidates.doubts([schema], [each], "p") for each in counts] == [[]] * 5
    assert label_candidates.doubts([schema] * 5, counts, "p") == []
