"""Train one row of a paper's table.

    python -m tfbrats.train --config cun.yaml
    python -m tfbrats.train --config cun_lws.yaml --data records/cun --run runs/cun_lws train.epochs=50

Says what will happen, does it, says what happened. The same command again goes on where the last one
stopped. Runs on one device, on several (MirroredStrategy) and on several machines (TF_CONFIG).
"""

import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Sequence

import keras
import tensorflow as tf
from tqdm import tqdm

from tfbrats import command, data, files, models, records, run, step
from tfbrats import config as configs
from tfbrats.command import InputError
from tfbrats.config import Config
from tfbrats.records import Manifest

# --- the ladder -----------------------------------------------------------------------------------------


def ladder(start: float, floor: float, epoch: int, config: Config) -> float:
    """Paper A's schedule for learning rate and omega: divided by ten every ten epochs, down to a floor."""
    return max(start * config.train.ladder_factor ** (epoch // config.train.ladder_epochs), floor)


# --- devices --------------------------------------------------------------------------------------------


def strategy_for(name: str) -> tf.distribute.Strategy:
    """The tf.distribute strategy that `train.strategy` names.

    "auto" is multi-worker when TF_CONFIG is set, mirrored when there is more than one device, else one
    device.

    Raises:
        InputError: "multi_worker" without TF_CONFIG, "tpu" without a TPU.
    """
    if name == "multi_worker" and not os.environ.get("TF_CONFIG"):
        raise InputError("train.strategy=multi_worker: set TF_CONFIG on every worker, or use auto.")
    if name == "multi_worker" or (name == "auto" and os.environ.get("TF_CONFIG")):
        # Before anything else touches TensorFlow, listing devices included.
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
        except (ValueError, tf.errors.OpError) as error:
            raise InputError(f"train.strategy=tpu: no TPU answers ({error}).") from error
        return tf.distribute.TPUStrategy(resolver)
    accelerators = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if name == "auto":
        name = "mirrored" if len(accelerators) > 1 else "one_device"
    if name == "mirrored":
        return tf.distribute.MirroredStrategy([device.name for device in accelerators])
    return tf.distribute.OneDeviceStrategy(accelerators[0].name)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run folder: the only one, or the first worker."""
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_type is None:
        return True
    return resolver.task_type == "chief" or (resolver.task_type == "worker" and resolver.task_id == 0)


# --- the run --------------------------------------------------------------------------------------------


class Progress(tf.train.experimental.PythonState):
    """Where a run stands; saved in every checkpoint beside weights and optimizer."""

    def __init__(self):
        self.global_batch = 0  # slices a step
        self.epoch = 0  # the one that is being trained, from 0
        self.step = 0  # steps done in it
        self.sums: dict[str, float] = {}  # of the losses over these steps
        self.seconds = 0.0  # spent on them
        self.best = math.inf  # lowest validation loss so far
        self.rises = 0  # epochs on end with an obvious rise
        self.history: list[dict] = []

    _KEPT = ("global_batch", "epoch", "step", "sums", "seconds", "best", "rises", "history")

    def serialize(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self._KEPT})

    def deserialize(self, string_value: str) -> None:
        content = json.loads(string_value)
        for name in self._KEPT:
            setattr(self, name, content[name])


class Training:
    """A run in progress: what is trained, on what, where it is kept."""

    def __init__(self, config: Config, folder: str, manifest: Manifest, strategy: tf.distribute.Strategy):
        self.config, self.folder, self.manifest, self.strategy = config, folder, manifest, strategy
        keras.utils.set_random_seed(config.train.seed)
        keras.mixed_precision.set_global_policy(config.train.precision)
        self.replicas = self.strategy.num_replicas_in_sync
        self.global_batch = config.train.batch_size * self.replicas
        self.steps = data.steps_per_epoch(manifest, config, self.global_batch)
        self.chief = is_chief(self.strategy)
        self.workers = getattr(self.strategy.extended, "_num_workers", 1)
        with self.strategy.scope():
            self.network = models.build(config, self.replicas)
            self.optimizer = keras.optimizers.SGD(config.train.learning_rate, config.train.momentum)
            if config.train.precision == "mixed_float16":
                self.optimizer = keras.optimizers.LossScaleOptimizer(self.optimizer)
            self.optimizer.build(self.network.trainable_variables)
        self.progress = Progress()
        checkpoint = tf.train.Checkpoint(network=self.network, optimizer=self.optimizer, progress=self.progress)
        # Saving is collective: workers other than the first save too, where nobody looks.
        home = config.run.dir if self.chief else tempfile.mkdtemp(prefix="tfbrats-worker-")
        self.last = tf.train.CheckpointManager(checkpoint, run.checkpoints(home, "last"), max_to_keep=2)
        self.best = tf.train.CheckpointManager(checkpoint, run.checkpoints(home, "best"), max_to_keep=1)
        self._restore(checkpoint, run.checkpoints(config.run.dir, "last"))
        self._train_step = step.train_step(self.strategy, self.network, self.optimizer, config)
        self._validation_step = step.validation_step(self.strategy, self.network, config)

    def _restore(self, checkpoint: tf.train.Checkpoint, folder: str) -> None:
        latest = tf.train.latest_checkpoint(folder)
        if latest:
            checkpoint.restore(latest).assert_consumed()
        elif files.is_folder(folder) and any(path.endswith(".index") for path in files.walk(folder)):
            raise InputError(
                f"{folder}: checkpoints are here, but which is the last cannot be read. Try again; if it "
                f"stays so, mend or restore {files.join(folder, 'checkpoint')}."
            )
        progress = self.progress
        if progress.step and progress.global_batch != self.global_batch:
            raise InputError(
                f"{folder}: epoch {progress.epoch + 1} was begun with {progress.global_batch} slices a step, "
                f"and now there would be {self.global_batch}. End it on as many replicas as before, or change "
                "train.batch_size in a new run."
            )
        progress.global_batch = self.global_batch
        # Workers that restored different states (no shared disk) would train on without a word.
        place = 1e6 * progress.epoch + progress.step
        places = self.strategy.run(lambda: tf.constant(place, tf.float64))
        if self.strategy.reduce(tf.distribute.ReduceOp.MEAN, places, axis=None) != place:
            raise InputError(f"{folder}: the workers find different checkpoints. Put --run on a shared disk.")

    @property
    def is_over(self) -> bool:
        return (
            self.progress.epoch >= self.config.train.epochs
            or self.progress.rises >= self.config.train.stop_patience
        )

    def train_epoch(self) -> None:
        """Trains what is left of the present epoch, with checkpoints on the way if it is long."""
        progress, config = self.progress, self.config
        omega = ladder(config.train.omega, config.train.omega_floor, progress.epoch, config)
        rate = ladder(config.train.learning_rate, config.train.learning_rate_floor, progress.epoch, config)
        self.optimizer.learning_rate = rate
        batches = iter(
            self.strategy.experimental_distribute_dataset(
                data.training(
                    self.manifest,
                    self.folder,
                    config,
                    progress.epoch,
                    self.global_batch,
                    progress.step,
                    self.workers,
                )
            )
        )
        saved = began = time.monotonic()
        before = progress.seconds
        with tqdm(
            total=self.steps,
            initial=progress.step,
            desc=f"epoch {progress.epoch + 1}/{config.train.epochs}",
            disable=None if self.chief else True,
        ) as bar:
            while progress.step < self.steps:
                found = self._train_step(next(batches), tf.constant(omega, tf.float32))
                values = {name: float(value) for name, value in found.items()}
                if not math.isfinite(values["loss"]):
                    raise InputError(_diverged(f"step {progress.step + 1}", values["loss"], progress, config))
                for name, value in values.items():
                    progress.sums[name] = progress.sums.get(name, 0.0) + value
                progress.step += 1
                progress.seconds = before + time.monotonic() - began
                bar.set_postfix(loss=f"{progress.sums['loss'] / progress.step:.4f}", refresh=False)
                bar.update()
                if time.monotonic() - saved > 60 * config.train.checkpoint_minutes:
                    self.last.save()
                    saved = time.monotonic()
        progress.history.append(
            {
                "epoch": progress.epoch + 1,
                "steps": self.steps,
                "learning_rate": rate,
                "omega": omega,
                **{name: total / self.steps for name, total in progress.sums.items()},
                "seconds": round(progress.seconds, 3),
                "slices_per_second": round(self.steps * self.global_batch / progress.seconds, 3),
            }
        )

    def validate(self) -> None:
        """Scores the validation split, notes an obvious rise, and keeps the best weights.

        Without validation cases the last weights count as the best.
        """
        progress, config = self.progress, self.config
        improved = True
        if self.manifest.examples["validation"]:
            batches = data.validation(self.manifest, self.folder, config, "validation", self.global_batch)
            sums = sum(
                self._validation_step(batch).numpy()
                for batch in self.strategy.experimental_distribute_dataset(batches)
            )
            scores = step.validation_scores(sums)
            progress.history[-1].update(scores)
            loss = scores["validation_loss"]
            if not math.isfinite(loss):  # before such weights are saved
                raise InputError(_diverged("validation", loss, progress, config))
            rose = loss > (1 + config.train.stop_rise) * progress.best
            progress.rises = progress.rises + 1 if rose else 0
            improved = loss < progress.best
            progress.best = min(loss, progress.best)
        progress.epoch, progress.step, progress.sums, progress.seconds = progress.epoch + 1, 0, {}, 0.0
        if improved:
            self.best.save(checkpoint_number=progress.epoch)
        self.last.save()

    def write_history(self) -> None:
        """history.csv anew, and the last row to TensorBoard."""
        run.write_history(self.config.run.dir, self.progress.history)
        row = self.progress.history[-1]
        with tf.summary.create_file_writer(files.join(self.config.run.dir, "tb")).as_default():
            for name, value in row.items():
                if name != "epoch":
                    tf.summary.scalar(name, value, step=row["epoch"])


def _diverged(where: str, loss: float, progress: Progress, config: Config) -> str:
    return (
        f"epoch {progress.epoch + 1}, {where}: the loss is {loss}. Start again into another --run with a lower "
        f"train.learning_rate (now {config.train.learning_rate:g}); {config.run.dir} keeps its last checkpoint."
    )


def _announce(training: Training) -> None:
    config, manifest, progress = training.config, training.manifest, training.progress
    cases = ", ".join(f"{name} {len(ids)}" for name, ids in manifest.cases.items())
    slices = ", ".join(f"{name} {count}" for name, count in manifest.examples.items())
    policy = data.shard_policy(len(manifest.shards_of("train")), training.workers)
    print(
        f"network     {config.model.name}, width {config.model.width}, "
        f"{training.network.count_params():,} parameters, {config.train.precision}\n"
        f"loss        {'loss weighted sampling' if config.lws.enabled else 'cross-entropy'}\n"
        f"records     {training.folder}: {manifest.bytes / 2**20:.1f} MiB\n"
        f"cases       {cases}\n"
        f"slices      {slices}\n"
        f"replicas    {training.replicas} ({type(training.strategy).__name__}), "
        f"{config.train.batch_size} slices each, shards by {policy}\n"
        f"steps       {training.steps} an epoch, {config.train.epochs} epochs\n"
        f"writes      {config.run.dir}"
    )
    if (progress.epoch or progress.step) and not training.is_over:
        print(f"resumes     at epoch {progress.epoch + 1}, step {progress.step + 1}")


def train(config: Config, overwrite: bool = False, config_said: str = "CONFIG.yaml") -> list[dict]:
    """Trains `config` on config.data.records into config.run.dir, or goes on with it.

    Args:
        overwrite: delete what the run folder holds first.
        config_said: the config as it was given, with overrides, for the command that makes missing records.

    Returns:
        the history, a row per epoch.

    Raises:
        InputError: records missing, damaged or of another config; a run folder of another config.
    """
    folder = config.data.records
    for path in (folder, config.run.dir):
        _check_scheme(path)
    if overwrite and os.environ.get("TF_CONFIG"):
        raise InputError("--overwrite: not with several workers; delete the run folder first.")
    manifest = records.read_manifest(
        folder,
        f"python -m beam_pipelines.nifti_to_tfrecord --config {config_said} "
        f"--input FOLDER_OF_CASES --output {folder}",
    )
    records.check_identity(manifest, config, folder)
    faults = [fault for shard in manifest.shards if (fault := records.check_shard(folder, shard))]
    if faults:
        raise InputError("\n".join(faults))
    strategy = strategy_for(config.train.strategy)
    _check_split(config.run.dir, manifest, folder, overwrite)
    if is_chief(strategy):
        run.start(config.run.dir, config, overwrite)
        _describe_data(config.run.dir, manifest)
    else:
        run.check(config.run.dir, config)
    training = Training(config, folder, manifest, strategy)
    _announce(training)
    if training.chief and training.progress.history:
        # A run killed between its checkpoint and its history has the row in the checkpoint.
        run.write_history(config.run.dir, training.progress.history)
    if training.is_over:
        print("nothing left to do: the run is complete")
    while not training.is_over:
        training.train_epoch()
        training.validate()
        if training.chief:
            training.write_history()
        row = training.progress.history[-1]
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    if training.progress.rises >= config.train.stop_patience:
        print(f"stopped: the validation loss stayed high for {training.progress.rises} epochs on end")
    print(f"best weights: {run.checkpoints(config.run.dir, 'best')}, {_best_line(training.progress)}")
    print(f"next: python -m tfbrats.export --run {config.run.dir} --output models/{config.model.name}")
    return training.progress.history


def _check_scheme(path: str) -> None:
    """TensorFlow itself reads records and writes checkpoints, and knows fewer places than the rest here."""
    scheme, separator, _ = path.partition("://")
    known = sorted({name for name in tf.io.gfile.get_registered_schemes() if name})
    if separator and scheme not in known:
        raise InputError(
            f"{path}: TensorFlow cannot write there; it knows local folders and {', '.join(known)}."
        )


def _check_split(folder: str, manifest: Manifest, records_folder: str, overwrite: bool) -> None:
    """A run must not go on with other cases: what it was validated on might be what it was trained on."""
    kept = files.join(folder, "splits.json")
    if overwrite or not files.exists(kept):
        return
    if files.read_json(kept)["sha256"] != manifest.split_sha256:
        raise InputError(
            f"{folder}: was trained on another split than {records_folder} holds. Give it its own records, or "
            "choose another --run."
        )


def _best_line(progress: Progress) -> str:
    best = run.best_row(progress.history)
    if best is None:
        return f"epoch {progress.epoch}, the last: there are no validation cases"
    return f"epoch {best['epoch']}, validation loss {float(best['validation_loss']):.4g}"


def _describe_data(folder: str, manifest: Manifest) -> None:
    """Keeps with the run what export must say of its training data."""
    files.write_json(files.join(folder, "splits.json"), {**manifest.cases, "sha256": manifest.split_sha256})
    content = manifest.model_dump(mode="json", exclude={"shards", "cases"})
    content["manifest_sha256"] = hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()
    files.write_json(files.join(folder, "records.json"), content)


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("tfbrats.train", __doc__)
    configs.add_arguments(parser)
    parser.add_argument("--data", help="record set (default: data.records of the config)")
    parser.add_argument("--run", help="run folder (default: run.dir of the config)")
    parser.add_argument("--overwrite", action="store_true", help="delete what the run folder holds first")
    options = parser.parse_intermixed_args(arguments)
    overrides = list(options.overrides)
    overrides += [f"data.records={options.data}"] if options.data else []
    overrides += [f"run.dir={options.run}"] if options.run else []
    # What a record set depends on must go into the command that makes it.
    of_records = ("records.", "preprocess.", "data.modalities=", "lws.contour_width_mm=")
    said = " ".join([options.config, *(o for o in options.overrides if o.startswith(of_records))])
    train(configs.load(options.config, overrides), options.overwrite, said)


if __name__ == "__main__":
    command.run(main)
