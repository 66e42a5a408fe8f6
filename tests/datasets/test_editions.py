"""One model, every edition: predicted and scored at the command line, checked with nibabel and numpy alone.

The model was made for 2020 (tests/tiny_model.py: a rule in place of a network, which can be applied to the
files as they are). What it answers must stand in each set's own label values, axes and header.
"""

import csv
import gzip
import json
import pathlib
import re

import nibabel
import numpy as np
import pytest
import tiny_model

from tfbrats import evaluate, inspect, labels, predict
from tfbrats.datasets import layouts
from tfbrats.labels import Tissue
from tfbrats.phantoms import data_sets, phantom_files, simulation
from tfbrats.predictions import model_card
from tfbrats.records import reading
from tfbrats.records.manifest import read_manifest

# By hand, from the challenges' own papers and dataset.json: the value of each tissue in the files.
_UNTIL_2021 = {Tissue.NCR: 1, Tissue.ED: 2, Tissue.ET: 4}
_SINCE_2023 = {Tissue.NCR: 1, Tissue.ED: 2, Tissue.ET: 3}
_NNUNET = {Tissue.ED: 1, Tissue.NCR: 2, Tissue.ET: 3}  # whole [1, 2, 3], core [2, 3], enhancing [3]
VALUES = {
    **dict.fromkeys(("2017", "2018", "2019", "2020", "2021"), _UNTIL_2021),
    **dict.fromkeys(("2023", "2024"), _SINCE_2023),
    "msd": {Tissue.ED: 1, Tissue.NCR: 2, Tissue.ET: 3},
    "nnunet": _NNUNET,
    "ped": {Tissue.ET: 1, Tissue.NCR: 2, Tissue.ED: 4},
    "ucsf": _UNTIL_2021,
}
_CYST = {"ped": 3}  # of the core in references; no model answers it
REGIONS = {
    "WT": (Tissue.NCR, Tissue.ED, Tissue.ET),
    "TC": (Tissue.NCR, Tissue.ET),
    "ET": (Tissue.ET,),
}
COLUMNS = [
    *("case_id", "region", "dice", "sensitivity", "specificity", "specificity_tumour_slices"),
    *("hausdorff_mm", "hd95_mm", "hd95_pooled_mm", "nsd_1mm", "volume_ml", "reference_volume_ml", "empty"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The one model, of edition 2020. Read only."""
    path = tiny_model.write(tmp_path_factory.mktemp("models") / "tiny", edition="2020")
    (path / model_card.FILE).write_text(tiny_model.card(edition="2020").to_json())
    return path


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """`data_set(edition)` -> folder of cases 4 and 5, in which the rule finds every tissue. Read only."""
    written = {}

    def of(edition):
        if edition not in written:
            folder = tmp_path_factory.mktemp(f"edition_{edition}_")
            data_sets.write_dataset(folder, 2, edition, seed=1, shape=(32, 32, 20), first=4)
            written[edition] = folder
        return written[edition]

    return of


def run_predict(model, cases, output):
    predict.main(["--model", str(model), "--input", str(cases), "--output", str(output)])


def run_evaluate(prediction, reference, output) -> list[dict[str, str]]:
    """The rows of metrics.csv."""
    folders = ["--prediction", str(prediction), "--reference", str(reference), "--output", str(output)]
    evaluate.main([*folders, "--workers", "1"])
    with (output / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def raw(path) -> np.ndarray:
    return np.asanyarray(nibabel.load(path).dataobj)


def scans_of(edition, cases, case_id):
    """(path, voxels by modality) of one case as its files hold them; no code of the package."""
    if edition == "msd":
        path = cases / "imagesTr" / f"{case_id}.nii.gz"
        array = raw(path)
        return path, {name: array[..., n] for n, name in enumerate(("flair", "t1", "t1ce", "t2"))}
    if edition == "nnunet":
        channels = json.loads((cases / "dataset.json").read_text())["channel_names"]
        paths = {channels[str(n)].lower(): cases / "imagesTr" / f"{case_id}_{n:04d}.nii.gz" for n in range(4)}
    else:
        newer = edition in ("2023", "2024", "ped")
        endings = ("-t2f", "-t1n", "-t1c", "-t2w") if newer else ("_flair", "_t1", "_t1ce", "_t2")
        endings = ("_FLAIR", "_T1", "_T1c", "_T2") if edition == "ucsf" else endings
        paths = {
            name: next(cases.rglob(f"{case_id}{ending}.nii*"))
            for name, ending in zip(("flair", "t1", "t1ce", "t2"), endings, strict=True)
        }
    return paths["flair"], {name: raw(path) for name, path in paths.items()}


def mask_of(edition, cases, case_id):
    if edition in ("msd", "nnunet"):
        return raw(cases / "labelsTr" / f"{case_id}.nii.gz")
    return raw(
        next(
            path
            for path in cases.rglob(f"{case_id}*")
            if re.search("[-_](seg|tumor_segmentation).nii", path.name)
        )
    )


def check_segmentation(path, source, scans, values):
    """The rule's answer voxel by voxel, in these values, under the source's header."""
    tissues = tiny_model.tissues_by_rule(scans)
    expected = np.zeros(tissues.shape, np.uint8)
    for tissue, value in values.items():
        expected[tissues == tissue] = value
    image, reference = nibabel.load(path), nibabel.load(source)
    assert np.array_equal(raw(path), expected)
    assert len(np.unique(expected)) > 1  # the rule has something to say
    assert image.get_data_dtype() == np.uint8
    assert image.header.get_slope_inter() in ((None, None), (1.0, 0.0))
    assert np.array_equal(image.affine, reference.affine)
    for key in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units"):
        assert image.header[key] == reference.header[key]
    for axis in "xyz":
        assert np.array_equal(image.header[f"srow_{axis}"], reference.header[f"srow_{axis}"])
        assert image.header[f"qoffset_{axis}"] == reference.header[f"qoffset_{axis}"]
    assert np.array_equal(image.header["pixdim"][:4], reference.header["pixdim"][:4])


def dice(prediction, reference):
    total = prediction.sum() + reference.sum()
    return 2 * (prediction & reference).sum() / total if total else 1.0


@pytest.mark.parametrize("edition", VALUES)
def test_one_model_answers_in_the_values_of_every_edition_and_is_scored_there(
    model, data_set, tmp_path, edition, capsys
):
    cases, values = data_set(edition), VALUES[edition]
    run_predict(model, cases, tmp_path / "out")
    ids = sorted(path.name.removesuffix(".nii.gz") for path in (tmp_path / "out").glob("*.nii.gz"))
    assert ids == [phantom_files.case_id(edition, number) for number in (4, 5)]
    seen = set()
    for case_id in ids:
        check_segmentation(tmp_path / "out" / f"{case_id}.nii.gz", *scans_of(edition, cases, case_id), values)
        seen |= set(np.unique(raw(tmp_path / "out" / f"{case_id}.nii.gz")))
    assert seen == {0, *values.values()}

    rows = run_evaluate(tmp_path / "out", cases, tmp_path / "scores")
    assert list(rows[0]) == COLUMNS
    assert [(row["case_id"], row["region"]) for row in rows] == [(i, r) for i in ids for r in REGIONS]
    for row in rows:
        wanted = [values[tissue] for tissue in REGIONS[row["region"]]]
        prediction = np.isin(raw(tmp_path / "out" / f"{row['case_id']}.nii.gz"), wanted)
        wanted += [_CYST[edition]] if edition in _CYST and row["region"] != "ET" else []
        reference = np.isin(mask_of(edition, cases, row["case_id"]), wanted)
        assert float(row["dice"]) == pytest.approx(dice(prediction, reference))
        assert float(row["specificity"]) == pytest.approx((~prediction & ~reference).sum() / (~reference).sum())
    assert any(0 < float(row["dice"]) < 1 for row in rows)
    assert f"edition {edition}" in capsys.readouterr().out


def test_the_same_tumour_has_the_same_scores_in_every_edition(model, data_set, tmp_path):
    scores = {}
    for edition in VALUES:
        if edition == "2024":  # some of its simulated cases are resected
            continue
        run_predict(model, data_set(edition), tmp_path / edition / "out")
        rows = run_evaluate(tmp_path / edition / "out", data_set(edition), tmp_path / edition / "scores")
        scores[edition] = [[text for name, text in row.items() if name != "case_id"] for row in rows]
    assert all(rows == scores["2020"] for rows in scores.values())


def test_a_resection_cavity_belongs_to_no_region_and_is_predicted_nowhere(model, tmp_path):
    number = next(n for n in range(9) if data_sets.is_resected(1, n))
    (case_id,) = data_sets.write_dataset(
        tmp_path / "cases", 1, "2024", seed=1, shape=(32, 32, 20), first=number
    )
    mask = mask_of("2024", tmp_path / "cases", case_id)
    assert (mask == 4).any()
    run_predict(model, tmp_path / "cases", tmp_path / "out")
    assert not (raw(tmp_path / "out" / f"{case_id}.nii.gz") == 4).any()
    rows = run_evaluate(tmp_path / "out", tmp_path / "cases", tmp_path / "scores")
    assert float(rows[0]["reference_volume_ml"]) == pytest.approx(np.isin(mask, (1, 2, 3)).sum() / 1000)
    # The expert's own mask, cavity included, is a perfect prediction.
    (tmp_path / "expert").mkdir()
    source = next((tmp_path / "cases").rglob("*-seg.nii.gz"))
    (tmp_path / "expert" / f"{case_id}.nii.gz").write_bytes(source.read_bytes())
    rows = run_evaluate(tmp_path / "expert", tmp_path / "cases", tmp_path / "own")
    assert {row["dice"] for row in rows} == {"1.0"}


def test_the_misnamed_mask_of_case_355_is_noted_and_scored_against(model, tmp_path, capsys):
    (case_id,) = data_sets.write_dataset(tmp_path / "cases", 1, "2020", seed=1, shape=(32, 32, 20), first=355)
    assert case_id == "BraTS20_Training_355"
    misnamed = tmp_path / "cases" / case_id / "W39_1998.09.19_Segm.nii.gz"
    assert misnamed.is_file() and not list((tmp_path / "cases").rglob("*_seg.nii.gz"))
    note = f"{case_id}: its segmentation is misnamed {misnamed.name}; taken as such"

    assert inspect.main([str(tmp_path / "cases")]) == 0
    assert note in capsys.readouterr().out
    run_predict(model, tmp_path / "cases", tmp_path / "out")
    rows = run_evaluate(tmp_path / "out", tmp_path / "cases", tmp_path / "scores")
    assert f"note: {note}" in capsys.readouterr().out
    prediction, reference = raw(tmp_path / "out" / f"{case_id}.nii.gz"), raw(misnamed)
    assert [float(row["dice"]) for row in rows] == pytest.approx(
        [dice(np.isin(prediction, part), np.isin(reference, part)) for part in ((1, 2, 4), (1, 4), (4,))]
    )


@pytest.mark.parametrize("edition", ["2020", "2023", "msd"])
@pytest.mark.parametrize("axes", ["RAS", "LAS", "ASR", "SPL"])
def test_files_in_other_axes_are_answered_in_theirs(model, tmp_path, edition, axes):
    stored = {"shape": (30, 34, 22), "first": 0, "spacing_mm": (1, 1.5, 2)}
    (case_id,) = data_sets.write_dataset(tmp_path / "cases", 1, edition, seed=1, axes=tuple(axes), **stored)
    source, scans = scans_of(edition, tmp_path / "cases", case_id)
    assert "".join(nibabel.aff2axcodes(nibabel.load(source).affine)) == axes
    run_predict(model, tmp_path / "cases", tmp_path / "out")
    path = tmp_path / "out" / f"{case_id}.nii.gz"
    check_segmentation(path, source, scans, VALUES[edition])

    # The same case as BraTS stores it: one anatomy, one answer, one score.
    data_sets.write_dataset(tmp_path / "lps", 1, edition, seed=1, **stored)
    run_predict(model, tmp_path / "lps", tmp_path / "out_lps")
    ours, theirs = (
        np.asanyarray(nibabel.as_closest_canonical(nibabel.load(folder / path.name)).dataobj)
        for folder in (tmp_path / "out", tmp_path / "out_lps")
    )
    assert np.array_equal(ours, theirs) and len(np.unique(ours)) == 4
    assert run_evaluate(tmp_path / "out", tmp_path / "cases", tmp_path / "scores") == run_evaluate(
        tmp_path / "out_lps", tmp_path / "lps", tmp_path / "scores_lps"
    )


@pytest.mark.parametrize("edition", VALUES)
def test_uncompressed_sets_give_the_same_segmentations(model, data_set, tmp_path, edition):
    for path in data_set(edition).rglob("*"):
        target = tmp_path / "cases" / path.relative_to(data_set(edition))
        if path.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith(".nii.gz"):
            target.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        else:
            target.write_bytes(path.read_bytes())
    assert not list((tmp_path / "cases").rglob("*.gz"))
    run_predict(model, data_set(edition), tmp_path / "out_gz")
    run_predict(model, tmp_path / "cases", tmp_path / "out")
    contents = [
        {path.name: path.read_bytes() for path in folder.glob("*.nii*")}
        for folder in (tmp_path / "out_gz", tmp_path / "out")
    ]
    assert len(contents[0]) == 2 and contents[0] == contents[1]
    rows = run_evaluate(tmp_path / "out", tmp_path / "cases", tmp_path / "scores")
    assert rows == run_evaluate(tmp_path / "out_gz", data_set(edition), tmp_path / "scores_gz")


# --- one phantom in every table -------------------------------------------------------------------------

NUMBER, SHAPE = 6, (32, 32, 20)  # not resected, so that every table can hold it
TABLES = {  # edition -> value of NCR, ED, ET; by hand
    **{key: (1, 2, 4) for key in ("2017", "2018", "2019", "2020", "2021", "upenn", "ucsf")},
    **{key: (1, 2, 3) for key in ("2023", "2024", "2025", "2026", "ssa", "met", "men")},
    "ped": (2, 4, 1),
    **{key: (2, 1, 3) for key in ("msd", "nnunet")},
}


@pytest.fixture(scope="module")
def one_tumour(tmp_path_factory):
    """Folders that together hold the one phantom in every table, as each edition names it. Read only."""
    root = tmp_path_factory.mktemp("one_tumour")
    for edition in TABLES:
        # What is called alike from 2024 on lies apart.
        folder = root / (edition if edition in ("2025", "2026") else "others") / edition
        data_sets.write_dataset(folder, 1, edition, seed=1, shape=SHAPE, first=NUMBER)
    return root


def volumes_ml():
    """Of WT, TC and ET, counted on the phantom itself."""
    _, tissues = simulation.simulate(SHAPE, 1, NUMBER)
    return {region: np.isin(tissues, parts).sum() / 1000 for region, parts in REGIONS.items()}


def test_one_phantom_is_written_in_every_tables_own_values(one_tumour):
    _, tissues = simulation.simulate(SHAPE, 1, NUMBER)
    for edition, (ncr, ed, et) in TABLES.items():
        (path,) = [
            path
            for path in one_tumour.glob(f"*/{edition}/**/*.nii.gz")
            if re.search("seg", path.name) or path.parent.name == "labelsTr"
        ]
        mask = raw(path)
        assert np.array_equal(mask == et, tissues == Tissue.ET), edition
        assert np.array_equal(mask == ed, tissues == Tissue.ED), edition
        necrosis = np.isin(mask, (ncr, 3)) if edition == "ped" else mask == ncr
        assert np.array_equal(necrosis, tissues == Tissue.NCR), edition
    assert (mask == ncr).any()


def test_one_phantom_has_one_volume_in_every_table_by_inspect(one_tumour):
    described = [
        one for name in ("others", "2025", "2026") for one in inspect.inspect(one_tumour / name)["cases"]
    ]
    assert {one["edition"] for one in described} == set(TABLES)
    for one in described:
        assert not one["faults"]
        assert one["volume_ml"] == volumes_ml(), one["edition"]
    (ped,) = [one for one in described if one["edition"] == "ped"]
    assert ped["tissue_voxels"]["CC"] > 0


def test_one_phantom_has_one_volume_in_every_table_in_records(one_tumour, tmp_path):
    from beam_pipelines import nifti_to_tfrecord

    for name in ("others", "2025", "2026"):
        folder = tmp_path / name
        nifti_to_tfrecord.main(
            [
                *("--config", "smoke_3d.yaml", "--input", str(one_tumour / name), "--output", str(folder)),
                *("records.kind=volumes", "records.split=[1,0,0]"),
                *("sampling.patch_size=16", "cascade.stride=8"),
            ]
        )
        manifest = read_manifest(folder)
        volumes = [one for shard in manifest.shards for one in reading.stored(manifest, str(folder), shard)]
        assert len(volumes) == (len(TABLES) - 2 if name == "others" else 1)
        for stored in volumes:
            label = stored.example["label"]
            assert {
                region: labels.region_mask(label, region).sum() / 1000 for region in REGIONS
            } == volumes_ml()


def test_one_phantom_has_one_volume_in_every_table_by_evaluate(one_tumour, tmp_path):
    for name in ("others", "2025", "2026"):
        predicted = tmp_path / f"{name}_predicted"
        predicted.mkdir()
        for found in layouts.find(one_tumour / name).cases:
            (predicted / f"{found.case_id}.nii.gz").write_bytes(pathlib.Path(found.label).read_bytes())
        rows = run_evaluate(predicted, one_tumour / name, tmp_path / f"{name}_scores")
        assert len(rows) == 3 * (len(TABLES) - 2 if name == "others" else 1)
        for row in rows:
            assert float(row["dice"]) == 1
            assert float(row["volume_ml"]) == pytest.approx(volumes_ml()[row["region"]], abs=1e-12)
            assert float(row["reference_volume_ml"]) == pytest.approx(volumes_ml()[row["region"]], abs=1e-12)
