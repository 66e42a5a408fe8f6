"""Train one row of a paper's table.

    tfbrats train --config cun.yaml
    tfbrats train --config cun_lws.yaml --data records/cun --run runs/cun_lws train.epochs=50
    tfbrats train --config msm.yaml --data records/msm --run runs/msm region=wt

Says what will happen, does it, says what happened. The same command again goes on where the last one
stopped, on as many devices or others; SIGTERM and Ctrl-C save first. Runs on one device, on several
(MirroredStrategy) and on several machines (TF_CONFIG). Paper B's networks, WT, TC and ET, are trained in turn,
or the one that region= names.
"""

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf

from tfbrats import config_file
from tfbrats.config import Config
from tfbrats.errors import InputError
from tfbrats.machine import literal, locks, paths, stopping
from tfbrats.machine.stopping import Stop, Stopped
from tfbrats.records.manifest import Manifest, check_identity, check_shard, read_manifest
from tfbrats.runs.folder import RunFolder
from tfbrats.terminal import command, verbs
from tfbrats.terminal.wording import in_units
from tfbrats.training import checkpoints, devices, predicted_boxes
from tfbrats.training.loop import Training
from tfbrats.training.recipes import recipe_for
from tfbrats.workflows import batch_size

_CHECKED_BYTES = 32 * 2**30  # read and checksummed before training starts: a minute or two


def train(
    config: Config,
    overwrite: bool = False,
    config_arguments: Sequence[str] = ("CONFIG.yaml",),
    stop: Stop | None = None,
) -> list[dict]:
    """Trains `config` on config.data.records into config.run.dir, or goes on with it.

    Args:
        overwrite: delete what the run folder holds first; with one region named, that network's part.
        config_arguments: the config and overrides as given, for the command that makes missing records.
        stop: when asked, it saves and returns after the step that it is in.

    Returns:
        the history, a row per epoch; of paper B's networks one after the other, each row with its region.

    Raises:
        InputError: records missing, damaged or of another config; a run folder of another config, or one in
            which another command trains; no device of the kind wanted; a worker that is lost.
    """
    stop, history = stop or Stop(), []
    try:
        manifest = _checked_manifest(config, overwrite, config_arguments, stop)
        config = _with_batch_size(config, overwrite, stop)  # before this process itself takes the devices
        strategy = devices.strategy_for(config.train.strategy, config.train.jit_compile, stop.check)
        chief = devices.is_chief(strategy)
        lock = _alone(config) if chief else contextlib.nullcontext()
        with lock, devices.lost_worker(strategy, config.run.dir):
            run = _opened_run(config, manifest, overwrite, chief)
            for region in config.regions:
                # Every worker comes here: the first must have written what the next network starts from, and if
                # one is to stop, all are.
                if any(devices.sum_over_workers(strategy, [stop.is_asked])):
                    stop.is_asked = True
                    break
                boxes = predicted_boxes.of_training_cases(config, manifest, region, stop.check)
                recipe = recipe_for(config, manifest, region, boxes)
                training = Training(config, recipe, manifest, strategy, stop)
                if chief:
                    run.write_config(config.whole)  # with what may change, now that it is not refused
                _say_what_will_happen(training)
                if _train_network(training):
                    _say_what_happened(training)
                history += [{"region": region, **row} if region else row for row in training.progress.history]
            if chief:  # others may look before it has written
                _say_how_to_go_on(config, stop)
    except Stopped:
        print("stopped as asked, with nothing new to save: the same command begins or goes on")
        return []
    return history


# --- before -----------------------------------------------------------------------------------------------


def _checked_manifest(config: Config, overwrite: bool, config_arguments: Sequence[str], stop: Stop) -> Manifest:
    """The records' manifest, after all that can be wrong before devices are taken has been checked."""
    folder = config.data.records
    for path in (folder, config.run.dir):
        _check_scheme(path)
    literal.check(config.run.dir)
    if overwrite and devices.several_workers(config.train.strategy):
        raise InputError("--overwrite: not with several workers; delete the run folder first.")
    manifest = read_manifest(
        folder,
        verbs.command_line(
            "beam_pipelines.nifti_to_tfrecord",
            *("--config", *config_arguments, "--input", "FOLDER_OF_CASES", "--output", folder),
        ),
    )
    check_identity(manifest, config, folder)
    if not overwrite:
        RunFolder(config.run.dir).check(config.whole)
    _check_shards(config, manifest, stop)
    return manifest


def _check_scheme(path: str) -> None:
    """TensorFlow itself reads records and writes checkpoints, and knows fewer places than the rest here."""
    scheme = paths.scheme(path)
    schemes = sorted({name for name in tf.io.gfile.get_registered_schemes() if name})
    if scheme and scheme not in schemes:
        raise InputError(
            f"{path}: TensorFlow cannot write there; it knows local folders and {', '.join(schemes)}."
        )


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
    if devices.several_workers(config.train.strategy):
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


@contextlib.contextmanager
def _alone(config: Config) -> Iterator[None]:
    """Keeps a run folder, or the part of a region, to one command that trains."""
    with contextlib.ExitStack() as locked:
        for region in config.regions:
            home = RunFolder(config.run.dir).network(region)
            busy = (
                f"{home.path}: another command trains here. Wait for its end, end it (SIGTERM saves first), or "
                "choose another --run."
            )
            locked.enter_context(locks.alone(home.lock_path, busy))
        yield


def _opened_run(config: Config, manifest: Manifest, overwrite: bool, chief: bool) -> RunFolder:
    """The run folder, made by the chief or checked to be this run's, on these records."""
    run = RunFolder(config.run.dir)  # looked at anew, now that no other command trains here
    whole, overwritten = config.whole, run.path
    if whole != config:  # only this network's part may be deleted
        overwritten = run.network(config.regions[0]).path
    if not overwrite or overwritten != run.path:
        run.check_split(manifest.split_sha256, config.data.records)
    if chief:
        run.start(whole, [overwritten] if overwrite else [])
        run.write_data(manifest.cases, manifest.split_sha256, manifest.description())
    else:
        run.check(whole)
    for region in config.regions:
        digest = manifest.shards_sha256(region)
        run.network(region).check_trained_on(digest, config.data.records, write=chief)
    return run


# --- during and after -------------------------------------------------------------------------------------


def _say_what_will_happen(training: Training) -> None:
    """Network, loss, records, cases, devices, steps and folder; and where a training goes on."""
    config, manifest, progress, recipe = training.config, training.manifest, training.progress, training.recipe
    cases = ", ".join(f"{name} {len(ids)}" for name, ids in manifest.cases.items())
    examples = ", ".join(f"{name} {recipe.examples(name)}" for name in manifest.cases)
    own_shards = training.share.has_own_shards(len(manifest.shards_of("train", recipe.region)))
    reading = f", shards by {'FILE' if own_shards else 'DATA'}" if training.division.workers > 1 else ""
    print(
        f"network     {' '.join(filter(None, (config.model.name, recipe.region)))}, "
        f"width {config.model.width}, {training.network.count_params():,} parameters, "
        f"{config.train.precision}\n"
        f"loss        {recipe.loss}\n"
        f"records     {config.data.records}: {manifest.kind}, {in_units(manifest.bytes)}\n"
        f"cases       {cases}\n"
        f"{config.unit:<11} {examples}\n"
        f"replicas    {training.division.replicas} ({type(training.strategy).__name__}), "
        f"{config.train.batch_size} {config.unit} each{reading}\n"
        f"steps       {training.steps} an epoch, {config.train.epochs} epochs\n"
        f"writes      {recipe.home.path}"
    )
    if (progress.epoch or progress.step) and not training.is_over:
        print(f"resumes     at {progress.place}")


def _train_network(training: Training) -> bool:
    """Trains one network, or what is left of it; False if it was asked to stop inside an epoch."""
    progress = training.progress
    if training.chief:
        # A run killed between its checkpoint and its history has the row in the checkpoint; one that fell back
        # to a checkpoint before has fewer than the file.
        training.write_history()
    if training.is_over:
        print("nothing left to do: the run is complete")
    while not (training.is_over or training.is_stopped):
        if not (training.train_epoch() and training.validate()):
            print(f"stopped     before {progress.place}")
            return False
        if training.chief:
            training.write_history()
        print(_epoch_line({**progress.history[-1], **progress.timing[-1]}))
    return True


def _epoch_line(row: dict) -> str:
    """What a person wants of an epoch; the rest is in history.csv."""
    shown = {k: v for k, v in row.items() if k != "steps" and not k.startswith("sampled_")}
    return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())


def _say_what_happened(training: Training) -> None:
    """Whether the training ended early, and where its best weights are."""
    history, best = training.progress.history, training.best.latest_checkpoint
    if training.is_over and len(history) < training.config.train.epochs:
        patience = training.config.train.stop_patience
        print(f"stopped: the validation loss stayed high for {patience} epochs on end")
    if best:
        folder, epoch = training.recipe.home.checkpoints_path("best"), checkpoints.number(best)
        loss = history[epoch - 1].get("validation_loss")
        why = "the last: there are no validation cases" if loss is None else f"validation loss {loss:.4g}"
        print(f"best weights: {folder}, epoch {epoch}, {why}")


def _say_how_to_go_on(config: Config, stop: Stop) -> None:
    """Which command comes next."""
    # Looked at anew: another command may have trained another network of it meanwhile.
    unfinished = list(RunFolder(config.run.dir).unfinished(config))
    if stop.is_asked and unfinished:
        print("stopped as asked, all is saved: the same command goes on from here")
    elif unfinished:
        print(f"next: train {' and '.join(unfinished)} to the end too, with region={unfinished[0].lower()}")
    else:
        exporting = ("--run", config.run.dir, "--output", f"models/{config.model.name}")
        print(f"next: {verbs.command_line('tfbrats.export', *exporting)}")


def main(arguments: Sequence[str]) -> int:
    parser = command.parser("tfbrats.train", __doc__)
    config_file.add_arguments(parser)
    parser.add_argument("--data", type=paths.argument, help="record set (default: data.records of the config)")
    parser.add_argument("--run", type=paths.argument, help="run folder (default: run.dir of the config)")
    parser.add_argument("--overwrite", action="store_true", help="delete what the run folder holds first")
    options = parser.parse_intermixed_args(arguments)
    overrides = list(options.overrides)
    overrides += [f"data.records={options.data}"] if options.data else []
    overrides += [f"run.dir={options.run}"] if options.run else []
    # What a record set depends on must go into the command that makes it.
    of_records = ("records.", "preprocess.", "data.modalities=", "lws.contour_width_mm=", "sampling.")
    of_records += ("cascade.mask=", "cascade.margin=", "region=")
    of_the_set = [override for override in options.overrides if override.startswith(of_records)]
    with stopping.on_signals("stopping after this step: what is done will be saved") as stop:
        config = config_file.load(options.config, overrides)
        train(config, options.overwrite, [options.config, *of_the_set], stop)
    return stop.exit_code


if __name__ == "__main__":
    command.run(main)
