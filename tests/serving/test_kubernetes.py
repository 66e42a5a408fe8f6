"""The base for Kubernetes is what its schemas ask for, and fits itself, the models' config and the client.

No cluster was at hand: nothing here has been applied to one. test_kubernetes_components.py has the rest.
"""

import contextlib
import re
import time

import kubernetes_validate
import pytest
import tiny_model
import yaml
from server_files import (
    KUBERNETES,
    REST_PORT,
    SERVING,
    calls_at_once,
    container,
    kubernetes,
    kustomization,
    memory_gib,
)

from serving import client, model_config, server


@pytest.fixture
def pod():
    return kubernetes("Deployment")["spec"]["template"]


def by_name(entries):
    return {entry["name"]: entry for entry in entries}


FILES = kustomization()["resources"]


def test_all_files_are_applied():
    beside = {path.name for path in (KUBERNETES / "base").glob("*.yaml")}
    assert beside == {*FILES, "kustomization.yaml"}


@pytest.mark.parametrize("version", ["1.27", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_the_schemas_ask_for(name, version):
    text = (KUBERNETES / "base" / name).read_text()
    kubernetes_validate.validate(yaml.safe_load(text), version, strict=True)


def test_the_config_map_holds_the_files_that_flags_name(pod):
    (made,) = kustomization()["configMapGenerator"]
    named = re.findall(r"=/config/(\S+)", " ".join(container()["args"]))
    assert made["files"] == [
        *named,
        "batching.config",
    ]  # the last for who adds the flags of models_batching.config
    assert by_name(pod["spec"]["volumes"])["config"]["configMap"]["name"] == made["name"]


def test_the_bases_files_are_those_that_everything_else_uses():
    """Kustomize reads no file from above its folder, so there are two of each."""
    (made,) = kustomization()["configMapGenerator"]
    for name in made["files"]:
        assert (KUBERNETES / "base" / name).read_text() == (SERVING / name).read_text(), name
    above = yaml.safe_load((SERVING / "kustomization.yaml").read_text())
    assert above["resources"] == ["kubernetes/base"]
    assert above["images"] == kustomization()["images"]
    assert above["configMapGenerator"] == [{**made, "behavior": "replace"}]


def test_models_come_from_the_claim_and_nothing_but_scratch_can_be_written(pod):
    mounts, volumes = by_name(container()["volumeMounts"]), by_name(pod["spec"]["volumes"])
    assert mounts.keys() == volumes.keys()
    assert (mounts["models"]["mountPath"], mounts["config"]["mountPath"]) == ("/models", "/config")
    claimed = volumes["models"]["persistentVolumeClaim"]
    assert claimed == {"claimName": kubernetes("PersistentVolumeClaim")["metadata"]["name"], "readOnly": True}
    assert [mount["mountPath"] for mount in mounts.values() if not mount.get("readOnly")] == ["/tmp"]
    assert container()["securityContext"]["readOnlyRootFilesystem"]


def test_the_pod_has_no_rights_it_does_not_need(pod):
    whole, own = pod["spec"], container()["securityContext"]
    assert whole["securityContext"]["runAsNonRoot"] and whole["securityContext"]["runAsUser"] > 0
    assert not whole["automountServiceAccountToken"]
    assert not own["allowPrivilegeEscalation"]
    assert own["capabilities"] == {"drop": ["ALL"]}


def test_a_pod_is_ready_when_the_models_metadata_answers():
    probes = container()
    ports = {port["name"]: port["containerPort"] for port in probes["ports"]}
    assert ports == {"grpc": 8500, "rest": REST_PORT}
    (model,) = model_config.read(SERVING / "models.config")
    ready = {"path": f"/v1/models/{model.name}/metadata", "port": "rest"}
    assert probes["readinessProbe"]["httpGet"] == probes["startupProbe"]["httpGet"] == ready
    # A slow load must not get the pod killed: of the process alone.
    assert probes["livenessProbe"]["grpc"] == {"port": ports["grpc"]}
    assert "--enable_grpc_healthcheck_service=true" in probes["args"]
    # Longer than the server itself tries: --max_num_load_retries 5, --load_retry_interval_micros a minute.
    assert probes["startupProbe"]["periodSeconds"] * probes["startupProbe"]["failureThreshold"] > 5 * 60


# Of the callers, and of Prometheus.
SERVICES = ("tfbrats-serving", "tfbrats-serving-metrics")


def test_services_and_budget_stand_for_the_deployments_pods(pod):
    labels, deployment = pod["metadata"]["labels"], kubernetes("Deployment")["spec"]
    assert deployment["selector"]["matchLabels"] == labels
    for name in SERVICES:
        assert kubernetes("Service", name)["spec"]["selector"] == labels
    budget = kubernetes("PodDisruptionBudget")["spec"]
    assert budget["selector"]["matchLabels"] == labels
    assert budget["maxUnavailable"] < deployment["replicas"]


def test_the_service_is_headless_and_its_name_is_the_callers_address():
    service = kubernetes("Service", SERVICES[0])
    assert service["spec"]["clusterIP"] == "None"
    assert not service["spec"].get("publishNotReadyAddresses")  # the ready pods alone
    ports = {port["port"]: port["targetPort"] for port in service["spec"]["ports"]}
    assert ports == {8500: "grpc", REST_PORT: "rest"}
    address = f"dns:///{service['metadata']['name']}:8500"
    assert (
        f"tfbrats call --server {address} --model-name cun"
        in (KUBERNETES / "base" / "kustomization.yaml").read_text()
    )


def test_the_client_goes_round_all_addresses_of_a_name(tmp_path):
    with contextlib.ExitStack() as stack:
        ports = []
        for version in (1, 2):  # as two pods would not, to tell them apart
            tiny_model.write(tmp_path / str(version) / "tiny", version)
            ports.append(stack.enter_context(server.start(tmp_path / str(version) / "tiny")).port)
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
        caller = stack.enter_context(client.Client(f"ipv4:{addresses}", "tiny"))
        answered = {caller.signatures()[0]}
        end = time.monotonic() + 10
        while len(answered) < 2 and time.monotonic() < end:  # the second connection may take a moment more
            answered.add(caller.signatures()[0])
    assert answered == {1, 2}


def test_callers_look_for_pods_anew_well_before_one_that_goes_is_killed(pod):
    (flag,) = (flag for flag in container()["args"] if flag.startswith("--grpc_channel_arguments="))
    age_ms = int(re.fullmatch(r"--grpc_channel_arguments=grpc\.max_connection_age_ms=(\d+)", flag).group(1))
    assert 2 * age_ms / 1000 < pod["spec"]["terminationGracePeriodSeconds"]


def test_tensorflow_counts_the_cores_that_the_pod_may_use():
    resources = container()["resources"]
    assert resources["requests"]["cpu"] == resources["limits"]["cpu"]
    assert f"--tensorflow_intra_op_parallelism={resources['limits']['cpu']}" in container()["args"]


def test_as_many_cases_as_the_threads_take_fit_into_the_memory_and_one_more_would_not():
    resources, calls = container()["resources"], calls_at_once(container()["args"])
    assert resources["requests"]["memory"] == resources["limits"]["memory"]  # nobody else's
    limit_gib = int(re.fullmatch(r"(\d+)Gi", resources["limits"]["memory"]).group(1))
    assert memory_gib(calls) <= limit_gib < memory_gib(calls + 1)
