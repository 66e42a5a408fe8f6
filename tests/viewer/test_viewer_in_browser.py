"""The viewer's page as a person has it: opened from the disk in a real Chromium, the network off."""

import pathlib

import browser as chromium
import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.keys import Keys

from tfbrats.cases import case
from tfbrats.datasets import layouts
from tfbrats.viewer import page

READY = "return document.body.dataset.ready"
# The colours of the part of the picture that a tile is: how many of its pixels are not black, and their sum.
PIXELS = """
const { nv } = viewer, gl = nv.gl, [left, top, wide, high] = nv.screenSlices[arguments[0]].leftTopWidthHeight;
nv.drawScene();
const [w, h] = [Math.floor(wide), Math.floor(high)], pixels = new Uint8Array(4 * w * h);
gl.readPixels(left, gl.canvas.height - top - high, w, h, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
let lit = 0, coloured = 0, sum = 0;
for (let n = 0; n < pixels.length; n += 4) {
  const [r, g, b] = pixels.slice(n, n + 3);
  lit += r + g + b > 60;
  coloured += Math.max(r, g, b) - Math.min(r, g, b) > 60;
  sum = (sum * 31 + r + 256 * g + 65536 * b) % 1e9;
}
return { lit: lit / (pixels.length / 4), coloured, sum };
"""
# How many pixels over the planes have one of our colours.
MARKED = """
const canvas = document.getElementById("marks"), [r, g, b] = arguments[0];
const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
let count = 0;
for (let n = 0; n < data.length; n += 4)
  count += data[n + 3] > 120 && [r, g, b].every((value, m) => Math.abs(data[n + m] - value) < 12);
return count;
"""
OEDEMA = [0x56, 0xB4, 0xE9]
SMALL = (1000, 620)  # the processor draws
AXIAL, CORONAL, SAGITTAL, RENDERED = range(4)  # tiles


@pytest.fixture(scope="module")
def written(tiny_dataset, tmp_path_factory) -> pathlib.Path:
    """A phantom whose prediction is its reference, moved; in a folder with a space in its name."""
    loaded = case.load(layouts.find(tiny_dataset("2021")).cases[0])
    predicted = np.roll(loaded.label, 2, axis=0)
    path = tmp_path_factory.mktemp("a folder") / "case.html"
    path.write_text(page.html(loaded, predicted, loaded.label), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page_open(browser, written):
    browser.errors()
    browser.open(written, SMALL)
    browser.wait(READY)
    return browser


@pytest.fixture
def opened(page_open):
    """The page as it begins, and at its end without a word on the console."""
    page_open.shape(SMALL)
    page_open.run(
        "const controls = document.getElementById('controls'); controls.reset(); "
        "controls.dispatchEvent(new Event('input')); document.querySelector('button[data-voxel]').click()"
    )
    page_open.wait("return viewer.state.view === 'all' && viewer.state.scan === 'flair'", 20)
    yield page_open
    assert page_open.errors() == []


def at(browser) -> list[int]:
    return browser.run("return [...viewer.at]")


def press(browser, *keys: str) -> None:
    browser.run("document.getElementById('stage').focus()")
    ActionChains(browser.driver).send_keys(*keys).perform()


def chosen(browser, name: str, value: str) -> None:
    """Clicks a control of the page, as a person does."""
    browser.run(f"document.querySelector('input[name={name}][value=\"{value}\"]').click()")


def test_it_opens_from_the_disk_and_asks_for_nothing(opened):
    assert opened.run("return location.protocol") == "file:"
    loaded = opened.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert [address for address in loaded if not address.startswith(("blob:", "data:"))] == []
    assert opened.run("return document.getElementById('loading')") is None


def test_three_planes_and_the_3d_view_are_drawn(opened):
    for tile in (AXIAL, CORONAL, SAGITTAL, RENDERED):
        assert opened.run(PIXELS, tile)["lit"] > 0.1, tile
    assert opened.run(PIXELS, RENDERED)["coloured"] > 100  # the tumour in it


def test_keys_move_the_crosshair_and_the_planes(opened):
    before, picture = at(opened), opened.run(PIXELS, AXIAL)
    press(opened, Keys.PAGE_UP)
    assert at(opened) == [*before[:2], before[2] + 1]
    assert opened.run(PIXELS, AXIAL)["sum"] != picture["sum"]
    press(opened, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_UP)
    assert at(opened) == [before[0] - 2, before[1] - 1, before[2] + 1]
    for _ in range(4):
        ActionChains(opened.driver).key_down(Keys.SHIFT).send_keys(Keys.ARROW_LEFT).key_up(Keys.SHIFT).perform()
    assert at(opened)[0] == 0  # the edge of the volume


def test_the_wheel_goes_through_the_slices_of_the_plane_under_the_pointer(opened):
    before = at(opened)
    stage = opened.driver.find_element("id", "stage")
    origin = ScrollOrigin.from_element(stage, -stage.size["width"] // 4, -stage.size["height"] // 4)
    ActionChains(opened.driver).scroll_from_origin(origin, 0, 120).perform()
    opened.wait(f"return viewer.at[2] !== {before[2]}", 20)
    assert at(opened)[:2] == before[:2]


def test_a_click_puts_the_crosshair_into_all_planes(opened):
    opened.run(
        "const where = document.querySelector('#stage').getBoundingClientRect(); window.before = [...viewer.at]"
    )
    stage = opened.driver.find_element("id", "stage")
    where = (-stage.size["width"] // 4 + 25, -stage.size["height"] // 4 + 30)
    ActionChains(opened.driver).move_to_element_with_offset(stage, *where).click().perform()
    opened.wait("return viewer.at.some((voxel, axis) => voxel !== before[axis])", 20)
    assert at(opened)[2] == opened.run("return before[2]")
    opened.wait(
        "const { low } = JSON.parse(document.getElementById('data').textContent);"
        "const told = viewer.at.map((voxel, axis) => voxel + low[axis]).join(', ');"
        "return document.getElementById('where').textContent.includes(told)",
        20,
    )


def test_scans_and_sliders(opened):
    picture = opened.run(PIXELS, AXIAL)
    press(opened, "3")
    opened.wait("return viewer.state.scan === 't1ce'", 20)
    assert opened.run("return document.querySelector('input[name=scan]:checked').value") == "t1ce"
    assert opened.run(PIXELS, AXIAL)["sum"] != picture["sum"]
    opened.run(
        "const slider = document.getElementById('coronal'); slider.value = Number(slider.min) + 3; "
        "slider.dispatchEvent(new Event('input'))"
    )
    assert at(opened)[1] == 3
    assert "of 32" in opened.run("return document.getElementById('coronal').getAttribute('aria-valuetext')")


def test_overlays_go_on_and_off(opened):
    both, rendered = opened.run(MARKED, OEDEMA), opened.run(PIXELS, RENDERED)["coloured"]
    assert both > 50
    press(opened, "p")
    alone = opened.run(MARKED, OEDEMA)
    press(opened, "r")
    assert 0 < alone < both and opened.run(MARKED, OEDEMA) == 0
    assert opened.run(PIXELS, RENDERED)["coloured"] < rendered - 300  # the crosshair stays
    press(opened, "p")
    assert opened.run(PIXELS, AXIAL)["coloured"] < 300  # contours are drawn over it; the crosshair is in it
    press(opened, "f")
    opened.wait("return viewer.state.style === 'fill'", 20)
    assert opened.run(PIXELS, AXIAL)["coloured"] > 300
    opened.run(
        "const slider = document.querySelector('[name=opacity]'); slider.value = 0; "
        "slider.dispatchEvent(new Event('input', { bubbles: true }))"
    )
    opened.wait("return viewer.state.opacity === 0", 20)
    assert opened.run(PIXELS, AXIAL)["coloured"] < 300


def test_differences_have_their_own_colours(opened):
    press(opened, "d")
    opened.wait("return viewer.state.style === 'WT'", 20)
    assert opened.run(MARKED, OEDEMA) == 0
    assert opened.run("return !document.getElementById('differences').hidden")
    assert opened.run(PIXELS, AXIAL)["coloured"] > 300
    chosen(opened, "style", "ET")
    opened.wait("return viewer.state.style === 'ET'", 20)


def test_one_plane_fills_the_stage_and_arrows_turn_the_head(opened):
    chosen(opened, "view", "3d")
    opened.wait("return viewer.nv.screenSlices.length === 1", 20)
    turned = opened.run("return viewer.nv.scene.renderAzimuth")
    press(opened, Keys.ARROW_RIGHT)
    assert opened.run("return viewer.nv.scene.renderAzimuth") == (turned + 5) % 360
    press(opened, "v")
    opened.wait("return viewer.nv.screenSlices.length === 4", 20)


def test_a_lesion_of_the_table_is_where_its_button_leads(opened):
    press(opened, *[Keys.ARROW_RIGHT] * 5)
    opened.run("document.querySelector('button[data-voxel]').click()")
    opened.wait("return document.getElementById('where').textContent.match(/reference (ED|NCR|ET)/)", 20)


@pytest.mark.parametrize("size", [chromium.DESKTOP, chromium.PHONE], ids=["desktop", "phone"])
def test_it_fits_a_screen_and_axe_finds_no_serious_fault(opened, size):
    for dark in (False, True):
        opened.shape(size, dark)
        assert opened.run("return document.documentElement.scrollWidth <= innerWidth")
        opened.run("for (const one of document.querySelectorAll('details')) one.open = true")
        assert opened.accessibility_faults() == []
    opened.shape(chromium.DESKTOP)
