"""One case in one picture: every part is there, in its place, and every voxel has the colour that it should."""

import dataclasses
import io
import itertools
import shutil

import nibabel
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from tfbrats.cases import case, nifti, overlays
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS, Tissue
from tfbrats.pictures import differences, hero, hero_card, marks, sheet
from tfbrats.scoring import evaluation, origin
from tfbrats.scoring.origin import Model, Split

SPACING_MM = (1.0, 1.5, 2.0)


def small_hero(**changes):
    """A head of 20 x 16 voxels with every pair of tissues somewhere in it."""
    grey = np.zeros((24, 22))
    grey[2:22, 3:19] = np.linspace(0.2, 0.9, 20)[:, None]
    reference, prediction = np.zeros((2, 24, 22), np.uint8)
    for place, (expert, predicted) in enumerate(itertools.product((0, *overlays.COLOURS), repeat=2)):
        row, column = 4 + 2 * (place // 6), 5 + 2 * (place % 6)
        reference[row : row + 2, column : column + 2] = expert
        prediction[row : row + 2, column : column + 2] = predicted
    made = hero.Hero(
        case_id="BraTS2021_00007",
        greys={title: grey for title in ("FLAIR", "T1", "T1ce", "T2")},
        reference=reference,
        prediction=prediction,
        at=marks.Slice(2, 11, 31, SPACING_MM),
        dice={"WT": 0.912, "TC": 0.5, "ET": float("nan")},
        caption="Segmented by cun version 3.",
        simulated=True,
    )
    return dataclasses.replace(made, **changes)


# --- which slice, which voxels --------------------------------------------------------------------------


def test_the_slice_is_the_one_with_most_tumour_in_the_reference():
    reference, prediction = np.zeros((2, 6, 6, 5), np.uint8)
    reference[:2, :2, 1], reference[:3, :3, 3] = Tissue.ED, Tissue.ET
    prediction[:, :, 4] = Tissue.ED
    assert hero.fullest(reference, prediction) == 3
    assert hero.fullest(np.zeros_like(reference), prediction) == 4
    assert hero.fullest(np.zeros_like(reference), np.zeros_like(reference)) == 2


def test_each_voxel_of_the_whole_tumour_is_found_missed_or_false_whatever_the_tissue():
    tumour = [Tissue.NCR, Tissue.ED, Tissue.ET, Tissue.CC]
    for expert, predicted in itertools.product((0, Tissue.RC, *tumour), repeat=2):
        kinds = differences.difference(np.full((1, 1), expert, np.uint8), np.full((1, 1), predicted, np.uint8))
        expected = {
            (True, True): differences.FOUND,
            (True, False): differences.MISSED,
            (False, True): differences.FALSE,
            (False, False): 0,
        }[expert in tumour, predicted in tumour]
        assert kinds.item() == expected, (expert, predicted)


def middles(made, view):
    """(row, column) of a voxel -> the pixel in its middle."""
    rows, columns = view._where[0][:, 0], view._where[1][0]
    for row, column in np.ndindex(made.reference.shape):
        if rows[0] < row < rows[-1] and columns[0] < column < columns[-1]:
            yield (row, column), (np.abs(rows - row).argmin(), np.abs(columns - column).argmin())


def test_the_difference_is_right_voxel_by_voxel_and_every_voxel_is_sharp():
    made = small_hero()
    view = hero.View(made, (366, 440), (34, 36))
    drawn = hero.panels(made, view)
    assert list(drawn) == ["FLAIR", "T1", "T1ce", "T2", "Reference", "Prediction", "Difference"]
    kinds = differences.difference(made.reference, made.prediction)
    looked_at = set()
    for voxel, pixel in middles(made, view):
        grey, colour = drawn["FLAIR"][pixel], drawn["Difference"][pixel]
        kind = kinds[voxel]
        looked_at.add(int(kind))
        assert grey[0] == grey[1] == grey[2]
        if kind in (differences.MISSED, differences.FALSE):
            np.testing.assert_allclose(colour, to_rgb(differences.COLOURS[kind]))
        elif kind == differences.FOUND:
            mixed = 0.4 * 0.6 * grey + 0.6 * np.array(to_rgb(differences.COLOURS[kind]))
            np.testing.assert_allclose(colour, mixed)
        else:
            np.testing.assert_allclose(colour, 0.6 * grey)
    assert looked_at == {0, differences.FOUND, differences.MISSED, differences.FALSE}
    # No pixel lies between two kinds: there are as many pure colours as there are kinds.
    pure = (drawn["Difference"] == to_rgb(differences.COLOURS[differences.MISSED])).all(-1)
    assert pure.sum() == (view.kinds(kinds) == differences.MISSED).sum() > 100


def test_reference_and_prediction_have_each_their_own_tissues():
    made = small_hero()
    view = hero.View(made, (366, 440), (34, 36))
    drawn = hero.panels(made, view)
    for title, tissues in (("Reference", made.reference), ("Prediction", made.prediction)):
        for voxel, pixel in middles(made, view):
            grey, colour = drawn["FLAIR"][pixel], drawn[title][pixel]
            if tissues[voxel]:
                hue = np.array(to_rgb(overlays.COLOURS[Tissue(tissues[voxel])]))
                mixed = 0.45 * grey + 0.55 * hue
                assert np.allclose(colour, hue) or np.allclose(colour, mixed)  # outline, or inside it
            else:
                np.testing.assert_allclose(colour, grey)


# --- colours --------------------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes 2009, severity 1: what a colour-blind reader sees, in linear RGB.
SEEN_BY = {
    "all": np.eye(3),
    "protanopes": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopes": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopes": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
TO_XYZ = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]


def lab(colour, reader):
    """CIE L*a*b* of what the reader sees."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(SEEN_BY[reader] @ linear, 0, 1) / np.array([0.9505, 1, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("reader", SEEN_BY)
def test_found_missed_and_false_are_told_apart_by_colour_blind_readers(reader):
    for one, other in itertools.combinations(differences.COLOURS.values(), 2):
        # 2 can just be told apart side by side; black and white are 100 apart.
        assert np.linalg.norm(lab(one, reader) - lab(other, reader)) > 40


def test_no_colour_of_the_difference_is_a_tissue_s():
    for one, other in itertools.product(differences.COLOURS.values(), overlays.COLOURS.values()):
        assert np.linalg.norm(lab(one, "all") - lab(other, "all")) > 20


# --- the card -------------------------------------------------------------------------------------------


@pytest.fixture
def written(monkeypatch):
    """What is written on the card, (words, x, y), and the bars drawn, (x, y, width, height)."""
    words, bars = [], []
    text, bar = sheet.Sheet.text, sheet.Sheet.bar

    def kept_text(sheet, left, middle, what, *arguments, **style):
        words.append((what, left, middle))
        return text(sheet, left, middle, what, *arguments, **style)

    def kept_bar(sheet, *arguments):
        bars.append(arguments[:4])
        bar(sheet, *arguments)

    monkeypatch.setattr(sheet.Sheet, "text", kept_text)
    monkeypatch.setattr(sheet.Sheet, "bar", kept_bar)
    return words, bars


def test_every_part_is_written(written):
    words, _ = written
    hero_card.compose(small_hero())
    texts = [what for what, _, _ in words]
    for part in (
        *("BraTS2021_00007", "simulated", "axial slice 12 of 31, 22 mm above the first"),
        *("Segmented by cun version 3.", "FLAIR", "T1", "T1ce", "T2", "Reference", "Prediction", "Difference"),
        *("Dice, whole volume", "0.91", "0.50", "–", *REGIONS, "found", "missed", "false"),
        *("ED oedema", "ET enhancing", "NCR necrosis", "RC cavity", "CC cyst"),
        "Radiological view: the patient’s left is on the right.",
    ):
        assert texts.count(part) == 1, part
    assert texts.count("1 cm") == 7  # the head is 16 mm wide


def test_only_cases_that_say_so_are_called_simulated_and_only_tissues_that_are_there_are_named(written):
    words, _ = written
    only = np.where(small_hero().reference == Tissue.ED, Tissue.ED, 0).astype(np.uint8)
    hero_card.compose(small_hero(simulated=False, reference=only, prediction=only))
    texts = [what for what, _, _ in words]
    assert not [text for text in texts if "simulated" in text]
    assert "ED oedema" in texts and "ET enhancing" not in texts and "CC cyst" not in texts


def test_letters_stand_on_their_sides_of_every_panel(written):
    words, _ = written
    hero_card.compose(small_hero())
    sides = {letter: [(x, y) for what, x, y in words if what == letter] for letter in "RLAP"}
    assert [len(places) for places in sides.values()] == [7] * 4
    for right, left, front, back in zip(*sides.values(), strict=True):
        assert right[0] + 300 < left[0] and right[1] == left[1]
        assert front[1] + 380 < back[1] and front[0] == back[0] == (right[0] + left[0]) / 2


@pytest.mark.parametrize(
    ("spacing_mm", "scale_mm"), [(SPACING_MM, 10), ((0.4, 0.5, 3.0), 1), ((9.0, 9.0, 1.0), 50)]
)
def test_the_scale_bar_is_as_long_as_it_says_whatever_the_voxels(spacing_mm, scale_mm, written):
    words, bars = written
    made = small_hero(at=marks.Slice(2, 11, 31, spacing_mm))
    hero_card.compose(made)
    view = hero.View(made, hero_card._PANEL, hero_card._AIR)
    rows, columns = view._where[0][:, 0], view._where[1][0]
    pixels_per_mm = 1 / ((columns[1] - columns[0]) * spacing_mm[0])
    assert pixels_per_mm == pytest.approx(1 / ((rows[1] - rows[0]) * spacing_mm[1]))
    assert sum(width == pytest.approx(scale_mm * pixels_per_mm) for _, _, width, _ in bars) == 7
    assert [what for what, _, _ in words].count({1: "1 mm", 10: "1 cm", 50: "5 cm"}[scale_mm]) == 7


def test_the_whole_head_is_in_every_panel_with_air_for_the_letters():
    made = small_hero()
    view = hero.View(made, (366, 440), (34, 36))
    inside = view.kinds((made.greys["FLAIR"] > 0).astype(np.uint8))
    rows, columns = np.nonzero(inside.any(1))[0], np.nonzero(inside.any(0))[0]
    assert rows[0] >= 35 and rows[-1] <= 440 - 36 and columns[0] >= 33 and columns[-1] <= 366 - 34
    assert rows[0] <= 38 or columns[0] <= 36  # as large as it can be


def test_the_file_is_1600_wide_small_clear_at_its_corners_and_the_same_every_time():
    content = hero_card.compose(small_hero())
    assert content == hero_card.compose(small_hero())
    assert len(content) <= hero_card.MOST_BYTES
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))
    assert picture.shape == (hero_card.HEIGHT, 1600, 4)
    assert (picture[[0, 0, -1, -1], [0, -1, 0, -1], 3] == 0).all()
    assert (picture[30, 800] == 255).all()  # white, and not clear
    assert (picture[..., 3] == 255).mean() > 0.99


def test_few_colours_leave_the_pixels_of_a_panel_as_they_were():
    made = small_hero()
    picture = np.asarray(Image.open(io.BytesIO(hero_card.compose(made))).convert("RGB")).astype(int)
    expected = hero.panels(made, hero.View(made, hero_card._PANEL, hero_card._AIR))["Difference"]
    left, top = 44 + 2 * (366 + 16), hero_card._TOP + 440 + 16
    drawn = picture[top + 60 : top + 380, left + 40 : left + 320]
    assert np.abs(drawn - 255 * expected[60:380, 40:320]).max() <= 8


def test_a_long_name_is_written_smaller_and_stays_on_the_card(monkeypatch):
    sizes = []
    init = sheet.Sheet.__init__

    def kept(drawn, *arguments):
        init(drawn, *arguments)
        sizes.append(drawn._axes)

    monkeypatch.setattr(sheet.Sheet, "__init__", kept)
    hero_card.compose(small_hero(case_id="sub-" + "0123456789" * 9, caption="word " * 60))
    for text in sizes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= hero_card.WIDTH, text.get_text()


# --- from files -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tiny_dataset, tmp_path_factory):
    """Folder of predictions (one perfect, one shifted), the data set, and the evaluation."""
    folder, root = tmp_path_factory.mktemp("hero"), tiny_dataset("2020")
    for number, one in enumerate(layouts.find(root).cases):
        tissues, grid = case.load_label(one.label, one.schema)
        shifted = np.roll(tissues, 3 * number, axis=0)
        case.save_segmentation(folder / f"{one.case_id}.nii.gz", shifted, grid, one.schema)
    return folder, root, evaluation.evaluate(folder, root)


def of(scored, case_id=None, **changes):
    folder, root, content = scored
    return hero.hero_of(dataclasses.replace(content, **changes), folder, root, case_id, "SCORES")


def test_a_case_s_slice_scores_and_rank_are_its_own(scored):
    _, root, content = scored
    perfect, shifted = (one.case_id for one in layouts.find(root).cases)
    made = of(scored)
    assert made.case_id == shifted and made.simulated
    assert made.caption == "The worst of 2 cases by Dice of WT."
    rows = {row["region"]: row["dice"] for row in content.rows if row["case_id"] == shifted}
    assert made.dice == rows
    source = next(one for one in layouts.find(root).cases if one.case_id == shifted)
    loaded = case.load(source)
    k = made.at.index
    assert (loaded.label[..., k] > 0).sum() == (loaded.label > 0).sum((0, 1)).max()
    np.testing.assert_array_equal(made.reference, loaded.label[..., k].T)
    np.testing.assert_array_equal(made.prediction, np.roll(loaded.label, 3, axis=0)[..., k].T)
    for channel, grey in enumerate(made.greys.values()):
        scan = loaded.image[..., k, channel].T
        assert np.corrcoef(grey[scan > 0], scan[scan > 0])[0, 1] > 0.95
    assert list(made.greys) == ["FLAIR", "T1", "T1ce", "T2"]
    assert of(scored, perfect).caption == "The best of 2 cases by Dice of WT."


def test_the_caption_says_whose_it_is_which_split_and_whether_the_model_has_seen_it(scored):
    content = scored[2]
    one, two = dict.fromkeys(row["case_id"] for row in content.rows)
    by_split = origin.BySplit(True, {"train": [one], "test": [two]}, {}, {}, None, True)
    named = {"model": Model("cun", 3), "split": Split("test", "ab", "x"), "by_split": by_split}
    assert of(scored, one, **named).caption == (
        "Segmented by cun version 3. The best of 2 test cases by Dice of WT. The model has seen it in training."
    )
    assert of(scored, two, **named).caption.endswith("The worst of 2 test cases by Dice of WT.")


def test_files_that_do_not_say_that_they_are_simulated_are_not_called_so(scored, tmp_path):
    folder, root, _ = scored
    first = layouts.find(root).cases[0]
    for path in first.paths():
        volume = nifti.read(path)
        assert case.is_simulated(volume.grid)
        volume.grid.header["descrip"] = b"FSL5.0"
        nifti.write(tmp_path / "BraTS20_Training_000" / path.rsplit("/", 1)[1], volume.array, volume.grid)
    content = evaluation.evaluate(folder, tmp_path, "2020", cases=[first.case_id])
    assert not hero.hero_of(content, folder, tmp_path, None, "SCORES").simulated


def test_the_only_case_scored_is_called_so(scored):
    folder, root, _ = scored
    first = layouts.find(root).cases[0].case_id
    content = evaluation.evaluate(folder, root, cases=[first])
    assert hero.hero_of(content, folder, root, None, "SCORES").caption == "The only case scored."


def test_scans_that_do_not_lie_on_the_reference_s_grid_are_not_drawn_under_it(scored, tmp_path):
    folder, root, content = scored
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    first = layouts.find(moved).cases[0]
    for _, path, _ in first.images:
        volume = nifti.read(path)
        affine = volume.grid.affine.copy()
        affine[0, 3] += 20
        header = volume.grid.header.copy()
        header.set_sform(affine, 1)
        header.set_qform(affine, 1)
        nibabel.Nifti1Image(volume.array, affine, header).to_filename(path)
    with pytest.raises(InputError, match=r"_seg\.nii\.gz: affine .* Resample it onto that grid"):
        hero.hero_of(content, folder, moved, first.case_id, "SCORES")


def test_a_case_that_was_not_scored_and_masks_without_scans_are_refused(scored, tmp_path):
    folder, root, _ = scored
    with pytest.raises(InputError, match="--case nobody: not among the 2 cases scored, e"):
        of(scored, "nobody")
    for one in layouts.find(root).cases:
        tissues, grid = case.load_label(one.label, one.schema)
        case.save_segmentation(tmp_path / f"{one.case_id}_seg.nii.gz", tissues, grid, one.schema)
    content = evaluation.evaluate(folder, tmp_path)
    with pytest.raises(InputError, match="holds no scans of BraTS20_"):
        hero.hero_of(content, folder, tmp_path, None, "SCORES")
