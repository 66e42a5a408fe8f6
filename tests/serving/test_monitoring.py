"""Scrape jobs, alerts and dashboard ask for what TensorFlow Serving exports, where the other files put it.

Queries are read by a parser of PromQL and looked up in a frozen list. Prometheus' own promtool, where it is,
reads the files and makes every alert fire and resolve. No Grafana was at hand.
"""

import json
import re
import shutil
import subprocess

import promql_parser
import pytest
import yaml
from server_files import REST_PORT, SERVING, compose, frozen, kubernetes, parsed

METRICS = {
    name: (kind, {*labels[0].split(",")} if labels else set())
    for name, kind, *labels in frozen("server_metrics.txt")
}
OF_PROMETHEUS = {"job", "instance"}
# Of others than the server: the kubelet (cAdvisor), kube-state-metrics, prometheus-blackbox-exporter.
OF_OTHERS = {
    "container_memory_working_set_bytes": {"namespace", "pod", "container"},
    "kube_pod_container_resource_limits": {"namespace", "pod", "container", "resource", "unit"},
    "probe_ssl_earliest_cert_expiry": OF_PROMETHEUS,
    "probe_success": OF_PROMETHEUS,
    # Recorded by alerts.yaml itself.
    **dict.fromkeys(
        (f"tfbrats:calls_{name}30m" for name in ("ok:rate", "failed:rate", "failed:share")),
        frozenset({"model_name", "job"}),
    ),
}


def labels_of(series):
    """The labels that a series has; None: the server has no such series, nor has Prometheus."""
    if series == "up":
        return OF_PROMETHEUS
    if series in OF_OTHERS:
        return OF_OTHERS[series]
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
    assert [job["metrics_path"] for job in prometheus["scrape_configs"]] == [config.path] * 3 + ["/probe"]
    annotations = kubernetes("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(REST_PORT),
        "prometheus.io/path": config.path,
    }


def test_prometheus_looks_at_the_port_of_compose(prometheus):
    here, pods, *_ = prometheus["scrape_configs"]
    assert here["static_configs"] == [{"targets": [f"localhost:{REST_PORT}"]}]
    assert f"127.0.0.1:{REST_PORT}:{REST_PORT}" in compose()["ports"]
    assert here["job_name"] != pods["job_name"]


def test_prometheus_looks_at_every_pod_ready_or_not(prometheus):
    _, pods, canary, _ = prometheus["scrape_configs"]
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
    assert canary["dns_sd_configs"] == [{**asked, "names": [f"{name}-canary.{rest}"]}]


# --- alerts ---------------------------------------------------------------------------------------------

RUNBOOK = SERVING.parent / "docs" / "how-to" / "runbook.md"
RULE_TESTS = ("alerts_test.yaml", "alerts_week_test.yaml")


@pytest.fixture(scope="module")
def alerts(prometheus):
    (name,) = prometheus["rule_files"]
    (group,) = yaml.safe_load((SERVING / "monitoring" / name).read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"] if "alert" in rule}


def test_what_is_recorded_is_reckoned_of_series_that_are_there(prometheus):
    (group,) = yaml.safe_load((SERVING / "monitoring" / "alerts.yaml").read_text())["groups"]
    recorded = {rule["record"]: rule["expr"] for rule in group["rules"] if "record" in rule}
    assert recorded.keys() == {name for name in OF_OTHERS if name.startswith("tfbrats:")}
    assert {name: wrong(expr) for name, expr in recorded.items() if wrong(expr)} == {}


def test_alerts_ask_for_series_that_are_there(alerts):
    assert len(alerts) == 12
    assert {name: wrong(rule["expr"]) for name, rule in alerts.items() if wrong(rule["expr"])} == {}


def test_every_alert_says_how_urgent_it_is_and_where_to_read_on(alerts):
    assert {rule["labels"]["severity"] for rule in alerts.values()} == {"critical", "warning"}
    sections = re.split(r"^## ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]
    told = {section.partition("\n")[0]: section for section in sections}
    assert [name for name in told if name in alerts] == list(alerts)  # in the file's order
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook_url"] == f"https://tfbrats.example/how-to/runbook/#{name.lower()}"
        for part in ("**What it means.**", "**How to look.**", "**What to do.**"):
            assert part in told[name], f"runbook.md, {name}: no {part}"


def test_servers_that_do_not_answer_and_servers_that_are_not_there_are_told_of_in_every_job(alerts, prometheus):
    every = re.fullmatch(r"up\{job=~\"(.*?)\"\} == 0", alerts["ServerDoesNotAnswer"]["expr"])[1]
    # One job of these is enough: who runs compose.yaml has no pods. The canary serves some callers only.
    stable = re.fullmatch(r"absent\(up\{job=~\"(.*?)\"\} == 1\)", alerts["NoServerAnswers"]["expr"])[1]
    here, pods, canary, certificate = (job["job_name"] for job in prometheus["scrape_configs"])
    assert [bool(re.fullmatch(every, job)) for job in (here, pods, canary, certificate)] == [True] * 3 + [False]
    assert [bool(re.fullmatch(stable, job)) for job in (here, pods, canary, certificate)] == [True] * 2 + [
        False
    ] * 2
    text = json.dumps(list(alerts.values()))
    assert {*re.findall(r'job=\\"(.*?)\\"', text)} == {canary, certificate}
    assert {*re.findall(r'job=~\\"(.*?)\\"', text)} == {every, stable}


def test_every_alert_fires_and_resolves_in_a_rule_test(alerts):
    """That is what the tests ask for; whether it is so, promtool says below."""
    shown = {name: set() for name in alerts}
    for name in RULE_TESTS:
        for test in yaml.safe_load((SERVING / "monitoring" / name).read_text())["tests"]:
            fired = set()
            for asked in test["alert_rule_test"]:  # in the order of their times
                alert = asked["alertname"]
                if asked.get("exp_alerts"):
                    fired.add(alert)
                    shown[alert].add("fires")
                elif alert in fired:
                    shown[alert].add("resolves")
    assert shown == {name: {"fires", "resolves"} for name in alerts}


@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml"),
        ("check", "config", "prometheus.yaml"),
        ("test", "rules", *RULE_TESTS),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_promtool_agrees(command):
    if shutil.which("promtool") is None:
        pytest.skip("no promtool: Debian's package prometheus has it")
    done = subprocess.run(["promtool", *command], cwd=SERVING / "monitoring", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


# --- the dashboard --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dashboard():
    return json.loads((SERVING / "monitoring" / "dashboard.json").read_text())


def test_every_query_of_the_dashboard_asks_for_series_that_are_there(dashboard):
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) >= len(dashboard["panels"]) > 0
    assert [text for query in queries for text in wrong(query)] == []


def series_of(query):
    names = set()

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            names.add(node.name)

    promql_parser.walk(promql_parser.parse(query.replace("$__rate_interval", "5m")), visit)
    return names


def test_what_an_alert_looks_at_can_be_seen_on_the_dashboard(alerts, dashboard):
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = set().union(*(series_of(rule["expr"]) for rule in alerts.values()))
    assert len(asked) == 13
    # Their share is there, and the calls of each server.
    of_share = {"tfbrats:calls_ok:rate30m", "tfbrats:calls_failed:rate30m"}
    assert asked - set().union(*map(series_of, queries)) == of_share


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
