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

    def to_serve(self, versions: Iterable[int]) -> list[int]:
        """Those of the versions under the base path that are to be served, ascending."""
        ascending = sorted(versions)
        if self.specific:
            return [version for version in ascending if version in self.specific]
        return ascending if self.latest is None else ascending[-self.latest :]


def read(path: str | os.PathLike) -> list[ModelConfig]:
    """The models of a `model_config_list`.

    Raises:
        InputError: no such file, or the real server would not take it either.
    """
    expected = "Text format of tensorflow.serving.ModelServerConfig; serving/models.config is one."
    try:
        parsed = text_format.Parse(files.read_text(path), model_server_config_pb2.ModelServerConfig())
    except text_format.ParseError as error:
        raise InputError(f"{path}: cannot be read: {error}. {expected}") from error
    models = [_model(config, path) for config in parsed.model_config_list.config]
    if not models:
        raise InputError(f"{path}: names no model. {expected}")
    names = [model.name for model in models]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise InputError(
            f"{path}: {', '.join(sorted(doubled))} is named twice. Give each model a name of its own."
        )
    return models


def _model(config, path: str | os.PathLike) -> ModelConfig:
    """A ModelConfig message as ours. Raises InputError: the real server would not take it."""
    where = f"{path}: model {config.name!r}"
    if not config.name:
        raise InputError(f"{path}: a model has no name. Give it one.")
    if not config.base_path.startswith("/"):
        raise InputError(
            f"{where}: its base_path is {config.base_path!r}; the real server wants an absolute one."
        )
    if config.model_platform != "tensorflow":
        raise InputError(f"{where}: its model_platform is {config.model_platform!r}; expected 'tensorflow'.")
    policy = config.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    specific = tuple(sorted(policy.specific.versions))
    if kind == "specific" and not specific:
        raise InputError(f"{where}: its policy is `specific` and names no version. Name one.")
    latest = max(policy.latest.num_versions, 1) if kind in (None, "latest") else None
    return ModelConfig(
        config.name, paths.direct(config.base_path.rstrip("/")), latest, specific, dict(config.version_labels)
    )
