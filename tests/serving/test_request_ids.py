"""A request's id: sent by the client, told in the server's log and in errors, kept beside the result."""

import json
import logging
import pathlib
import re

import pytest
import tiny_model

from serving import client, server
from serving.calls import ServerError
from tfbrats.errors import InputError
from tfbrats.phantoms import data_sets

ID = "[0-9a-f]{16}"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    base = tmp_path_factory.mktemp("served") / "tiny"
    tiny_model.write(base)
    with server.start(base) as running:
        yield running


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Folder of two simulated cases."""
    folder = tmp_path_factory.mktemp("cases")
    data_sets.write_dataset(folder, 2, "2021", seed=1, shape=(32, 32, 20))
    return folder


def ids(caplog, what):
    """Of the lines about a signature or call, in their order."""
    return [line.rpartition("id ")[2] for line in caplog.messages if f"  tiny  {what}  " in line]


def test_a_cases_id_is_in_the_servers_log_on_the_screen_and_beside_the_result(
    running, cases, tmp_path, caplog, capsys
):
    asked = ["--server", running.address, "--model-name", "tiny", "--input", str(cases)]
    with caplog.at_level(logging.INFO, "serving"):
        client.main([*asked, "--output", f"{tmp_path}/out/", "--provenance"])
    in_log = ids(caplog, "gzip_int16")
    assert len(set(in_log)) == 2 and all(re.fullmatch(ID, one) for one in in_log)
    on_screen = dict(re.findall(rf"^(\S+): WT .* \(request ({ID})\)$", capsys.readouterr().out, re.MULTILINE))
    beside = {}
    for path in pathlib.Path(tmp_path / "out").glob("BraTS*.json"):
        beside[path.stem] = json.loads(path.read_text())["request_id"]
    assert beside == on_screen and sorted(beside.values()) == sorted(in_log)
    assert not [line for line in caplog.messages for case_id in beside if case_id in line]  # no case's id


def test_all_calls_of_a_case_have_one_id_which_a_program_may_give(running, cases, caplog):
    case = next(iter(sorted(cases.glob("BraTS*"))))
    with client.Client(f"{running.address}/tiny") as connection, caplog.at_level(logging.INFO, "serving"):
        result = connection.segment(case, request_id="ward-7.41")
        again = connection.segment(case)
    assert result.request_id == "ward-7.41" and re.fullmatch(ID, again.request_id)
    assert ids(caplog, "GetModelMetadata") == ["ward-7.41"]
    assert ids(caplog, "gzip_int16") == ["ward-7.41", again.request_id]


@pytest.mark.parametrize("bad", ["", "a b", "a\n", "ä", "x" * 81])
def test_an_id_that_a_log_would_not_hold_is_refused(running, cases, bad):
    with client.Client(f"{running.address}/tiny") as connection, pytest.raises(InputError, match="request_id"):
        connection.segment(next(cases.glob("BraTS*")), request_id=bad)


def test_an_error_names_the_request_that_the_log_has(running, caplog):
    with (
        client.Client(f"{running.address}/tiny") as connection,
        caplog.at_level(logging.INFO, "serving"),
        pytest.raises(ServerError) as caught,
    ):
        connection.predict({"file": "another.json"}, "describe", ["content"])
    (in_log,) = ids(caplog, "describe")
    assert str(caught.value).endswith(f"(request {in_log})")
