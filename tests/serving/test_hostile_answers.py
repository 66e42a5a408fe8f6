"""What a server that is none of ours may answer: the client ends in a message, in bounded memory."""

import json
import tracemalloc
from concurrent import futures

import grpc
import numpy as np
import pytest
import tiny_model

from serving import messages
from serving.connection import Client
from tfbrats.errors import InputError
from tfbrats.predictions import model_card


def tensor(dtype, sides, **values):
    return messages.Tensor(dtype=dtype, tensor_shape={"dim": [{"size": side} for side in sides]}, **values)


@pytest.mark.parametrize(
    "claim",
    [
        tensor(1, [2**40]),
        tensor(9, [2**20, 2**20], int64_val=[1]),
        tensor(7, [2**33], string_val=[b""]),
        tensor(7, [2**33], tensor_content=b"x"),
        tensor(4, [-1]),
        tensor(4, [-2, -2], int_val=[1, 2, 3, 4]),
        tensor(4, [2], int_val=[1, 300]),
        tensor(19, [1], half_val=[70000]),
        tensor(4, [1] * 100, int_val=[1]),
    ],
)
def test_a_tensor_that_claims_what_it_does_not_send_is_refused(claim):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"shape|value|dimension"):
            messages.to_array(claim)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_few_values_may_still_stand_for_many():
    assert messages.to_array(tensor(1, [100, 100], float_val=[2])).sum() == 20_000


@pytest.fixture
def client():
    """A client, and a list whose bytes the server answers to every call."""
    answer = [b""]

    class All(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(lambda *_: answer[0])

    running = grpc.server(futures.ThreadPoolExecutor(2), handlers=[All()])
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    with Client(f"127.0.0.1:{port}/tiny", timeout_s=30) as connection:
        yield connection, answer
    running.stop(0)


def described(content):
    answer = messages.PredictResponse()
    answer.outputs["content"].CopyFrom(content)
    return answer.SerializeToString()


def test_an_answer_that_is_no_card_is_told(client):
    connection, answer = client
    for content in (
        messages.to_tensor(np.zeros(3, np.uint8)),
        messages.to_tensor(np.array([b"{}", b"{}"], object)),
        messages.to_tensor("[" * 100_000),
        messages.to_tensor("{}"),
        tensor(7, []),
    ):
        answer[0] = described(content)
        with pytest.raises(InputError, match=r"tfbrats\.json"):
            connection.card()
    answer[0] = described(messages.to_tensor(tiny_model.card().to_json()))
    assert connection.card() == tiny_model.card()


def test_signatures_that_are_none_are_told(client):
    connection, answer = client
    told = messages.MetadataResponse()
    told.metadata["signature_def"].value = b"\xff\xff\xff"
    answer[0] = told.SerializeToString()
    with pytest.raises(InputError, match="its signatures cannot be read"):
        connection._calls.signatures(None, connection._calls.deadline())


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("label_schema", {}, "no table of label values"),
        ("label_schema", {"edition": "2020", "values": {"Z2": "ED"}}, "no table of label values"),
        ("label_schema", {"edition": "2020", "values": {"1": "nobody"}}, "no table of label values"),
        (
            "label_schema",
            {"edition": "2020", "values": {"1000000000000": "ED"}},
            "label values from 0 to 65535",
        ),
        ("label_schema", {"edition": "2020", "values": {}}, "label values from 0 to 65535"),
        ("signatures", {"int16": {"outputs": 3}}, "outputs of each by their names"),
        ("name", "tiny\x1b]0;owned\x07", "name"),
        ("description", "\x9b2J", "description"),
        (
            "averaged",
            {"networks": 1, "mirrored": [], "passes": 1, "weights_bytes": 1, "seconds": 1, "seconds_of_one": 0},
            "seconds_of_one",
        ),
    ],
)
def test_a_card_that_would_break_who_reads_it_is_refused(entry, value, said):
    content = {**json.loads(tiny_model.card().to_json()), entry: value}
    with pytest.raises(InputError, match=said):
        model_card.parse(json.dumps(content), "models/tiny/1/tfbrats.json")
