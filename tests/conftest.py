"""What several tests share: small simulated data sets, places to put files, and the way to real cases."""

import contextlib
import dataclasses
import functools
import gzip
import io
import json
import logging
import os
import pathlib
import pickle
import uuid

import fsspec
import hypothesis
import numpy as np
import pytest

from tfbrats import config, config_file, labels
from tfbrats.cases import case, nifti
from tfbrats.machine import locks
from tfbrats.phantoms import data_sets
from tfbrats.records.manifest import Manifest, read_manifest

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

TINY_SHAPE = (32, 32, 20)
# Files of 20 seconds and more on one core, the longest first. Begun last, they would keep one core alone.
LONGEST_FIRST = tuple(
    f"tests/{name}.py"
    for name in (
        *("test_docs", "test_faults", "exports/test_tuned_models", "test_end_to_end", "test_train"),
        *(
            "test_resume",
            "test_export",
            "inference/test_cascade_segmenter",
            "exports/test_ensembles",
            "test_engines",
        ),
        *("test_api", "beam_pipelines/test_segment_cases", "test_segment_engines", "test_hostile_names"),
        *("serving/test_rest_abuse", "benchmarks/test_benchmark_gpu", "test_predict", "test_remote"),
        *("test_workers", "networks/test_saving", "training/test_patch_training", "training/test_slice_step"),
        *("test_probe", "beam_pipelines/test_nifti_to_tfrecord", "networks/test_baselines"),
    )
)


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


@pytest.fixture(autouse=True)
def access_lines_end_with_their_test():
    """The server's command makes its loggers talk for as long as its process lives; this one outlives it."""
    yield
    logging.getLogger("serving").setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """`tiny_dataset(edition)` -> folder of two simulated cases (numbers 1, 2) of that edition. Read only."""
    written = {}

    def of(edition: str) -> pathlib.Path:
        if edition not in written:
            folder = tmp_path_factory.mktemp(f"edition_{edition}_")
            data_sets.write_dataset(folder, 2, edition, seed=1, shape=TINY_SHAPE, first=1)
            written[edition] = folder
        return written[edition]

    return of


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """`once(name, make)`: what `make(folder)` returns, made by one of the processes that run the tests."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # that of all of them

    def made(name: str, make):
        with locks.in_turn(root / f"{name}.lock"):
            kept = root / f"{name}.pickle"
            if not kept.exists():
                (root / name).mkdir()
                kept.write_bytes(pickle.dumps(make(root / name)))
            return pickle.loads(kept.read_bytes())

    return made


@dataclasses.dataclass(frozen=True)
class RecordSet:
    """A small record set, and where it came from."""

    cases: pathlib.Path
    folder: str
    overrides: tuple[str, ...]  # on smoke_2d.yaml

    def config(self, *more: str) -> config.Config:
        return config_file.load("smoke_2d.yaml", [*self.overrides, *more])

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder)


@pytest.fixture(scope="session")
def record_set(once) -> RecordSet:
    """Records of four tiny simulated cases, three to train on and one to validate, made by the job itself."""
    return once("record_set", _record_set)


def _record_set(root: pathlib.Path) -> RecordSet:
    from beam_pipelines import nifti_to_tfrecord

    ids = data_sets.write_dataset(root / "cases", 4, "2020", seed=5, shape=(40, 44, 16))
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


@dataclasses.dataclass(frozen=True)
class PatchRecords:
    """The same few cases as patches and as volumes, and where they came from."""

    cases: pathlib.Path
    splits: pathlib.Path
    folders: dict[str, str]  # by kind
    without_tumour: str  # a training case
    overrides: tuple[str, ...]  # on smoke_3d.yaml

    def config(self, kind: str, *more: str) -> config.PatchConfig:
        own = (f"records.kind={kind}", f"data.records={self.folders[kind]}")
        return config_file.load("smoke_3d.yaml", [*self.overrides, *own, *more])

    def manifest(self, kind: str) -> Manifest:
        return read_manifest(self.folders[kind])


@pytest.fixture(scope="session")
def patch_records(once) -> PatchRecords:
    """Records of five tiny simulated cases, four to train on and one to validate, made by the job itself.

    Their brains are about 15 x 21 x 14 voxels: less than a patch along two axes. One case has no tumour, one
    no enhancing part.
    """
    return once("patch_records", _patch_records)


def _patch_records(root: pathlib.Path) -> PatchRecords:
    from beam_pipelines import nifti_to_tfrecord

    ids = data_sets.write_dataset(root / "cases", 5, "2020", seed=5, shape=(24, 28, 16))
    healthy = ids[4]
    path = root / "cases" / healthy / f"{healthy}_seg.nii.gz"
    _, grid = case.load_label(path, labels.EDITIONS["2020"])
    path.write_bytes(nifti.to_bytes(np.zeros(grid.file_shape, np.uint8), grid, path.name))
    splits = root / "splits.json"
    splits.write_text(json.dumps({"train": [i for i in ids if i != ids[3]], "validation": [ids[3]]}))
    overrides = (
        "sampling.patch_size=16",
        "sampling.patches_per_case=6",
        "data.patches_per_read=4",
        "data.shuffle_buffer=7",
        "cascade.margin=2",
        "cascade.stride=8",
        "model.width=4",
        "train.batch_size=2",
        "train.learning_rate=0.01",
        "records.min_shards=2",
    )
    folders = {kind: str(root / kind) for kind in ("patches", "volumes")}
    for kind, folder in folders.items():
        nifti_to_tfrecord.main(
            [
                *("--config", "smoke_3d.yaml", "--input", str(root / "cases"), "--output", folder),
                *("--splits", str(splits), *overrides, f"records.kind={kind}"),
            ]
        )
    return PatchRecords(root / "cases", splits, folders, healthy, overrides)


@dataclasses.dataclass(frozen=True)
class CascadeRun:
    """A small run of paper B: WT, TC and ET in turn."""

    folder: str
    config: config.PatchConfig
    history: list[dict]
    said: str


@pytest.fixture(scope="session")
def cascade_run(patch_records, once) -> CascadeRun:
    """Two epochs of three steps of each network, on stored patches. Read only."""
    return once("cascade", functools.partial(_cascade_run, patch_records))


def _cascade_run(patch_records: PatchRecords, root: pathlib.Path) -> CascadeRun:
    from tfbrats.workflows import whole_run

    folder = str(root / "run")
    small = ("train.epochs=2", "train.steps_per_epoch=3", "train.checkpoint_minutes=1e-9")
    settings = patch_records.config("patches", f"run.dir={folder}", *small)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        history = whole_run.train(settings)
    return CascadeRun(folder, settings, history, said.getvalue())


@pytest.fixture(scope="session")
def cascade_model(cascade_run, once) -> str:
    """Folder of the first version of its model, `tiny_msm`. Read only."""
    from tfbrats.exports import next_version

    return once("cascade_models", lambda root: next_version.export(cascade_run.folder, root / "tiny_msm"))


@pytest.fixture(scope="session")
def without_codes():
    """`without_codes(folder)` sets qform_code and sform_code to 0: where left is, is then a guess."""

    def take(folder: pathlib.Path) -> None:
        for path in pathlib.Path(folder).rglob("*.nii.gz"):
            content = bytearray(gzip.decompress(path.read_bytes()))
            content[252:256] = bytes(4)
            path.write_bytes(gzip.compress(bytes(content)))

    return take


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
def browser():
    """A Chromium that all tests of a process share (tests/browser.py); they skip where there is none."""
    from browser import started

    with started() as running:
        yield running


@pytest.fixture(scope="session")
def real_cases() -> pathlib.Path:
    """Folder of the real BraTS 2021 cases."""
    return _real("cases")


@pytest.fixture(scope="session")
def real_masks() -> pathlib.Path:
    """Folder of the real masks, public predictions and their scores by independent tools."""
    return _real("masks")


@pytest.fixture(scope="session")
def real_masks_2026() -> pathlib.Path:
    """Folder of two pairs of metastases, and what the challenge's program of 2025 and 2026 answers to them."""
    return _real("masks_2026")


def _real(name: str) -> pathlib.Path:
    root = os.environ.get("TFBRATS_REAL_DATA")
    if not root:
        pytest.skip("TFBRATS_REAL_DATA is not set: point it to the folder that holds cases/ and masks/")
    folder = pathlib.Path(root) / name
    if not folder.is_dir():
        pytest.skip(f"TFBRATS_REAL_DATA holds no {name}/")
    return folder


_NAMES = pytest.StashKey[dict[str, int]]()


@pytest.fixture(scope="session")
def names_tried(request) -> dict[str, int]:
    """Command -> over how many hostile names it was run: a line at the end of the test run."""
    return request.config.stash.setdefault(_NAMES, {})


_FAULTS = pytest.StashKey[list[tuple[str, int, int]]]()


@pytest.fixture
def tally(request):
    """`tally(fault, records_lost, half_written)` counts a fault for the table at the end of the test run."""

    def count(fault: str, records_lost: int, half_written: int) -> None:
        request.config.stash.setdefault(_FAULTS, []).append((fault, records_lost, half_written))

    return count


def pytest_terminal_summary(terminalreporter, config):
    if tried := config.stash.get(_NAMES, {}):
        terminalreporter.section("hostile names")
        for command, names in tried.items():
            terminalreporter.write_line(f"{command:40}{names:>5} names")
        terminalreporter.write_line(f"{len(tried)} commands, {sum(tried.values())} times written and read back")
    rows = config.stash.get(_FAULTS, [])
    if not rows:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line(f"{'fault':48}{'tried':>7}{'records lost':>14}{'half-written files':>20}")
    for fault in [*dict.fromkeys(row[0] for row in rows), "all"]:
        of_fault = [row for row in rows if fault in (row[0], "all")]
        lost, half = (sum(row[n] for row in of_fault) for n in (1, 2))
        terminalreporter.write_line(f"{fault:48}{len(of_fault):>7}{lost:>14}{half:>20}")
