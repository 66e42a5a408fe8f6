"""What is exported: a run, or several of one row, and what was chosen for their model.

No TensorFlow until its checkpoints are asked for.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tfbrats.config import Config, PatchConfig, differences
from tfbrats.config_file import overridden
from tfbrats.config_sections import Run
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, LabelSchema
from tfbrats.machine import files
from tfbrats.runs.folder import RunFolder
from tfbrats.tuning import tuned_file
from tfbrats.tuning.choices import PLAIN, Tuned
from tfbrats.tuning.tuned_file import TunedFile

# Precision -> how far the SavedModel's probabilities may be from the Keras model's, and which share of the
# labels may differ: a Session fuses other operations, and in bfloat16 what is fused is rounded elsewhere.
APART = {"float32": (1e-5, 0.0), "mixed_bfloat16": (0.1, 0.01)}
_TUNED_WITH = "cascade.threshold"
FREE = ("cascade.margin", "cascade.stride", _TUNED_WITH, "cascade.tile_batch")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run's best weights.

    Attributes:
        config: the run's, with what was chosen anew; `run.dir` is where the run lies now.
    """

    run: RunFolder
    config: Config

    @functools.cached_property
    def checkpoints(self) -> Mapping[str, str]:
        """Region ("" where there is one network) -> its best checkpoint.

        Raises:
            InputError: some have none yet.
        """
        from tfbrats.training import best_weights

        return best_weights.best_checkpoints(self.config, self.config.whole.regions)

    @functools.cached_property
    def weights(self) -> tuple[str, ...]:
        """SHA-256 of each network's best checkpoint, sorted; raises as `checkpoints`."""
        from tfbrats.training import best_weights

        return tuple(sorted(map(best_weights.sha256_of, self.checkpoints.values())))


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What is exported: the best weights of some runs, and what was chosen for their one model.

    Attributes:
        members: the runs; alike in all that a case meets before and after the networks.
        schema: whose label values come out.
        precision: in which the networks compute, one of `APART`.
        flips: whether answers are averaged over mirrored inputs (`mirrors`).
        tuning: what `tfbrats tune` chose for these weights; None for the plain model.
    """

    members: tuple[Trained, ...]
    schema: LabelSchema
    precision: str
    flips: bool = False
    tuning: TunedFile | None = None

    @property
    def tuned(self) -> Tuned:
        """The choices that stand in the graph beside the networks; mirrored inputs are `flips`' concern."""
        return PLAIN if self.tuning is None else dataclasses.replace(self.tuning.choices, flips=False)

    def check_weights(self) -> None:
        """Raises InputError if two runs have the same weights, or choices others; reads the checkpoints."""
        run_of: dict[tuple[str, ...], str] = {}
        for one in self.members:
            path = one.run.path
            if (other := run_of.setdefault(one.weights, path)) != path:
                raise InputError(
                    f"{path}: has the weights of {other}, as a copy has. A run counts once in a mean; name one "
                    "of the two."
                )
        if self.tuning is not None:
            weights = [sha256 for one in self.members for sha256 in one.weights]
            tuned_file.check_weights([one.run.path for one in self.members], self.tuning, weights)

    @property
    def run(self) -> RunFolder:
        """The first run."""
        return self.members[0].run

    @property
    def config(self) -> Config:
        """The first run's; what others have otherwise is of their training alone, and the width."""
        return self.members[0].config

    @property
    def first_alone(self) -> "Chosen":
        """The first run's, with inputs as they lie."""
        return dataclasses.replace(self, members=self.members[:1], flips=False)

    @property
    def mirrors(self) -> tuple[tuple[int, ...], ...]:
        """How a network's input is mirrored, each once: axes of the case's grid, () as it lies.

        Along the axes along which training mirrored, for a network has seen the like: both of a slice's. Where
        training mirrored none, as of patches, from left to right alone: in a mirror a half of the brain looks
        as the other does, and no brain looks like one that is back to front.
        """
        if not self.flips:
            return ((),)
        of_training = [getattr(one.config.data, "flip", 0) > 0 for one in self.members]
        return ((), (0,), (1,), (0, 1)) if all(of_training) else ((), (0,))

    @property
    def is_averaged(self) -> bool:
        """Whether answers are means over several passes."""
        return len(self.members) > 1 or self.flips


def chosen_from(
    run_dirs: str | os.PathLike | Sequence[str | os.PathLike],
    edition: str | None = None,
    overrides: Sequence[str] = (),
    precision: str = "float32",
    flips: bool = False,
    plain: bool = True,
    any_labels: bool = False,
) -> Chosen:
    """What is to be exported of a run, or of several as one model.

    Args:
        run_dirs: the run folder, or several of one row.
        edition: whose label values come out; by default those of the training data.
        overrides: section.key=value for keys in `FREE`.
        precision: in which the networks compute, one of `APART`.
        flips: average over mirrored inputs, whatever was tuned.
        plain: leave away what was tuned.
        any_labels: runs may differ in their label values, since none are written or `edition` says whose.

    Raises:
        InputError: no run, or one without a checkpoint yet; an override of what training has settled; an
            unknown edition; runs that do not make one model; a tuned.json that does not go with the overrides.
    """
    folders = [run_dirs] if isinstance(run_dirs, str | os.PathLike) else list(run_dirs)
    schema = None if edition is None else _schema_of(edition)
    members = tuple(_trained(folder, overrides) for folder in folders)
    for one in members:
        _check_is_trained(one.run, one.config)
    _check_make_one_model(members, any_labels or schema is not None)
    schema = schema or LabelSchema.from_json(members[0].run.records["label_schemas"][0])
    tuning = None if plain else _tuning_of(members, overrides)
    return Chosen(members, schema, precision, flips or bool(tuning and tuning.choices.flips), tuning)


def _tuned_path(members: Sequence[Trained]) -> str:
    return tuned_file.path_in(members[0].run.path)


def _tuning_of(members: Sequence[Trained], overrides: Sequence[str]) -> TunedFile | None:
    """What was chosen for these runs; None where there is none.

    Raises:
        InputError: it cannot be read, was not chosen for all of them together, or a threshold is asked for
            beside it.
    """
    by_run = {one.run.path: tuned_file.read(one.run.path) for one in members}
    tuning, *others = by_run.values()
    if any(other != tuning for other in others):
        if all(one is None or one.choices.is_plain for one in by_run.values()):
            return None
        raise InputError(
            f"{', '.join(by_run)}: not tuned together, so that nothing was chosen for their mean. "
            f"{tuned_file.again(by_run)} Or leave the choices of single runs away: tfbrats export --plain."
        )
    if tuning is not None and any(text.partition("=")[0] == _TUNED_WITH for text in overrides):
        raise InputError(
            f"{_tuned_path(members)}: was chosen with the run's own {_TUNED_WITH}. Leave the override out, or "
            "what was chosen, with --plain."
        )
    return tuning


def _trained(folder: str | os.PathLike, overrides: Sequence[str]) -> Trained:
    run = RunFolder(folder)
    return Trained(run, _with_overrides(run.config.model_copy(update={"run": Run(dir=run.path)}), overrides))


def _check_make_one_model(members: Sequence[Trained], any_labels: bool) -> None:
    """Raises InputError for runs that are one, or differ in what a case meets before or after the networks.

    Args:
        any_labels: whether their label values may differ, since others are written.
    """
    first, *others = members
    where = [files.canonical(one.run.path) for one in members]
    if twice := next((one.run.path for n, one in enumerate(members) if where[n] in where[:n]), None):
        raise InputError(f"{twice}: named twice. A run counts once in a mean; name each once.")
    faults = []
    for one in others:
        found = differences(_shared(one, any_labels), _shared(first, any_labels))
        faults += [f"{one.run.path}: {line}" for line in found]
    if faults:
        raise InputError(
            f"these runs cannot be one model; there is {first.run.path}:\n  "
            + "\n  ".join(faults)
            + "\nOnly width, weights and training may differ. Name runs of one row on like records"
            + (" (--edition says whose label values are written)." if "label_schema" in str(faults) else ".")
        )


def _shared(one: Trained, any_labels: bool) -> dict[str, Any]:
    """What all runs of one model must have alike, as a mapping by the config's keys."""
    content, records = one.config.model_dump(mode="json"), one.run.records
    shared = {
        "model": {"name": content["model"]["name"]},
        "data": {"modalities": content["data"]["modalities"]},
        "preprocess": one.config.preprocess.identity(),
        "spacing_mm": records["spacing_mm"],
    }
    if not any_labels:
        shared["label_schema"] = records["label_schemas"][0]
    if isinstance(one.config, PatchConfig):
        size = {"patch_size": content["sampling"]["patch_size"]}
        return {**shared, "sampling": size, "cascade": content["cascade"]}
    canvas = {"slice_shape": content["records"]["slice_shape"]}
    return {**shared, "records": canvas, "lws": {"enabled": content["lws"]["enabled"]}}


def _check_is_trained(run: RunFolder, config: Config) -> None:
    """Raises InputError for every network without best weights; whether they can be read is seen later."""
    faults = []
    for region in config.whole.regions:
        folder = run.network(region).checkpoints_path("best")
        if not (files.is_folder(folder) and any(path.endswith(".index") for path in files.walk(folder))):
            which, how = (f" of {region}", f" (region={region.lower()})") if region else ("", "")
            faults.append(f"{run.path}: no checkpoint{which} yet. Train at least one epoch first{how}.")
    if faults:
        raise InputError("\n".join(faults))


def _with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """The run's config, with what may be chosen anew for inference."""
    settled = [text for text in overrides if text.partition("=")[0] not in FREE]
    if settled or (overrides and not isinstance(config, PatchConfig)):
        raise InputError(
            f"{' '.join(settled or overrides)}: settled by training. At export a cascade's {', '.join(FREE)} "
            "may be chosen anew, nothing else."
        )
    return overridden(config, overrides)


def _schema_of(edition: str) -> LabelSchema:
    if edition not in EDITIONS:
        raise InputError(f"edition {edition!r} is unknown; choose from {', '.join(EDITIONS)}.")
    return EDITIONS[edition]
