"""The viewer's page, without a browser: what is packed, what is said, what must not be in it."""

import base64
import json
import re

import deflate
import nibabel
import numpy as np
import pytest

from tfbrats import labels
from tfbrats.cases import case
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.labels import Tissue
from tfbrats.viewer import eight_bit, lesion_table, niivue, page


@pytest.fixture(scope="module")
def loaded(tiny_dataset) -> case.Case:
    return case.load(layouts.find(tiny_dataset("2021")).cases[0])


@pytest.fixture(scope="module")
def text(loaded) -> str:
    predicted = np.roll(loaded.label, 1, axis=0)
    return page.html(loaded, predicted, loaded.label)


def script(text: str, name: str) -> str:
    return re.search(rf'<script type="[^"]*" id="{name}">(.*?)</script>', text, re.DOTALL)[1]


def unpacked(packed: str, shape) -> np.ndarray:
    size = int(np.prod(shape))
    content = deflate.gzip_decompress(base64.b64decode(packed), size)
    return np.frombuffer(content, np.uint8).reshape(shape[::-1])


def retold(rest: np.ndarray) -> np.ndarray:
    """The inverse of `eight_bit.foretold`, voxel by voxel, as the page does it."""
    volume = np.zeros(rest.shape, int)
    for k, j, i in np.ndindex(rest.shape):
        left = volume[k, j, i - 1] if i else 0
        above = volume[k, j - 1, i] if j else 0
        corner = volume[k, j - 1, i - 1] if i and j else 0
        low, high = min(left, above), max(left, above)
        guess = low if corner >= high else high if corner <= low else left + above - corner
        volume[k, j, i] = (guess + int(rest[k, j, i])) % 256
    return volume


def test_a_scan_comes_back_from_what_is_packed():
    volume = np.random.default_rng(0).integers(0, 256, (5, 7, 6), np.uint8)
    assert (retold(eight_bit.foretold(volume)) == volume).all()


def test_the_page_holds_every_scan_and_both_label_maps_where_they_lie(loaded, text):
    data = json.loads(script(text, "data"))
    box = [slice(low, low + size) for low, size in zip(data["low"], data["shape"], strict=True)]
    codes = unpacked(script(text, "codes"), data["shape"]).transpose(2, 1, 0)
    assert (codes // data["tissues"] == loaded.label[*box]).all()
    assert (codes % data["tissues"] == np.roll(loaded.label, 1, axis=0)[*box]).all()
    assert data["levels"] == 256
    for m, name in enumerate(loaded.modalities):
        greys = retold(unpacked(script(text, f"scan-{name}"), data["shape"])).transpose(2, 1, 0)
        image = loaded.image[*box, m]
        assert ((greys > 0) <= (image > 0)).all() and greys.max() == 255
        bright, dark = greys > 200, (greys < 100) & (image != 0)
        assert image[bright].min() > image[dark].max()
    outside = loaded.image.any(axis=-1)
    outside[*box] = False
    assert not outside.any()


def test_a_voxel_of_the_box_lies_where_the_file_says(loaded, text, tiny_dataset):
    """Its millimetres, by nibabel alone: file's own axes, file's own affine."""
    data = json.loads(script(text, "data"))
    path = layouts.find(tiny_dataset("2021")).cases[0].images[0][1]
    file = nibabel.load(path)
    turned = nibabel.as_closest_canonical(file)  # right, front, head
    whole = np.array(file.shape)
    voxel = np.array([3, 4, 5]) + data["low"]  # left, back, head
    ras = [whole[0] - 1 - voxel[0], whole[1] - 1 - voxel[1], voxel[2]]
    expected = nibabel.affines.apply_affine(turned.affine, ras)
    assert np.allclose(nibabel.affines.apply_affine(np.array(data["affine"]), [3, 4, 5]), expected, atol=1e-3)


def test_greys_are_rounded_until_the_page_is_small_enough(loaded):
    box = eight_bit.head_box(loaded)
    largest = eight_bit.scans(loaded, box)
    size = sum(map(len, largest.scans.values()))
    smaller = eight_bit.scans(loaded, box, size - 1)
    assert largest.levels == 256 and smaller.levels < 256
    assert sum(map(len, smaller.scans.values())) < size
    assert eight_bit.scans(loaded, box, 0).levels == min(eight_bit.LEVELS)


def test_the_page_loads_nothing_and_says_what_it_is(loaded, text):
    assert "default-src 'none'" in text
    own = re.sub(r'<script type="text/plain".*?</script>', "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", own)
    for words in (
        "research only",
        "simulated, no patient",
        "Redistribution and use in source and binary forms",
    ):
        assert words in text
    assert niivue.installed().licence in text.replace("&#34;", '"').replace("&#39;", "'")
    dice = 2 * np.sum((loaded.label > 0) & (np.roll(loaded.label, 1, 0) > 0)) / (2 * np.sum(loaded.label > 0))
    assert f"<td>{dice:.3f}</td>" in text
    assert f"<td>{loaded.volumes_ml['WT']:.1f}</td>" in text


def test_a_hostile_name_stays_text(loaded):
    import dataclasses

    name = '</script><img src=x onerror="alert(1)">'
    text = page.html(dataclasses.replace(loaded, case_id=name, notes=(name,)))
    assert "<img" not in text


def test_without_label_maps_there_are_no_numbers_and_no_overlays(loaded):
    text = page.html(loaded)
    assert 'name="prediction"' not in text and "<table>" not in text and 'name="scan"' in text


def test_a_label_map_of_another_shape_is_refused(loaded):
    with pytest.raises(InputError, match=r"its prediction has shape \(2, 2, 2\); expected"):
        page.html(loaded, np.zeros((2, 2, 2), np.uint8))


def test_another_build_of_the_package_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(niivue, "_MODULE", re.compile("no such text at all"))
    niivue.installed.cache_clear()
    with pytest.raises(InputError, match="does not hold NiiVue as tfbrats expects it"):
        niivue.installed()
    niivue.installed.cache_clear()


# --- lesions ----------------------------------------------------------------------------------------------


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Two reference lesions, one of them found in half; one false one."""
    reference, prediction = np.zeros((2, 30, 20, 10), np.uint8)
    reference[2:8, 2:8, 2:8] = Tissue.ED
    reference[4:6, 4:6, 4:6] = Tissue.ET
    reference[20:22, 2:4, 2:4] = Tissue.NCR
    prediction[5:8, 2:8, 2:8] = Tissue.ED
    prediction[20:24, 15:17, 5:7] = Tissue.ET
    return prediction, reference


def test_lesions_are_found_missed_or_false():
    rows = lesion_table.lesions(*scene(), (1, 1, 2)).rows
    assert [row.outcome for row in rows] == ["found, 50 %", "false", "missed"]
    large, false, missed = rows
    assert large.ml == pytest.approx({"WT": 0.432, "TC": 0.016, "ET": 0.016})
    assert false.ml == pytest.approx({"WT": 0.032, "TC": 0.032, "ET": 0.032})
    assert all(scene()[1][row.voxel] for row in (large, missed)) and scene()[0][false.voxel]
    assert missed.ml["TC"] == missed.ml["WT"] and missed.ml["ET"] == 0


def test_one_side_alone_has_no_outcome():
    for sides in ((scene()[0], None), (None, scene()[1])):
        assert {row.outcome for row in lesion_table.lesions(*sides, (1, 1, 1)).rows} == {""}
    assert lesion_table.lesions(None, None, (1, 1, 1)).rows == ()


def test_many_specks_are_counted():
    specks = np.zeros((40, 40, 4), np.uint8)
    specks[::3, ::3, 1] = Tissue.ED
    found = lesion_table.lesions(specks, None, (1, 1, 1))
    assert len(found.rows) == lesion_table.MOST and found.others == 14 * 14 - lesion_table.MOST
    assert found.others_ml == pytest.approx(found.others / 1000)


def test_the_regions_of_the_page_are_those_of_the_labels(text):
    data = json.loads(script(text, "data"))
    assert data["regions"] == {name: list(map(int, parts)) for name, parts in labels.REGIONS.items()}
