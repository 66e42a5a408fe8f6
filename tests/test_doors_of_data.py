"""The commands of one's data, and the Beam jobs: what one typed is looked at before what is heavy is loaded."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# nibabel imports the uppermost package of SciPy, where it is there, and nothing of what is in it.
HEAVY = ("tensorflow", "keras", "apache_beam", "scipy.ndimage", "scipy.spatial", "SimpleITK", "matplotlib")
PREPARE = ("prepare", "--config", "smoke_2d", "--input", "no/such", "--output", "out")
SEGMENT = ("segment", "--model", "no/such", "--input", "no/such", "--output", "out")


def ended_light(*arguments: str, cwd) -> subprocess.CompletedProcess:
    """The command, which fails here if it has loaded what is heavy."""
    code = (
        f"import sys; sys.argv = ['tfbrats', *{arguments!r}]; import tfbrats.__main__ as door\n"
        "try: door.main()\n"
        "finally:\n"
        f"    loaded = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "    if loaded: print('loads', *loaded, file=sys.stderr)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("phantom", "--output", "out", "--cout", "3"), "did you mean --count?"),
        (("inspect", "no/such", "--editon=2020"), "did you mean --edition?"),
        (("split", "--input", "no/such", "--fold=3"), "no/such"),  # cut short, and understood
        (("records", "verify", "no/such", "--quik"), "did you mean --quick?"),
        ((*PREPARE, "--prise"), "did you mean --price?"),
        ((*SEGMENT, "--overwrit"), "did you mean --overwrite?"),
        ((*PREPARE, "model.widht=3"), "did you mean model.width?"),
        ((*PREPARE, "--epochs", "3"), "write train.epochs=3"),
        (("inspect", "no/such"), "no/such"),
        (("split", "--input", "no/such"), "no/such"),
        (("records", "show", "no/such"), "no/such"),
        (PREPARE, "no/such"),
        (SEGMENT, "no/such"),
        (("phantom", "--output", "out", "--count", "0"), "--count must be at least 1"),
        (("split", "--input", "no/such", "--ratio", "3"), "--ratio 3: expected train,validation,test"),
        (
            ("segment", "--model=m", "--input=i", "--output=o", "--cases=ids.txt"),
            "--cases ids.txt: no such file",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_heavy_is_loaded(arguments, said, tmp_path):
    ended = ended_light(*arguments, cwd=tmp_path)
    assert ended.returncode in (1, 2)
    assert ended.stderr.startswith("error: ") and said in ended.stderr
    assert "loads" not in ended.stderr and list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there_is_said_before_anything_heavy_is_loaded(tiny_dataset, tmp_path):
    cases = str(tiny_dataset("2020"))
    ended = ended_light("segment", "--model=m", f"--input={cases}", "--output=o", cwd=tmp_path)
    assert ended.returncode == 1 and "There is no such folder." in ended.stderr
    assert "loads" not in ended.stderr
