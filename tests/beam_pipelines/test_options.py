"""What is asked at the terminal is understood, and refused, before Beam is imported."""

import argparse
import importlib.util

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines import nifti_to_tfrecord, options, segment_cases
from beam_pipelines.options import LOCAL
from tfbrats.errors import InputError


def of_beam(*texts, command=nifti_to_tfrecord):
    return options.of_beam(command.parser(), texts, has_overrides=command is nifti_to_tfrecord)


def test_every_option_of_beam_is_known_without_importing_it():
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for kind in PipelineOptions.__subclasses__():
        if kind.__module__ == PipelineOptions.__module__:
            kind._add_argparse_args(parser)
    names = {name for action in parser._actions for name in action.option_strings}
    assert len(names) > 100 and names <= options._names_in_beam()


def test_without_beam_it_is_said_what_to_install(monkeypatch):
    options._names_in_beam.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install apache-beam"):
        of_beam()


@pytest.mark.parametrize(
    ("given", "local"),
    [
        ([f"--runner={LOCAL}"], True),
        (["--runner", LOCAL], True),
        ([], False),
        (["--runner=FlinkRunner", f"--job_name={LOCAL}"], False),
        (["--runner", "DataflowRunner"], False),
        ([f"--runner={LOCAL}", "--runner=FlinkRunner"], False),
    ],
)
def test_which_engine_runs_is_read_as_beam_reads_it(given, local):
    assert options.is_local(given) is local


def test_the_engine_on_this_machine_is_taken_unless_another_is_named():
    assert of_beam() == [f"--runner={LOCAL}"]
    assert of_beam("--runner=FlinkRunner") == ["--runner=FlinkRunner"]


def test_a_value_that_stands_by_itself_is_left_to_its_option():
    assert of_beam("--direct_num_workers", "2")[:2] == ["--direct_num_workers", "2"]
    with pytest.raises(InputError, match="'extra' is neither an option, nor one of Beam's"):
        of_beam("--direct_num_workers=2", "extra")


def test_another_engine_s_own_options_pass_but_no_slip_of_ours():
    given = ("--runner=FlinkRunner", "--fancy_memory=4g")
    assert of_beam(*given) == list(given)
    with pytest.raises(InputError, match=r"; did you mean --overwrite\?$"):
        of_beam("--runner=FlinkRunner", "--overwrit")


@pytest.mark.parametrize("command", [nifti_to_tfrecord, segment_cases])
def test_the_old_name_of_workers_works_and_the_new_one_is_said(command, capsys):
    parser = command.parser()
    places = {"--config": "c", "--model": "m", "--input": "i", "--output": "o"}
    needed = [f"{name}={value}" for name, value in places.items() if name in parser._option_string_actions]
    asked, rest = options.parsed(parser, [*needed, "--max-workers=3"], ("input",))
    assert (asked.workers, rest) == (3, [])
    assert capsys.readouterr().err == "note: --max-workers is now --workers\n"
    assert asked.given == {"input": "i"} and asked.input != "i"
