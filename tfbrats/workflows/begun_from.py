"""What a training begins from (`tfbrats train --from`): a run or an exported model, if it fits.

RUN/begun_from.json keeps it:

    from, folder                as it was given; of a model the folder of the version that was the newest then
    kind, name, version         "run" or "model"; of a model its version too
    networks                    region -> hash of the weights, and of a run their epoch
    seen                        which cases trained it, as `predictions.seen.hashes_of`
    before                      what it had begun from itself, the latest first

The weights lie beside it, in checkpoints/start/: what they came from may go. Loads no
TensorFlow before they are read.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tfbrats.config import Config
from tfbrats.errors import InputError
from tfbrats.labels import LEARNED, LEARNED_OF, LabelSchema
from tfbrats.machine import files, paths
from tfbrats.predictions import model_card, seen
from tfbrats.records.manifest import Manifest
from tfbrats.runs import weights_beside
from tfbrats.runs.folder import CONFIG, RunFolder
from tfbrats.terminal import wording


@dataclasses.dataclass(frozen=True)
class Origin:
    """A run or a version of a model that a training begins from.

    Attributes:
        given: its path, absolute, as it was typed: of a model perhaps without the version.
        folder: of the run, or of the version.
        config: its own, as it was written; of whatever version.
        label_schemas: of its training data.
        regions: region -> tissues, as it learned them; None where it does not say.
        cases: which trained it, as `seen.hashes_of`.
    """

    given: str
    folder: str
    kind: str
    name: str
    version: int | None
    config: Mapping[str, Any]
    label_schemas: Sequence[Mapping[str, Any]]
    regions: Mapping[str, Sequence[str]] | None
    cases: Mapping[str, Any]
    before: Sequence[Mapping[str, Any]]

    def kept(self, networks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """What begun_from.json says.

        Args:
            networks: region -> what `keep` gives of it.
        """
        return {
            "from": self.given,
            "folder": self.folder,
            "kind": self.kind,
            "name": self.name,
            "version": self.version,
            "networks": dict(networks),
            "seen": self.cases,
            "before": list(self.before),
        }

    def check_has_weights(self, regions: Sequence[str]) -> None:
        """Raises InputError where these networks have none here; whether they can be read is seen later."""
        if self.kind == "model":
            weights_beside.check(self.folder, regions)
            return
        run = RunFolder(self.folder)
        if without := [region for region in regions if not run.network(region).has_checkpoint("best")]:
            of = f" of {', '.join(filter(None, without))}" if any(without) else ""
            raise InputError(f"--from {self.given}: no checkpoint{of} yet. Train an epoch of it first.")

    def keep(self, config: Config, region: str) -> dict[str, Any]:
        """Puts a network's weights into the run folder of `config`; returns hash and epoch. Loads TensorFlow.

        Raises:
            InputError: there are none that can be read.
        """
        from tfbrats.training import start_weights

        keep = start_weights.keep_of_run if self.kind == "run" else start_weights.keep_of_model
        return keep(config, region, self.folder)


def named(content: Mapping[str, Any], region: str) -> str:
    """What a network began from, e.g. "the run cun_lws, epoch 40, sha256 3f2a5c..."."""
    network = content["networks"].get(region, {})
    parts = [f"the {content['kind']} {content['name']}"]
    parts += [f"version {content['version']}"] if content["version"] is not None else []
    parts += [f"epoch {network['epoch']}"] if "epoch" in network else []
    return ", ".join([*parts, f"sha256 {network['sha256'][:12]}..."] if network else parts)


def origin_of(config: Config, manifest: Manifest, given: str | None, overwrite: bool) -> Origin | None:
    """What this training begins from; None where it begins from nothing, or has its weights already.

    Args:
        given: --from; a run that was begun needs it no more.
        overwrite: what the run folder holds is deleted; with one region named, that network's part.

    Raises:
        InputError: no run or model there, one of another network, or a run that began otherwise.
    """
    run = RunFolder(config.run.dir)
    goes_on = run.is_run and not (overwrite and config.whole == config)
    kept = None if overwrite and config.whole == config else run.begun_from
    given = None if given is None else paths.absolute(given)
    if goes_on and given is not None:
        _check_same(run, kept, given)
    if kept and given in (None, kept["from"]):
        given, folder = kept["from"], kept["folder"]
    else:
        folder = given
    if given is None:
        if config.train.frozen != "nothing" and not goes_on:
            raise InputError(
                f"train.frozen={config.train.frozen}: of which model? Layers of random weights would stay "
                "random. Name a run or an exported model with --from."
            )
        return None
    if goes_on and not overwrite and not without_weights(run, config.regions):
        return None  # what it came from may be gone
    if files.canonical(given) == files.canonical(run.path):
        raise InputError(f"--from {given}: is the --run itself. The command without --from goes on with it.")
    origin = dataclasses.replace(read(folder), given=given)
    _check_fits(origin, config, manifest)
    # All that begin here, before the folder is a run: one that lacks its weights could not go on.
    begin = without_weights(run, config.regions) if goes_on and not overwrite else config.regions
    origin.check_has_weights(begin)
    return origin


def without_weights(run: RunFolder, regions: Sequence[str]) -> list[str]:
    """Those of a begun run's networks whose weights are not kept yet, with their hash.

    A network that has trained needs none any more.
    """
    known = (run.begun_from or {}).get("networks", ())
    homes = {region: run.network(region) for region in regions}
    return [
        region
        for region, home in homes.items()
        if not (home.has_checkpoint("last") or (region in known and home.has_checkpoint("start")))
    ]


def _check_same(run: RunFolder, kept: Mapping[str, Any] | None, given: str) -> None:
    """Raises InputError where a run that goes on was begun from something else."""
    if kept is None:
        raise InputError(
            f"--from {given}: {run.path} holds a run that began from nothing. Choose another --run, or pass "
            "--overwrite to delete that one."
        )
    if kept["from"] != given:
        raise InputError(
            f"--from {given}: {run.path} holds a run that began from {kept['from']}. Leave --from out to go on "
            "with it, choose another --run, or pass --overwrite to delete that one."
        )


def read(path: str) -> Origin:
    """A run's folder, a model's (its newest version is taken) or a version's.

    Raises:
        InputError: it is none of them.
    """
    if files.exists(files.join(path, CONFIG)):
        return _of_run(path)
    try:
        version = model_card.version_folder(path)
    except InputError as error:
        raise InputError(
            f"--from {path}: neither a run (no {CONFIG}) nor an exported model. {error}"
        ) from error
    card = model_card.read(version)
    data = card.training_data
    return Origin(
        given=path,
        folder=version,
        kind="model",
        name=card.name,
        version=card.version,
        config=data.get("config") or {},
        label_schemas=data.get("label_schemas") or (),
        regions=card.regions,
        cases=seen.together(data),
        before=_generations(data.get("begun_from")),
    )


def _of_run(path: str) -> Origin:
    run = RunFolder(path)
    if not files.exists(run.records_path) or not files.exists(run.splits_path):
        raise InputError(f"--from {path}: this run has not begun to train. Train at least one epoch first.")
    before = run.begun_from
    return Origin(
        given=path,
        folder=path,
        kind="run",
        name=files.name(path),
        version=None,
        config=yaml.safe_load(files.read_bytes(run.config_path)) or {},
        label_schemas=run.records["label_schemas"],
        regions=None,
        cases=seen.hashes_of_run(run.splits, before),
        before=_generations(before),
    )


def _generations(content: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What something began from, and what that began from: name, version and hashes alone."""
    if not content:
        return []
    own = {key: content.get(key) for key in ("kind", "name", "version", "networks")}
    return [own, *content.get("before", ())]


def _check_fits(origin: Origin, config: Config, manifest: Manifest) -> None:
    """Raises InputError with all in which it is of another network, of other labels or other modalities."""
    faults = []
    for key, ours in {
        "model.name": config.model.name,
        "model.width": config.model.width,
        "data.modalities": list(config.data.modalities),
    }.items():
        section, _, name = key.partition(".")
        theirs = (origin.config.get(section) or {}).get(name)
        if theirs != ours:
            faults.append(f"{key}: {ours}, there {theirs}{_of_order(ours, theirs)}")
    ours, theirs = (_learned(schemas) for schemas in (manifest.label_schemas, origin.label_schemas))
    if theirs != ours:
        faults.append(
            f"labels: the records have {', '.join(ours)}, there {', '.join(theirs) or 'none is told'}"
        )
    regions = {region: tuple(tissue.name for tissue in tissues) for region, tissues in LEARNED_OF.items()}
    if origin.regions is not None and {name: tuple(of) for name, of in origin.regions.items()} != regions:
        faults.append(f"regions: {regions}, there {dict(origin.regions)}")
    if faults:
        raise InputError(
            f"--from {origin.given}: not of this config's network:\n  "
            + "\n  ".join(faults)
            + "\nTake the config that it was trained with, on records of the same labels and modalities, or "
            "begin from nothing."
        )


def _of_order(ours: Any, theirs: Any) -> str:
    is_order = isinstance(ours, list) and isinstance(theirs, list) and sorted(ours) == sorted(theirs)
    return " (the same in another order, which is that of the channels)" if is_order else ""


def _learned(schemas: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tissues that masks in these tables can teach, in their own order."""
    told = {tissue for schema in schemas for tissue in LabelSchema.from_json(schema).value_of_tissue}
    return [tissue.name for tissue in LEARNED if tissue in told]


def leaks(origin: Origin, manifest: Manifest) -> list[str]:
    """A note where cases that are validated or tested on have trained what this training begins from."""
    lines = []
    for split in ("validation", "test"):
        kinds = seen.kinds_of(origin.cases, manifest.cases.get(split, ())) or {}
        trained = [case_id for case_id, kind in kinds.items() if kind in ("train", "train_patient")]
        if trained:
            number, first = wording.counted(len(trained), "case"), ", ".join(trained[:3])
            lines.append(
                f"{number} of the {split} split trained {origin.name}, from which this begins ({first}"
                f"{', ...' if trained[3:] else ''}): what they score is better than on other patients"
            )
    return lines
