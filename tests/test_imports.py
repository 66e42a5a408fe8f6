"""The one-way order of the house, kept: who may import whom, and what must stay light."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Each line may import those above it, and its neighbours to the left.
ORDER = (
    ("surroundings", "command"),
    ("labels", "paths", "yaml_text", "stores", "files", "literal", "locks", "memory", "stopping", "stopwatch"),
    ("label_names", "label_candidates", "id_tables"),
    ("naming", "seen", "patients", "references", "groups", "grades"),
    ("brats_folders", "bids", "decathlon", "not_experts"),
    ("config", "layouts", "tables", "surfaces", "components", "partners", "steps"),
    ("gunzip", "placement", "nifti", "voxels"),
    ("case", "metrics", "lesions", "matched_lesions", "lesion_rules", "stages", "run"),
    ("preprocess", "examples", "patches"),
    ("phantom_files", "phantom", "packing", "model_card", "provenance", "results", "submission", "runs"),
    ("records", "split_files", "inspect", "splits", "shards", "losses", "fused", "keras_settings", "models"),
    (
        "peak",
        "checkpoints",
        "meeting",
        "devices",
        "augment",
        "boxes_graph",
        "patches_graph",
        "data",
        "patch_data",
    ),
    ("saved_model", "unpacking", "segment", "cascade"),
    ("charts", "masks_alone", "prediction_names", "pairs", "label_tables", "pictures"),
    ("step", "patch_step", "board", "trained", "predicted_boxes", "recipes", "training"),
    ("trial", "probe", "train", "export", "check_submission", "predict"),
    ("summaries", "compare", "origin", "scoring", "score_files", "score_text", "evaluate"),
    ("example_pictures", "page", "report"),
    ("demo", "plans", "costs", "reproduce"),
    ("records.__main__",),
)
RANK = {name: n for n, name in enumerate(name for line in ORDER for name in line)}
# Everything up to the phantoms, what Beam's workers and the client load, and what looks at records.
LIGHT = [name for line in ORDER[:10] for name in line] + ["records", "split_files", "splits", "shards"]
LIGHT += ["inspect", "records.__main__", "example_pictures"]
PACKAGES = ("tfbrats", "beam_pipelines", "serving")


def _imports(path: pathlib.Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _files() -> list[pathlib.Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def _room(path: pathlib.Path) -> str:
    """labels for tfbrats/labels.py, models for tfbrats/models/cun.py; a package's command stands by itself."""
    parts = path.relative_to(ROOT / "tfbrats").with_suffix("").parts
    return ".".join(parts) if parts[-1] == "__main__" else parts[0]


@pytest.mark.parametrize("path", sorted((ROOT / "tfbrats").rglob("*.py")), ids=str)
def test_imports_go_one_way(path):
    room = _room(path)
    if room == "__init__":
        # What a process takes from its surroundings is settled before anything else is imported.
        assert _imports(path) <= {"tfbrats", "tfbrats.surroundings"}
        return
    assert room in RANK, f"{path.name} has no place in the order yet"
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "tfbrats" and len(parts) > 1 and parts[1] in RANK and parts[1] != room:
            assert RANK[parts[1]] < RANK[room], f"{room} imports {parts[1]}, which comes after it"


@pytest.mark.parametrize("path", sorted((ROOT / "tfbrats").rglob("*.py")), ids=str)
def test_tfbrats_knows_no_door(path):
    doors = {"apache_beam", "grpc", "beam_pipelines", "serving"}
    assert not {name.split(".")[0] for name in _imports(path)} & doors


@pytest.mark.parametrize("path", [*(ROOT / "tfbrats" / "models").glob("*.py"), ROOT / "tfbrats" / "losses.py"])
def test_networks_and_losses_are_keras_alone(path):
    assert not {name.split(".")[0] for name in _imports(path)} & {"tensorflow", "torch", "jax"}


def test_only_one_file_knows_nibabel():
    knowing = [path for path in _files() if any(n.split(".")[0] == "nibabel" for n in _imports(path))]
    assert knowing == [ROOT / "tfbrats" / "nifti.py"]


@pytest.mark.parametrize(
    "module",
    [
        "tfbrats",
        *(f"tfbrats.{name}" for name in LIGHT),
        "serving.client",
        "beam_pipelines.nifti_to_tfrecord",
        "beam_pipelines.segment_cases",
    ],
)
def test_no_tensorflow_is_loaded_by(module):
    code = f"import sys, {module}; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr


def test_every_file_opens_with_its_reason():
    for path in _files():
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_library_code_has_no_assert():
    for path in _files():
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Assert), f"{path}:{node.lineno}"
