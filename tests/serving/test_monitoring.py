"""Scrape jobs, alerts and dashboard ask for what TensorFlow Serving exports, where the other files put it.

No Prometheus or Grafana was at hand: queries are read by a parser of PromQL and looked up in a frozen list.
"""

import json
import re

import promql_parser
import pytest
import yaml
from server_files import REST_PORT, SERVING, compose, frozen, kubernetes, parsed

METRICS = {
    name: (kind, {*labels[0].split(",")} if labels else set())
    for name, kind, *labels in frozen("server_metrics.txt")
}
OF_PROMETHEUS = {"job", "instance"}


def labels_of(series):
    """The labels that a series has; None: the server has no such series, nor has Prometheus."""
    if series == "up":
        return OF_PROMETHEUS
    for suffix, more in (("", set()), ("_bucket", {"le"}), ("_sum", set()), ("_count", set())):
        kind, labels = METRICS.get(series.removesuffix(suffix), ("", set()))
        if series.endswith(suffix) and kind == ("histogram" if suffix else "counter"):
            return labels | more | OF_PROMETHEUS
    return None


def wrong(query):
    """What is wrong with a query: series, labels it is narrowed or grouped by; [] if nothing is."""
    found, grouped, known = [], set(), set()

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            labels = labels_of(node.name)
            used = {matcher.name for matcher in node.matchers.matchers}
            if labels is None:
                found.append(f"no series {node.name}")
            else:
                known.update(labels)
                found.extend(f"{node.name} has no label {name}" for name in sorted(used - labels))
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            grouped.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(query.replace("$__rate_interval", "5m")), visit)
    return found + [f"no label {name} to group by" for name in sorted(grouped - known)]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (":tensorflow:serving:request_count", []),
        ("rate(:tensorflow:serving:request_latency_bucket[5m])", []),
        (":tensorflow:serving:request_latency", ["no series :tensorflow:serving:request_latency"]),
        (":tensorflow:serving:requests", ["no series :tensorflow:serving:requests"]),
        ('up{pod="a"}', ["up has no label pod"]),
        ("sum by (model) (:tensorflow:serving:request_count)", ["no label model to group by"]),
    ],
)
def test_a_query_is_looked_up_by_series_and_labels(query, says):
    assert wrong(query) == says


@pytest.fixture(scope="module")
def prometheus():
    return yaml.safe_load((SERVING / "monitoring" / "prometheus.yaml").read_text())


def test_metrics_are_on_where_everybody_looks_for_them(prometheus):
    config = parsed(SERVING / "monitoring.config", "MonitoringConfig").prometheus_config
    assert config.enable
    assert [job["metrics_path"] for job in prometheus["scrape_configs"]] == [config.path] * 2
    annotations = kubernetes("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(REST_PORT),
        "prometheus.io/path": config.path,
    }


def test_prometheus_looks_at_the_port_of_compose(prometheus):
    here, pods = prometheus["scrape_configs"]
    assert here["static_configs"] == [{"targets": [f"localhost:{REST_PORT}"]}]
    assert f"127.0.0.1:{REST_PORT}:{REST_PORT}" in compose()["ports"]
    assert here["job_name"] != pods["job_name"]


def test_prometheus_looks_at_every_pod_ready_or_not(prometheus):
    _, pods = prometheus["scrape_configs"]
    (asked,) = pods["dns_sd_configs"]
    assert (asked["type"], asked["port"]) == ("A", REST_PORT)
    (domain,) = asked["names"]
    name, _, rest = domain.partition(".")
    assert rest == "default.svc.cluster.local"
    service = kubernetes("Service", name)["spec"]
    assert service["clusterIP"] == "None"  # else the name is one address for all
    assert service["publishNotReadyAddresses"] is True
    assert service["selector"] == kubernetes("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert [(port["port"], port["targetPort"]) for port in service["ports"]] == [(REST_PORT, "rest")]


@pytest.fixture(scope="module")
def alerts(prometheus):
    (name,) = prometheus["rule_files"]
    (group,) = yaml.safe_load((SERVING / "monitoring" / name).read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def test_alerts_ask_for_series_that_are_there(alerts):
    assert {name: wrong(rule["expr"]) for name, rule in alerts.items()} == {
        "ModelVersionDoesNotLoad": [],
        "CallsFail": [],
        "ServerDoesNotAnswer": [],
        "NoServerToAsk": [],
    }


def test_servers_that_do_not_answer_and_servers_that_are_not_there_are_told_of_in_every_job(alerts, prometheus):
    series = re.match(r"up\{job=~\"(.*?)\"\}", alerts["ServerDoesNotAnswer"]["expr"])
    assert alerts["ServerDoesNotAnswer"]["expr"] == f"{series[0]} == 0"
    # Either job alone is enough: who runs compose.yaml has no pods.
    assert alerts["NoServerToAsk"]["expr"] == f"absent({series[0]})"
    assert all(re.fullmatch(series[1], job["job_name"]) for job in prometheus["scrape_configs"])
    assert not re.fullmatch(series[1], "prometheus")


# --- the dashboard --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dashboard():
    return json.loads((SERVING / "monitoring" / "dashboard.json").read_text())


def test_every_query_of_the_dashboard_asks_for_series_that_are_there(dashboard):
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) >= len(dashboard["panels"]) > 0
    assert [text for query in queries for text in wrong(query)] == []


def test_the_dashboards_variables_are_the_ones_it_uses(dashboard):
    source, model = dashboard["templating"]["list"]
    series, label = re.fullmatch(r"label_values\((\S+), (\w+)\)", model["query"]).groups()
    assert label in labels_of(series)
    used = re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"]))
    assert set(used) == {source["name"], model["name"], "__rate_interval"}
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {f"${{{source['name']}}}"}


def test_the_dashboards_panels_lie_side_by_side(dashboard):
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert {x for x, _ in taken} == set(range(24))  # Grafana's columns
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
