"""The page: which cases and planes it shows, which way up, and that it stands alone."""

import base64
import html.parser
import io
import pathlib
import re
import shutil

import matplotlib.image
import numpy as np
import pytest

from tfbrats import case, evaluate, files, layouts, report, stages
from tfbrats.command import InputError
from tfbrats.labels import REGIONS, Tissue
from tfbrats.pairs import match


def rows_with_dice(*values):
    return [{"case_id": f"case{number}", "region": "WT", "dice": value} for number, value in enumerate(values)]


# --- which cases, which planes --------------------------------------------------------------------------


def test_the_worst_the_median_and_the_best_case_are_picked():
    rows = rows_with_dice(0.9, 0.2, 0.5, 0.7, 0.4)
    assert report.choose(rows, 3) == [("case1", "worst"), ("case2", "median"), ("case0", "best")]


def test_more_cases_than_there_are_shows_each_once():
    assert report.choose(rows_with_dice(0.9, 0.2), 5) == [("case1", "worst"), ("case0", "best")]
    assert report.choose(rows_with_dice(0.9), 3) == [("case0", "the only one")]
    assert report.choose(rows_with_dice(0.9), 0) == []


def test_an_undefined_dice_is_no_rank():
    assert report.choose(rows_with_dice(float("nan"), 0.3), 3) == [("case1", "the only one")]


def test_planes_go_through_the_thickest_error():
    reference = np.zeros((30, 30, 30), np.uint8)
    reference[2:12, 2:12, 2:12] = Tissue.ED
    prediction = reference.copy()
    prediction[2:12, 2:12, 2] = 0  # a thin error
    prediction[16:25, 15:24, 17:26] = Tissue.ED  # a thick one
    assert report.focus(prediction, reference, (1, 1, 1)) == ((20, 19, 21), "the thickest error")


def test_planes_go_through_the_tumour_when_outlines_differ_little_and_through_the_middle_without_any():
    reference = np.zeros((30, 30, 30), np.uint8)
    reference[2:13, 4:15, 6:17] = Tissue.ED
    prediction = reference.copy()
    prediction[2:13, 4:15, 6] = 0
    voxel, text = report.focus(prediction, reference, (1, 1, 1))
    assert (voxel, text) == ((7, 9, 11), "the middle of the tumour")
    empty = np.zeros_like(reference)
    assert report.focus(empty, empty, (1, 1, 1))[0] == (15, 15, 15)


def test_left_is_on_the_viewers_right_the_front_on_top_and_the_head_up():
    # i, j, k grow towards the patient's left, back and head.
    array = np.zeros((5, 6, 7))
    array[4, 0, 6] = 1  # far left, front, top of the head
    axial, coronal, sagittal = (report.plane(array, (4, 0, 6), axis) for axis in (2, 1, 0))
    assert axial.shape == (6, 5) and axial[0, -1] == 1
    assert coronal.shape == (7, 5) and coronal[0, -1] == 1
    assert sagittal.shape == (7, 6) and sagittal[0, 0] == 1


# --- pictures -------------------------------------------------------------------------------------------


def test_pixels_are_square_whatever_the_voxels():
    grey = np.zeros((10, 40))
    tissues = np.zeros((10, 40), np.uint8)
    # 10 rows of 4 mm and 40 columns of 1 mm are 40 x 40 mm.
    height, width, _ = report.overlay(grey, tissues, (4.0, 1.0)).shape
    assert height == width


def test_each_tissue_has_its_colour_and_the_rest_stays_grey():
    grey = np.full((40, 40), 0.5)
    tissues = np.zeros((40, 40), np.uint8)
    tissues[5:15, 5:15], tissues[25:35, 25:35] = Tissue.ED, Tissue.ET
    picture = report.overlay(grey, tissues, (1.0, 1.0)).astype(int)
    scale = picture.shape[0] // 40
    background, oedema, enhancing = (picture[at * scale, at * scale] for at in (20, 10, 30))
    assert len(set(background)) == 1
    assert oedema[2] > oedema[0] + 50  # blue
    assert enhancing[0] > enhancing[2] + 50  # yellow
    assert picture.max() <= 255


@pytest.mark.parametrize("dark", [False, True])
def test_curves_are_drawn_from_whatever_columns_there_are(dark):
    full = [
        {"epoch": "1", "loss": "0.9", "validation_loss": "1.0", "dice_wt": "0.4", "seconds": "3"},
        {"epoch": "2", "loss": "0.7", "validation_loss": "", "dice_wt": "0.5", "seconds": "3"},
    ]
    wide = matplotlib.image.imread(decoded(report.training_curves(full, dark)))
    narrow = matplotlib.image.imread(decoded(report.training_curves([{"loss": "0.9"}], dark)))
    assert wide.shape[1] == 2 * narrow.shape[1]
    assert (narrow[0, 0, :3].mean() < 0.5) == dark
    assert report.training_curves([], dark) is None
    assert report.training_curves([{"seconds": "3"}], dark) is None


def decoded(uri):
    return io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))


def test_a_cascades_run_has_curves_for_each_region_trained_so_far(place):
    names = b"epoch,steps,learning_rate,loss,validation_loss,dice,seconds,patches_per_second\n"
    text = names + b"1,9,2e-4,0.9,1.0,0.4,3,5\n"
    assert report.curves_of(place) == []
    for region in ("et", "wt"):
        files.write_bytes(files.join(place, region, "history.csv"), text)
    curves = report.curves_of(place)
    assert [one["title"] for one in curves] == ["WT", "ET"]
    assert all(decoded(one[scheme]).read(4) == b"\x89PNG" for one in curves for scheme in ("light", "dark"))
    files.write_bytes(files.join(place, "history.csv"), text)
    assert [one["title"] for one in report.curves_of(place)] == ["", "WT", "ET"]


# --- the page -------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """Tags left open, everything loaded from elsewhere, pictures, and the visible text."""

    VOID = ("meta", "img", "source", "br", "link", "input")

    def __init__(self, path):
        super().__init__()
        self.open, self.outside, self.pictures, self.text = [], [], [], ""
        self.feed(pathlib.Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        for name in ("src", "srcset", "data", "poster"):
            if name in attributes and not attributes[name].startswith("data:"):
                self.outside.append(attributes[name])
        if tag in ("link", "script", "iframe", "object"):
            self.outside.append(tag)
        if tag == "img":
            self.pictures.append(attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open[-1:] != ["style"] else ""


@pytest.fixture(scope="module")
def scored(tiny_dataset, tmp_path_factory):
    """Folders of predictions (one perfect, one shifted) and their metrics, and the data set itself."""
    folder = tmp_path_factory.mktemp("scored")
    root = tiny_dataset("2020")
    for number, one in enumerate(layouts.find(root).cases):
        tissues, grid = case.load_label(one.label, one.schema)
        path = folder / "prediction" / f"{one.case_id}.nii.gz"
        case.save_segmentation(path, np.roll(tissues, 3 * number, axis=0), grid, one.schema)
    evaluate.write(evaluate.evaluate(folder / "prediction", root), folder / "metrics")
    return folder, root


def test_the_page_stands_alone_and_says_what_it_must(scored, tmp_path):
    folder, root = scored
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "history.csv").write_text("epoch,loss,validation_loss\n1,0.9,1.0\n2,0.8,0.9\n")
    report.main([
        "--metrics", str(folder / "metrics"), "--prediction", str(folder / "prediction"),
        "--reference", str(root), "--output", str(tmp_path / "report.html"), "--title", "A <title>",
        "--run", str(tmp_path / "run"), "--note", "by `tfbrats.train` & https://example.org/x.",
    ])  # fmt: skip
    page = Page(tmp_path / "report.html")
    assert page.open == [] and page.outside == []
    assert "Not for clinical use" in page.text
    assert "A <title>" in page.text
    # Two cases, three planes, reference and prediction on two modalities; and the curves.
    assert len(page.pictures) == 2 * 3 * 4 + 1
    assert all(picture["alt"] for picture in page.pictures)
    for row in evaluate.read(folder / "metrics")["rows"]:
        assert row["case_id"] in page.text
        assert f"{row['dice']:.3f}" in page.text
    source = (tmp_path / "report.html").read_text()
    assert '<a href="https://example.org/x">' in source
    assert "<code>tfbrats.train</code> &amp;" in source
    assert "prefers-color-scheme: dark" in source and "@media print" in source


def test_the_page_tells_what_each_stage_lost_worst_first(scored, tmp_path):
    folder, _ = scored
    content = evaluate.read(folder / "metrics")
    page = page_of(content, tmp_path)
    _, section = page.text.split("What each stage lost")
    section, _ = section.split("What was compared")
    rows = content["cascade"]["rows"]
    missed = {row["case_id"]: row["missed_ml"] for row in rows if row["region"] == "WT"}
    worst, perfect = sorted(missed, key=missed.get, reverse=True)
    assert missed[perfect] == 0 and section.index(worst) < section.index(perfect)
    for row in rows:
        if row["reference_ml"]:
            assert f"{row['missed_here_ml'] / row['reference_ml']:.1%}" in section
    for region in REGIONS:
        mean = content["cascade"]["summary"][region]["mean_share"]
        assert f"{mean['missed_ml']:.1%}" in section and f"{mean['missed_here_ml']:.1%}" in section
    assert "lost outside the box" not in section and "no cascade’s margin is known" in section


def test_the_page_names_the_margin_where_it_is_known(scored, tmp_path):
    folder, _ = scored
    content = evaluate.read(folder / "metrics")
    content["cascade"]["margin_voxels"] = 5
    section = page_of(content, tmp_path).text
    assert "grown by 5 voxels" in section and "lost outside the box" in section


def test_bars_are_as_long_as_what_was_lost(tmp_path, scored):
    folder, _ = scored
    content = evaluate.read(folder / "metrics")
    for row in content["cascade"]["rows"]:
        row.update({name: 0.0 for name in row if name.endswith("_ml")})
    losses = {"reference_ml": 8.0, "missed_ml": 7.0, "missed_here_ml": 1.0, "lost_before_ml": 6.0}
    content["cascade"]["rows"][2].update(losses, lost_by_wt_ml=4.0, lost_by_tc_ml=2.0)
    page_of(content, tmp_path)
    source = (tmp_path / "page.html").read_text().split("What each stage lost in every case")[1]
    assert re.findall(r'class="([a-z-]+)" style="width:([\d.]+)%"', source) == [
        ("here", "12.50"), ("by-tc", "25.00"), ("by-wt", "50.00"),
    ]  # fmt: skip
    assert source.count("absent") >= 5


def test_scores_of_an_older_version_make_a_page_without_that_section(scored, tmp_path):
    folder, _ = scored
    page = page_of(evaluate.read(folder / "metrics") | {"cascade": None}, tmp_path)
    assert "What each stage lost" not in page.text and "Every case" in page.text


def test_a_region_that_no_case_has_is_shown_as_a_dash(scored, tmp_path):
    folder, _ = scored
    content = evaluate.read(folder / "metrics")
    rows = content["cascade"]["rows"]
    for row in rows:
        if row["region"] == "ET":
            row.update({name: 0.0 for name in row if name.endswith("_ml")})
    content["cascade"]["summary"] = stages.summarise(rows)
    text = page_of(content, tmp_path).text
    assert "nan" not in text.split("What each stage lost")[1].split("What was compared")[0]


def page_of(content, folder):
    path = folder / "page.html"
    path.write_text(report.render(content, [], "A page"), encoding="utf-8")
    page = Page(path)
    assert page.open == [] and page.outside == []
    return page


def test_a_picture_shows_the_prediction_where_the_prediction_is(scored):
    folder, root = scored
    pairs = {pair.case_id: pair for pair in match(folder / "prediction", root).pairs}
    (perfect, _), (shifted, _) = report.choose(evaluate.read(folder / "metrics")["rows"], 2)[::-1]
    for case_id, same in ((perfect, True), (shifted, False)):
        for plane in report.case_pictures(pairs[case_id])["planes"]:
            pictures = {panel["title"]: panel["picture"] for panel in plane["panels"]}
            assert list(pictures) == [
                "FLAIR, reference", "FLAIR, prediction", "T1ce, reference", "T1ce, prediction",
            ]  # fmt: skip
            assert (pictures["FLAIR, reference"] == pictures["FLAIR, prediction"]) == same
            assert pictures["FLAIR, reference"] != pictures["T1ce, reference"]


def test_masks_alone_are_drawn_on_black(scored, tmp_path):
    folder, root = scored
    (tmp_path / "masks").mkdir()
    for one in layouts.find(root).cases:
        shutil.copy(one.label, tmp_path / "masks")
    evaluate.write(evaluate.evaluate(folder / "prediction", tmp_path / "masks"), tmp_path / "metrics")
    report.write(tmp_path / "metrics", folder / "prediction", tmp_path / "masks", tmp_path / "r.html", cases=1)
    assert len(Page(tmp_path / "r.html").pictures) == 3 * 2


def test_the_same_scores_give_the_same_page(scored, tmp_path):
    folder, root = scored
    for name in ("a", "b"):
        report.write(folder / "metrics", folder / "prediction", root, tmp_path / name, cases=1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


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
    with pytest.raises(InputError, match=r"tfbrats\.evaluate"):
        report.write(tmp_path, folder / "prediction", root, tmp_path / "r.html")


def test_other_predictions_than_were_scored_are_refused(scored, tmp_path):
    folder, root = scored
    shifted = sorted((folder / "prediction").glob("*.nii.gz"))[1]
    shutil.copytree(folder / "prediction", tmp_path / "other")
    shutil.copy(sorted((folder / "prediction").glob("*.nii.gz"))[0], tmp_path / "other" / shifted.name)
    with pytest.raises(InputError, match=r"says Dice .* of WT; .*/other/.* has"):
        report.write(folder / "metrics", tmp_path / "other", root, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
