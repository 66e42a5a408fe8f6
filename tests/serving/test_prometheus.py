"""A real Prometheus reads the embedded server by our own files, and their queries find what they ask for."""

import contextlib
import json
import pathlib
import shutil
import subprocess
import urllib.parse
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
import tiny_model
import yaml
from asked_rest import free_port, wait_until
from server_files import SERVING, frozen
from tensorflow_serving.apis import predict_pb2

from serving import connection, server
from serving.calls import ServerError

PROMETHEUS = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus (Debian's package of that name)")


class Prometheus:
    """A Prometheus at work, asked over its API."""

    def __init__(self, port: int):
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, what: str, **parameters: str):
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._url}/{what}?{query}", timeout=20) as answer:
            return json.load(answer)["data"]

    def targets(self) -> list[dict]:
        with contextlib.suppress(OSError):  # not up yet
            return self.ask("targets")["activeTargets"]
        return []

    def series(self, query: str) -> list[dict]:
        return self.ask("query", query=query)["result"]

    def value(self, query: str) -> float:
        found = self.series(query)
        return float(found[0]["value"][1]) if found else 0


@contextlib.contextmanager
def reading(rest_port: int, folder: pathlib.Path):
    """Prometheus with serving/monitoring/prometheus.yaml, its job for this machine alone, at our port."""
    config = yaml.safe_load((SERVING / "monitoring" / "prometheus.yaml").read_text())
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "tfbrats-serving")
    job["static_configs"] = [{"targets": [f"localhost:{rest_port}"]}]
    rules = [str(SERVING / "monitoring" / name) for name in config["rule_files"]]
    seconds = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump({"global": seconds, "rule_files": rules, "scrape_configs": [job]})
    )
    port = free_port()
    command = [PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (
        (folder / "log.txt").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            yield Prometheus(port)
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Prometheus, and a client of the server that it reads, which has answered and refused some calls."""
    folder = tmp_path_factory.mktemp("read")
    version = tiny_model.write(folder / "tiny")
    extra = version / "assets.extra"
    extra.mkdir(exist_ok=True)
    request = predict_pb2.PredictRequest(model_spec={"name": "tiny", "signature_name": "describe"})
    request.inputs["file"].CopyFrom(tf.make_tensor_proto("tfbrats.json"))
    _write_warm_up(extra / "tf_serving_warmup_requests", request)
    with (
        server.start(folder / "tiny", rest_api_port=0) as running,
        reading(running.rest_port, folder) as prometheus,
        connection.Client(f"{running.address}/tiny") as client,
    ):
        wait_until(lambda: [target["health"] for target in prometheus.targets()] == ["up"])
        yield prometheus, client


def _write_warm_up(path, request) -> None:
    from tensorflow_serving.apis import prediction_log_pb2

    entry = prediction_log_pb2.PredictionLog(predict_log={"request": request})
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(entry.SerializeToString())


def test_the_server_is_up_and_its_metrics_are_read_without_a_fault(read):
    prometheus, _ = read
    (target,) = prometheus.targets()
    assert target["health"] == "up" and target["lastError"] == ""
    assert target["labels"]["job"] == "tfbrats-serving"
    kinds = {name: entries[0]["type"] for name, entries in prometheus.ask("metadata").items()}
    listed = {name: kind for name, kind, *_ in frozen("server_metrics.txt") if ":batching_session:" not in name}
    assert {name: kinds.get(name) for name in listed} == listed


def test_calls_become_a_rate_and_a_quantile(read):
    prometheus, client = read
    answered = ':tensorflow:serving:request_count{model_name="tiny",status="OK"}'
    image = {"image": np.zeros((1, 2, 2, 4), np.float32)}
    for count in (1, 4):  # a rate wants a value from which it grows
        before = prometheus.value(answered)
        for _ in range(count):
            client.predict(image, "slices", ["branch1"])
        wait_until(lambda before=before, count=count: prometheus.value(answered) - before == count)
    wait_until(lambda: prometheus.value(f"rate({answered}[1m])") > 0)
    calls = ':tensorflow:serving:request_latency_bucket{API="Predict",entrypoint="GRPC"}'
    seconds = prometheus.value(f"histogram_quantile(0.9, sum by (le) ({calls})) / 1e6")
    assert 0 < seconds < 60


def test_the_queries_of_dashboard_and_alerts_are_taken_and_those_about_calls_find_them(read):
    prometheus, client = read
    for _ in range(2):
        with pytest.raises(ServerError):
            client.predict({"image": np.zeros((1, 2, 2, 4), np.float32)}, "no such", ["branch1"])
    dashboard = json.loads((SERVING / "monitoring" / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for old, new in (("$__rate_interval", "1m"), ("$model", "tiny"), ("$__range", "1m")):
        queries = [query.replace(old, new) for query in queries]
    about_calls = [query for query in queries if ":serving:request_" in query or ":runtime_" in query]
    about_calls = [query for query in about_calls if "canary" not in query]  # of servers that are not here
    assert len(about_calls) > 3
    wait_until(lambda: all(prometheus.series(query) for query in about_calls))
    for query in queries:
        prometheus.series(query)  # taken, whether or not it finds something
    groups = prometheus.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules and [rule["name"] for rule in rules if rule["health"] == "err"] == []
    assert {rule["name"] for rule in rules if rule.get("state") == "firing"} == set()
