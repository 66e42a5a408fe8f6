"""What is exported: a run, and what was chosen for its model.

No TensorFlow until its checkpoints are asked for.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

from tfbrats.config import Config, PatchConfig
from tfbrats.config_file import overridden
from tfbrats.config_sections import Run
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, LabelSchema
from tfbrats.machine import files
from tfbrats.runs.folder import RunFolder

# Precision -> how far the SavedModel's probabilities may be from the Keras model's, and which share of the
# labels may differ: a Session fuses other operations, and in bfloat16 what is fused is rounded elsewhere.
APART = {"float32": (1e-5, 0.0), "mixed_bfloat16": (0.1, 0.01)}
FREE = ("cascade.margin", "cascade.stride", "cascade.threshold", "cascade.tile_batch")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What is exported: a run's best weights, and what was chosen for their model.

    Attributes:
        config: the run's, with what was chosen anew; `run.dir` is where the run lies now.
        schema: whose label values come out.
        precision: in which the networks compute, one of `APART`.
    """

    run: RunFolder
    config: Config
    schema: LabelSchema
    precision: str

    @functools.cached_property
    def checkpoints(self) -> Mapping[str, str]:
        """Region ("" where there is one network) -> its best checkpoint.

        Raises:
            InputError: some have none yet.
        """
        from tfbrats.training import best_weights

        return best_weights.best_checkpoints(self.config, self.config.whole.regions)


def chosen_from(
    run_dir: str | os.PathLike,
    edition: str | None = None,
    overrides: Sequence[str] = (),
    precision: str = "float32",
) -> Chosen:
    """What is to be exported of a run.

    Args:
        run_dir: the run folder.
        edition: whose label values come out; by default those of the training data.
        overrides: section.key=value for keys in `FREE`.
        precision: in which the networks compute, one of `APART`.

    Raises:
        InputError: no run, or one without a checkpoint yet; an override of what training has settled; an
            unknown edition.
    """
    run = RunFolder(run_dir)
    config = _with_overrides(run.config.model_copy(update={"run": Run(dir=run.path)}), overrides)
    schema = None if edition is None else _schema_of(edition)
    _check_is_trained(run, config)
    schema = schema or LabelSchema.from_json(run.records["label_schemas"][0])
    return Chosen(run, config, schema, precision)


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
