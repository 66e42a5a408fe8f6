"""The page: its numbers are those of metrics.json, it says what is missing, and it stands alone."""

import dataclasses
import html.parser
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types
import unittest.mock

import numpy as np
import pytest
import tiny_model

from tfbrats import config_file, report
from tfbrats.cases import case, nifti
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS
from tfbrats.machine import files
from tfbrats.metrics import region_scores, stage_misses
from tfbrats.predictions import seen
from tfbrats.reporting import charts, page, training_section
from tfbrats.runs.folder import RunFolder
from tfbrats.scoring import comparison, evaluation, origin, papers, score_files
from tfbrats.scoring.origin import Model, Split

# --- the run that trained the model ---------------------------------------------------------------------

HISTORY = (
    b"epoch,steps,learning_rate,loss,validation_loss,dice,seconds,patches_per_second\n"
    b"1,9,2e-4,0.9,1.0,0.4,3,5\n"
)


def test_a_cascades_run_has_curves_for_each_region_trained_so_far(place):
    assert training_section.curves_of(training_section.histories_of(RunFolder(place))) == []
    for region in ("et", "wt"):
        files.write_bytes(files.join(place, region, "history.csv"), HISTORY)
    curves = training_section.curves_of(training_section.histories_of(RunFolder(place)))
    assert [one["title"] for one in curves] == ["WT", "ET"]
    assert [chart.title for chart in curves[0]["charts"]] == [
        "Training loss",
        "Validation loss",
        "Dice (validation)",
    ]
    files.write_bytes(files.join(place, "history.csv"), HISTORY)
    curves = training_section.curves_of(training_section.histories_of(RunFolder(place)))
    assert [one["title"] for one in curves] == ["", "WT", "ET"]


def test_what_was_counted_in_training_is_drawn_beside_validation_and_the_pace_is_not(place):
    header = "epoch,steps,loss,training_dice_wt,sampled_normal,validation_loss,dice_wt"
    files.write_bytes(files.join(place, "history.csv"), f"{header}\n1,9,0.9,0.5,800,1.0,0.4\n".encode())
    files.write_bytes(files.join(place, "timing.csv"), b"epoch,seconds,slices_per_second\n1,3,5\n")
    (curves,) = training_section.curves_of(training_section.histories_of(RunFolder(place)))
    assert [chart.title for chart in curves["charts"]] == [
        "Training loss",
        "Validation loss",
        "Dice (validation; dashed: training)",
        "Pixels that count in a step (U-Net1)",
    ]


def test_networks_that_have_not_begun_are_named(tmp_path):
    RunFolder(tmp_path).start(config_file.load("msm.yaml", [f"run.dir={tmp_path}"]))
    files.write_bytes(tmp_path / "wt" / "history.csv", HISTORY)
    assert "No epoch has ended yet of TC, ET: no curve." in training_section.training_of(tmp_path, None).notes
    for region in ("tc", "et"):
        files.write_bytes(tmp_path / region / "history.csv", HISTORY)
    assert training_section.training_of(tmp_path, None).notes == []


def test_a_network_alone_that_has_not_begun_is_named(tmp_path):
    RunFolder(tmp_path).start(config_file.load("cun.yaml", [f"run.dir={tmp_path}"]))
    assert training_section.training_of(tmp_path, None).notes == [
        "No epoch has ended yet of the network: no curve."
    ]


def test_without_a_run_the_config_is_the_model_cards_and_the_page_says_what_is_missing():
    settings = config_file.load("cun_lws.yaml")
    model = Model(config=settings.model_dump(mode="json"))
    found = training_section.training_of(None, model)
    assert found.settings == settings and found.environment is None and not found.curves
    assert "(--run)" in " ".join(found.notes)
    for nothing in (None, Model()):
        assert "the config is not known" in " ".join(training_section.training_of(None, nothing).notes)
    old = training_section.training_of(None, Model(config={"model": {"name": "cun"}}))
    assert old.settings is None and "another version" in " ".join(old.notes)


def test_another_runs_folder_than_the_models_is_noticed(tmp_path):
    settings = config_file.load("cun_lws.yaml", [f"run.dir={tmp_path}"])
    RunFolder(tmp_path).start(settings)
    files.write_bytes(tmp_path / "history.csv", HISTORY)
    model = Model(config=settings.model_dump(mode="json"))
    assert training_section.training_of(tmp_path, model).notes == []
    model.config["train"]["learning_rate"] = 0.5
    assert "train.learning_rate: 0.001, there 0.5" in " ".join(
        training_section.training_of(tmp_path, model).notes
    )


def test_a_history_that_is_gone_is_not_taken_for_training_that_has_not_begun(tmp_path):
    RunFolder(tmp_path).start(config_file.load("msm.yaml", [f"run.dir={tmp_path}"]))
    files.write_bytes(tmp_path / "wt" / "history.csv", HISTORY)
    files.write_bytes(tmp_path / "tc" / "checkpoints" / "best" / "index", b"1")
    assert training_section.training_of(tmp_path, None).notes == [
        f"{tmp_path}/tc/history.csv is missing, though the network was trained: no curve.",
        "No epoch has ended yet of ET: no curve.",
    ]


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff\xfe\x00garbage",
        b"hello,world\n1,2\n",
        b"epoch,loss\n1,soon\n",
        b"epoch,loss,dice\n",
        b"a\n1,2,3\n",
        b"epoch,loss\n1,inf\n",
    ],
)
def test_a_history_in_which_nothing_can_be_drawn_is_said_to_be_damaged(tmp_path, garbage):
    RunFolder(tmp_path).start(config_file.load("cun.yaml", [f"run.dir={tmp_path}"]))
    files.write_bytes(tmp_path / "history.csv", garbage)
    found = training_section.training_of(tmp_path, None)
    (note,) = found.notes
    assert note.startswith(f"{tmp_path}/history.csv holds no loss and no Dice") and not found.curves


def test_cells_beyond_the_header_cost_no_curve(tmp_path):
    files.write_bytes(tmp_path / "history.csv", b"epoch,loss\n1,0.5,7\n2,0.4\n3\n")
    (curves,) = training_section.curves_of(training_section.histories_of(RunFolder(tmp_path)))
    assert [chart.title for chart in curves["charts"]] == ["Training loss"]


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no run here.*tfbrats train"):
        training_section.training_of(tmp_path, None)


# --- the page -------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """Tags left open, everything loaded from elsewhere, pictures, and the visible text."""

    VOID = ("meta", "img", "source", "br", "link", "input")

    def __init__(self, path):
        super().__init__()
        self.open, self.outside, self.pictures, self.text = [], [], [], ""
        self.source = pathlib.Path(path).read_text(encoding="utf-8")
        self.feed(self.source)
        self.outside += re.findall(r"url\([^)]*|@import[^;]*", self.source)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        for name in ("src", "srcset", "data", "poster"):
            if name in attributes and not attributes[name].startswith("data:"):
                self.outside.append(attributes[name])
        if tag in ("link", "iframe", "object"):
            self.outside.append(tag)
        self.outside += [name for name in attributes if name.startswith("on")]
        if tag == "img":
            self.pictures.append(attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open[-1:] not in (["style"], ["script"]) else ""


@pytest.fixture(scope="module")
def scored(tiny_dataset, tmp_path_factory):
    """Folders of predictions (one perfect, one shifted) and their metrics, and the data set itself."""
    folder = tmp_path_factory.mktemp("scored")
    root = tiny_dataset("2020")
    for number, one in enumerate(layouts.find(root).cases):
        tissues, grid = case.load_label(one.label, one.schema)
        path = folder / "prediction" / f"{one.case_id}.nii.gz"
        case.save_segmentation(path, np.roll(tissues, 3 * number, axis=0), grid, one.schema)
    score_files.write(evaluation.evaluate(folder / "prediction", root), folder / "metrics")
    return folder, root


def plates(found):
    return [picture for picture in found.pictures if picture.get("class") == "plate"]


def slices(found):
    """What the script reads of each case."""
    return [
        json.loads(text)
        for text in re.findall(r'<script type="application/json">(.*?)</script>', found.source, re.DOTALL)
    ]


def test_the_page_stands_alone_and_says_what_it_must(scored, tmp_path):
    folder, root = scored
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "history.csv").write_text("epoch,loss,validation_loss\n1,0.9,1.0\n2,0.8,0.9\n")
    report.main([
        "--scores", str(folder / "metrics"), "--prediction", str(folder / "prediction"),
        "--reference", str(root), "--output", str(tmp_path / "report.html"), "--title", "A <title>",
        "--run", str(tmp_path / "run"), "--note", "by `tfbrats.train` & https://example.org/x.",
    ])  # fmt: skip
    found = Page(tmp_path / "report.html")
    assert found.open == [] and found.outside == []
    assert "Not for clinical use" in found.text
    assert "A <title>" in found.text
    # Two cases: a picture of three planes, and all slices of all scans.
    assert len(plates(found)) == 2
    assert [list(one["scans"]) for one in slices(found)] == [["FLAIR", "T1", "T1ce", "T2"]] * 2
    # Two box plots, three regions' volumes and two losses, for light and for dark.
    drawn = [picture for picture in found.pictures if picture.get("class", "").startswith("chart")]
    assert len(drawn) == 2 * (2 + 3 + 2)
    assert all(picture["alt"] for picture in found.pictures)
    for row in score_files.read(folder / "metrics").rows:
        assert row["case_id"] in found.text
        assert f"{row['dice']:.3f}" in found.text
    assert "has no config.yaml" in found.text and "has no environment.json" in found.text
    assert '<a href="https://example.org/x">' in found.source
    assert "<code>tfbrats.train</code> &amp;" in found.source
    assert "prefers-color-scheme: dark" in found.source and "@media print" in found.source


def section(found, heading):
    """The text from a heading to the next."""
    (body,) = re.findall(rf"<h2[^>]*>{re.escape(heading)}</h2>(.*?)(?:<h2|</body>)", found.source, re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def test_the_numbers_on_the_page_are_those_of_metrics_json(scored, tmp_path):
    folder, _ = scored
    content = score_files.read(folder / "metrics")
    columns = [(region, score) for region in REGIONS for score in content.summary[region]]
    for number, (region, score) in enumerate(columns):
        found = content.summary[region][score]  # of two cases the median is the mean
        content.summary[region][score] = dataclasses.replace(found, median=found.median + 0.01 * number)
    text = section(page_of(content, tmp_path), "Scores by region")
    names = [name for _, name, _ in page.SCORES]
    for place, (score, name, digits) in enumerate(page.SCORES):
        _, _, line = text.partition(f" {name} ")
        if names[place + 1 :]:
            line, _, _ = line.partition(f" {names[place + 1]} ")
        expected = [
            f"{found.mean:.{digits}f} ± {found.std:.{digits}f} median {found.median:.{digits}f}"
            for found in (content.summary[region][score] for region in REGIONS)
        ]
        assert re.findall(r"[\d.]+ ± [\d.]+ median [\d.]+", line) == expected, score


def test_every_score_has_its_column():
    assert {score for score, _, _ in page.SCORES} | {"volume_ml", "reference_volume_ml"} == set(
        region_scores.SCORES
    )


def test_the_first_line_says_which_cases_and_which_model(scored, tmp_path):
    folder, _ = scored
    content = score_files.read(folder / "metrics")
    assert "all cases given, 2 cases, BraTS 2020; empty-mask rule" in " ".join(
        page_of(content, tmp_path).text.split()
    )
    split = Split("test", "ab12", "runs/x/splits.json")
    model = Model("tumours", 4, "cun", "ab12")
    found = page_of(dataclasses.replace(content, split=split, model=model), tmp_path)
    line = "test split, 2 cases, BraTS 2020; model tumours version 4; empty-mask rule"
    assert line in " ".join(found.text.split())
    assert "runs/x/splits.json" in section(found, "What was compared") and "ab12" in found.text


def test_cases_without_a_prediction_are_said_to_be_scored_as_empty(scored, tmp_path):
    folder, root = scored
    (tmp_path / "prediction").mkdir()
    there, gone = sorted((folder / "prediction").iterdir())
    shutil.copy(there, tmp_path / "prediction")
    content = evaluation.evaluate(tmp_path / "prediction", root, allow_missing=True)
    score_files.write(content, tmp_path / "metrics")
    report.write(tmp_path / "metrics", tmp_path / "prediction", root, tmp_path / "r.html")
    found = Page(tmp_path / "r.html")
    name = gone.name.removesuffix(".nii.gz")
    assert f"1 of 2 cases had no prediction and was scored as if nothing had been found: {name}." in " ".join(
        found.text.split()
    )
    # It is the worst case, and is pictured: with nothing as its prediction.
    assert len(plates(found)) == 2
    assert any(picture["alt"].startswith(name) for picture in plates(found))


def test_lesion_wise_scores_are_shown_with_their_rule(scored, tmp_path):
    folder, root = scored
    content = evaluation.evaluate(folder / "prediction", root, lesion_rule="2023")
    score_files.write(content, tmp_path / "lesion_wise")
    text = section(page_of(score_files.read(tmp_path / "lesion_wise"), tmp_path), "Lesion by lesion")
    assert content.lesions.meaning.split()[0] in text and "Rule 2023" in text
    for region, found in content.lesions.summary.items():
        assert f"{region} {found['dice'].mean:.3f}" in text
    assert "NSD" not in text  # the rule of 2023 has none
    assert "Lesion by lesion" not in page_of(score_files.read(folder / "metrics"), tmp_path).text


def test_lesions_matched_one_to_one_are_shown_each_with_its_scores(scored, tmp_path):
    folder, root = scored
    content = evaluation.evaluate(folder / "prediction", root, lesion_rule="2026")
    score_files.write(content, tmp_path / "lesion_wise")
    page = page_of(score_files.read(tmp_path / "lesion_wise"), tmp_path)
    text = section(page, "Lesion by lesion")
    assert "Rule 2026" in text and "too small" not in text
    for region, summary in content.lesions.summary.items():
        assert f"{region} {summary['rq'].mean:.3f}" in text
    of_reference = [lesion for lesion in content.lesions.each if lesion["outcome"] != "false"]
    assert f"{len(of_reference)} reference lesions" in text
    matched = next(lesion for lesion in of_reference if lesion["outcome"] == "matched")
    assert f"{matched['volume_mm3'] / 1000:.3f} {matched['dice']:.3f} {matched['nsd']:.3f}" in text


# --- beside the paper, beside other runs ----------------------------------------------------------------


def of_row(content, row):
    return dataclasses.replace(content, model=Model(row=row))


def cells(found, label):
    """The rows of the table of that name: [class, text of the first cell, numbers ...]."""
    (body,) = re.findall(rf'aria-label="{re.escape(label)}">(.*?)</table>', found.source, re.DOTALL)
    rows = []
    for kind, row in re.findall(r'<tr class="([^"]*)">(.*?)</tr>', body, re.DOTALL):
        texts = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        rows.append([kind, *(" ".join(re.sub(r"<[^>]*>", " ", text).split()) for text in texts)])
    return rows


@pytest.mark.parametrize("name", ["paper_a", "paper_b"])
def test_the_table_has_every_number_of_the_paper_and_ours_below_its_row(name, scored, tmp_path):
    table = papers.TABLES[name]
    content = of_row(score_files.read(scored[0] / "metrics"), table.rows[-1].row)
    found = page_of(content, tmp_path, table=name)
    rows = cells(found, f"{table.title}, and our rows")

    def numbers(values):
        return [f"{values[region, score]:.{d}f}" for score, _, d in table.columns for region in REGIONS]

    assert [row[0] for row in rows] == ["theirs"] * len(table.rows) + ["ours own"]
    for row, paper in zip(rows, table.rows, strict=False):
        assert row[1].startswith(paper.title) and "paper" in row[1] and table.cases in row[1]
        assert row[2:] == numbers(paper.scores)
    means = {(r, s): content.summary[r][s].mean for r in REGIONS for s in table.scores}
    assert rows[-1][2:] == numbers(means)
    assert "ours" in rows[-1][1] and "all cases given, 2 cases, BraTS 2020" in rows[-1][1]
    assert table.note in found.text and table.citation in found.text
    assert "no row of that table" not in found.text


def test_papers_second_table_stands_beside_our_msm_alone(scored, tmp_path):
    content = of_row(score_files.read(scored[0] / "metrics"), "msm")
    more = papers.PAPER_B_TEST
    label = f"{more.title}, and our row"
    rows = cells(page_of(content, tmp_path, table="paper_b"), label)
    statistics = ("mean", "std", "median", "25quantile", "75quantile")
    assert len(rows) == 10
    for place, statistic in enumerate(statistics):
        for row, value in (
            (rows[2 * place], lambda region, score, s=statistic: more.values[region, score, s]),
            (rows[2 * place + 1], lambda region, score, s=statistic: content.summary[region][score].named(s)),
        ):
            assert row[2:] == [f"{value(r, s):.{d}f}" for s, _, d in more.columns for r in REGIONS]
    other = of_row(content, "msm_noaspp")
    assert label not in page_of(other, tmp_path, table="paper_b").source


def test_a_run_that_is_no_row_of_the_table_says_so(scored, tmp_path):
    content = score_files.read(scored[0] / "metrics")
    found = page_of(content, tmp_path, table="paper_a", name="metrics")
    assert "no row of that table" in found.text and "--row" in found.text
    assert cells(found, "Paper A, Table 1, and our rows")[-1][0] == "ours own"


@pytest.fixture(scope="module")
def runs(scored, tmp_path_factory):
    """Folders of scores of two runs on the same cases, rows cun_lws and cun; the second predicts worse."""
    folder, root = scored
    place = tmp_path_factory.mktemp("runs")
    score_files.write(evaluation.evaluate(folder / "prediction", root, row="cun_lws"), place / "good")
    for number, one in enumerate(layouts.find(root).cases):
        tissues, grid = case.load_label(one.label, one.schema)
        tissues[tissues.shape[0] // 2 - number :] = 0
        path = place / "prediction" / f"{one.case_id}.nii.gz"
        case.save_segmentation(path, tissues, grid, one.schema)
    score_files.write(evaluation.evaluate(place / "prediction", root, row="cun"), place / "worse")
    return place


def test_another_run_joins_the_table_the_boxes_and_the_differences(scored, runs, tmp_path):
    folder, root = scored
    report.main([
        "--scores", str(runs / "good"), "--prediction", str(folder / "prediction"), "--reference", str(root),
        "--output", str(tmp_path / "r.html"), "--table", "paper_a", "--compare", str(runs / "worse"),
    ])  # fmt: skip
    found = Page(tmp_path / "r.html")
    rows = cells(found, "Paper A, Table 1, and our rows")
    assert [row[0] for row in rows] == [*["theirs"] * 4, "ours", "theirs", "ours own"]
    worse = score_files.read(runs / "worse")
    assert rows[4][2] == f"{worse.summary['WT']['dice'].mean:.3f}"
    alts = {picture["alt"] for picture in found.pictures if picture.get("class") == "chart light"}
    for score in ("dice", "sensitivity"):
        (alt,) = (one for one in alts if one.startswith(f"{score.title()} of each case"))
        assert f"cun WT {worse.summary['WT'][score].median:.3f}" in alt and "cun_lws WT" in alt
    text = section(found, "Against the other runs")
    good = score_files.read(runs / "good")
    for one in comparison.differences(good.rows, worse.rows, ["dice", "sensitivity"]):
        shown = f"{one.difference:+.3f}{' *' if one.excludes_0 else ''} {one.low:+.3f} to {one.high:+.3f} "
        shown += f"{one.mean:.3f} and {one.other_mean:.3f}, n {one.cases}"
        assert shown.replace("-", "−").replace("+0.000", "0.000") in text, one


def test_without_others_there_is_nothing_to_compare(scored, tmp_path):
    found = page_of(score_files.read(scored[0] / "metrics"), tmp_path)
    assert "Against the other runs" not in found.text and "Beside the paper" not in found.text


def test_a_run_on_other_cases_is_refused_by_the_name_of_its_folder(scored, runs, tmp_path):
    folder, root = scored
    alone = [next(iter(layouts.find(root).cases)).case_id]
    score_files.write(evaluation.evaluate(folder / "prediction", root, cases=alone), tmp_path / "fewer")
    with pytest.raises(InputError, match=r"fewer: .*same cases"):
        report.write(
            runs / "good", folder / "prediction", root, tmp_path / "r.html", compare=[tmp_path / "fewer"]
        )
    assert not (tmp_path / "r.html").exists()


def test_two_runs_of_one_row_have_names_of_their_own(scored):
    content = score_files.read(scored[0] / "metrics")
    cun = of_row(content, "cun")
    found = page.named(["a/one", "b/one", "b/two"], [cun] * 3)
    assert [one.name for one in found] == ["cun (one)", "cun (one) [2]", "cun (two)"]
    assert [one.name for one in page.named(["a/one", "b/two"], [cun, content])] == ["cun", "two"]


def test_a_number_that_rounds_to_nothing_points_nowhere(scored, runs, tmp_path):
    good = score_files.read(runs / "good")
    compared = good.compared_with(good, runs / "good")
    found = page_of(good, tmp_path, others=[page.Run("again", good)], compared=[compared])
    text = section(found, "Against the other runs")
    assert "0.000 0.000 to 0.000" in text and "−0.0" not in text and "+0.0" not in text


# --- loss weighted sampling, config, environment --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"),
    [("cun_lws.yaml", True), ("cun.yaml", False), ("unet2d.yaml", False), ("msm.yaml", False)],
)
def test_the_sampling_maps_appear_for_runs_trained_with_it_and_for_no_other(name, shown, scored, tmp_path):
    folder, root = scored
    place = tmp_path / "run"
    settings = config_file.load(name, [f"run.dir={place}"])
    RunFolder(place).start(settings)
    report.write(
        folder / "metrics", folder / "prediction", root, tmp_path / "r.html", pictures=1, run_folder=place
    )
    found = Page(tmp_path / "r.html")
    assert ("Loss weighted sampling" in found.text) == shown
    assert len(plates(found)) == 1 and len([one for one in found.pictures if "class" not in one]) == 4 * shown
    if shown:
        numbers = re.search(
            r"N_pos = (\d+) tumour.*N_S2 = (\d+) of.*= ([\d.]+)(?:, the floor)?; this draw took (\d+)",
            section(found, "Loss weighted sampling"),
        )
        positives, normals, p2, drawn = map(float, numbers.groups())
        assert p2 == pytest.approx(min(1, settings.lws.beta * positives / normals), abs=6e-4)
        assert 0 < drawn <= normals
    text = section(found, "Training")
    for key in ("records: " + settings.data.records, f"learning_rate: {settings.train.learning_rate}"):
        assert key in text
    environment = json.loads((place / "environment.json").read_text())
    assert environment["platform"] in text and environment["tensorflow"] in text


def test_maps_that_cannot_be_drawn_are_said_to_be_missing(scored, tmp_path):
    folder, root = scored
    RunFolder(tmp_path / "run").start(config_file.load("cun_lws.yaml", [f"run.dir={tmp_path / 'run'}"]))
    report.write(
        folder / "metrics",
        folder / "prediction",
        root,
        tmp_path / "r.html",
        pictures=0,
        run_folder=tmp_path / "run",
    )
    assert "No map can be shown: no case is pictured" in section(
        Page(tmp_path / "r.html"), "Loss weighted sampling"
    )


# --- what each stage lost -------------------------------------------------------------------------------


def test_the_page_tells_what_each_stage_lost_worst_first(scored, tmp_path):
    folder, _ = scored
    content = score_files.read(folder / "metrics")
    found = page_of(content, tmp_path)
    _, section = found.text.split("What each stage lost")
    section, _ = section.split("What was compared")
    rows = content.cascade.rows
    missed = {row["case_id"]: row["missed_ml"] for row in rows if row["region"] == "WT"}
    worst, perfect = sorted(missed, key=missed.get, reverse=True)
    assert missed[perfect] == 0 and section.index(worst) < section.index(perfect)
    for row in rows:
        if row["reference_ml"]:
            assert f"{row['missed_here_ml'] / row['reference_ml']:.1%}" in section
    for region in REGIONS:
        mean = content.cascade.summary[region]["mean_share"]
        assert f"{mean['missed_ml']:.1%}" in section and f"{mean['missed_here_ml']:.1%}" in section
    assert "lost outside the box" not in section and "no cascade’s margin is known" in section


def test_the_page_names_the_margin_where_it_is_known(scored, tmp_path):
    folder, _ = scored
    content = score_files.read(folder / "metrics")
    cascade = dataclasses.replace(content.cascade, margin_voxels=5)
    section = page_of(dataclasses.replace(content, cascade=cascade), tmp_path).text
    assert "grown by 5 voxels" in section and "lost outside the box" in section


def test_bars_are_as_long_as_what_was_lost(tmp_path, scored):
    folder, _ = scored
    content = score_files.read(folder / "metrics")
    for row in content.cascade.rows:
        row.update({name: 0.0 for name in row if name.endswith("_ml")})
    losses = {"reference_ml": 8.0, "missed_ml": 7.0, "missed_here_ml": 1.0, "lost_before_ml": 6.0}
    content.cascade.rows[2].update(losses, lost_by_wt_ml=4.0, lost_by_tc_ml=2.0)
    page_of(content, tmp_path)
    source = (tmp_path / "page.html").read_text().split("What each stage lost in every case")[1]
    assert re.findall(r'class="([a-z-]+)" style="width:([\d.]+)%"', source) == [
        ("here", "12.50"), ("by-tc", "25.00"), ("by-wt", "50.00"),
    ]  # fmt: skip
    assert source.count("absent") >= 5


def test_scores_of_an_older_version_make_a_page_without_that_section(scored, tmp_path):
    folder, _ = scored
    found = page_of(dataclasses.replace(score_files.read(folder / "metrics"), cascade=None), tmp_path)
    assert "What each stage lost" not in found.text and "Every case" in found.text


def test_a_region_that_no_case_has_is_shown_as_a_dash(scored, tmp_path):
    folder, _ = scored
    content = score_files.read(folder / "metrics")
    rows = content.cascade.rows
    for row in rows:
        if row["region"] == "ET":
            row.update({name: 0.0 for name in row if name.endswith("_ml")})
    cascade = dataclasses.replace(content.cascade, summary=stage_misses.summarise(rows))
    text = page_of(dataclasses.replace(content, cascade=cascade), tmp_path).text
    assert "nan" not in text.split("What each stage lost")[1].split("What was compared")[0]


def page_of(content, folder, name="this run", others=(), **more):
    path = folder / "page.html"
    runs = [page.Run(name, content), *others]
    training = training_section.training_of(None, content.model)
    drawn = dict.fromkeys(("light", "dark"), "data:image/png;base64,")  # test_charts looks at charts
    with unittest.mock.patch.object(charts, "_drawn", return_value=drawn):
        html_text = page.render(page.Content(title="A page", runs=runs, training=training, **more))
    path.write_text(html_text, encoding="utf-8")
    found = Page(path)
    assert found.open == [] and found.outside == []
    assert all(picture["alt"] for picture in found.pictures)
    return found


def test_cases_that_the_model_has_seen_stand_in_a_banner_and_apart(scored, tmp_path):
    content = score_files.read(scored[0] / "metrics")
    one, two = dict.fromkeys(row["case_id"] for row in content.rows)
    kinds = seen.hashes_of({"train": [one], "validation": [], "test": [two]})
    card = types.SimpleNamespace(training_data={"config": {"run": {"dir": "runs/x"}}, **kinds})
    by_split = origin.by_split_of(card, content.rows)
    found = page_of(dataclasses.replace(content, by_split=by_split), tmp_path)
    (banner,) = re.findall(r'<p class="warning loud" role="alert">(.*?)</p>', found.source)
    assert banner.startswith("1 of these 2 cases was seen in training: 1 trained the model.")
    assert found.source.index(banner) < found.source.index('class="tile"')
    apart = section(found, "What the model has seen of these cases")
    by_case = stage_misses.by_case(content.rows)
    for kind, case_id in (("train", one), ("test", two)):
        numbers = " ".join(f"{by_case[case_id][region]['dice']:.3f}" for region in REGIONS)
        assert f"{kind} 1 {numbers}" in apart
    assert f"unseen cases alone: {by_case[two]['WT']['dice']:.3f}" in found.text
    assert re.findall(r'<td>(\S+) <span class="badge known">([^<]+)<', found.source) == [
        (one, "trained the model")
    ]


def test_old_scores_are_held_against_the_card_beside_the_predictions(scored, tmp_path, monkeypatch):
    folder, root = scored
    prediction, metrics_folder = tmp_path / "p", tmp_path / "m"
    shutil.copytree(folder / "prediction", prediction)
    shutil.copytree(folder / "metrics", metrics_folder)
    written = json.loads((metrics_folder / "metrics.json").read_text())
    for key in ("by_split", "tables", "warnings"):
        del written[key]
    (metrics_folder / "metrics.json").write_text(json.dumps(written))
    ids = list(dict.fromkeys(row["case_id"] for row in written["rows"]))
    carried = {"training_data": seen.hashes_of({"train": ids[:1], "test": ids[1:]})}
    (prediction / "tfbrats.json").write_text(tiny_model.card().model_copy(update=carried).to_json())
    remarks = report.write(metrics_folder, prediction, root, tmp_path / "r.html", pictures=1)
    assert [text[:57] for text in remarks] == ["WARNING: 1 of these 2 cases was seen in training: 1 train"]
    assert "1 of these 2 cases was seen in training" in (tmp_path / "r.html").read_text()


# --- files that are there or not ------------------------------------------------------------------------


def test_masks_alone_are_drawn_on_black(scored, tmp_path):
    folder, root = scored
    (tmp_path / "masks").mkdir()
    for one in layouts.find(root).cases:
        shutil.copy(one.label, tmp_path / "masks")
    score_files.write(evaluation.evaluate(folder / "prediction", tmp_path / "masks"), tmp_path / "metrics")
    report.write(
        tmp_path / "metrics", folder / "prediction", tmp_path / "masks", tmp_path / "r.html", pictures=1
    )
    (one,) = slices(Page(tmp_path / "r.html"))
    assert list(one["scans"]) == ["no image"]


def test_the_same_scores_give_the_same_page(scored, tmp_path):
    folder, root = scored
    for name in ("a", "b"):
        report.write(folder / "metrics", folder / "prediction", root, tmp_path / name, pictures=1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_run_that_is_not_the_models_is_said_on_the_screen_as_on_the_page(scored, tmp_path, capsys):
    folder, root = scored
    settings = config_file.load("cun.yaml", [f"run.dir={tmp_path / 'run'}"])
    RunFolder(tmp_path / "run").start(settings)
    content = score_files.read(folder / "metrics")
    for rate, contradicts in ((settings.train.learning_rate, False), (0.5, True)):
        card = settings.model_dump(mode="json")
        card["train"]["learning_rate"] = rate
        model = Model(row="cun", config=card)
        score_files.write(dataclasses.replace(content, model=model), tmp_path / "scores")
        report.main([
            "--scores", str(tmp_path / "scores"), "--prediction", str(folder / "prediction"), "--reference",
            str(root), "--output", str(tmp_path / "r.html"), "--pictures", "0", "--run", str(tmp_path / "run"),
        ])  # fmt: skip
        printed = capsys.readouterr()
        page_file = tmp_path / "r.html"
        assert printed.out == f"{page_file}\nnext: open {page_file} in a browser\n"
        text = "The run’s config is not the one in the model’s card: train.learning_rate: 0.001, there 0.5."
        assert printed.err == (f"note: {text}\n" if contradicts else "")
        assert (text in Page(tmp_path / "r.html").text) == contradicts


def test_a_page_needs_a_number_of_cases_and_a_name(scored, tmp_path):
    folder, root = scored
    given = (folder / "metrics", folder / "prediction", root)
    with pytest.raises(InputError, match="--pictures -1: expected how many cases to picture, 0 or more"):
        report.write(*given, tmp_path / "r.html", pictures=-1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: is a folder; name a file in it, e\.g\. .*empty/report\.html"):
        report.write(*given, tmp_path / "empty")
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(InputError, match="file: cannot be written"):
        report.write(*given, tmp_path / "file" / "r.html")
    with pytest.raises(InputError, match="given twice"):
        report.write(*given, tmp_path / "r.html", compare=[folder / "metrics"] * 2)
    with pytest.raises(InputError, match=r"metrics\.json: a file; expected the folder"):
        report.write(folder / "metrics" / "metrics.json", *given[1:], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


# --- the door -------------------------------------------------------------------------------------------


def given(scored, *more):
    folder, root = scored
    places = (folder / "metrics", folder / "prediction", root)
    options = zip(("--scores", "--prediction", "--reference"), map(str, places), strict=True)
    return [*(text for pair in options for text in pair), *map(str, more)]


def test_an_output_that_is_no_html_file_is_a_folder_for_the_page(scored, tmp_path, capsys):
    report.main(given(scored, "--output", tmp_path / "new" / "pages", "--pictures", 0))
    page_file = tmp_path / "new" / "pages" / "report.html"
    assert page_file.is_file()
    assert capsys.readouterr().out == f"{page_file}\nnext: open {page_file} in a browser\n"


def test_a_hero_is_written_alone_or_beside_the_page(scored, tmp_path, capsys):
    report.main(given(scored, "--hero", tmp_path / "a.png"))
    assert capsys.readouterr().out == f"{tmp_path / 'a.png'}\nnext: look at {tmp_path / 'a.png'}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]
    report.main(given(scored, "--hero", tmp_path / "b.png", "--output", tmp_path / "r.html", "--pictures", 0))
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'r.html'}\n{tmp_path / 'b.png'}\nnext: open ")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_case_that_is_named_is_pictured_with_its_rank(scored, tmp_path, capsys):
    best, worst = (one.case_id for one in layouts.find(scored[1]).cases)
    report.main(given(scored, "--output", tmp_path / "r.html", "--case", best))
    found = Page(tmp_path / "r.html")
    (plate,) = plates(found)
    assert plate["alt"].startswith(best)
    text = section(found, "Cases in pictures")
    assert "Named with --case" in text and "Picked by rank" not in text and f"{best} best" in text
    for file_name, case_id in (("best.png", best), ("worst.png", worst), ("any.png", None)):
        named = ["--case", case_id] if case_id else []
        report.main(given(scored, "--hero", tmp_path / file_name, *named))
    pictures = {name: (tmp_path / f"{name}.png").read_bytes() for name in ("best", "worst", "any")}
    assert pictures["any"] == pictures["worst"] != pictures["best"]  # of two, the median is the lower


def test_old_names_of_options_do_what_the_new_ones_do(scored, tmp_path, capsys):
    old = [{"--scores": "--metrics"}.get(text, text) for text in given(scored)]
    report.main([*old, "--cases", "1", "--output", str(tmp_path / "r.html")])
    printed = capsys.readouterr().err
    assert "note: --metrics is now --scores\n" in printed and "note: --cases is now --pictures\n" in printed
    assert len(plates(Page(tmp_path / "r.html"))) == 1


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--hero", "x.jpg"], r"--hero x\.jpg: expected the name of a PNG file, e\.g\. x\.jpg\.png"),
        (["--hero", "x.png", "--case", "a", "--case", "b"], "--hero shows one case; --case names 2: a, b"),
        (["--output", "r.html", "--case", "nobody"], "--case nobody: not among the 2 cases scored"),
        (["--output", "r.html", "--run", "nowhere"], "--run nowhere: no such folder"),
        (["--output", "r.html", "--compare", "gone"], "--compare gone: no such folder. tfbrats evaluate"),
    ],
)
def test_what_cannot_be_drawn_is_refused(more, error, scored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=error):
        report.main(given(scored, *more))
    assert not list(tmp_path.iterdir())


def test_neither_page_nor_picture_is_a_slip(scored, capsys):
    with pytest.raises(SystemExit) as ended:
        report.main(given(scored))
    assert ended.value.code == 2
    assert "required: --output (the page), --hero (a picture), or both" in capsys.readouterr().err


def test_help_a_slip_and_a_missing_folder_load_nothing_that_draws(tmp_path):
    code = """
import sys
from tfbrats import report
from tfbrats.errors import InputError
report.parser()
both = ["--prediction", "a", "--reference", "b", "--output", "r.html"]
for line in (["--help"], ["--scorse", "x"], ["--scores", "none", *both], ["--scores", ".", *both]):
    try:
        report.main(line)
    except InputError as error:
        print(error)
    except SystemExit:
        pass
    loaded = {"numpy", "scipy", "matplotlib", "jinja2", "pydantic", "nibabel"} & set(sys.modules)
    if loaded: sys.exit(f"{line} loads {loaded}")
"""
    root = str(pathlib.Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "--scores none: no such folder. tfbrats evaluate --output writes it." in ended.stdout
    assert "--prediction a: no such folder." in ended.stdout
    assert "did you mean --scores?" in ended.stderr


# --- simulated cases ------------------------------------------------------------------------------------


def test_simulated_cases_are_called_so_at_the_top_and_each(scored, tmp_path):
    folder, root = scored
    report.write(folder / "metrics", folder / "prediction", root, tmp_path / "r.html")
    found = Page(tmp_path / "r.html")
    assert '<h1>Segmentation report <span class="badge simulated">simulated cases</span></h1>' in found.source
    assert found.source.count('<span class="badge simulated">simulated</span>') == 2
    assert "expert" not in section(found, "Cases in pictures")
    for one in layouts.find(root).cases:
        for path in one.paths():
            volume = nifti.read(path)
            volume.grid.header["descrip"] = b"FSL5.0"
            nifti.write(
                tmp_path / "real" / files.name(files.parent(path)) / files.name(path), volume.array, volume.grid
            )
    report.write(folder / "metrics", folder / "prediction", tmp_path / "real", tmp_path / "r.html")
    assert "simulated" not in Page(tmp_path / "r.html").text


def test_every_plane_has_its_slider_and_is_told_in_words(scored, tmp_path):
    folder, root = scored
    report.write(folder / "metrics", folder / "prediction", root, tmp_path / "r.html", pictures=1)
    found = Page(tmp_path / "r.html")
    (one,) = slices(found)
    shape = case.load(layouts.find(root).cases[0]).image.shape
    assert one["count"] == list(shape[:3])
    sliders = re.findall(
        r'data-axis="(\d)">.*?type="range" min="0" max="(\d+)" value="(\d+)"', found.source, re.DOTALL
    )
    assert sliders == [(str(axis), str(one["size"][axis] - 1), str(one["at"][axis])) for axis in (2, 1, 0)]
    (plate,) = plates(found)
    for plane, axis in (("axial", 2), ("coronal", 1), ("sagittal", 0)):
        assert f"{plane} slice {one['first'][axis] + one['at'][axis] + 1} of {shape[axis]}, " in plate["alt"]
    (told,) = re.findall(r'id="shown">(.*?)</script>', found.source)
    assert [plane["letters"] for plane in json.loads(told)["planes"]] == [
        list("APSI"),
        list("RLSI"),
        list("RLAP"),
    ]


def test_the_help_shows_the_command_as_it_is_typed(capsys):
    with pytest.raises(SystemExit):
        report.main(["--help"])
    assert "--output report.html \\\n        --run runs/cun_lws" in capsys.readouterr().out


def test_a_chosen_case_that_is_gone_is_named_and_no_page_appears(scored, tmp_path):
    folder, root = scored
    (tmp_path / "prediction").mkdir()
    paths = sorted((folder / "prediction").iterdir())
    shutil.copy(paths[0], tmp_path / "prediction")
    with pytest.raises(InputError, match=re.escape(paths[1].name.split(".")[0])):
        report.write(folder / "metrics", tmp_path / "prediction", root, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_folder_without_metrics_says_who_writes_them(scored, tmp_path):
    folder, root = scored
    (tmp_path / "metrics.json").write_text('{"rows": 3}')
    with pytest.raises(InputError, match="tfbrats evaluate"):
        report.write(tmp_path, folder / "prediction", root, tmp_path / "r.html")


def test_other_predictions_than_were_scored_are_refused(scored, tmp_path):
    folder, root = scored
    shifted = sorted((folder / "prediction").glob("*.nii.gz"))[1]
    shutil.copytree(folder / "prediction", tmp_path / "other")
    shutil.copy(sorted((folder / "prediction").glob("*.nii.gz"))[0], tmp_path / "other" / shifted.name)
    with pytest.raises(InputError, match=r"says Dice .* of WT; .*/other/.* has"):
        report.write(folder / "metrics", tmp_path / "other", root, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
