"""Kubernetes, models from an object store: what the init container copies, and how a new version gets there.

Its script is run by a shell, with rclone where it is, else with a stand-in that copies folders. No cloud's
store was at hand.
"""

import os
import re
import shutil
import subprocess

import pytest
from kustomized import CANARY, CANARY_PODS, NAMES, build, pod_of, together
from server_files import KUBERNETES


def test_with_an_object_store_no_claim_is_left():
    objects = together(CANARY, "models-from-object-store")
    assert "PersistentVolumeClaim" not in {item["kind"] for item in objects}
    for name in NAMES:
        pod = pod_of(objects, name)
        (served,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "models")
        (copied,) = pod["initContainers"][0]["volumeMounts"]
        assert (served["mountPath"], served["readOnly"]) == ("/models", True)
        assert copied == {"name": "models", "mountPath": "/models"}


def test_another_version_gives_the_pods_another_config_map():
    """That is what makes Kubernetes replace them."""
    objects = together("models-from-object-store")
    (source, _) = pod_of(objects)["initContainers"][0]["envFrom"]
    assert re.fullmatch(r"tfbrats-models-[a-z0-9]{10}", source["configMapRef"]["name"])
    text = (KUBERNETES / "example" / "models.env").read_text()
    assert "\nMODELS=cun/1\n" in text
    canary = pod_of(build(KUBERNETES / "example"), CANARY_PODS)["initContainers"][0]
    assert canary["env"] == [{"name": "MODELS", "value": "cun/2"}]
    config = (KUBERNETES / CANARY / "models.config").read_text()
    assert "specific { versions: 2 }" in config and 'base_path: "/models/cun"' in config


@pytest.fixture
def copy(tmp_path):
    """Runs the init container's script by a shell, with other folders; -> the process that ended."""
    (box,) = pod_of(together("models-from-object-store"))["initContainers"]
    script = box["args"][0].replace("/models/", f"{tmp_path}/pod/")
    programs = tmp_path / "programs"
    programs.mkdir()
    if shutil.which("rclone") is None:  # a stand-in with the three words that the script says to it
        stand_in = '#!/bin/sh\n[ "$1 $2 $3" = "copy --verbose --stats-one-line" ] || exit 9\n'
        stand_in += 'mkdir -p "$5" && cp -r "${4#store:}/." "$5"\n'
        (programs / "rclone").write_text(stand_in)
        (programs / "rclone").chmod(0o755)
    for version in ("1", "2"):
        (tmp_path / "store" / "cun" / version).mkdir(parents=True)
        (tmp_path / "store" / "cun" / version / "saved_model.pb").write_text(version)
    (tmp_path / "store" / "cun" / "3").mkdir()
    (tmp_path / "store" / "cun" / "3" / "fingerprint.pb").write_text("half of a version")
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "MODEL_STORE": f"store:{tmp_path}/store",
        "RCLONE_CONFIG_STORE_TYPE": "local",
        "RCLONE_CONFIG": f"{tmp_path}/none.conf",
    }

    def run(models):
        command = [*box["command"], script]
        return subprocess.run(command, env={**environment, "MODELS": models}, capture_output=True, text=True)

    return run


def test_the_versions_that_are_named_are_copied_and_no_others(copy, tmp_path):
    done = copy("cun/1 cun/2")
    assert done.returncode == 0, done.stderr
    assert {path.parent.name for path in (tmp_path / "pod").rglob("saved_model.pb")} == {"1", "2"}
    assert (tmp_path / "pod" / "cun" / "2" / "saved_model.pb").read_text() == "2"


@pytest.mark.parametrize("models", ["cun/3", "cun/4", "cun", "cun/", "/1", "cun/latest", "../cun/1", "a/b/1"])
def test_a_version_that_is_not_there_or_not_whole_or_no_version_stops_the_pod(copy, models):
    done = copy(models)
    assert done.returncode != 0
    assert models in done.stderr
