"""Other people's environment: it changes nothing, or is one line with the cure."""

import contextlib
import csv
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest

from tests import set_up
from tfbrats import config_file, networks
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.machine import surroundings
from tfbrats.networks import keras_settings
from tfbrats.terminal import command
from tfbrats.workflows import whole_run

ROOT = pathlib.Path(__file__).parent.parent
COMMANDS = [
    *("beam_pipelines.nifti_to_tfrecord", "beam_pipelines.segment_cases", "serving.client", "serving.server"),
    *(f"tfbrats.{name}" for name in ("check_submission", "demo", "evaluate", "export", "inspect", "phantom")),
    *(f"tfbrats.{name}" for name in ("predict", "probe", "records", "report", "reproduce", "runs", "splits")),
    *("tfbrats.train", "tfbrats.workflows.trial", "tfbrats"),
]


def started(*arguments: str, where=None, **environment: str | None) -> subprocess.CompletedProcess:
    """`python ARGUMENTS` with the package on its path and these variables; None takes one away."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, *arguments],
        env={name: value for name, value in given.items() if value is not None},
        cwd=where,
        capture_output=True,
        check=False,
    )


# --- Keras' settings -------------------------------------------------------------------------------------

SHORT = (
    *("model.name=unet2d", "model.width=2", "train.epochs=1", "train.steps_per_epoch=2"),
    *("lws.enabled=false", "train.omega=0", "train.omega_floor=0"),
)
TIMES = ("seconds", "slices_per_second")


def rows_of(folder) -> list[dict]:
    """history.csv without what a clock tells."""
    text = (pathlib.Path(folder) / "history.csv").read_text()
    return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(text.splitlines())]


@pytest.fixture(scope="module")
def plain_run(record_set, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("plain") / "run"
    whole_run.train(record_set.config(*SHORT, f"run.dir={folder}"))
    return folder


@contextlib.contextmanager
def keras_set_to(floatx: str, data_format: str, policy: str):
    """As a notebook has set it for something of its own."""
    before = keras.config.dtype_policy(), keras.config.floatx(), keras.config.image_data_format()
    keras.config.set_floatx(floatx)
    keras.config.set_image_data_format(data_format)
    keras.config.set_dtype_policy(policy)
    try:
        yield
        after = keras.config.floatx(), keras.config.image_data_format(), keras.config.dtype_policy().name
        assert after == (floatx, data_format, policy)
    finally:
        keras.config.set_dtype_policy(before[0])
        keras.config.set_floatx(before[1])
        keras.config.set_image_data_format(before[2])


@pytest.mark.parametrize(
    "name",
    [*("bfcn", "msm"), *(pytest.param(name, marks=pytest.mark.slow) for name in ("cun", "drn", "unet3d"))],
)
def test_a_network_is_the_same_whatever_a_notebook_has_set(name):
    region = "ET" if name in ("msm", "unet3d") else ""
    settings = config_file.load(f"{name}.yaml", ["model.width=4"])
    with keras_set_to("float16", "channels_first", "mixed_float16"):
        keras.utils.set_random_seed(1)
        there = networks.build(settings, region=region)
    keras.utils.set_random_seed(1)
    here = networks.build(settings, region=region)
    assert there.input.shape == here.input.shape and there.input.dtype == "float32"
    assert {layer.compute_dtype for layer in there.layers} == {"float32"}
    for ours, theirs in zip(here.variables, there.variables, strict=True):
        assert ours.path == theirs.path and ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
    # Built elsewhere, called here, and the other way round.
    size = (1, *(16,) * (len(here.input.shape) - 2), here.input.shape[-1])
    image = np.random.default_rng(0).normal(size=size).astype(np.float32)
    expected = here(image)
    with keras_set_to("float16", "channels_first", "mixed_float16"):
        found = there(image)
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_training_in_a_notebook_of_other_settings_gives_the_same_numbers(plain_run, record_set, tmp_path):
    with keras_set_to("float16", "channels_first", "mixed_float16"):
        whole_run.train(record_set.config(*SHORT, f"run.dir={tmp_path}"))
    assert rows_of(tmp_path) == rows_of(plain_run)


def test_another_engine_in_a_notebook_is_told(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(InputError, match=r"Keras runs on jax .* KERAS_BACKEND=tensorflow before Keras is"):
        keras_settings.check_backend()


def test_settings_of_keras_and_a_tf_config_of_nothing_change_no_number(plain_run, record_set, tmp_path):
    """As other projects leave them; no home to write to, either."""
    (tmp_path / "home" / ".keras").mkdir(parents=True)
    strange = {"floatx": "float16", "epsilon": 0.1, "backend": "torch", "image_data_format": "channels_first"}
    (tmp_path / "home" / ".keras" / "keras.json").write_text(json.dumps(strange))
    (tmp_path / "keras.json").write_text('{"floatx": "float8"}')  # Keras would end there
    # The command takes the fixture's settings as a file of its own.
    (tmp_path / "plain.yaml").write_text(record_set.config(*SHORT).to_yaml())
    ended = started(
        *("-m", "tfbrats.train", "--config", str(tmp_path / "plain.yaml"), "--run", str(tmp_path / "run")),
        HOME=str(tmp_path / "home"),
        KERAS_HOME=str(tmp_path),
        KERAS_BACKEND="jax",
        KERAS_MAX_EPOCHS="many",
        TF_CONFIG="{}",
        TF_USE_LEGACY_KERAS="1",
        PYTHONHASHSEED="7",
        TMPDIR="/there/is/none",
        TZ="No/Where",
    )
    assert ended.returncode == 0, ended.stderr.decode()[-2000:]
    assert rows_of(tmp_path / "run") == rows_of(plain_run)


# --- whose process ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "arguments", "module"),
    [
        ("python -m tfbrats.train", "--run x", "python -m tfbrats.train"),
        ("python -X importtime -m tfbrats.records", "-m a b", "python -m tfbrats.records"),
        ("python -mserving.server", "", "python -m serving.server"),
        ("python -Im beam_pipelines.segment_cases", "", "python -m beam_pipelines.segment_cases"),
        ("python -m pytest", "-m slow", None),
        ("python -m tfbratsy.train", "", None),
    ],
)
def test_a_process_is_ours_by_the_module_that_python_was_told_to_run(monkeypatch, command, arguments, module):
    monkeypatch.setattr(sys, "orig_argv", [*command.split(), *arguments.split()])
    monkeypatch.setattr(sys, "argv", ["-m", *arguments.split()])
    assert surroundings._command_that_runs() == module
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments.split()])  # once it runs: imported by then
    assert surroundings._command_that_runs() is None


GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"


def test_a_command_and_what_it_starts_take_a_gpus_memory_as_they_need_it(monkeypatch):
    monkeypatch.setenv(GROWTH, "")
    monkeypatch.delenv(GROWTH)
    monkeypatch.setattr(surroundings, "_command_that_runs", lambda: None)
    surroundings.prepare()
    assert GROWTH not in os.environ
    monkeypatch.setattr(surroundings, "_ours", [])
    surroundings.share_gpus()
    assert os.environ[GROWTH] == "true"  # processes that it starts have it from here
    monkeypatch.setenv(GROWTH, "false")
    surroundings.share_gpus()
    assert os.environ[GROWTH] == "false"


@pytest.mark.parametrize(
    "code",
    [
        "import tfbrats.api_inputs as i\nwith i.quiet_tensorflow(): pass",
        "from tfbrats.inference import saved_model as m\ntry: m.SavedModel('/no')\nexcept Exception: pass",
    ],
)
def test_a_notebook_or_a_worker_of_beam_takes_a_gpus_memory_as_it_needs_it(code):
    ended = started("-c", f"{code}\nimport os; print(os.environ[{GROWTH!r}])", TF_FORCE_GPU_ALLOW_GROWTH=None)
    assert ended.stdout.split() == [b"true"], ended.stderr[-2000:]


def test_a_notebook_that_imports_us_keeps_its_environment_and_its_ctrl_c():
    code = (
        "import os, signal; before = dict(os.environ), signal.getsignal(signal.SIGINT);"
        "import tfbrats, serving, beam_pipelines;"
        "print(before == (dict(os.environ), signal.getsignal(signal.SIGINT)))"
    )
    assert started("-c", code, KERAS_BACKEND="jax").stdout.split() == [b"True"]


@pytest.mark.parametrize("path", ["tfbrats/train.py", "tfbrats/inspect.py", "tfbrats/labels.py"])
def test_a_file_of_the_package_run_as_a_script_is_one_line_with_the_cure(path):
    ended = started(str(ROOT / path), "--help")
    (line,) = ended.stderr.decode().splitlines()
    assert ended.returncode == 1 and ended.stdout == b""
    assert line.startswith(f"error: {ROOT / path}: ") and "cd .. and python -m tfbrats.train" in line


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("serving/server.py", "serving.server"),
        ("serving/client.py", "serving.client"),
        ("beam_pipelines/nifti_to_tfrecord.py", "beam_pipelines.nifti_to_tfrecord"),
        ("beam_pipelines/segment_cases.py", "beam_pipelines.segment_cases"),
        ("tfbrats/records", "tfbrats.records"),
    ],
)
def test_a_door_run_as_a_script_says_how_it_is_run(path, module):
    ended = started(str(ROOT / path), "--help", PYTHONPATH=None)
    assert ended.returncode == 1 and ended.stdout == b""
    assert ended.stderr.decode() == f"error: run it as python -m {module} from the folder above.\n"


@pytest.mark.parametrize("module", ["tfbrats.inspect", "serving.client"])
def test_a_working_folder_inside_the_package_is_one_line_with_the_cure(module):
    ended = started("-m", module, "--help", where=ROOT / "tfbrats")
    (line,) = ended.stderr.decode().splitlines()
    assert ended.returncode == 1 and line.startswith(
        f"error: the working folder is {ROOT / 'tfbrats'}, inside "
    )
    assert f"(cd ..), and run python -m {module} again" in line


def test_a_working_folder_that_is_gone_is_one_line(tmp_path):
    (tmp_path / "gone").mkdir()
    ours = f"os.execv({sys.executable!r}, ['python', '-m', 'tfbrats.splits'])"
    code = f"import os; os.chdir('gone'); os.rmdir('../gone'); {ours}"
    ended = started("-c", code, where=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.decode().startswith(
        "error: the working folder is gone (No such file or directory). Go to"
    )


# --- streams ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_an_empty_one(closed, named, tmp_path):
    out = tmp_path / "splits.json"
    code = f"{sys.executable} -m tfbrats.splits --input={named} --output={out} --ratio=1,0,0 {closed}"
    kept = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(["sh", "-c", code], env=kept, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and ended.stderr == "" and (ended.stdout != "") is (" >" not in f" {closed}")
    assert json.loads(out.read_bytes())["train"] == [NAME]


@pytest.mark.parametrize("closed", [(0,), (2,), (0, 1, 2)])
def test_what_is_opened_later_is_no_stream_of_ours(closed, tmp_path):
    """`python -m` of us with these numbers closed; then a file is opened, and C and Python write to stderr."""
    code = (
        "import os, sys; from tfbrats.machine import surroundings; surroundings._open_closed_streams();"
        "file = open(sys.argv[1], 'w'); os.write(2, b'said by C'); print('said', file=sys.stderr);"
        "print('said'); file.write(str(file.fileno() > 2)); file.close(); assert sys.stdin.read() == ''"
    )
    kept = {**os.environ, "PYTHONPATH": str(ROOT)}
    shell = ("sh", "-c", f'"$@" </dev/null {" ".join(f"{n}>&-" for n in closed)}', "sh")
    ended = subprocess.run(
        [*shell, sys.executable, "-c", code, str(tmp_path / "x")],
        env=kept,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0 and (tmp_path / "x").read_text() == "True"


def test_memory_is_no_place_for_a_command_to_write_to(tmp_path):
    ended = started("-m", "tfbrats.splits", f"--input={tmp_path}", "--output=memory://x/s.json")
    assert ended.returncode == 2 and b"memory:// is no store that is known here" in ended.stderr


# --- letters ---------------------------------------------------------------------------------------------

NAME = "BraTS20_Größe_→_1"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}


@pytest.fixture(scope="module")
def named(tmp_path_factory, tiny_dataset) -> pathlib.Path:
    """A data set whose one case has letters that not every terminal has."""
    folder = tmp_path_factory.mktemp("letters") / "BraTS2020"
    (folder / NAME).mkdir(parents=True)
    one = layouts.find(tiny_dataset("2020")).cases[0]
    for kind, path in [*((name, path) for name, path, _ in one.images), ("seg", one.label)]:
        (folder / NAME / f"{NAME}_{kind}.nii.gz").symlink_to(path)
    return folder


@pytest.mark.parametrize(
    ("environment", "encoding", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "ascii", r"BraTS20_Gr\xf6\xdfe_\u2192_1"),
        ({"PYTHONIOENCODING": "cp1252"}, "cp1252", r"BraTS20_Größe_\u2192_1"),
        ({"PYTHONIOENCODING": "latin-1:strict"}, "latin-1", r"BraTS20_Größe_\u2192_1"),
        (ASCII, "ascii", r"BraTS20_Gr\xf6\xdfe_\u2192_1"),
        ({"PYTHONIOENCODING": "utf-8"}, "utf-8", NAME),
    ],
    ids=["ascii", "cp1252", "latin-1", "locale C", "utf-8"],
)
def test_what_the_terminal_cannot_show_is_escaped(named, environment, encoding, shown):
    ended = started("-m", "tfbrats.inspect", str(named), **environment)
    lines = ended.stdout.decode(encoding).splitlines()
    assert ended.returncode == 0 and ended.stderr == b""
    assert lines[-2] == "Nothing is wrong."
    assert [line.split()[0] for line in lines if line.startswith("BraTS20")] == [shown]


def test_errors_and_json_keep_their_form_and_files_are_utf8(named, tmp_path):
    there = str(named)
    ended = started("-m", "tfbrats.inspect", there, "--größe", **ASCII)
    assert ended.returncode == 2 and rb"unrecognized arguments: --gr\xf6\xdfe" in ended.stderr
    ended = started("-m", "tfbrats.inspect", "/nö→", PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr[:16]) == (1, rb"error: /n\xf6\u2")
    ended = started("-m", "tfbrats.inspect", there, "--json", **ASCII)
    assert json.loads(ended.stdout)["cases"][0]["case_id"] == NAME
    out = tmp_path / "sß.json"
    ended = started("-m", "tfbrats.splits", f"--input={there}", f"--output={out}", "--ratio=1,0,0", **ASCII)
    assert ended.returncode == 0 and json.loads(out.read_bytes())["train"] == [NAME]


# --- Ctrl-C ----------------------------------------------------------------------------------------------


def interrupted(module: str, seconds: float) -> tuple[int, str]:
    """Exit code and stderr of a command that gets Ctrl-C so long after our first line has run."""
    process = subprocess.Popen(
        set_up.before([sys.executable, "-X", "importtime", "-m", module, "--no-such-option"], "hears_ctrl_c"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    said = []
    for line in process.stderr:
        said.append(line)
        if "tfbrats.machine.surroundings" in "".join(
            said[:-1]
        ):  # the line after it: it is loaded before it runs
            break
    reader = threading.Thread(target=lambda: said.append(process.stderr.read()))
    reader.start()
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    process.wait()
    reader.join()
    process.stderr.close()
    lines = "".join(said).splitlines(keepends=True)
    return process.returncode, "".join(line for line in lines if "import time:" not in line)


@pytest.mark.parametrize(
    ("module", "seconds"),
    [("tfbrats.train", 0.05), ("beam_pipelines.nifti_to_tfrecord", 0.05), ("tfbrats.splits", 0)],
)
def test_ctrl_c_during_imports_is_interrupted_and_130(module, seconds):
    code, said = interrupted(module, seconds)
    assert (code, said.splitlines()[-1]) == (130, "interrupted")
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("module", COMMANDS)
def test_ctrl_c_at_any_moment_of_the_start_leaves_no_traceback(module):
    for seconds in (random.Random(module).uniform(0, 4) for _ in range(4)):
        code, said = interrupted(module, seconds)
        assert "Traceback" not in said, (seconds, said)
        if "error: " not in said:  # else too late: it had said what is wrong with its arguments
            assert (code, said.splitlines()[-1]) == (130, "interrupted"), seconds


def test_a_job_in_the_background_of_a_shell_goes_on_ignoring_it():
    process = subprocess.Popen(
        set_up.before([sys.executable, "-X", "importtime", "-m", "tfbrats.splits", "--help"], "ignores_ctrl_c"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "tfbrats.machine.surroundings" in line:
            process.send_signal(signal.SIGINT)
    process.stderr.close()
    assert process.wait() == 0


def test_ctrl_c_after_the_work_is_too_late(tmp_path):
    code = "import atexit, os, signal\natexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
    (tmp_path / "usercustomize.py").write_text(code)
    (tmp_path / "sitecustomize.py").write_text(code)
    process = subprocess.run(
        set_up.before([sys.executable, "-m", "tfbrats.splits", "--help"], "hears_ctrl_c"),
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        check=False,
    )
    assert process.returncode == 0 and process.stdout.startswith(b"usage: ") and process.stderr == b""


def test_ctrl_c_of_another_process_stays_its_own():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        command.run(lambda _: 0)
    assert signal.getsignal(signal.SIGINT) is before
