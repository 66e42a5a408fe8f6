"""What several tests share: small simulated data sets, places to put files, and the way to real cases."""

import os
import pathlib
import uuid

import fsspec
import pytest

from tfbrats import phantom

TINY_SHAPE = (32, 32, 20)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """`tiny_dataset(edition)` -> folder of two simulated cases (numbers 1, 2) of that edition. Read only."""
    written = {}

    def of(edition: str) -> pathlib.Path:
        if edition not in written:
            folder = tmp_path_factory.mktemp(f"edition_{edition}_")
            phantom.write_dataset(folder, 2, edition, seed=1, shape=TINY_SHAPE, first=1)
            written[edition] = folder
        return written[edition]

    return of


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    """An empty folder to write to: once on the disk, once on fsspec's in-memory file system."""
    if request.param == "local":
        yield str(tmp_path / "place")
        return
    root = f"memory://{uuid.uuid4().hex}"
    yield root
    memory = fsspec.filesystem("memory")
    if memory.exists(root):
        memory.rm(root, recursive=True)


@pytest.fixture(scope="session")
def real_cases() -> pathlib.Path:
    """Folder of the real BraTS 2021 cases."""
    return _real("cases")


@pytest.fixture(scope="session")
def real_masks() -> pathlib.Path:
    """Folder of the real masks, public predictions and their scores by independent tools."""
    return _real("masks")


def _real(name: str) -> pathlib.Path:
    root = os.environ.get("TFBRATS_REAL_DATA")
    if not root:
        pytest.skip("TFBRATS_REAL_DATA is not set: point it to the folder that holds cases/ and masks/")
    folder = pathlib.Path(root) / name
    if not folder.is_dir():
        pytest.skip(f"TFBRATS_REAL_DATA holds no {name}/")
    return folder
