"""`tfbrats`: one word for each command; nothing but what is asked for is imported."""

import os
import pathlib
import subprocess
import sys

import pytest

import tfbrats
from tfbrats.terminal import verbs

ROOT = pathlib.Path(__file__).parent.parent
WORDS = [verb.word for verb in verbs.VERBS]
HEAVY = (
    "tensorflow",
    "keras",
    "apache_beam",
    "SimpleITK",
    "matplotlib",
    "scipy.ndimage",
    "scipy.stats",
    "scipy.spatial",
)


def ran(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """`python -m tfbrats ARGUMENTS`."""
    return subprocess.run(
        [sys.executable, "-m", "tfbrats", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_word_has_a_line_in_the_help_and_it_is_no_argument_at_all_too():
    for ended in (ran("--help"), ran("-h"), ran("help"), ran()):
        assert ended.returncode == 0 and ended.stderr == ""
        listed = [line.split()[0] for line in ended.stdout.splitlines() if line.startswith("  ")]
        assert listed == WORDS
        assert max(map(len, ended.stdout.splitlines())) <= 100


def test_version():
    for option in ("--version", "version"):
        assert ran(option).stdout == f"tfbrats {tfbrats.__version__}\n"


def test_a_misspelt_word_is_answered_with_the_nearest():
    ended = ran("trian", "--config", "cun")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: no command trian; did you mean train?\ntfbrats --help lists them\n"


@pytest.mark.parametrize("verb", verbs.VERBS, ids=WORDS)
def test_each_word_shows_the_help_of_its_command_and_loads_nothing_heavy(verb):
    code = (
        f"import sys; sys.argv = ['tfbrats', {verb.word!r}, '--help']; import tfbrats.__main__ as door\n"
        "try: door.main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"loaded = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "if loaded: sys.exit(f'loads {loaded}')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    assert ended.stdout.startswith(f"usage: tfbrats {verb.word} ")


@pytest.mark.parametrize("verb", verbs.VERBS, ids=WORDS)
def test_the_module_itself_is_the_same_command(verb):
    of_the_module = subprocess.run(
        [sys.executable, "-m", verb.module, "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    of_the_word = ran(verb.word, "--help")
    assert of_the_module.returncode == of_the_word.returncode == 0
    assert of_the_module.stdout == of_the_word.stdout and of_the_module.stderr == of_the_word.stderr == ""


def test_help_of_a_word_is_its_help():
    assert ran("help", "phantom").stdout == ran("phantom", "--help").stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["train", "--help"], ["nonsense"]], ids=" ".join
)
def test_a_reader_that_goes_away_is_no_fault(arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "tfbrats", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    said = process.stderr.read().decode()
    process.stderr.close()
    assert "Traceback" not in said and "Exception" not in said
    assert process.wait() == (2 if arguments == ["nonsense"] else 0)


def test_arguments_reach_the_command_and_its_exit_code_comes_back(tmp_path):
    ended = ran("phantom", "--output", str(tmp_path / "cases"), "--count", "1", "--shape", "24", "24", "16")
    assert ended.returncode == 0, ended.stderr
    assert ran("inspect", str(tmp_path / "cases")).returncode == 0
    ended = ran("inspect", str(tmp_path / "nowhere"))
    assert ended.returncode == 1 and ended.stderr.startswith(f"error: {tmp_path / 'nowhere'}")


def completed(line: str) -> list[str]:
    """What the shell would be offered behind `line`."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        **{"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": " "},
    }
    code = (
        "import os; os.dup2(1, 8); import sys; sys.argv = ['tfbrats']; import tfbrats.__main__ as m; m.main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    return ended.stdout.split()


def test_tab_completes_words_and_options():
    assert set(completed("tfbrats pr")) == {"prepare", "predict", "probe"}
    assert {"--output", "--overwrite"} >= set(completed("tfbrats predict --ov")) >= {"--overwrite"}
    assert completed("tfbrats split --rec") == ["--recipe"]
    assert completed("tfbrats train --config ms") == ["msm", "msm_noaspp"]
    assert completed("tfbrats train train.ep") == ["train.epochs="]
    assert completed("tfbrats --ver") == ["--version"]
