"""TLS that must not come about: an expired certificate, another name's, nobody's, none of the client's own.

Each ends before a byte of a case is sent, with exit code 1 and words on what is wrong.
"""

import contextlib
from concurrent import futures

import grpc
import pytest
import tiny_model
from authority import Authority

from serving import calls, client, messages
from serving.connection import Client
from tfbrats.phantoms import data_sets
from tfbrats.terminal import command

OURS, OTHERS = Authority("ours"), Authority("others")


@contextlib.contextmanager
def served(own: tuple[bytes, bytes] | None, clients: bytes | None = None):
    """A server that describes its model, and has seen nothing of a case: its address, and what it was asked.

    Args:
        own: key and certificate; None: it does not speak TLS.
        clients: the authority of the clients' certificates, which each client has to show then.
    """
    asked = []

    def predict(request, context):
        asked.append(request)
        response = messages.PredictResponse()
        response.outputs["content"].CopyFrom(messages.to_tensor(tiny_model.card().to_json()))
        return response

    service, method = messages.PREDICT.strip("/").split("/")
    handler = grpc.unary_unary_rpc_method_handler(
        predict, messages.PredictRequest.FromString, messages.PredictResponse.SerializeToString
    )
    running = grpc.server(futures.ThreadPoolExecutor(2))
    running.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    if own is None:
        port = running.add_insecure_port("localhost:0")
    else:
        credentials = grpc.ssl_server_credentials([own], clients, require_client_auth=clients is not None)
        port = running.add_secure_port("localhost:0", credentials)
    running.start()
    try:
        yield f"localhost:{port}", asked
    finally:
        running.stop(0).wait()


SERVERS = {
    "expired": (lambda: OURS.issued(ends=-0.5), None, "its certificate has expired"),
    "not yet valid": (lambda: OURS.issued(begins=0.5), None, "not valid yet"),
    "of another name": (lambda: OURS.issued("elsewhere.example"), None, "is for another name"),
    "of an unknown authority": (lambda: OTHERS.issued(), None, "issued by nobody that --tls-root-certificates"),
    "without TLS": (lambda: None, None, "does not speak TLS"),
    "that asks for ours, and gets none": (lambda: OURS.issued(), None, "--tls-certificate, --tls-key"),
    "that asks for ours, and gets a stranger's": (lambda: OURS.issued(), lambda: OTHERS.issued(), "not trust"),
    "that asks for ours, which has expired": (
        lambda: OURS.issued(),
        lambda: OURS.issued(ends=-0.5),
        "not trust the one that was given",
    ),
}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    root = tmp_path_factory.mktemp("cases")
    return root / data_sets.write_dataset(root, 1, "2021", 1, (24, 24, 16))[0]


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server(kind, case, tmp_path, capsys):
    own, shown, said = SERVERS[kind]
    (tmp_path / "roots.pem").write_bytes(OURS.pem)
    options = ["--tls-root-certificates", str(tmp_path / "roots.pem"), "--connect-timeout", "1"]
    if shown is not None:
        for name, content in zip(("key", "certificate"), shown(), strict=True):
            (tmp_path / f"{name}.pem").write_bytes(content)
            options += [f"--tls-{name}", str(tmp_path / f"{name}.pem")]
    output = tmp_path / "seg.nii.gz"
    with served(own(), OURS.pem if "asks" in kind else None) as (address, asked):
        asking = ["--server", address, "--model-name", "tiny", "--input", str(case)]
        with pytest.raises(SystemExit) as ended:
            command.run(client.main, [*asking, "--output", str(output), *options])
    assert ended.value.code == 1 and said in capsys.readouterr().err
    assert not asked and not output.exists()


@pytest.mark.parametrize("both", [False, True])
def test_a_sound_certificate_is_taken_on_both_sides(both):
    own = OURS.issued("me") if both else (None, None)
    credentials = grpc.ssl_channel_credentials(OURS.pem, *own)
    with (
        served(OURS.issued(), OURS.pem if both else None) as (address, asked),
        Client(f"{address}/tiny", credentials=credentials) as connection,
    ):
        assert connection.card() == tiny_model.card() and len(asked) == 1


def test_a_client_that_speaks_no_tls_is_told_so():
    with (
        served(OURS.issued()) as (address, asked),
        Client(f"{address}/tiny", connect_timeout_s=0.5) as connection,
        pytest.raises(calls.ServerError, match=r"If it wants TLS, give --tls-root-certificates"),
    ):
        connection.card()
    assert not asked
