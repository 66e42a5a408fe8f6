"""A whole run: what can be wrong is looked for, then its networks are trained in turn, or gone on with.

No TensorFlow before records and run folder have been found to be sound: a slip is told at once.
"""

from collections.abc import Sequence

from tfbrats.cases.split_files import Splits
from tfbrats.config import Config
from tfbrats.errors import InputError
from tfbrats.machine import literal, paths
from tfbrats.machine.stopping import Stop, Stopped
from tfbrats.records.manifest import Manifest, check_identity, check_shard, of_fold, read_manifest
from tfbrats.runs.folder import RunFolder
from tfbrats.terminal import style, verbs
from tfbrats.workflows import batch_size
from tfbrats.workflows import begun_from as origins

_CHECKED_BYTES = 32 * 2**30  # read and checksummed before training starts: a minute or two


def train(
    config: Config,
    overwrite: bool = False,
    config_arguments: Sequence[str] = ("CONFIG.yaml",),
    stop: Stop | None = None,
    begun_from: str | None = None,
    fold: Splits | None = None,
) -> list[dict]:
    """Trains `config` on config.data.records into config.run.dir, or goes on with it.

    Args:
        overwrite: delete what the run folder holds first; with one region named, that network's part.
        config_arguments: the config and overrides as given, for the command that makes missing records.
        stop: when asked, it saves and returns after the step that it is in.
        begun_from: a run or an exported model, whose weights a new run begins with.
        fold: which cases to train and to validate on, where the records are those of folds.

    Returns:
        the history, a row per epoch; of paper B's networks one after the other, each row with its region.

    Raises:
        InputError: records missing, damaged or of another config; a run folder of another config, or one in
            which another command trains; no device of the kind wanted; a worker that is lost; nothing to begin
            from, or that of another network.
    """
    stop = stop or Stop()
    try:
        manifest = checked_view(config, manifest_of(config, config_arguments), overwrite, fold)
        _check_shards(config, manifest, stop)
        origin = origins.origin_of(config, manifest, begun_from, overwrite)
        for line in origins.leaks(origin, manifest) if origin else ():
            print(style.note(line))
        config = _with_batch_size(config, overwrite, stop)  # before this process itself takes the devices
        from tfbrats.workflows import networks_in_turn

        return networks_in_turn.train(config, manifest, overwrite, stop, origin)
    except Stopped:
        print("stopped as asked, with nothing new to save: the same command begins or goes on")
        return []


def manifest_of(config: Config, config_arguments: Sequence[str]) -> Manifest:
    """The records' manifest as it lies there. `config_arguments` as `train`'s.

    Raises:
        InputError: no records, or a place where TensorFlow cannot read or write.
    """
    folder = config.data.records
    for path in (folder, config.run.dir):
        _check_scheme(path)
    literal.check(config.run.dir)
    return read_manifest(
        folder,
        verbs.command_line(
            "beam_pipelines.nifti_to_tfrecord",
            *("--config", *config_arguments, "--input", "FOLDER_OF_CASES", "--output", folder),
        ),
    )


def checked_view(config: Config, manifest: Manifest, overwrite: bool, fold: Splits | None) -> Manifest:
    """What a run trains on: the records, or a fold's part of them; with all that is wrong with it or the run.

    Raises:
        InputError: records of another config or other folds; a run folder of another config.
    """
    folder = config.data.records
    view = manifest if fold is None else of_fold(manifest, fold, folder)
    check_identity(view, config, folder)
    if not overwrite:
        run = RunFolder(config.run.dir)
        run.check(config.whole)
        run.check_split(view.split_sha256, folder)
    elif _has_several_workers(config):
        raise InputError("--overwrite: not with several workers; delete the run folder first.")
    return view


def _check_scheme(path: str) -> None:
    """TensorFlow itself reads records and writes checkpoints, and knows fewer places than the rest here."""
    scheme = paths.scheme(path)
    if not scheme:
        return
    import tensorflow as tf

    schemes = sorted({name for name in tf.io.gfile.get_registered_schemes() if name})
    if scheme not in schemes:
        raise InputError(
            f"{path}: TensorFlow cannot write there; it knows local folders and {', '.join(schemes)}."
        )


def _has_several_workers(config: Config) -> bool:
    from tfbrats.distribution import devices

    return devices.several_workers(config.train.strategy)


def _check_shards(config: Config, manifest: Manifest, stop: Stop) -> None:
    """Raises InputError for every shard that this training reads and that is not as dataset.json says.

    Large sets are checked by size alone: tf.data verifies the checksum of each record as it reads it.
    """
    shards = [shard for shard in manifest.shards if not shard.region or shard.region in config.regions]
    with_content = sum(shard.bytes for shard in shards) < _CHECKED_BYTES
    faults = []
    for shard in shards:
        stop.check()
        if fault := check_shard(config.data.records, shard, with_content):
            faults.append(fault)
    if faults:
        raise InputError("\n".join(faults))


def _with_batch_size(config: Config, overwrite: bool, stop: Stop) -> Config:
    """train.batch_size=auto becomes the run's number, or the largest that fits all its networks if it is new.

    Raises:
        InputError: on several machines, which may differ.
    """
    if config.train.batch_size != "auto":
        return config
    if _has_several_workers(config):
        raise InputError(
            "train.batch_size=auto: not with several workers, whose memory may differ. Find the number with "
            "tfbrats probe on the smallest, and give it to all."
        )
    run = RunFolder(config.run.dir)
    if run.is_run and not (overwrite and config.whole == config):
        size, why = run.config.train.batch_size, "as before"
    else:
        size, why = _largest_batch(config, stop), "the largest that fits"
    print(f"batch       {size} a replica, {why}")
    return config.model_copy(update={"train": config.train.model_copy(update={"batch_size": size})})


def _largest_batch(config: Config, stop: Stop) -> int:
    """Of all networks of the run; raises Stopped if anyone asks to stop while it is looked for."""

    def say(line: str) -> None:
        print(line, flush=True)
        stop.check()

    try:
        return batch_size.largest_batch(config.whole, say)
    except SystemExit:  # SIGTERM came while a trial ran, which has ended with us
        stop.ask()
    raise Stopped
