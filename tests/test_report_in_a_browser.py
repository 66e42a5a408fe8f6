"""The report in a real Chromium: sliders move the right slices, nothing is cut off, it does without script."""

import numpy as np
import pytest
from browser import DESKTOP, PHONE
from matplotlib.colors import to_rgb

from tfbrats import report
from tfbrats.cases import case, overlays
from tfbrats.datasets import layouts
from tfbrats.pictures import differences
from tfbrats.scoring import evaluation, score_files

LIVE = "return [...document.querySelectorAll('.slices')].every((one) => one.querySelector('.plate').hidden)"


@pytest.fixture(scope="module")
def written(tiny_dataset, tmp_path_factory):
    """The page of two cases, the first of them shifted; its tissues in reference and prediction."""
    folder, root = tmp_path_factory.mktemp("in_a_browser"), tiny_dataset("2020")
    for number, one in enumerate(layouts.find(root).cases):
        tissues, grid = case.load_label(one.label, one.schema)
        shifted = np.roll(tissues, 2 * number, axis=(0, 1, 2))
        case.save_segmentation(folder / "p" / f"{one.case_id}.nii.gz", shifted, grid, one.schema)
    score_files.write(evaluation.evaluate(folder / "p", root), folder / "scores")
    report.write(folder / "scores", folder / "p", root, folder / "report.html")
    return folder / "report.html", tissues, shifted


def set_slider(browser, axis, index):
    """Moves the first case's slider as a person's hand does."""
    browser.run(
        "const slider = document.querySelector(`[data-axis='${arguments[0]}'] input`);"
        "slider.value = arguments[1]; slider.dispatchEvent(new Event('input'))",
        axis,
        index,
    )


def pixels(browser, axis, kind):
    """What a canvas of the first case shows, uint8 [rows, columns, 3], and where its voxels lie."""
    width, data, placed = browser.run(
        "const canvas = document.querySelector(`[data-axis='${arguments[0]}'] [data-kind='${arguments[1]}']`);"
        "const picture = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        "return [canvas.width, [...picture.data], canvas.placed]",
        axis,
        kind,
    )
    return np.array(data, np.uint8).reshape(-1, width, 4)[..., :3], placed


def shown(browser):
    return browser.run("return JSON.parse(document.querySelector('.slices script').textContent)")


@pytest.mark.parametrize("axis", [2, 1, 0])
def test_a_slider_moves_the_slice_and_every_voxel_of_the_difference_is_where_it_belongs(axis, written, browser):
    page, reference, prediction = written
    browser.open(page)
    browser.wait(LIVE)
    first, size = shown(browser)["first"], shown(browser)["size"]
    kinds = differences.difference(reference, prediction)
    box = tuple(slice(low, low + side) for low, side in zip(first, size, strict=True))
    fullest = [int(n) for n in np.argsort((kinds[box] > 1).sum(tuple({0, 1, 2} - {axis})))[-2:]]
    for index in fullest:
        set_slider(browser, axis, index)
        picture, placed = pixels(browser, axis, "difference")
        plane = overlays.plane(kinds[box], (index,) * 3, axis)
        rows, columns = np.indices(plane.shape)
        (sx, sy), left, top = placed["size"], placed["left"], placed["top"]
        middles = (top + (rows + 0.5) * sy).astype(int), (left + (columns + 0.5) * sx).astype(int)
        for kind in (differences.MISSED, differences.FALSE):
            colour = 255 * np.array(to_rgb(differences.COLOURS[kind]))
            painted = (np.abs(picture[middles] - colour) < 3).all(-1)
            np.testing.assert_array_equal(painted, plane == kind)
        words = browser.run(
            "return document.querySelector(`[data-axis='${arguments[0]}'] output`).textContent", axis
        )
        assert words.startswith(f"slice {first[axis] + index + 1} of {reference.shape[axis]}, ")


def test_the_scan_is_bare_first_and_changes_with_the_switch(written, browser):
    browser.open(written[0])
    browser.wait(LIVE)
    flair, _ = pixels(browser, 2, "bare")
    inside = flair[40:-25, 20:-20].astype(int)
    assert np.ptp(inside, axis=-1).max() == 0 and inside.max() > 150  # grey alone: nothing lies on it
    with_contour, _ = pixels(browser, 2, "reference")
    assert np.ptp(with_contour[40:-25, 20:-20].astype(int), axis=-1).max() > 100
    browser.run("[...document.querySelectorAll('.scan input')].find((one) => one.value === 'T2').click()")
    browser.wait("return document.querySelector('.panels figcaption').textContent === 'T2'")
    assert (pixels(browser, 2, "bare")[0] != flair).mean() > 0.1


def test_a_click_brings_the_other_planes_there(written, browser):
    browser.open(written[0])
    browser.wait(LIVE)
    browser.run(
        "const canvas = document.querySelector(\"[data-axis='2'] .view\");"
        "const box = canvas.getBoundingClientRect(), { left, top, size } = canvas.placed;"
        "canvas.dispatchEvent(new MouseEvent('click', { clientX: box.left + left + 3.5 * size[0],"
        " clientY: box.top + top + 5.5 * size[1] }))"
    )
    at = [
        browser.run(f"return document.querySelector(\"[data-axis='{axis}'] input\").value") for axis in (0, 1)
    ]
    assert at == ["3", "5"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_no_column_is_cut_off(size, dark, written, browser):
    browser.open(written[0], size, dark)
    browser.wait(LIVE)
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
    assert browser.run("return document.documentElement.scrollWidth") == size[0]
    beyond = browser.run(
        "return [...document.querySelectorAll(arguments[0])].filter((one) => one.offsetWidth &&"
        " (one.getBoundingClientRect().right > innerWidth || one.scrollWidth > one.clientWidth + 1))"
        ".map((one) => one.outerHTML.slice(0, 120))",
        "table :is(td, th), .scroll"
        if size == DESKTOP
        else ":is(.by-region, .cases) :is(td, th), .where *, .view",
    )
    assert beyond == []
    assert browser.errors() == []


@pytest.mark.parametrize(("size", "dark"), [(DESKTOP, False), (PHONE, True)])
def test_nobody_is_shut_out(size, dark, written, browser):
    browser.open(written[0], size, dark)
    browser.wait(LIVE)
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
    assert browser.accessibility_faults() == []


def test_a_browser_that_falsifies_what_is_read_back_keeps_the_plate_and_says_why(written, browser):
    falsify = (
        "const read = OffscreenCanvasRenderingContext2D.prototype.getImageData;"
        "OffscreenCanvasRenderingContext2D.prototype.getImageData = function (...box) {"
        " const picture = read.apply(this, box); picture.data.fill(255); return picture; }"
    )
    added = browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": falsify})
    try:
        browser.open(written[0])
        browser.wait(
            "return document.querySelector('.note').textContent.startsWith('The slices cannot be moved here')"
        )
        assert browser.run("return document.querySelector('.plate').offsetHeight") > 100
        assert browser.run("return document.querySelector('.live').offsetHeight") == 0
    finally:
        browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_without_script_there_is_a_picture_of_each_case(written, browser):
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(written[0])
        (first, second) = browser.driver.find_elements("class name", "plate")
        assert first.size["height"] > 100 and second.size["width"] > 500
        assert {one.size["height"] for one in browser.driver.find_elements("class name", "live")} == {0}
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
