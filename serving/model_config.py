"""Which models and versions a server is to serve: `models.config` as TensorFlow Serving reads it."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tfbrats.errors import InputError
from tfbrats.machine import files, paths


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve.

    Attributes:
        name: that callers ask for.
        base_path: folder of its versions.
        latest: so many of the highest versions; None: all, or `specific` ones.
        specific: these versions alone.
        labels: a version's second name, e.g. {"canary": 2}.
    """

    name: str
    base_path: str
    latest: int | None = 1
    specific: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)

    def wanted(self, found: Iterable[int]) -> list[int]:
        """Those of the versions found that are to be served, ascending."""
        found = sorted(found)
        if self.specific:
            return [version for version in found if version in self.specific]
        return found if self.latest is None else found[-self.latest :]


def read(path: str | os.PathLike) -> list[ModelConfig]:
    """The models of a `model_config_list`.

    Raises:
        InputError: no such file, or the real server would not take it either.
    """
    wanted = "Text format of tensorflow.serving.ModelServerConfig; serving/models.config is one."
    try:
        parsed = text_format.Parse(files.read_text(path), model_server_config_pb2.ModelServerConfig())
    except text_format.ParseError as error:
        raise InputError(f"{path}: cannot be read: {error}. {wanted}") from error
    found = [_model(one, path) for one in parsed.model_config_list.config]
    if not found:
        raise InputError(f"{path}: names no model. {wanted}")
    names = [one.name for one in found]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise InputError(
            f"{path}: {', '.join(sorted(doubled))} is named twice. Give each model a name of its own."
        )
    return found


def _model(one, path) -> ModelConfig:
    where = f"{path}: model {one.name!r}"
    if not one.name:
        raise InputError(f"{path}: a model has no name. Give it one.")
    if not one.base_path.startswith("/"):
        raise InputError(f"{where}: its base_path is {one.base_path!r}; the real server wants an absolute one.")
    if one.model_platform != "tensorflow":
        raise InputError(f"{where}: its model_platform is {one.model_platform!r}; expected 'tensorflow'.")
    policy = one.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    specific = tuple(sorted(policy.specific.versions))
    if kind == "specific" and not specific:
        raise InputError(f"{where}: its policy is `specific` and names no version. Name one.")
    latest = max(policy.latest.num_versions, 1) if kind in (None, "latest") else None
    return ModelConfig(
        one.name, paths.direct(one.base_path.rstrip("/")), latest, specific, dict(one.version_labels)
    )
