"""What libraries say stays off the screen of a command and of what it starts; TFBRATS_LOG=1 shows it."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent

ITS_OWN = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1796021011.982728   18772 cudart_stub.cc:31] Could not find cuda drivers on your machine.
2026-11-30 05:12:36.123456: E external/local_xla/xla/stream_executor/cuda_driver.cc:152] failed call to cuInit
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow.
"""
LOUD = f"""
import os, warnings
os.write(2, {ITS_OWN!r}.encode())
warnings.warn("said by Python")
how = os.environ.get("BREAK")
if how == "import":
    raise ImportError("no such symbol")
if how == "crash":
    os.abort()
if how == "interrupt":
    raise KeyboardInterrupt
if how == "another":
    os.write(2, b"said by another thread\\n")
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
    assert code == 0 and ITS_OWN in text and "said by Python" in text and text.endswith("ours\n")


def test_what_was_said_before_an_import_failed_is_shown(loud):
    code, text = said(loud, ASKS, TFBRATS_LOG="0", BREAK="import")
    assert code == 1 and text.startswith(ITS_OWN) and "no such symbol" in text


def test_a_crash_in_it_shows_where_it_was(loud):
    code, text = said(loud, ASKS, TFBRATS_LOG="0", BREAK="crash")
    assert code == -signal.SIGABRT and "Aborted" in text and "tensorflow.py" in text


def test_ctrl_c_in_it_shows_none_of_it(loud):
    code, text = said(loud, ASKS, TFBRATS_LOG="0", BREAK="interrupt")
    assert code != 0 and "KeyboardInterrupt" in text and "cudart_stub" not in text


def test_what_others_write_meanwhile_is_shown_behind_it(loud):
    assert said(loud, ASKS, TFBRATS_LOG="0", BREAK="another") == (0, "said by another thread\nours\n")


def test_what_cannot_wait_reaches_the_screen_at_once(loud):
    notice = "import os, signal; from tfbrats.machine import stopping, quiet; aside = quiet._Aside(); "
    notice += (
        "exec('with stopping.on_signals(\\'stopping\\'), aside:\\n os.kill(os.getpid(), 15)\\n os._exit(0)')"
    )
    assert said(loud, notice, TFBRATS_LOG="0") == (0, "\nstopping\n")


def test_faults_of_our_own_arithmetic_are_seen(loud):
    code = "import warnings; warnings.warn_explicit('overflow', RuntimeWarning, 'x.py', 1, module='{}')"
    assert "overflow" in said(loud, code.format("tfbrats.cases.voxels"), TFBRATS_LOG="0")[1]
    assert said(loud, code.format("numpy.core"), TFBRATS_LOG="0") == (0, "")


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
