"""docs/start/quickstart.ipynb: it runs, shows its pictures, and is stored as a reader should see it."""

import base64
import io
import json
import os
import pathlib
import re
import sys

import matplotlib.image
import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "start" / "quickstart.ipynb"
LARGEST = 400_000  # bytes, outputs and all


def outputs(notebook, kind: str) -> list[str]:
    """All that its cells show in one form, e.g. text/html."""
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output["data"][kind] for output in shown if kind in output.get("data", {})]


def check_pictures(notebook) -> None:
    pages = outputs(notebook, "text/html")
    assert len(pages) == 2 and "<b>Case simulated_1" in pages[0] and "<b>Segmentation of " in pages[1]
    for page in pages:
        (picture,) = re.findall(r"base64,([^\"]+)", page)
        pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(picture)))
        assert pixels.shape[1] > 600 and pixels.std() > 0.1


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.slow  # a minute: a training and an export in a notebook's process
def test_it_runs_without_an_error_and_shows_its_pictures(stored, tmp_path, monkeypatch):
    """As in an environment of one's own: `tfbrats` is on the path, and no network is asked for anything."""
    monkeypatch.setenv("PATH", f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{os.environ.get('PYTHONPATH', '')}")
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing answers there
    notebook = nbformat.from_dict(json.loads(json.dumps(stored)))
    for cell in notebook.cells:
        cell.pop("outputs", None) if cell.cell_type != "code" else cell.update(outputs=[])
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises on a cell that raises
    check_pictures(notebook)
    (table,) = [text for text in outputs(notebook, "text/plain") if text.startswith("region")]
    assert float(table.splitlines()[1].split()[1]) > 0.3, "it is to learn something in its five epochs"
    printed = "".join(
        output["text"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream"
    )
    assert "error:" not in printed and "command not found" not in printed
    assert not re.search(r"oneDNN|cuInit|cudart|cpu_feature_guard|absl::|IProgress", printed)
    assert (tmp_path / "quickstart" / "segmentation.nii.gz").is_file()


def test_a_reader_sees_it_as_it_was_run(stored):
    assert NOTEBOOK.stat().st_size < LARGEST
    nbformat.validate(stored)
    check_pictures(stored)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert 8 <= len(code) <= 16 and [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert "/tmp/" not in str(output) and str(pathlib.Path.home()) not in str(output)


def test_its_links_lead_somewhere(stored):
    text = "\n".join(cell.source for cell in stored.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", text.replace("\n", " "))
    assert len(links) >= 2
    for link in links:
        assert (NOTEBOOK.parent / link).exists(), link
