"""What libraries say stays off the screen of a command and of what it starts; TFBRATS_LOG=1 shows it."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent

LOUD = """
import os, warnings
os.write(2, b"said by C while it is imported\\n")
warnings.warn("said by Python")
if os.environ.get("BREAK"):
    raise ImportError("no such symbol")
"""
ASKS = "import sys; sys.modules.pop('tensorflow', None); import tensorflow; sys.stderr.write('ours\\n')"


@pytest.fixture
def loud(tmp_path):
    """A folder whose tensorflow talks."""
    (tmp_path / "tensorflow.py").write_text(LOUD)
    return tmp_path


def said(loud, code: str, **environment: str) -> tuple[int, str]:
    """Exit code and stderr of Python that runs `code` with tfbrats in it."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("TFBRATS_LOG", "TF_CPP"))
    }
    ended = subprocess.run(
        [sys.executable, "-c", f"import tfbrats; {code}"],
        env={**clean, "PYTHONPATH": f"{loud}:{ROOT}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stderr


def test_a_child_of_a_command_is_quiet_and_what_is_ours_is_seen(loud):
    assert said(loud, ASKS, TFBRATS_LOG="0") == (0, "ours\n")


@pytest.mark.parametrize("environment", [{"TFBRATS_LOG": "1"}, {}], ids=["asked for", "anybody else's process"])
def test_else_everything_is_seen(loud, environment):
    code, text = said(loud, ASKS, **environment)
    assert code == 0 and "said by C" in text and "said by Python" in text and text.endswith("ours\n")


def test_what_was_said_before_an_import_failed_is_shown(loud):
    code, text = said(loud, ASKS, TFBRATS_LOG="0", BREAK="1")
    assert code == 1 and text.startswith("said by C while it is imported\n") and "no such symbol" in text


def test_levels_that_a_person_has_set_stay(loud):
    code = "import os; print(os.environ['TF_CPP_MIN_LOG_LEVEL'], file=__import__('sys').stderr)"
    assert said(loud, code, TFBRATS_LOG="0") == (0, "3\n")
    assert said(loud, code, TFBRATS_LOG="0", TF_CPP_MIN_LOG_LEVEL="1") == (0, "1\n")


def test_the_real_tensorflow_says_nothing_in_a_command(tmp_path):
    """Imports it, computes on it, and lets its Python warn."""
    code = (
        "import tensorflow as tf; tf.add(1, 2); tf.get_logger().warning('said by a logger');"
        "tf.compat.v1.io.tf_record_iterator; sys = __import__('sys'); sys.stderr.write('ours\\n')"
    )
    assert said(tmp_path, code, TFBRATS_LOG="0") == (0, "ours\n")
    code, text = said(tmp_path, code, TFBRATS_LOG="1")
    assert code == 0 and "said by a logger" in text  # else this test could not fail
