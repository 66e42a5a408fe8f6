"""Three planes of a case as a notebook shows them: the right way round, small, and told in words too."""

import base64
import html
import io
import re

import matplotlib.image
import numpy as np
import pytest

from tfbrats import api_inputs
from tfbrats.cases import overlays
from tfbrats.labels import EDITIONS, MODALITIES, Tissue
from tfbrats.phantoms import simulation

SHAPE = (40, 44, 24)


def case_of(shape=SHAPE, spacing_mm=(1, 1, 1), case_id="BraTS20_Training_001", modalities=MODALITIES):
    image, tissues = simulation.simulate(shape, 1, 0, spacing_mm)
    scans = {name: image[..., MODALITIES.index(name)] for name in modalities}
    return api_inputs.case_of_arrays(scans, spacing_mm, EDITIONS["2020"], case_id, tissues)


def picture_in(text: str) -> np.ndarray:
    (found,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    return matplotlib.image.imread(io.BytesIO(base64.b64decode(found)))[..., :3]


def shows(picture: np.ndarray, colour: str) -> bool:
    rgb = np.array([int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)])
    return bool(np.isclose(picture, rgb, atol=1e-3).all(axis=-1).any())


def test_a_notebook_sees_one_picture_a_legend_and_words_for_who_cannot_see_it():
    shown = case_of()
    text = shown._repr_html_()
    assert text.count("<img") == text.count("<figcaption") == 1 and "<script" not in text
    alt = html.unescape(re.search(r'alt="([^"]+)"', text)[1])
    assert alt.startswith(f"{repr(shown)[1:-1]}. Three planes. Above: FLAIR; below: T1ce. Axial k = ")
    for tissue in (Tissue.NCR, Tissue.ED, Tissue.ET):
        assert overlays.NAMES[tissue] in alt and f"background:{overlays.COLOURS[tissue]}" in text
        assert shows(picture_in(text), overlays.COLOURS[tissue])
    assert overlays.NAMES[Tissue.RC] not in text


def test_text_takes_the_page_s_own_colour():
    """On a dark page it is light: nothing but the legend's squares has a colour."""
    text = case_of()._repr_html_()
    assert set(re.findall(r"(?<!-)color:\s*([^;\"]+)", text)) == set()
    assert "border:1px solid currentColor" in text


def test_the_picture_of_a_full_size_case_is_small():
    assert len(case_of((240, 240, 155))._repr_html_()) < 150_000


def test_what_a_name_holds_is_no_markup():
    text = case_of(case_id="<b>&\"x'")._repr_html_()
    assert '<b>&"x' not in text and "&lt;b&gt;&amp;&quot;x&#x27;" in text


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (1, 1, 5), (0.5, 0.5, 0.5)])
def test_planes_keep_their_proportions_in_mm(spacing_mm):
    grey = np.zeros(SHAPE, np.float32)
    grey[4:36, 4:40, 2:22] = 0.5
    row = overlays.Row("", grey, np.zeros(SHAPE, np.uint8))
    picture = picture_in(overlays.three_planes_html("", [row], spacing_mm))
    inside = np.isclose(picture, picture[picture.shape[0] // 2, 60]).all(axis=-1)
    columns = np.flatnonzero(inside[inside.shape[0] // 2])
    pieces = np.split(columns, np.flatnonzero(np.diff(columns) > 30) + 1)
    widths = [len(piece) for piece in pieces]
    assert len(widths) == 3 and widths[0] == pytest.approx(widths[1], abs=3)
    assert widths[2] / widths[0] == pytest.approx(36 / 32, abs=0.05)  # j against i
    heights = [np.count_nonzero(inside[:, piece[len(piece) // 3]]) for piece in pieces]
    assert heights[1] / widths[1] == pytest.approx(20 * spacing_mm[2] / (32 * spacing_mm[0]), rel=0.1)


def test_left_is_on_the_viewer_s_right_and_the_front_on_top():
    """One bright corner: left, front, head. It lies right and up in the axial plane, and so on."""
    grey = np.full(SHAPE, 0.2, np.float32)
    grey[30:, :12, 16:] = 1  # i to the left, j to the back, k to the head
    tissues = np.zeros(SHAPE, np.uint8)
    tissues[33:37, 3:7, 18:22] = Tissue.ET  # so that the planes go through it
    picture = picture_in(overlays.three_planes_html("", [overlays.Row("", grey, tissues)], (1, 1, 1)))
    bright = (picture > 0.99).all(axis=-1)
    planes = np.array_split(bright, 3, axis=1)
    for plane, (up, right) in zip(planes, ((True, True), (True, True), (True, False)), strict=True):
        blob = np.zeros_like(plane)
        size = 20  # the letters are thinner
        for i in range(0, plane.shape[0] - size, 4):
            for j in range(0, plane.shape[1] - size, 4):
                if plane[i : i + size, j : j + size].mean() > 0.8:
                    blob[i : i + size, j : j + size] = True
        rows, columns = (np.argwhere(blob).mean(axis=0) / plane.shape).tolist()
        assert (rows < 0.5, columns > 0.5) == (up, right)


def test_a_case_without_tumour_or_image_is_shown_too():
    whole = case_of(modalities=("t2",))
    scans = {"t2": whole.image[..., 0]}
    bare = api_inputs.case_of_arrays(scans, (1, 1, 1), EDITIONS["2020"])
    text = bare._repr_html_()
    assert "No tumour is outlined." in text and "there is no tumour" in text and "t2. Axial" in text
    nothing = overlays.Row("", np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.uint8))
    assert picture_in(overlays.three_planes_html("", [nothing], (1, 1, 1))).size
    assert np.array_equal(overlays.as_grey(np.zeros(SHAPE)), np.zeros(SHAPE))


def test_a_notebook_that_has_imported_ipyniivue_shows_niivue_s_widget_beside_the_pictures(
    monkeypatch, tmp_path
):
    import sys

    from tfbrats.cases import nifti

    package = pytest.importorskip("ipyniivue")
    loaded = []
    monkeypatch.setattr(package.NiiVue, "load_volumes", lambda self, volumes: loaded.extend(volumes))
    shown = case_of()
    monkeypatch.delitem(sys.modules, "ipyniivue")
    assert shown._repr_mimebundle_() == {}  # pictures alone: they stay when the notebook is opened again
    monkeypatch.setitem(sys.modules, "ipyniivue", package)
    (kind,) = shown._repr_mimebundle_()
    assert kind == "application/vnd.jupyter.widget-view+json"
    scan, tissues = loaded
    for volume, expected in ((scan, None), (tissues, shown.label)):
        path = tmp_path / volume.name
        path.write_bytes(bytes(volume.data))
        read = nifti.read(path)
        assert np.array_equal(read.grid.affine, shown.grid.affine)
        if expected is not None:
            assert np.array_equal(read.grid.from_file(read.array), expected)
