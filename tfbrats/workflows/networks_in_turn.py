"""The networks of a run, trained one after the other: what will happen, each epoch, what happened.

On records and in a folder that `whole_run` has looked at.
"""

import contextlib
from collections.abc import Iterator

from tfbrats.config import Config
from tfbrats.distribution import devices
from tfbrats.machine import locks
from tfbrats.machine.stopping import Stop
from tfbrats.records.manifest import Manifest
from tfbrats.runs import epochs, listing
from tfbrats.runs.folder import RunFolder, chosen_by
from tfbrats.terminal import style, verbs
from tfbrats.terminal.wording import in_units
from tfbrats.training import checkpoints, predicted_boxes
from tfbrats.training.loop import Training
from tfbrats.training.recipes import recipe_for
from tfbrats.workflows.begun_from import Origin, named, without_weights


def train(
    config: Config, manifest: Manifest, overwrite: bool, stop: Stop, origin: Origin | None = None
) -> list[dict]:
    """The history. Arguments and errors as `whole_run.train`'s.

    Args:
        manifest: of the records, which are sound.
        origin: whose weights the networks begin with that have none yet.

    Raises:
        Stopped: it was asked to stop before there was anything to save.
    """
    history = []
    strategy = devices.strategy_for(config.train.strategy, config.train.jit_compile, stop.check)
    chief = devices.is_chief(strategy)
    lock = _alone(config) if chief else contextlib.nullcontext()
    with lock, devices.lost_worker(strategy, config.run.dir), devices.tf32(config.train.tf32):
        run = _opened_run(config, manifest, overwrite, chief, origin)
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
            _say_what_will_happen(training, run)
            if _train_network(training):
                _say_what_happened(training)
            history += [{"region": region, **row} if region else row for row in training.progress.history]
        if chief:  # others may look before it has written
            _say_how_to_go_on(config, stop)
    return history


# --- before -----------------------------------------------------------------------------------------------


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


def _opened_run(
    config: Config, manifest: Manifest, overwrite: bool, chief: bool, origin: Origin | None
) -> RunFolder:
    """The run folder, made by the chief or checked to be this run's, on these records."""
    run = RunFolder(config.run.dir)  # looked at anew, now that no other command trains here
    whole, overwritten = config.whole, run.path
    if whole != config:  # only this network's part may be deleted
        overwritten = run.network(config.regions[0]).path
    if not overwrite or overwritten != run.path:
        run.check_split(manifest.split_sha256, config.data.records)
    if chief:
        # First that it begins from a model, then its config: killed between the two it is no run yet, and
        # killed before the weights are kept, the next command knows where they are.
        is_new = not run.is_run or (overwrite and overwritten == run.path)
        run.start(whole, [overwritten] if overwrite else [], origin.kept({}) if origin and is_new else None)
        if origin:
            _keep_weights(run, config, origin)
        run.write_data(manifest.cases, manifest.split_sha256, manifest.description())
    else:
        run.check(whole)
    for region in config.regions:
        digest = manifest.shards_sha256(region)
        run.network(region).check_trained_on(digest, config.data.records, write=chief)
    return run


def _keep_weights(run: RunFolder, config: Config, origin: Origin) -> None:
    """Puts the weights that networks begin with into the run, which from then on needs `origin` no more."""
    for region in without_weights(run, config.regions):
        kept = origin.keep(config, region)
        run.write_begun_from(origin.kept({**run.begun_from["networks"], region: kept}))


# --- during and after -------------------------------------------------------------------------------------


def _say_what_will_happen(training: Training, run: RunFolder) -> None:
    """Network, loss, records, cases, devices, steps and folder; and where a training goes on."""
    config, manifest, progress, recipe = training.config, training.manifest, training.progress, training.recipe
    cases = ", ".join(f"{name} {len(ids)}" for name, ids in manifest.cases.items())
    examples = ", ".join(f"{name} {recipe.examples(name)}" for name in manifest.cases)
    own_shards = training.share.has_own_shards(len(manifest.shards_of("train", recipe.region)))
    reading = f", shards by {'FILE' if own_shards else 'DATA'}" if training.division.workers > 1 else ""
    print(
        f"network     {' '.join(filter(None, (listing.method(config), recipe.region)))}, "
        f"width {config.model.width}, {training.network.count_params():,} parameters, "
        f"{config.train.precision}\n"
        f"loss        {recipe.loss}\n"
        f"records     {config.data.records}: {manifest.kind}, {in_units(manifest.bytes)}\n"
        f"cases       {cases}\n"
        f"{config.unit:<11} {examples}\n"
        f"replicas    {training.division.replicas} on {devices.kind(training.strategy)} "
        f"({type(training.strategy).__name__}), "
        f"{config.train.batch_size} {config.unit} each{reading}\n"
        f"steps       {training.steps} an epoch, {config.train.epochs} epochs\n"
        f"writes      {recipe.home.path}"
    )
    if run.begun_from:
        print(f"began from  {named(run.begun_from, recipe.region)}")
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
    is_headed = False
    while not (training.is_over or training.is_stopped):
        if not (training.train_epoch() and training.validate()):
            print(f"stopped     before {progress.place}")
            return False
        if training.chief:
            training.write_history()
        row, region = {**progress.history[-1], **progress.timing[-1]}, training.recipe.region
        if not is_headed:
            print(epochs.header(row, region))
        print(epochs.line(row, region), flush=True)
        is_headed = True
    return True


def _say_what_happened(training: Training) -> None:
    """Whether the training ended early, and where its best weights are."""
    history, best = training.progress.history, training.best.latest_checkpoint
    select = training.config.train.select
    if training.is_over and len(history) < training.config.train.epochs:
        patience = training.config.train.stop_patience
        what = "validation loss stayed high" if select == "loss" else "Dice of cases stayed low"
        print(f"stopped: the {what} for {patience} epochs on end")
    if best:
        folder, epoch = training.recipe.home.checkpoints_path("best"), checkpoints.number(best)
        loss = chosen_by(history[epoch - 1], select)
        why = "the last: there are no validation cases" if loss is None else f"validation loss {loss:.4g}"
        if loss is not None and select == "dice":
            why = f"Dice of cases {1 - loss:.4g}"
        print(f"best weights: {folder}, epoch {epoch}, {why}")


def _say_how_to_go_on(config: Config, stop: Stop) -> None:
    """Which command comes next."""
    # Looked at anew: another command may have trained another network of it meanwhile.
    unfinished = list(RunFolder(config.run.dir).unfinished(config))
    if stop.is_asked and unfinished:
        print("stopped as asked, all is saved: the same command goes on from here")
    elif unfinished:
        others = f"train {' and '.join(unfinished)} to the end too, with region={unfinished[0].lower()}"
        print(style.following(others))
    else:
        exporting = ("--run", config.run.dir, "--output", f"models/{listing.method(config)}")
        print(style.following(verbs.command_line("tfbrats.export", *exporting)))
