"""Where a server is: what is no address is told at once, and no proxy stands before this machine."""

import http.server
import socket
import threading

import nibabel
import numpy as np
import pytest
import tiny_model
from test_client import run, write_case

from serving import addresses, client, server
from tfbrats.errors import InputError


@pytest.mark.parametrize(
    "address",
    [
        *("localhost:8500", "127.0.0.1:1", "[::1]:8500", "gpu-7.example.org:65535", "dns:///tf.example:8500"),
        *(
            "dns:tf:8500",
            "ipv4:10.0.0.1:8500,10.0.0.2:8500",
            "ipv6:[::1]:8500",
            "unix:/run/tf",
            "unix:///run/tf",
        ),
        *("xds:///tf", "unix-abstract:tf", "Größe:8500"),
    ],
)
def test_what_grpc_takes_is_taken_as_it_is(address):
    assert addresses.checked(address) == address


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://localhost:8500", "gRPC has no http:// in front; write localhost:8500."),
        ("https://tf.example:443/v1/models/cun", "gRPC has no https:// in front; write tf.example:443."),
        ("http://tf.example", "gRPC has no http:// in front; write tf.example:8500."),
        ("grpc://tf.example:8500", "gRPC has no grpc:// in front; write tf.example:8500."),
        ("localhost", "it has no port; write localhost:8500."),
        ("localhost:", "it has no port; write localhost:8500."),
        ("[::1]", r"it has no port; write \[::1\]:8500."),
        ("8500", "it has no host; write localhost:8500."),
        (":8500", "it has no host; write localhost:8500."),
        ("localhost:8500/", "it has a path behind it; write localhost:8500."),
        ("localhost:8500/cun", "it has a path behind it; write localhost:8500."),
        ("", "it is empty; expected host:port"),
        (" ", "it is empty; expected host:port"),
        ("localhost:8500 ", "it has a space in it; write localhost:8500."),
        ("local host:8500", "it has a space in it; expected host:port"),
        ("::1", r"an IPv6 address stands in brackets, its port behind them; write \[::1\]:8500."),
        ("2001:db8::7:8500", r"write \[2001:db8::7\]:8500."),
        ("[localhost]:8500", r"\[localhost\] is no IPv6 address"),
        ("localhost:grpc", "'grpc' is no port"),
        ("localhost:0", "'0' is no port"),
        ("localhost:٨٥٠٠", "'٨٥٠٠' is no port"),
        ("a,b:1", "'a,b' is no name of one host"),
        ("h..x:1", r"'h\.\.x' is no name of one host"),
        ("localhost:65536", "'65536' is no port"),
        ("me@localhost:8500", "it names a user"),
    ],
)
def test_what_is_no_address_is_told_before_anything_is_read_or_asked(tmp_path, address, said):
    arguments = [f"--server={address}", "--model=cun", "--input=/there/is/none", f"--output={tmp_path}/"]
    with pytest.raises(InputError, match=f"server .*{said}"):
        client.main(arguments)


@pytest.mark.parametrize("address", ["http://localhost:8500", "http://localhost:8500/cun"])
def test_a_programs_address_is_told_as_well(address):
    with pytest.raises(InputError, match=r"gRPC has no http:// in front; write localhost:8500\."):
        client.Client(address)


@pytest.mark.parametrize(
    ("address", "is_here"),
    [
        *((text, True) for text in ("localhost:1", "127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "0.0.0.0:1")),
        *(
            (text, True)
            for text in ("dns:///localhost:1", "ipv4:127.0.0.1:1", "unix:/run/tf", "tf.localhost:1")
        ),
        (f"{socket.gethostname()}:1", True),
        *(
            (text, False)
            for text in ("10.0.0.1:1", "localhost.example:1", "dns:///tf.example:1", "[2001:db8::7]:1")
        ),
    ],
)
def test_what_is_on_this_machine(address, is_here):
    assert addresses.is_of_this_machine(address) == is_here


class Refusing(http.server.BaseHTTPRequestHandler):
    """A proxy that lets nothing through, and notes who asked."""

    def do_CONNECT(self):
        self.server.asked.append(self.path)
        self.send_error(403)

    def log_message(self, *_):
        pass


@pytest.fixture
def proxy(monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as running:
        running.asked = []
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{running.server_port}")
        for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield running
        running.shutdown()
        thread.join()


def test_a_proxy_does_not_hide_a_server_of_this_machine(proxy, tmp_path, capsys):
    base, case = tmp_path / "tiny", write_case(tmp_path / "in")
    tiny_model.write(base)
    with server.start(base) as served:
        assert run(served, case, tmp_path / "seg.nii.gz") is None
    assert proxy.asked == []
    assert "WT 0.6 ml" in capsys.readouterr().out
    written = np.asarray(nibabel.load(tmp_path / "seg.nii.gz").dataobj)
    assert 0.55 < np.count_nonzero(written) * 3 / 1000 < 0.65  # voxels of 1 x 1.5 x 2 mm


def test_a_server_behind_a_proxy_that_does_not_answer_is_told_with_the_proxy(proxy, tmp_path, monkeypatch):
    case = write_case(tmp_path / "in")
    far = ["--server=tf.invalid:8500", "--model=cun", f"--input={case}", f"--output={tmp_path / 'seg.nii.gz'}"]
    with pytest.raises(InputError, match=r"through a proxy \(grpc_proxy=http://127.0.0.1:\d+\): .* no_proxy"):
        client.main([*far, "--connect_timeout=1"])
    assert set(proxy.asked) == {"tf.invalid:8500"}
    monkeypatch.setenv("no_proxy", "other.example,invalid")
    assert addresses.proxy_to("tf.invalid:8500") is None
