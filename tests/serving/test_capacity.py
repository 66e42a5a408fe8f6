"""tfbrats capacity: the queue gives what the formulas give, figures are kept, a server is measured."""

import json
import math
import os

import numpy as np
import pytest
import tiny_model

from serving import server
from serving.capacity import __main__ as capacity
from serving.capacity import forecast, queueing, told, under_test
from serving.capacity.measured import Measured, Row
from serving.capacity.queueing import Pod
from tfbrats import phantom
from tfbrats.errors import InputError
from tfbrats.predictions import model_card

EXPONENTIAL = tuple(np.random.default_rng(1).exponential(1, 5000))
EXPONENTIAL = tuple(np.array(EXPONENTIAL) / np.mean(EXPONENTIAL))
LOAD = 0.7


# --- the queue ------------------------------------------------------------------------------------------


def close(found, expected, share=0.06):
    """20,000 cases of one seed; at this load the mean of so many is right within a few per cent."""
    assert abs(found / expected - 1) < share, (found, expected)


def test_one_at_a_time_waits_as_m_m_1():
    close(queueing.waiting(Pod((1.0,), EXPONENTIAL), LOAD).mean_s, 1 / (1 - LOAD))


def test_cases_that_all_take_the_same_wait_as_m_d_1():
    close(queueing.waiting(Pod((1.0,)), LOAD).mean_s, 1 + LOAD / (2 * (1 - LOAD)))


@pytest.mark.parametrize("works", [(1.0,), EXPONENTIAL], ids=["equal", "exponential"])
def test_a_server_shared_by_all_keeps_a_case_as_long_whatever_the_cases_are(works):
    """Processor sharing: the mean depends on the mean work alone."""
    close(queueing.waiting(Pod((1.0,) * 200, works), LOAD).mean_s, 1 / (1 - LOAD))


def test_servers_of_their_own_wait_as_m_m_4():
    found = queueing.waiting(Pod((1.0, 2.0, 3.0, 4.0), EXPONENTIAL), 4 * LOAD).mean_s
    offered = 4 * LOAD
    queued = offered**4 / math.factorial(4) / (1 - LOAD)
    erlang_c = queued / (sum(offered**n / math.factorial(n) for n in range(4)) + queued)
    close(found, 1 + erlang_c / (4 - offered))


@pytest.mark.parametrize(
    ("rates", "expected"),
    [((1.0,), (1, 2, 3)), ((1.0, 1.0), (2, 2, 3)), ((1.0, 2.0), (1, 1, 2)), ((1.0, 1.0, 1.0), (3, 3, 3))],
)
def test_three_cases_at_once(rates, expected):
    assert queueing.answered(Pod(rates), [0, 0, 0], [1, 1, 1]) == pytest.approx(expected)


def test_a_case_that_comes_later_is_slowed_and_slows():
    assert queueing.answered(Pod((1.0, 1.0)), [0, 0.5], [1, 1]) == pytest.approx([1.5, 1.5])


# --- plans ----------------------------------------------------------------------------------------------

POD = Pod((0.1, 0.12), (0.9, 1.0, 1.1))


@pytest.mark.parametrize("per_hour", [1, 100, 1000, 10_000])
def test_pods_bear_the_load_with_head_room_while_one_is_away(per_hour):
    plan = queueing.plan(POD, per_hour / 3600, busy=0.7)
    all_run, one_away = plan.busy
    assert one_away <= 0.7 + 1e-9 and all_run == pytest.approx(one_away * plan.needed / (plan.needed + 1))
    assert plan.needed == 1 or per_hour / 3600 / (plan.needed - 1) > 0.7 * POD.most  # and no pod too many
    assert plan.waiting[0].p95_s <= plan.waiting[1].p95_s


def test_more_pods_where_answers_are_wanted_sooner():
    slow, soon = (queueing.plan(POD, 0.5, 0.9, within_s).needed for within_s in (None, 20))
    assert soon > slow
    assert queueing.waiting(POD, 0.5 / soon).p95_s <= 20 < queueing.waiting(POD, 0.5 / (soon - 1)).p95_s


def test_what_no_number_of_pods_brings_about_is_said():
    with pytest.raises(InputError, match=r"--within 5: a pod that has nothing else to do takes 1\d\.\d s"):
        queueing.plan(POD, 0.5, 0.7, within_s=5)


# --- the file -------------------------------------------------------------------------------------------

ABOUT = {
    **{"server": "the embedded server", "model": "cun", "version": 1, "signature": "gzip_int16"},
    **{"shapes": [[240, 240, 155]] * 2, "processor": "a CPU", "machine_cores": 4},
}


def row(calls, per_s, cores=2, seconds=(9.0, 11.0, 9.0, 11.0), peak=2 * 2**30, others=0.0):
    return Row(cores, calls, seconds, per_s, 18.0, 2**30, peak, others)


@pytest.fixture
def measured(tmp_path):
    file = Measured(tmp_path / "cun.json", ABOUT)
    for one in (row(4, 0.121, peak=5 * 2**30), row(1, 0.1), row(2, 0.12, peak=3 * 2**30)):
        file.add(one)
    return file


def test_figures_are_read_as_they_were_written(measured):
    again = Measured(measured.path)
    assert again.rows == measured.rows and [one.calls for one in again.rows] == [1, 2, 4]
    assert again.has(2, 4) and not again.has(1, 4)


def test_a_file_of_another_model_is_not_added_to(measured):
    with pytest.raises(InputError, match="holds figures of version 1; now it is 2"):
        Measured(measured.path, {**ABOUT, "version": 2})


@pytest.mark.parametrize("content", [[], {"format": 0}, {}])
def test_a_file_of_something_else_is_refused(content, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="no file of tfbrats capacity"):
        Measured(tmp_path / "x.json")


def test_calls_that_add_nothing_are_no_part_of_a_pod(measured):
    assert measured.pod(2) == Pod((0.1, 0.12), (0.9, 1.1, 0.9, 1.1))
    assert [one.calls for one in measured.of(2)] == [1, 2]
    measured.add(row(8, 0.2))
    assert measured.pod(2).rates == pytest.approx((0.1, 0.12, 0.1205, 0.121, 0.14075, 0.1605, 0.18025, 0.2))


def test_memory_and_head_room_are_said(measured):
    text = "\n".join(told.planned(measured, 2, 200, queueing.plan(measured.pod(2), 200 / 3600, 0.7)))
    assert "200 cases an hour on pods of 2 cores, each with up to 2 calls at once: 1 pod, and 1 more" in text
    assert "2 pods: 23 % busy" in text and "1 pod: 46 % busy" in text
    assert "4 GiB (the most seen was 3.00 GiB" in text


def test_a_busy_machine_is_said(measured):
    assert not list(told.doubts(measured))
    measured.add(row(1, 0.1, cores=4, others=1.3))
    loud, shared = told.doubts(measured)
    assert "in 1 of 4 measurements other programs took up to 1.3 cores" in loud and "all cores" in shared


def test_a_prediction_is_of_the_rows_alone_and_of_each_case(measured):
    """The second case is the larger one; alone in the queue, it takes its own 11 s."""
    found = forecast.predicted(measured, 2, np.array([0.0, 1000.0]))
    assert found["mean_s"] == pytest.approx(10) and found["p95_s"] == pytest.approx(10.9)
    assert found["peak_bytes"] == 3 * 2**30


def test_cases_come_at_the_rate_that_was_asked_for():
    times = forecast.times_of(0.5, 100)
    assert len(times) == 50 and times[0] >= 0 and times[-1] < 100 and (np.diff(times) >= 0).all()


# --- servers --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("capacity") / "cases"
    phantom.main(["--output", str(folder), "--count", "2", "--shape", "24", "24", "16", "--edition", "2021"])
    return str(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("served") / "tiny"
    folder = tiny_model.write(base)
    (folder / model_card.FILE).write_text(tiny_model.card().to_json())
    return str(base)


def test_a_server_that_runs_is_measured_planned_and_tried(cases, base, tmp_path, capsys, monkeypatch):
    output = str(tmp_path / "tiny.json")
    with server.start(base, max_workers=2, max_enqueued=500) as running:
        monkeypatch.setenv("TFBRATS_SERVING_ENDPOINT", f"localhost:{running.port}")
        line = ["--server", "tiny", "--cores", "2", "--input", cases, "--output", output, "--calls", "1", "2"]
        line += ["--seconds", "0.2", "--pid", str(os.getpid())]
        capacity.main(line)
        capsys.readouterr()
        kept = Measured(output)
        assert [(one.cores, one.calls) for one in kept.rows] == [(2, 1), (2, 2)] and not kept.checks
        assert all(one.peak_bytes >= one.ready_bytes > 2**20 and one.cases_per_s > 0 for one in kept.rows)
        again = ["--check", "0.3", "--check-seconds", "0.5", "--cases-per-hour", "60", "--busy", "0.5"]
        capacity.main([*line, *again])
    said = capsys.readouterr().out
    assert Measured(output).rows == kept.rows, "measured again"
    (check,) = Measured(output).checks
    assert check.share == 0.3 and set(check.found) == {"mean_s", "p50_s", "p95_s", "peak_bytes"}
    assert f"then run: {check.cases} cases at random times" in said
    assert "60 cases an hour on pods of 2 cores" in said and "2 cases of 24 x 24 x 16 as gzip_int16" in said


@pytest.mark.slow
def test_the_embedded_server_is_measured_on_some_cores_and_the_command_goes_on(cases, base, tmp_path, capsys):
    output = str(tmp_path / "tiny.json")
    line = ["--model", base, "--cores", "1", "--input", cases, "--output", output, "--seconds", "0.2"]
    capacity.main([*line, "--calls", "1"])
    first = Measured(output).rows
    capacity.main([*line, "--calls", "1", "2", "--check", "--check-seconds", "1"])
    kept = Measured(output)
    assert kept.rows[:1] == first and [one.calls for one in kept.rows] == [1, 2] and len(kept.checks) == 1
    assert "1 core, 1 at once" not in capsys.readouterr().out.partition("embedded")[2]


def test_a_server_gets_its_cores_and_the_callers_others():
    here = os.sched_getaffinity(0)
    with pytest.raises(InputError, match=f"this command may use {len(here)}"):
        under_test.shared_out(len(here) + 1)
    of_server, of_callers = under_test.shared_out(1)
    assert len(of_server) == 1 and of_server | of_callers == here
    with under_test.on(of_server):
        assert os.sched_getaffinity(0) == of_server
    assert os.sched_getaffinity(0) == here


def test_what_is_wrong_is_said_before_anything_starts(cases, base, tmp_path):
    output = ["--output", str(tmp_path / "x.json")]
    for line, text in (
        (output, "nothing was measured yet"),
        (["--output", "x", "--model", base, "--input", cases], "ends in .json"),
        ([*output, "--model", base], "--input: which cases"),
        ([*output, "--model", cases, "--input", cases], "no version in it"),
        ([*output, "--server", "localhost:1/tiny", "--input", cases], "--cores N"),
        ([*output, "--model", base, "--input", cases, "--calls", "2"], "1 must be among them"),
        ([*output, "--model", base, "--input", cases, "--cores", "0"], "--cores 0"),
        ([*output, "--model", base, "--input", cases, "--busy", "1"], "--busy 1"),
        ([*output, "--model", base, "--input", cases, "--pid", "1"], "--pid"),
        ([*output, "--check"], "--check"),
    ):
        with pytest.raises(InputError, match=text):
            capacity.main(line)
