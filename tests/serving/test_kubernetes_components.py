"""The components for Kubernetes, alone and together, as kustomize puts them on the base.

Every combination is built and held to Kubernetes' own schemas and to the Prometheus Operator's: all pairs on
each run, all of them among the slow tests. Without kubectl or kustomize they skip. No cluster was at hand.

operator_schemas.json: openAPIV3Schema of PodMonitor and PrometheusRule, prometheus-operator 0.92.1, Apache-2.0
(example/prometheus-operator-crd of its Go module), without descriptions; a key that is not listed is refused.
"""

import functools
import itertools
import json
import pathlib
import re
import shutil
import subprocess

import jsonschema
import kubernetes_validate
import promql_parser
import pytest
import yaml
from kustomized import CANARY, CANARY_PODS, NAMES, SERVING_PODS, build, by_name, one, pod_of, together
from server_files import KUBERNETES, REST_PORT, SERVING, commands, container, frozen, kustomization, parsed

COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
PARTS = [CANARY, *COMPONENTS]
SCALERS = {"autoscaling-cpu", "autoscaling-calls"}  # two would pull at one number
ALL = [part for part in PARTS if part != "autoscaling-calls"]
OLDEST = "1.27"

# --- all of them ----------------------------------------------------------------------------------------

OPERATOR = json.loads((pathlib.Path(__file__).parent / "operator_schemas.json").read_text())


@functools.cache
def faults(text):
    """What the schemas find wrong with an object (JSON): of the oldest Kubernetes and of the newest."""
    thing = json.loads(text)
    if thing["apiVersion"].startswith("monitoring.coreos.com/"):
        validator = jsonschema.Draft7Validator(OPERATOR[thing["kind"]])
        return [f"{thing['kind']}: {error.message}" for error in validator.iter_errors(thing)]
    found = []
    for version in (OLDEST, kubernetes_validate.latest_version()):
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{thing['kind']} {thing['metadata']['name']}, {version}: {error.message}")
    return found


def dangling(objects):
    """What a pod names and the combination does not hold, but for Secrets, which are not to be in it."""
    held = {(item["kind"], item["metadata"]["name"]) for item in objects}
    text = json.dumps([item["spec"]["template"]["spec"] for item in objects if item["kind"] == "Deployment"])
    asked = {("ConfigMap", name) for name in re.findall(r'"config[Mm]ap(?:Ref)?": \{"name": "(.*?)"', text)}
    asked |= {("PersistentVolumeClaim", name) for name in re.findall(r'"claimName": "(.*?)"', text)}
    asked |= {("ServiceAccount", name) for name in re.findall(r'"serviceAccountName": "(.*?)"', text)}
    return asked - held


def check(parts):
    objects = together(*parts)
    names = [(item["kind"], item["metadata"]["name"]) for item in objects]
    assert len(set(names)) == len(names)
    assert [text for item in objects for text in faults(json.dumps(item, sort_keys=True))] == []
    assert dangling(objects) == set()
    for item in objects:
        if item["kind"] == "Deployment":
            check_pod(item["spec"]["template"]["spec"])


def check_pod(pod):
    """What holds for every pod, whatever it is made of."""
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    volumes = by_name(pod["volumes"])
    room = 0
    for volume in volumes.values():
        if "emptyDir" in volume:
            room += mebibytes(volume["emptyDir"]["sizeLimit"])  # none is without
    for box in (*pod["containers"], *pod.get("initContainers", [])):
        assert {mount["name"] for mount in box["volumeMounts"]} <= volumes.keys()
        own = box["securityContext"]
        assert own["readOnlyRootFilesystem"] and own["capabilities"] == {"drop": ["ALL"]}
        assert not own["allowPrivilegeEscalation"]
        assert mebibytes(box["resources"]["limits"]["ephemeral-storage"]) > room  # else it is evicted before
        assert re.search(r":v?\d+\.\d+\.\d+(-gpu)?$|@sha256:[0-9a-f]{64}$", box["image"]), box["image"]


def mebibytes(text):
    number, unit = re.fullmatch(r"(\d+)([MG])i", text).groups()
    return int(number) * {"M": 1, "G": 1024}[unit]


def combinations(count):
    chosen = itertools.combinations(PARTS, count)
    return [parts for parts in chosen if not {*parts} >= SCALERS]


@pytest.mark.parametrize("count", [0, 1, 2, len(ALL)])
def test_each_two_and_all_components_together_are_what_the_schemas_ask_for(count):
    for parts in combinations(count) if count < len(ALL) else [tuple(ALL)]:
        check(parts)


@pytest.mark.slow
def test_every_combination_is_what_the_schemas_ask_for():
    every = [parts for count in range(len(PARTS) + 1) for parts in combinations(count)]
    assert len(every) == 3 * 2 ** (len(PARTS) - 2)
    for parts in every:
        check(parts)


def test_a_wrong_object_is_found_wrong():
    good = together("prometheus-operator")
    for kind, key in (("PodMonitor", "podMetricsEndpoint"), ("Deployment", "replica"), ("Service", "port")):
        (thing, *_) = (item for item in good if item["kind"] == kind)
        assert faults(json.dumps(thing)) == []
        (said, *_) = faults(json.dumps({**thing, "spec": {**thing["spec"], key: 1}}))
        assert key in said


def test_what_was_applied_by_the_folder_serving_is_what_the_base_gives():
    assert build(SERVING) == build(KUBERNETES / "base")


def test_the_example_is_whole_and_its_images_are_pinned_by_digest():
    objects = build(KUBERNETES / "example")
    assert {item["metadata"]["namespace"] for item in objects} == {"tfbrats"}
    assert [text for item in objects for text in faults(json.dumps(item, sort_keys=True))] == []
    assert dangling(objects) == set()
    for name in NAMES:
        check_pod(pod_of(objects, name))
        assert "@sha256:" in pod_of(objects, name)["containers"][0]["image"]
    text = (KUBERNETES / "example" / "kustomization.yaml").read_text()
    listed = {*re.findall(r"\.\./components/(\S+)", text)}
    assert {*COMPONENTS} - listed == {"autoscaling-calls"} and "or autoscaling-calls" in text


# --- one by one -----------------------------------------------------------------------------------------

FLAGS = dict(frozen("server_flags.txt"))


def test_tls_names_a_file_of_its_secret_and_the_liveness_probe_speaks_no_grpc():
    objects = together(CANARY, "tls")
    for name in NAMES:
        pod = pod_of(objects, name)
        (box,) = pod["containers"]
        (file,) = (arg.partition("=")[2] for arg in box["args"] if arg.startswith("--ssl_config_file="))
        assert "ssl_config_file" in FLAGS
        secret = by_name(pod["volumes"])["tls"]["secret"]
        mount = by_name(box["volumeMounts"])["tls"]
        assert mount["readOnly"] and file == f"{mount['mountPath']}/{secret['items'][0]['path']}"
        own = pod["securityContext"]
        assert (secret["defaultMode"], own["fsGroup"]) == (0o440, own["runAsGroup"])
        assert box["livenessProbe"].keys() & {"grpc", "tcpSocket"} == {"tcpSocket"}
    told = (KUBERNETES / "components" / "tls" / "kustomization.yaml").read_text()
    made = f"kubectl create secret generic {secret['secretName']} --from-file=tls/{secret['items'][0]['key']}"
    assert made in told
    assert made in (SERVING / "ssl.config").read_text()
    assert any("> tls/ssl.config" in line for line in commands("ssl.config"))


def test_the_network_policy_lets_callers_in_by_grpc_and_prometheus_by_rest():
    objects = together(CANARY, "network-policy", "certificate-probe")
    policy = one(objects, "NetworkPolicy", "tfbrats-serving")["spec"]
    (picked,) = policy["podSelector"]["matchExpressions"]
    labels = [
        item["spec"]["template"]["metadata"]["labels"][picked["key"]]
        for item in objects
        if item["kind"] == "Deployment"
    ]
    assert sorted(labels) == ["tfbrats-certificate-probe", *sorted(picked["values"])]
    assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])
    callers, prometheus = policy["ingress"]
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert [rule["ports"][0]["port"] for rule in (callers, prometheus)] == ["grpc", "rest"]
    assert ports == {"grpc": 8500, "rest": REST_PORT}
    # An entry without a selector, or with an empty one, would be everybody.
    assert all(selector for rule in policy["ingress"] for entry in rule["from"] for selector in entry.values())
    assert {picked["key"]: "tfbrats-certificate-probe"} in [
        entry["podSelector"]["matchLabels"] for entry in callers["from"]
    ]


@pytest.mark.parametrize("component", sorted(SCALERS))
def test_an_autoscaler_finds_its_deployment_which_sets_no_number_itself(component):
    objects = together(CANARY, component)
    deployment = one(objects, "Deployment", SERVING_PODS)
    assert "replicas" not in deployment["spec"]
    assert one(objects, "Deployment", CANARY_PODS)["spec"]["replicas"] == 1
    scaler = one(objects, "HorizontalPodAutoscaler", "tfbrats-serving")["spec"]
    asked = scaler["scaleTargetRef"]
    assert (asked["apiVersion"], asked["kind"], asked["name"]) == ("apps/v1", "Deployment", SERVING_PODS)
    assert 2 == scaler["minReplicas"] < scaler["maxReplicas"]
    assert (
        one(objects, "PodDisruptionBudget", "tfbrats-serving")["spec"]["maxUnavailable"] < scaler["minReplicas"]
    )


def test_the_metric_of_the_autoscaler_is_what_the_adapters_rule_makes():
    folder = KUBERNETES / "components" / "autoscaling-calls"
    (rule,) = yaml.safe_load((folder / "adapter_rules.yaml").read_text())["rules"]
    (metric,) = yaml.safe_load((folder / "autoscaler.yaml").read_text())["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    names = {f"{name}_sum" for name, kind, *_ in frozen("server_metrics.txt") if kind == "histogram"}
    assert rule["seriesQuery"].partition("{")[0] in names
    query = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
    for word, value in (("<<.GroupBy>>", "pod"), ("<<.LabelMatchers>>", 'namespace="n"')):
        query = query.replace(word, value)
    assert isinstance(promql_parser.parse(query), promql_parser.BinaryExpr)  # or it raises
    # Half of the calls that a pod takes at once.
    (threads,) = (arg for arg in container()["args"] if arg.startswith("--grpc_max_threads="))
    assert 2 * int(metric["pods"]["target"]["averageValue"]) == int(threads.partition("=")[2]) - 1


def test_the_image_for_gpus_is_of_the_bases_version():
    (base,) = kustomization()["images"]
    for name in NAMES:
        pod = pod_of(together(CANARY, "gpu"), name)
        (box,) = pod["containers"]
        assert box["image"] == f"{base['name']}:{base['newTag']}-gpu"
        assert box["resources"]["limits"]["nvidia.com/gpu"] == "1"
        (cache,) = (entry["value"] for entry in box["env"] if entry["name"] == "CUDA_CACHE_PATH")
        assert cache.startswith(by_name(box["volumeMounts"])["scratch"]["mountPath"] + "/")


# --- the Prometheus Operator ----------------------------------------------------------------------------


def test_the_operators_rules_are_the_alerts():
    folder = KUBERNETES / "components" / "prometheus-operator"
    rules = yaml.safe_load((folder / "rules.yaml").read_text())
    alerts = yaml.safe_load((SERVING / "monitoring" / "alerts.yaml").read_text())
    assert rules["spec"] == alerts, "make rules.yaml anew: its head says how"


def test_the_head_of_the_operators_rules_says_how_they_are_made(tmp_path):
    shutil.copytree(SERVING / "monitoring", tmp_path / "monitoring")
    folder = tmp_path / "kubernetes" / "components" / "prometheus-operator"
    shutil.copytree(KUBERNETES / "components" / "prometheus-operator", folder)
    lines = (folder / "rules.yaml").read_text().splitlines()
    script = "\n".join(line.removeprefix("#") for line in lines if line.startswith("#   "))
    subprocess.run(["sh", "-euc", script], cwd=folder, check=True)
    assert (folder / "rules.yaml").read_text().splitlines() == lines


def test_the_operator_scrapes_every_server_under_the_jobs_that_the_alerts_know():
    objects = together(CANARY, "prometheus-operator")
    monitor = one(objects, "PodMonitor", "tfbrats-serving")["spec"]
    (picked,) = monitor["selector"]["matchExpressions"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["path"] == parsed(SERVING / "monitoring.config", "MonitoringConfig").prometheus_config.path
    jobs = []
    for name in NAMES:
        pod = one(objects, "Deployment", name)["spec"]["template"]
        assert "annotations" not in pod["metadata"]  # no second scrape by them
        assert pod["metadata"]["labels"][picked["key"]] in picked["values"]
        jobs.append(pod["metadata"]["labels"][monitor["jobLabel"]])
        assert endpoint["port"] in by_name(pod["spec"]["containers"][0]["ports"])
    known = [job["job_name"] for job in scrape_jobs()]
    assert jobs == [known[0], known[2]]


def scrape_jobs():
    return yaml.safe_load((SERVING / "monitoring" / "prometheus.yaml").read_text())["scrape_configs"]


def test_the_certificate_is_asked_for_alike_with_and_without_the_operator():
    objects = together("certificate-probe", "prometheus-operator-certificate")
    (endpoint,) = one(objects, "PodMonitor", "tfbrats-certificate")["spec"]["podMetricsEndpoints"]
    job = scrape_jobs()[3]
    assert (endpoint["path"], endpoint["params"]) == (job["metrics_path"], job["params"])
    replaced = {rule["targetLabel"]: rule.get("replacement") for rule in endpoint["relabelings"]}
    assert replaced["job"] == job["job_name"]
    service = one(objects, "Service", "tfbrats-certificate-probe")
    address = f"{service['metadata']['name']}.$1.svc:{service['spec']['ports'][0]['port']}"
    assert replaced["__address__"] == address
    plain = {rule["target_label"]: rule.get("replacement") for rule in job["relabel_configs"]}
    assert plain["__address__"] == address.replace("$1.svc", "default.svc.cluster.local")
    modules = yaml.safe_load((KUBERNETES / "components" / "certificate-probe" / "blackbox.yaml").read_text())
    assert [*modules["modules"]] == job["params"]["module"]
    # It asks the pods by address, and expects the name that callers use.
    expected = modules["modules"]["tfbrats_grpc_tls"]["grpc"]["tls_config"]
    assert expected["server_name"] == one(objects, "Deployment", SERVING_PODS)["metadata"]["name"]
    box = pod_of(objects, "tfbrats-certificate-probe")["containers"][0]
    assert expected["ca_file"].rpartition("/")[0] == by_name(box["volumeMounts"])["authority"]["mountPath"]
