"""What the person at the command sees of a job that runs."""

import io
import sys

import apache_beam as beam
import pytest

from beam_pipelines import engine
from tfbrats.errors import InputError
from tfbrats.machine import files


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(folder, function=lambda number: number):
    """A job of five pieces, each of which leaves a file."""

    def write(number):
        files.write_bytes(files.join(folder, f"{number}.bin"), bytes(function(number)))

    options = [f"--runner={engine.LOCAL}"]
    with engine.job(options, str(folder), "pieces", lambda: len(files.walk(folder)), 5, unit="piece") as (
        pipeline,
        _,
    ):
        _ = pipeline | beam.Create(range(5)) | beam.Map(write)


def test_the_bar_ends_where_the_work_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    run(tmp_path)
    assert "5/5" in sys.stderr.getvalue() and "piece" in sys.stderr.getvalue()


def test_where_there_is_no_terminal_there_is_no_bar(tmp_path, capsys):
    run(tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [InputError("the person's fault"), OSError(28, "No space left on device")])
def test_what_a_person_can_mend_is_one_message_that_names_what_is_kept(tmp_path, error):
    def failing(number):
        raise error

    with pytest.raises(
        InputError, match=rf"(?s)the Beam job stopped: .*Finished pieces are kept in {tmp_path}"
    ):
        run(tmp_path, failing)


def test_our_own_fault_keeps_its_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError) as raised:
        run(tmp_path, lambda number: 1 / 0)
    assert not isinstance(raised.value, InputError)
    assert any("Finished pieces are kept" in note for note in raised.value.__notes__)
