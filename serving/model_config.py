"""Which models and versions a server is to serve: `models.config` as TensorFlow Serving reads it."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tfbrats.errors import InputError
from tfbrats.machine import files, paths

_NUMBER = re.compile("[0-9]+")


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


# --- its folder -------------------------------------------------------------------------------------------


def numbered(names: Iterable[str]) -> dict[int, str]:
    """Version -> folder, of the folders named by a number that a call can ask for; "007" is version 7."""
    folders = {}
    for name in sorted(name.rstrip("/") for name in names):
        if _NUMBER.fullmatch(name) and int(name) < 2**63:
            folders.setdefault(int(name), name)
    return folders


def check_folder(config: ModelConfig) -> None:
    """A look without TensorFlow, which alone knows some other places than the disk: those are not looked at.

    Raises:
        InputError: no such folder, or no version in it that is wanted.
    """
    if not files.is_local(config.base_path):
        return
    if not files.is_folder(config.base_path):
        raise no_folder(config)
    if not config.to_serve(numbered(os.listdir(paths.local(config.base_path)))):
        raise no_version(config)


def no_folder(config: ModelConfig) -> InputError:
    """The error to raise where there is no base path."""
    return InputError(
        f"{config.base_path}: no such folder. Give the folder that holds a model's versions, e.g. models/cun "
        "with models/cun/1 in it; `tfbrats export` writes one."
    )


def no_version(config: ModelConfig) -> InputError:
    """The error to raise where none of the versions that are wanted lies under the base path."""
    asked = f" or of {', '.join(map(str, config.specific))}, which are wanted" if config.specific else ""
    own = files.join(config.base_path, "saved_model.pb")
    is_version = files.is_local(own) and files.exists(own)
    hint = " It is itself one version: give its parent folder." if is_version else ""
    return InputError(
        f"{config.base_path}: no version in it, i.e. no folder named by a whole number such as 1{asked}.{hint}"
    )
