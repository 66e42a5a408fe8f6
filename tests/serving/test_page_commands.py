"""The two ways to start the page, as processes: opened, used, told to stop; nothing is left."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import served as served_apart
import tiny_model
from asked_page import Asked, held, sent

from tfbrats.phantoms import data_sets

pytestmark = pytest.mark.slow  # two processes with TensorFlow in them


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("served") / "tiny"
    tiny_model.write(base)
    return base


def used_and_stopped(
    process: subprocess.Popen, said: pathlib.Path, case: pathlib.Path, folder: pathlib.Path
) -> None:
    """A case through a page that has just been started; then SIGTERM, while a session is open."""
    limit = time.monotonic() + served_apart.START_S
    while not (url := re.search(r"open http://127\.0\.0\.1:(\d+)/ in a browser", said.read_text())):
        assert process.poll() is None and time.monotonic() < limit, said.read_text()
        time.sleep(0.1)
    page = Asked(int(url[1]))
    assert page.segmented(sent(page, case), case=case.name)["fault"] is None
    assert held(folder)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0, said.read_text()
    assert not held(folder) and "Traceback" not in said.read_text()


@pytest.mark.parametrize("way", ["serve --page", "page --server"])
def test_it_is_opened_used_and_stopped_without_a_trace(way, base, tmp_path):
    (case_id,) = data_sets.write_dataset(tmp_path / "cases", 1, "2021", 3, (32, 32, 24))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    folder = temporary / f"tfbrats-page-{os.getuid()}"
    said, environment = tmp_path / "said.txt", {**os.environ, "TMPDIR": str(temporary)}

    def start(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "tfbrats", *arguments]
        with said.open("w") as file:
            return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)

    if way == "serve --page":
        options = ("--port", "0", "--page", "--page_port", "0")
        with start("serve", "--model_base_path", str(base), *options) as process:
            used_and_stopped(process, said, tmp_path / "cases" / case_id, folder)
        return
    with (
        served_apart.serving(base, tmp_path / "served.txt") as server,
        start("page", "--server", f"{server.address}/tiny", "--port", "0") as process,
    ):
        used_and_stopped(process, said, tmp_path / "cases" / case_id, folder)
