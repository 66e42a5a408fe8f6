"""What several tests share: small simulated data sets, places to put files, and the way to real cases."""

import dataclasses
import json
import os
import pathlib
import uuid

import fsspec
import pytest

from tfbrats import config, phantom, records

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


@dataclasses.dataclass(frozen=True)
class RecordSet:
    """A small record set, and where it came from."""

    cases: pathlib.Path
    folder: str
    overrides: tuple[str, ...]  # on smoke_2d.yaml

    def config(self, *more: str) -> config.Config:
        return config.load("smoke_2d.yaml", [*self.overrides, *more])

    @property
    def manifest(self) -> records.Manifest:
        return records.read_manifest(self.folder)


@pytest.fixture(scope="session")
def record_set(tmp_path_factory) -> RecordSet:
    """Records of four tiny simulated cases, three to train on and one to validate, made by the job itself."""
    from beam_pipelines import nifti_to_tfrecord

    root = tmp_path_factory.mktemp("record_set")
    ids = phantom.write_dataset(root / "cases", 4, "2020", seed=5, shape=(40, 44, 16))
    (root / "splits.json").write_text(json.dumps({"train": ids[:3], "validation": ids[3:]}))
    folder = str(root / "records")
    overrides = (
        "records.slice_shape=[48, 48]",
        "records.min_shards=3",
        "train.batch_size=4",
        "model.width=2",
        f"data.records={folder}",
    )
    nifti_to_tfrecord.main(
        [
            *("--config", "smoke_2d.yaml", "--input", str(root / "cases"), "--output", folder),
            *("--splits", str(root / "splits.json"), *overrides),
        ]
    )
    return RecordSet(root / "cases", folder, overrides)


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
