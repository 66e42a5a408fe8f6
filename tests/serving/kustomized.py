"""The base for Kubernetes with components, as kustomize puts them together; tests skip without it."""

import functools
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest
import yaml
from server_files import KUBERNETES

CANARY = "canary"
NAMES = SERVING_PODS, CANARY_PODS = ("tfbrats-serving", "tfbrats-serving-canary")
BUILD = next(
    (
        command
        for command in (["kubectl", "kustomize"], ["kustomize", "build"])
        if shutil.which(command[0]) is not None
    ),
    None,
)


def build(folder):
    """The objects that kustomize makes of a folder."""
    if BUILD is None:
        pytest.skip("neither kubectl nor kustomize")
    done = subprocess.run([*BUILD, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # a warning of what will not work for long
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


@functools.cache
def together(*parts):
    """The objects of the base with these components, and with the canary where it is one of the parts."""
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(os.path.realpath(made))  # paths of a kustomization are relative
        here = os.path.relpath(KUBERNETES, folder)
        text = {
            "resources": [f"{here}/base", *(f"{here}/{CANARY}" for part in parts if part == CANARY)],
            "components": [f"{here}/components/{part}" for part in parts if part != CANARY],
            "configMapGenerator": [{"name": "tfbrats-models", "literals": ["MODELS=cun/1"]}],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(text))
        return build(folder)


def one(objects, kind, name):
    (found,) = (item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name)
    return found


def pod_of(objects, name=SERVING_PODS):
    """Of a Deployment."""
    return one(objects, "Deployment", name)["spec"]["template"]["spec"]


def by_name(entries):
    return {entry["name"]: entry for entry in entries}
