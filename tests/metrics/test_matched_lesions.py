"""Lesions matched one to one (2025, 2026): scenes worked out by hand, files, the challenge's own answers."""

import csv
import dataclasses
import json
import math

import nibabel
import numpy as np
import pytest

from tfbrats import evaluate, labels
from tfbrats.cases import case
from tfbrats.errors import InputError
from tfbrats.labels import Tissue
from tfbrats.metrics import lesion_pairs, lesion_rules, matched_lesions
from tfbrats.scoring import case_scores, evaluation, score_files
from tfbrats.scoring.pairs import Pair

MM = (1.0, 1.0, 1.0)
_UNTIL_2023 = labels.EDITIONS["2023"].values
GLIOMA = labels.LabelSchema("2024", (*_UNTIL_2023, (4, Tissue.RC)))
METASTASES = labels.LabelSchema("met", (*_UNTIL_2023, (4, Tissue.RC)))
CHILDREN = labels.LabelSchema(
    "ped", ((0, Tissue.BACKGROUND), (1, Tissue.ET), (2, Tissue.NCR), (3, Tissue.CC), (4, Tissue.ED))
)


def boxes(*bounds, tissue=Tissue.ET):
    """Tissues with a box of `tissue` for each ((i, i), (j, j), (k, k))."""
    array = np.zeros((30, 30, 30), np.uint8)
    for bound in bounds:
        array[tuple(slice(*side) for side in bound)] = tissue
    return array


def row_of(prediction, reference, region="ET", schema=GLIOMA, spacing_mm=MM, **more):
    rows, _ = matched_lesions.score_case(prediction, reference, spacing_mm, schema, **more)
    return {row.region: row for row in rows}[region]


def listed(prediction, reference, region="ET", schema=GLIOMA, spacing_mm=MM):
    _, lesions = matched_lesions.score_case(prediction, reference, spacing_mm, schema)
    return [lesion for lesion in lesions if lesion.region == region]


def counts(row):
    return row.tp, row.fp, row.fn


# Cubes of 4 x 4 x 4 voxels; A and B lie in one bar, 10 voxels apart.
A, HALF_A = ((2, 6), (2, 6), (2, 6)), ((2, 6), (2, 6), (2, 4))
B = ((16, 20), (2, 6), (2, 6))
BAR = ((2, 20), (2, 6), (2, 6))
STRAY = ((25, 26), (25, 26), (25, 26))

# --- scenes worked out by hand --------------------------------------------------------------------------


def test_one_prediction_over_two_lesions_finds_one_of_them():
    row = row_of(boxes(BAR), boxes(A, B))
    assert counts(row) == (1, 0, 1)
    assert (row.n_ref_instances, row.n_pred_instances) == (2, 1)
    assert (row.prec, row.rec) == (1, 1 / 2)
    assert row.rq == pytest.approx(2 / 3)
    assert row.sq_dsc == pytest.approx(2 * 64 / (64 + 288))
    assert row.pq_dsc == pytest.approx(2 * 64 / (64 + 288) * 2 / 3)
    assert row.sq_dsc_std == 0
    assert (row.instance_voxel_count_ref, row.instance_volume_ref) == (64, 64)
    assert row.global_bin_dsc == pytest.approx(2 * 128 / (128 + 288))
    assert (row.global_bin_volume_pred, row.global_bin_volume_ref) == (288, 128)
    assert [(lesion.outcome, lesion.predicted_voxels) for lesion in listed(boxes(BAR), boxes(A, B))] == [
        ("matched", 288),
        ("missed", 0),
    ]


def test_half_a_lesion_and_a_stray_voxel_are_one_found_and_one_false():
    row = row_of(boxes(HALF_A, STRAY), boxes(A))
    assert counts(row) == (1, 1, 0)
    assert row.rq == pytest.approx(2 / 3)
    # The pair alone: A's surface voxels by layer of k are 16, 12 (a ring), 12, 16, and lie 0, 0, 1, 2 mm from
    # the half's; of the half's 32 voxels, all surface, 28 are A's and 4 lie 1 mm away. Within 1 mm: 40 of 56,
    # and all.
    assert row.sq_dsc == pytest.approx(2 * 32 / (64 + 32))
    assert row.sq_nsd == pytest.approx((40 / 56 + 1) / 2)
    assert row.sq_hd95 == pytest.approx(2)
    # The whole region holds the stray voxel too: 33 of surface. Within half a voxel: 28 of 56, 28 of 33.
    assert row.global_bin_dsc == pytest.approx(2 * 32 / (64 + 33))
    assert row.global_bin_nsd == pytest.approx((28 / 56 + 28 / 33) / 2)
    false = listed(boxes(HALF_A, STRAY), boxes(A))[1]
    assert (false.outcome, false.voxels, false.predicted_voxels, false.volume_mm3) == ("false", 0, 1, 1)
    assert (false.i, false.j, false.k) == (25, 25, 25)
    assert math.isnan(false.dice) and math.isnan(false.hd95_mm)


def test_partners_are_those_of_the_largest_sum_and_not_of_the_largest_number():
    slab = ((2, 3), (2, 6), (2, 6))
    # A lesion of 10 layers and one of 3; a bar of 13 layers over both, 8 of them in the first; a slab in the
    # first. The first with the bar: 2 * 8 / 23 = .70. With the slab 2 / 11, and the second with the bar 6 / 16:
    # two pairs, but .56 together.
    lesions = boxes(((2, 12), (2, 6), (2, 6)), ((14, 17), (2, 6), (2, 6)))
    row = row_of(boxes(slab, ((4, 17), (2, 6), (2, 6))), lesions)
    assert counts(row) == (1, 1, 1)
    assert row.sq_dsc == pytest.approx(16 / 23)
    # With 4 layers and a gap it is 8 / 14 + 6 / 13, more than 10 / 20 alone.
    row = row_of(boxes(((2, 6), (2, 6), (2, 6)), ((7, 17), (2, 6), (2, 6))), lesions)
    assert counts(row) == (2, 0, 0)
    assert row.sq_dsc == pytest.approx((8 / 14 + 6 / 13) / 2)
    assert row.sq_dsc_std == pytest.approx((8 / 14 - 6 / 13) / 2)


def test_many_lesions_have_the_partners_of_one_large_table_in_small_ones(monkeypatch):
    random = np.random.default_rng(0)
    reference = (random.random((40, 40, 40)) < 0.02).astype(np.uint8) * Tissue.ET
    prediction = np.where(random.random(reference.shape) < 0.5, reference, 0) | np.roll(reference, 1, 2)
    together = row_of(prediction, reference)
    monkeypatch.setattr(lesion_pairs, "_LARGEST_TABLE", 0)
    assert dataclasses.astuple(row_of(prediction, reference))[1:12] == pytest.approx(
        dataclasses.astuple(together)[1:12]
    )
    assert together.tp > 100 and together.fn > 100


def test_nothing_is_too_small_and_nothing_is_joined_but_at_corners():
    corner, apart = ((6, 7), (6, 7), (6, 7)), ((7, 8), (7, 8), (7, 8))
    assert row_of(boxes(), boxes(A, corner)).fn == 1
    assert row_of(boxes(), boxes(A, apart)).fn == 2


def test_empty_sides():
    both = row_of(boxes(), boxes())
    assert counts(both) == (0, 0, 0)
    assert all(math.isnan(value) for value in (both.rq, both.sq_dsc, both.sq_hd95, both.global_bin_hd95))
    for prediction, reference, expected in ((boxes(), boxes(A), (0, 0, 1)), (boxes(A), boxes(), (0, 1, 0))):
        row = row_of(prediction, reference)
        assert counts(row) == expected
        assert (row.rq, row.sq_dsc, row.pq_dsc, row.sq_nsd, row.sq_hd95) == (0, 0, 0, 0, 373)
        assert (row.global_bin_dsc, row.global_bin_nsd, row.global_bin_hd95) == (0, 0, 373)
    assert math.isnan(row.rec) and row.prec == 0
    # Two sides that do not overlap fare as if one were empty.
    row = row_of(boxes(A), boxes(B))
    assert counts(row) == (0, 1, 1)
    assert (row.sq_hd95, row.global_bin_hd95, row.global_bin_dsc) == (373, 373, 0)


def test_a_case_without_a_prediction_has_0_and_373_everywhere():
    rows, _ = matched_lesions.score_case(boxes(), boxes(A), MM, GLIOMA, missing=True)
    assert len(rows) == 6
    for row in rows:
        assert (row.rq, row.prec, row.rec, row.sq_dsc, row.sq_nsd, row.pq_dsc) == (0,) * 6, row.region
        assert (row.sq_hd95, row.global_bin_hd95, row.global_bin_dsc, row.global_bin_nsd) == (373, 373, 0, 0)
        assert row.fn == (row.region in ("ET", "TC", "WT"))


def test_sides_of_oblong_voxels_are_taken_as_the_challenge_s_program_takes_them():
    # Half of A along k: 2 voxels are missing. The program takes the first side for the last.
    row = row_of(boxes(HALF_A), boxes(A), spacing_mm=(3.0, 1.0, 0.5))
    assert row.sq_hd95 == pytest.approx(2 * 3.0)
    assert row.global_bin_hd95 == pytest.approx(2)  # voxels
    assert row.instance_volume_ref == pytest.approx(64 * 1.5)
    half_along_i = boxes(((2, 4), (2, 6), (2, 6)))
    assert row_of(half_along_i, boxes(A), spacing_mm=(3.0, 1.0, 0.5)).sq_hd95 == pytest.approx(2 * 0.5)


def test_groups_are_those_of_the_challenge():
    def groups(schema):
        return {
            name: [tissue.name for tissue in group] for name, group in matched_lesions.groups_of(schema).items()
        }

    assert list(groups(GLIOMA)) == ["NETC", "SNFH", "ET", "RC", "TC", "WT"]
    assert list(groups(labels.EDITIONS["2020"])) == ["NETC", "SNFH", "ET", "TC", "WT"]
    assert list(groups(METASTASES)) == ["ET", "RC", "TC", "WT"]
    of_children = groups(CHILDREN)
    assert list(of_children) == ["ET", "NETC", "CC", "ED", "TC", "WT"]
    assert {"NCR", "ET", "CC"} == set(of_children["TC"])
    row = {
        r.region: r for r in matched_lesions.score_case(boxes(), boxes(A, tissue=Tissue.CC), MM, CHILDREN)[0]
    }
    assert [row[group].fn for group in ("ET", "NETC", "CC", "ED", "TC", "WT")] == [0, 0, 1, 0, 1, 1]


def test_a_table_of_nnunets_has_the_groups_of_the_cases_own_challenge(tmp_path):
    def groups(case_id, tissues=(Tissue.ET, Tissue.NCR, Tissue.ED)):
        schema = labels.LabelSchema("nnunet", ((0, Tissue.BACKGROUND), *enumerate(tissues, 1)))
        path = tmp_path / f"{case_id}.nii.gz"
        nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)).to_filename(path)
        scored = case_scores.score_pair(Pair(case_id, None, str(path), schema), lesion_rule="2026")
        return [row["region"] for row in scored.lesions]

    assert groups("BraTS-GLI-00001-000") == groups("own") == ["NETC", "SNFH", "ET", "TC", "WT"]
    assert groups("BraTS-SSA-00001-000") == ["ET", "TC", "WT"]
    children = ["ET", "NETC", "CC", "ED", "TC", "WT"]
    assert groups("own", (Tissue.ET, Tissue.NCR, Tissue.CC, Tissue.ED)) == children
    assert groups("BraTS-PED-00001-000", (Tissue.ET, Tissue.NCR, Tissue.CC, Tissue.ED)) == children


def test_large_and_small_metastases_are_counted_apart():
    small, missed = ((20, 22), (20, 22), (20, 22)), ((10, 12), (20, 22), (20, 22))  # 8 mm3 each
    reference = boxes(A, small, missed)
    row = row_of(boxes(HALF_A, ((20, 22), (20, 22), (20, 21)), STRAY), reference, schema=METASTASES)
    assert counts(row) == (2, 1, 1)
    large = (row.large_instance_tp, row.large_instance_fp, row.large_instance_fn, row.large_instance_f1)
    assert large == (1, 1, 0, pytest.approx(2 / 3))
    assert (row.small_instance_tp, row.small_instance_fp, row.small_instance_fn) == (1, 1, 1)
    assert (row.small_instance_prec, row.small_instance_rec) == (1 / 2, 1 / 2)
    # Large lesions and false ones: 2 / 3 and 0; 2 mm and 373.
    assert row.lesionwise_dsc_mean == pytest.approx(1 / 3)
    assert row.lesionwise_hd95_mean == pytest.approx((2 + 373) / 2)
    assert row.lesionwise_nsd_mean == pytest.approx((40 / 56 + 1) / 4)


def test_a_metastasis_is_large_from_20_mm3_and_found_from_dice_a_tenth():
    def line(length):
        return boxes(((2, 3), (2, 3), (2, 2 + length)))

    for length, covered, expected in ((20, 2, (1, 0)), (20, 1, (0, 1)), (21, 21, (1, 0))):
        row = row_of(line(covered), line(length), schema=METASTASES)  # 1 of 20: 2 / 21, less than a tenth
        assert (row.large_instance_tp, row.large_instance_fn) == expected
        assert math.isnan(row.small_instance_tp)
        assert row.tp == 1
    row = row_of(line(1), line(19), schema=METASTASES)  # 2 / 20
    assert row.small_instance_tp == 1 and math.isnan(row.large_instance_tp)
    row = row_of(line(10), line(10), schema=METASTASES, spacing_mm=(2.0, 1.0, 1.0))
    assert row.large_instance_tp == 1  # 10 voxels of 2 mm3


# --- files ----------------------------------------------------------------------------------------------


def write(folder, name, tissues, schema, affine=None):
    folder.mkdir(exist_ok=True)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) if affine is None else affine
    nibabel.Nifti1Image(schema.to_values(tissues, name), affine).to_filename(folder / f"{name}.nii.gz")


def test_evaluate_writes_regions_and_lesions_and_reads_them_back(tmp_path, capsys):
    schema = labels.EDITIONS["2023"]
    references = {"BraTS-GLI-00001-000": boxes(A, B), "BraTS-GLI-00002-000": boxes(A)}
    for name, reference in references.items():
        write(tmp_path / "r", name, reference, schema)
    write(tmp_path / "p", "BraTS-GLI-00001-000", boxes(HALF_A, STRAY), schema)
    arguments = ["--prediction", str(tmp_path / "p"), "--reference", str(tmp_path / "r"), "--workers", "1"]
    arguments += ["--output", str(tmp_path / "out"), "--lesions", "2026", "--allow-missing"]
    evaluate.main([*arguments, "--edition", "2023"])
    printed = capsys.readouterr().out
    assert "Rule 2026" in printed and "lesion_list.csv" in printed

    content = score_files.read(tmp_path / "out").lesions
    # The missing case's ET: 0 and 373. Found: one of two lesions, one false.
    assert content.summary["ET"]["rq"].mean == pytest.approx((2 * 1 / (2 + 1 + 1) + 0) / 2)
    assert content.summary["ET"]["sq_hd95"].mean == pytest.approx((2 + 373) / 2)
    assert [content.summary["ET"][name] for name in ("tp", "fp", "fn")] == [1, 1, 2]
    # SNFH: both empty is left out, missing is not.
    assert content.summary["SNFH"]["rq"].n == 1
    with (tmp_path / "out" / "lesions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["region"] for row in rows[:5]] == ["NETC", "SNFH", "ET", "TC", "WT"] and len(rows) == 10
    with (tmp_path / "out" / "lesion_list.csv").open() as file:
        lesions = [row for row in csv.DictReader(file) if row["region"] == "ET"]
    assert [(row["case_id"][-7:], row["outcome"], row["volume_mm3"]) for row in lesions] == [
        ("001-000", "matched", "64.0"),
        ("001-000", "missed", "64.0"),
        ("001-000", "false", "1.0"),
        ("002-000", "missed", "64.0"),
    ]
    assert content.each[0]["dice"] == pytest.approx(2 / 3) and math.isnan(content.each[1]["dice"])
    # What an older version wrote has no list.
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    del written["lesions"]["list"]
    (tmp_path / "out" / "metrics.json").write_text(json.dumps(written))
    assert score_files.read(tmp_path / "out").lesions.each == []
    # Another rule leaves no list of 2026 behind.
    evaluate.main([*arguments, "--edition", "2023", "--lesions", "2023"])
    assert not (tmp_path / "out" / "lesion_list.csv").exists()
    with pytest.raises(InputError, match="2026"):
        lesion_rules.check("2022")


def test_lesions_are_told_by_the_voxels_of_their_file(tmp_path):
    # The file's first axis goes up: the package turns it, the list does not.
    schema = labels.EDITIONS["2023"]
    upwards = np.array([[0, -1.0, 0, 0], [0, 0, -1.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
    for name in ("p", "r"):
        write(tmp_path / name, "BraTS-GLI-00001-000", boxes(((2, 3), (4, 5), (6, 7))), schema, upwards)
    lesions = evaluation.evaluate(tmp_path / "p", tmp_path / "r", "2023", lesion_rule="2026").lesions.each
    assert {(lesion["i"], lesion["j"], lesion["k"]) for lesion in lesions} == {(2, 4, 6)}


# --- the challenge's own answers ------------------------------------------------------------------------

SIDES = ("pred", "seg")
# Of a lesion: ours -> the program's.
OF_LESION = {
    "voxels": "voxel_count",
    "volume_mm3": "volume",
    "dice": "sq_dsc",
    "nsd": "sq_nsd",
    "hd95_mm": "sq_hd95",
}


def ordered(lesions, names):
    """These numbers of each lesion, smallest first; -1 for what a missed lesion lacks."""
    numbers = ([lesion.get(name, math.nan) for name in names] for lesion in lesions)
    return np.array(sorted([-1.0 if math.isnan(value) else value for value in values] for values in numbers))


def test_two_real_cases_have_every_number_of_the_challenge_s_program(real_masks_2026):
    compared = 0
    for answer in json.loads((real_masks_2026 / "answers.json").read_text()):
        case_id = answer.pop("subject_name").removesuffix("-seg.nii.gz")
        loaded = [case.load_label(real_masks_2026 / f"{case_id}_{side}.nii.gz", METASTASES) for side in SIDES]
        masks, grids = zip(*loaded, strict=True)
        rows, lesions = lesion_rules.score_case(*masks, grids[1], METASTASES, "2026")
        assert {row["region"].lower() for row in rows} == set(answer)
        for row in rows:
            expected = answer[row["region"].lower()]
            of_reference = expected.pop("reference_instances")
            for name, number in expected.items():
                expected_number = math.nan if number is None else number
                assert row[name] == pytest.approx(expected_number, abs=1e-6, nan_ok=True), (case_id, name)
            here = [lesion for lesion in lesions if lesion["region"] == row["region"]]
            here = [lesion for lesion in here if lesion["outcome"] != "false"]
            assert len(here) == len(of_reference)
            assert ordered(here, OF_LESION) == pytest.approx(
                ordered(of_reference, OF_LESION.values()), abs=1e-6
            )
            compared += len(expected) + len(OF_LESION) * len(here)
    assert compared > 400
