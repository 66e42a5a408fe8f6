"""The page as a person uses it, in a real Chromium: files dropped from the disk, the answer seen and saved."""

import os
import pathlib
import time

import pytest
import tiny_model
from asked_page import held, opened
from browser import DESKTOP, PHONE, Browser, started

from serving import server
from tfbrats import predict
from tfbrats.phantoms import data_sets
from tfbrats.predictions import model_card

SEEN = "return !document.getElementById('{}').hidden"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("served") / "tiny"
    version = tiny_model.write(base)
    (version / model_card.FILE).write_bytes(tiny_model.card().to_file())
    return base


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def chromium(downloads):
    with started(downloads) as running:
        yield running


@pytest.fixture(scope="module")
def page(base, chromium, tmp_path_factory):
    """A running page; first the browser: without one nothing is served."""
    with (
        server.start(base) as served,
        opened(served, tmp_path_factory.mktemp("page") / "tfbrats") as (running, _),
    ):
        yield running


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    root = tmp_path_factory.mktemp("cases")
    (case_id,) = data_sets.write_dataset(root, 1, "2021", 3, (32, 32, 24))
    return root / case_id


def drop(browser: Browser, *paths: pathlib.Path) -> None:
    """What a person does with the mouse: drags files, or a folder, from the desk onto the page."""
    place = browser.run(
        "const b = document.getElementById('drop').getBoundingClientRect(); return [b.x + 9, b.y + 9]"
    )
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": place[0], "y": place[1], "data": data}
        browser.driver.execute_cdp_cmd("Input.dispatchDragEvent", event)


def click(browser: Browser, element: str) -> None:
    browser.driver.find_element("id", element).click()


def words(browser: Browser, element: str) -> str:
    return browser.run(f"return document.getElementById('{element}').innerText")


def opened_in(browser: Browser, page, **how) -> None:
    browser.open(page.url, **how)
    browser.wait(SEEN.format("intake"))


def saved(browser: Browser, downloads: pathlib.Path, kind: str, name: str) -> bytes:
    """What the browser saves when a person asks for it."""
    click(browser, f"download-{kind}")
    limit = time.monotonic() + 60
    while not (downloads / name).exists() and time.monotonic() < limit:
        time.sleep(0.05)
    return (downloads / name).read_bytes()


def looked_at(browser: Browser) -> None:
    """Waits until the viewer, in its frame, has drawn; some of its pixels are no background."""
    browser.driver.switch_to.frame(browser.driver.find_element("id", "view"))
    try:
        browser.wait("return document.body && document.body.dataset.ready === 'yes'")
        assert browser.run("return document.querySelectorAll('canvas').length") > 0
    finally:
        browser.driver.switch_to.default_content()


def test_four_dropped_files_are_segmented_shown_and_saved_as_predict_would(
    chromium, page, case, base, downloads, tmp_path
):
    opened_in(chromium, page, size=DESKTOP)
    scans = {m: tmp_path / f"Smith_{m}.nii.gz" for m in ("flair", "t1", "t1ce", "t2")}
    for modality, path in scans.items():
        path.write_bytes((case / f"{case.name}_{modality}.nii.gz").read_bytes())
    good = scans["t1"].read_bytes()
    scans["t1"].write_text("<!DOCTYPE html><title>Log in</title>")
    drop(chromium, *scans.values())
    chromium.wait(SEEN.format("choice"))
    refused = words(chromium, "uploads")
    assert "Smith_t1.nii.gz: an HTML or XML page" in refused and str(page.folder) not in refused
    assert words(chromium, "uploads-sum").endswith("; 1 refused")
    assert chromium.run("return document.getElementById('scan-t1').value") == ""
    (error,) = chromium.errors()  # the browser's own word for a refusal
    assert "status of 422" in error
    scans["t1"].write_bytes(good)
    drop(chromium, scans["t1"])
    chromium.wait("return document.getElementById('scan-t1')?.value === 'Smith_t1.nii.gz'")
    click(chromium, "segment")
    chromium.wait(SEEN.format("result"))
    assert words(chromium, "result-name") == "Simulated case Smith"
    assert words(chromium, "stages").split("\n")[::2] == [
        "waiting",
        "reading",
        "segmenting",
        "writing",
        "drawing",
    ]
    looked_at(chromium)
    flags = [text for modality, path in scans.items() for text in (f"--{modality}", str(path))]
    predict.main(["--model", str(base), *flags, "--output", str(tmp_path / "own" / "seg.nii.gz")])
    assert (
        saved(chromium, downloads, "segmentation", "Smith.nii.gz")
        == (tmp_path / "own" / "seg.nii.gz").read_bytes()
    )
    assert saved(chromium, downloads, "pdf", "Smith.pdf").startswith(b"%PDF")
    for size in (DESKTOP, PHONE):
        chromium.shape(size, dark=size is PHONE)
        assert chromium.run("return document.documentElement.scrollWidth") <= size[0]
    assert chromium.errors() == []
    chromium.open("about:blank")  # the page is closed
    limit = time.monotonic() + 30
    while held(pathlib.Path(page.folder)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not held(pathlib.Path(page.folder))


@pytest.mark.slow
def test_a_dropped_folder_a_change_of_mind_and_a_simulated_case(
    chromium, page, case, base, downloads, tmp_path
):
    opened_in(chromium, page, size=DESKTOP)
    drop(chromium, case)
    chromium.wait(SEEN.format("choice"))
    assert words(chromium, "uploads-sum").startswith("5 files")
    for first, second in (("t1", "t2"), ("t2", "t1")):
        select = f"const select = document.getElementById('scan-{first}')"
        chromium.run(f"{select}; select.value = select.value.replace('_{first}.', '_{second}.')")
    click(chromium, "segment")
    chromium.wait(SEEN.format("result"))
    paths = {m: str(case / f"{case.name}_{m}.nii.gz") for m in ("flair", "t1", "t1ce", "t2")}
    paths["t1"], paths["t2"] = paths["t2"], paths["t1"]
    flags = [text for modality, path in paths.items() for text in (f"--{modality}", path)]
    predict.main(["--model", str(base), *flags, "--output", str(tmp_path / "own" / "seg.nii.gz")])
    content = saved(chromium, downloads, "segmentation", f"{case.name}.nii.gz")
    assert content == (tmp_path / "own" / "seg.nii.gz").read_bytes()
    click(chromium, "try")
    chromium.wait("return document.getElementById('result').hidden")
    chromium.wait(SEEN.format("result"))
    assert words(chromium, "result-name").startswith("Simulated case")
    looked_at(chromium)
    assert chromium.errors() == []


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["1280", "390"])
def test_it_fits_and_axe_finds_nothing_serious(chromium, page, case, size, dark):
    opened_in(chromium, page, size=size, dark=dark)
    assert chromium.accessibility_faults() == []
    drop(chromium, case)
    chromium.wait(SEEN.format("choice"))
    click(chromium, "segment")
    chromium.wait(SEEN.format("result"))
    looked_at(chromium)
    assert chromium.run("return document.documentElement.scrollWidth") <= size[0]
    assert chromium.accessibility_faults() == []
    if folder := os.environ.get("TFBRATS_PICTURES"):
        chromium.picture(pathlib.Path(folder) / f"page_{size[0]}_{'dark' if dark else 'light'}.png")
    assert chromium.errors() == []
