"""How many workers a machine gives, and what Beam's options are checked for."""

import pytest

from beam_pipelines import engine
from tfbrats.errors import InputError
from tfbrats.machine import memory
from tfbrats.terminal import command

GIB = 2**30
NOBODY = command.parser("nobody", "has no option")
ALONE = [f"--runner={engine.LOCAL}"]


@pytest.fixture
def machine(monkeypatch):
    """`machine(cores, free_gib)`"""

    def of(cores, free_gib):
        monkeypatch.setattr(memory.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setattr(memory, "free_bytes", lambda: free_gib * GIB)

    return of


def workers(limit=None, tasks=100, seconds=1e5, worker_gib=1.0, options=ALONE):
    found, line = engine.worker_options(options, limit, tasks, seconds, int(worker_gib * GIB))
    count = [text.partition("=")[2] for text in found if text.startswith("--direct_num_workers")]
    assert bool(count) == ("--direct_running_mode=multi_processing" in found)
    return int(count[0]) if count else 1, line


def test_free_memory_bounds_the_workers_before_the_cores_do(machine):
    machine(cores=8, free_gib=5)
    assert workers() == (4, "4, as many as free memory allows")  # a fifth is left alone
    machine(cores=8, free_gib=500)
    assert workers() == (8, "8, as many as cores allow")
    assert workers(tasks=3)[0] == 3
    machine(cores=8, free_gib=0.1)
    assert workers()[0] == 1


def test_a_person_s_limit_holds_but_never_above_what_memory_allows(machine):
    machine(cores=2, free_gib=100)
    assert workers(limit=1)[0] == 1
    assert workers(limit=6)[0] == 6  # more than cores: the person's own choice
    machine(cores=2, free_gib=2.6)
    assert workers(limit=6) == (2, "2, as many as free memory allows")


def test_little_work_starts_no_second_process_unless_asked(machine):
    machine(cores=8, free_gib=500)
    assert workers(seconds=20) == (1, "")
    assert workers(seconds=20, limit=2)[0] == 2


@pytest.mark.parametrize(
    "options",
    [
        ["--runner=FlinkRunner"],
        [*ALONE, "--direct_num_workers=3"],
        [*ALONE, "--direct_running_mode=multi_threading"],
    ],
)
def test_whoever_chose_an_engine_or_its_workers_keeps_them(machine, options):
    machine(cores=8, free_gib=500)
    assert engine.worker_options(options, None, 9, 1e5, GIB) == ([], "")
    with pytest.raises(InputError, match=r"--max_num_workers \(Dataflow\)"):
        engine.worker_options(options, 4, 9, 1e5, GIB)


@pytest.mark.parametrize("options", [["--runner", engine.LOCAL], [f"--runner={engine.LOCAL}"]])
def test_an_option_and_its_value_may_be_two_words(machine, options):
    machine(cores=8, free_gib=500)
    assert workers(limit=2, options=options)[0] == 2


@pytest.mark.parametrize("name", ["FlinkRuner", "my.own.Runner", "apache_beam.runners.runner.NoRunner"])
def test_an_engine_that_is_not_there_is_said_at_once(name):
    with pytest.raises(InputError, match=f"--runner={name}: "):
        engine.check_options(NOBODY, [f"--runner={name}"])


def test_what_an_engine_s_options_lack_is_said_at_once():
    with pytest.raises(InputError, match=r"(?s)do not fit:\n  .*staging_location"):
        engine.check_options(NOBODY, ["--runner=DataflowRunner", "--region=europe-west4"])


def test_an_engine_that_loses_parts_of_a_job_is_refused():
    with pytest.raises(InputError, match=r"DaskRunner.*silently"):
        engine.check_options(NOBODY, ["--runner=DaskRunner"])
