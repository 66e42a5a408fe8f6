"""The order of the house, kept: who may import whom, what stays light, and how long a file may be."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("tfbrats", "beam_pipelines", "serving")

GROUND = (
    "errors",
    "labels",
    "machine",
    "terminal",
    "config_sections",
    "config",
)  # may be imported by all below them

# Who -> what it may import beside the ground: a wing, or one module of it. Each stands on lines above it.
ORDER = {
    "errors": "",
    "machine": "errors",
    "terminal": "errors machine",
    "labels": "errors",
    "config_sections": "labels machine",
    "config": "config_sections errors labels machine terminal",
    "config_file": "",
    "datasets": "",
    "networks": "",
    "runs": "config_file",
    "cases": "datasets",
    "dicom": "datasets cases",
    "phantoms": "datasets cases",
    "metrics": "cases",
    "records": "datasets cases config_file",
    "predictions": "datasets cases dicom",
    "scoring": "datasets cases metrics predictions",
    "tuning": "datasets cases metrics predictions runs",
    "pictures": "cases predictions scoring",
    "viewer": "datasets cases metrics predictions pictures.differences",
    "reporting": "cases metrics predictions runs scoring pictures viewer config_file networks.losses",
    "graphs": "cases",
    "inference": "cases phantoms networks records.tfrecord predictions tuning graphs",
    "batches": "records inference graphs networks.losses",
    "distribution": "",
    "training": "cases.overlays pictures.captions records runs networks graphs inference batches distribution",
    "exports": "cases phantoms networks runs records.tfrecord predictions tuning inference training "
    "distribution config_file",
    "workflows": "datasets cases networks records runs predictions scoring.papers tuning training distribution "
    "config_file",
    "api_inputs": "datasets cases predictions records config_file",
    "api": "api_inputs datasets cases phantoms metrics predictions records networks inference batches "
    "workflows",
}
COMMANDS = (
    *(
        "__main__",
        "train",
        "tune",
        "export",
        "predict",
        "evaluate",
        "report",
        "reproduce",
        "demo",
        "inspect",
        "splits",
        "phantom",
        "view",
    ),
    *("probe", "check_submission", "records.__main__", "runs.__main__", "workflows.trial"),
    "serving.page.__main__",
    "serving.capacity.__main__",
)
WINGS = tuple(who for who in ORDER if (ROOT / "tfbrats" / who).is_dir())
DOORS = {
    door: tuple(set(ORDER) - {"training", "distribution", "batches", "networks", "exports", "api"})
    for door in ("beam_pipelines", "serving")
}
LIGHT = (
    *(
        "errors",
        "machine",
        "terminal",
        "labels",
        "config_sections",
        "config",
        "config_file",
        "datasets",
        "cases",
        "dicom",
        "phantoms",
        "metrics",
    ),
    *("records", "runs", "predictions", "scoring", "tuning", "viewer", "pictures", "reporting", "api_inputs"),
    "api",
)
LIGHT_COMMANDS = (
    *("tfbrats.inspect", "tfbrats.splits", "tfbrats.phantom", "tfbrats.check_submission", "tfbrats.evaluate"),
    *(
        "tfbrats.train",
        "tfbrats.tune",
        "tfbrats.export",
        "tfbrats.probe",
        "tfbrats.workflows.trial",
        "tfbrats.runs.__main__",
    ),
    *("tfbrats.report", "tfbrats.demo", "tfbrats.workflows.chain", "tfbrats.workflows.table_plan"),
    *("tfbrats.predict", "tfbrats.view", "serving.client", "serving.rounds", "serving.server"),
    "serving.page.__main__",
    "serving.capacity.__main__",
    *("beam_pipelines.nifti_to_tfrecord", "beam_pipelines.segment_cases"),
)
# What an environment for client and check alone may lack: with it go most of its megabytes.
HEAVY = ("tensorflow", "keras", "tensorboard", "apache_beam", "scipy", "SimpleITK", "matplotlib")
LONGEST_FILE = 400
LONGEST_FUNCTION = 60  # lines of code: without the docstring, comments and empty lines


def _name(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def _imports(name: str) -> set[str]:
    """Dotted names of all modules that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inside & set(MODULES)) or {node.module}
            if not inside <= set(MODULES):
                names.add(node.module)
    return names


def _own(name: str) -> set[str]:
    return (_imports(name) & set(MODULES)) - {name, *PACKAGES}


def _who(name: str) -> str:
    """A module's line in the order: its wing, or itself where it lies flat."""
    parts = name.split(".")
    return parts[1] if parts[0] == "tfbrats" else parts[0]


def _is_command(name: str) -> bool:
    return name.removeprefix("tfbrats.") in COMMANDS


def test_each_line_of_the_order_stands_on_those_above_it():
    above = set(GROUND)
    for who, below in ORDER.items():
        assert {one.split(".")[0] for one in below.split()} <= above, who
        above.add(who)


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("tfbrats.")])
def test_imports_go_one_way(name):
    who = _who(name)
    if _is_command(name) and who not in ORDER:
        return
    assert who in ORDER, f"{name} has no place in the order yet"
    known = set(GROUND) if who not in GROUND else set()
    allowed = {who} | known | set(ORDER[who].split())
    for imported in _own(name):
        assert {_who(imported), imported.removeprefix("tfbrats.")} & allowed, f"{name} imports {imported}"


def test_the_package_itself_imports_what_settles_its_surroundings_alone():
    assert _imports("tfbrats") <= {"tfbrats", "tfbrats.machine", "tfbrats.machine.surroundings"}


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] in DOORS])
def test_doors_know_no_network_and_no_training(name):
    for imported in _own(name):
        assert _who(imported) in (*DOORS[_who(name)], _who(name)), f"{name} imports {imported}"


def test_nobody_imports_a_command():
    for name in MODULES:
        assert not [imported for imported in _own(name) if _is_command(imported)], name


def test_there_is_no_circle():
    graphlib.TopologicalSorter({name: _own(name) for name in MODULES}).prepare()


def test_tfbrats_knows_no_door():
    doors = {"apache_beam", "grpc", "beam_pipelines", "serving"}
    for name in MODULES:
        if name.startswith("tfbrats"):
            assert not {one.split(".")[0] for one in _imports(name)} & doors, name


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("tfbrats.networks")])
def test_networks_and_losses_are_keras_alone(name):
    others = {"torch", "jax"} if name.endswith(".batch_norm") else {"tensorflow", "torch", "jax"}
    assert not {one.split(".")[0] for one in _imports(name)} & others


def test_only_one_file_knows_nibabel():
    knowing = [name for name in MODULES if any(one.split(".")[0] == "nibabel" for one in _imports(name))]
    assert knowing == ["tfbrats.cases.nifti"]


def test_no_tensorflow_is_loaded_by_what_is_light():
    light = [name for name in MODULES if name.startswith("tfbrats.") and _who(name) in LIGHT]
    code = (
        "import importlib, sys\n"
        f"PACKAGES = {PACKAGES}\n"
        "for name in sys.argv[1:]:\n"
        "    for ours in [one for one in sys.modules if one.split('.')[0] in PACKAGES]:\n"
        "        del sys.modules[ours]\n"  # each as if it were the first
        "    importlib.import_module(name)\n"
        "    if {'tensorflow', 'keras'} & set(sys.modules): sys.exit(f'{name} loads TensorFlow')\n"
    )
    command = [sys.executable, "-c", code, "tfbrats", *light, *LIGHT_COMMANDS]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert len(light) > 60 and ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", ["serving.client", "serving.rounds", "tfbrats.check_submission"])
def test_client_and_check_run_where_no_heavy_library_is(name):
    code = (
        "import importlib, sys\n"
        f"sys.modules |= dict.fromkeys({HEAVY})\n"  # Python's way to say: it is not there
        f"importlib.import_module({name!r})\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr


def test_a_wing_s_own_file_is_its_question_alone():
    for wing in WINGS:
        tree = TREES[f"tfbrats.{wing}"]
        assert ast.get_docstring(tree), wing
        assert wing == "networks" or len(tree.body) == 1, wing


def test_a_wing_holds_3_to_13_files():
    for wing in (
        *(ROOT / "tfbrats" / name for name in WINGS),
        *(ROOT / "serving" / name for name in ("capacity", "page", "rest")),
    ):
        files = [path for path in wing.glob("*.py") if path.name != "__init__.py"]
        assert 3 <= len(files) <= 13, f"{wing}: {len(files)}"


def test_every_file_opens_with_its_reason():
    for name, tree in TREES.items():
        assert ast.get_docstring(tree), name


def test_no_file_and_no_function_is_longer_than_a_reader_holds():
    long = []
    for name, path in MODULES.items():
        lines = path.read_text().splitlines()
        if len(lines) > LONGEST_FILE:
            long.append(f"{name}: {len(lines)} lines")
        for node in ast.walk(TREES[name]):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            first = node.body[0]
            is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = set(range(first.lineno, first.end_lineno + 1)) if is_docstring else set()
            numbers = set(range(node.lineno, node.end_lineno + 1)) - docstring
            code = [n for n in numbers if lines[n - 1].strip() and not lines[n - 1].strip().startswith("#")]
            if len(code) > LONGEST_FUNCTION:
                long.append(f"{name}.{node.name}: {len(code)} lines of code")
    assert not long


def test_library_code_has_no_assert():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            assert not isinstance(node, ast.Assert), f"{name}:{node.lineno}"
