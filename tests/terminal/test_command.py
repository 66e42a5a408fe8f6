"""A person's mistake and a full disk are one line and an exit code; our own faults keep their traceback."""

import errno

import pytest

from tfbrats import errors
from tfbrats.terminal import command


def ended(main, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        command.run(main)
    return stop.value.code, capsys.readouterr().err


def raising(error):
    def main(_):
        raise error

    return main


def test_what_the_person_gave_is_one_line(capsys):
    assert ended(raising(errors.InputError("no such case. Name another.")), capsys) == (
        1,
        "error: no such case. Name another.\n",
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_takes_no_more_is_one_line_that_names_the_place(number, capsys):
    code, said = ended(raising(OSError(number, "No space left on device", "/data/out")), capsys)
    assert code == 1
    assert said.startswith("error: /data/out: No space left on device. Make room") and said.count("\n") == 1


def test_any_other_error_of_the_system_keeps_its_traceback():
    with pytest.raises(OSError, match="Input/output error"):
        command.run(raising(OSError(errno.EIO, "Input/output error")))


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(2), 2)], ids=["interrupted", "arguments"]
)
def test_other_ends_keep_their_codes(error, code, capsys):
    assert ended(raising(error), capsys)[0] == code


def test_a_commands_own_code_is_its_exit_code(capsys):
    assert ended(lambda _: None, capsys)[0] == 0
    assert ended(lambda _: 1, capsys)[0] == 1
