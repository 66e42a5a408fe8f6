"""Prometheus' blackbox exporter, with the module that serving/ ships, at a server that speaks TLS.

What the alerts on certificates look at has a date while the certificate is good, and 0 once it is not. Without
the exporter (Debian: prometheus-blackbox-exporter) they skip.
"""

import concurrent.futures
import contextlib
import re
import shutil
import subprocess
import time
import urllib.request

import grpc
import pytest
import yaml
from authority import Authority
from grpc_health.v1 import health, health_pb2_grpc
from loopback import free_addresses
from server_files import KUBERNETES, SERVING

EXPORTER = shutil.which("prometheus-blackbox-exporter") or shutil.which("blackbox_exporter")
MODULE = KUBERNETES / "components" / "certificate-probe" / "blackbox.yaml"


OURS, OTHERS = Authority("ours"), Authority("others")


@contextlib.contextmanager
def server(key, certificate):
    """As TensorFlow Serving with --ssl_config_file and --enable_grpc_healthcheck_service; -> its address."""
    running = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), running)
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    port = running.add_secure_port("127.0.0.1:0", credentials)
    running.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        running.stop(None).wait()


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """Asks the exporter for an address; it trusts OURS. -> its metrics by name."""
    if EXPORTER is None:
        pytest.skip("no prometheus-blackbox-exporter")
    folder = tmp_path_factory.mktemp("exporter")
    config = folder / "blackbox.yaml"
    config.write_text(MODULE.read_text().replace("/authority/", f"{folder}/"))
    (folder / "ca.crt").write_bytes(OURS.pem)
    (address,) = free_addresses(1)
    job = yaml.safe_load((SERVING / "monitoring" / "prometheus.yaml").read_text())["scrape_configs"][3]
    (module,) = job["params"]["module"]
    command = [EXPORTER, f"--config.file={config}", f"--web.listen-address={address}"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(target):
        asked = f"http://{address}{job['metrics_path']}?module={module}&target={target}"
        for _ in range(100):  # it may not have started
            with contextlib.suppress(OSError), urllib.request.urlopen(asked, timeout=20) as answer:
                lines = re.findall(r"^([a-z_]+) (\S+)$", answer.read().decode(), re.MULTILINE)
                return {name: float(value) for name, value in lines}
            time.sleep(0.1)
        raise AssertionError("the exporter does not answer")

    yield ask
    running.terminate()
    running.wait()


def test_it_tells_when_the_certificate_ends(probe):
    with server(*OURS.issued("tfbrats-serving", ends=5)) as address:
        metrics = probe(address)
    assert metrics["probe_success"] == 1
    left = metrics["probe_ssl_earliest_cert_expiry"] - time.time()
    assert left == pytest.approx(5 * 86400, abs=3600)


@pytest.mark.parametrize(
    ("authority", "name", "ends"),
    [(OTHERS, "tfbrats-serving", 5), (OURS, "other", 5), (OURS, "tfbrats-serving", -0.5)],
    ids=["of another authority", "of another name", "ended"],
)
def test_a_certificate_that_callers_refuse_is_no_success_and_its_date_is_0(probe, authority, name, ends):
    with server(*authority.issued(name, ends=ends)) as address:
        metrics = probe(address)
    assert metrics["probe_success"] == 0
    assert metrics["probe_ssl_earliest_cert_expiry"] == 0  # 1970: the alerts must not take it for a date


def test_a_server_that_is_down_is_no_success_and_its_date_is_0(probe):
    metrics = probe(free_addresses(1)[0])
    assert (metrics["probe_success"], metrics["probe_ssl_earliest_cert_expiry"]) == (0, 0)
