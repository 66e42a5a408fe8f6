"""Train one row of a paper's table.

    python -m tfbrats.train --config cun.yaml
    python -m tfbrats.train --config cun_lws.yaml --data records/cun --run runs/cun_lws train.epochs=50
    python -m tfbrats.train --config msm.yaml --data records/msm --run runs/msm region=wt

Says what will happen, does it, says what happened. The same command again goes on where the last one
stopped. Runs on one device, on several (MirroredStrategy) and on several machines (TF_CONFIG). Paper B's
networks, WT, TC and ET, are trained in turn, or the one that region= names.
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

from tfbrats import command, data, files, predicted_boxes, records, run
from tfbrats import config as configs
from tfbrats.command import InputError
from tfbrats.config import Config, PatchConfig
from tfbrats.labels import REGIONS
from tfbrats.recipes import PatchRecipe, Recipe, SliceRecipe
from tfbrats.records import Manifest
from tfbrats.run import home_of

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
        self.global_batch = 0  # examples a step
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
    """A network in training: what is trained, on what, where it is kept."""

    def __init__(self, config: Config, recipe: Recipe, manifest: Manifest, strategy: tf.distribute.Strategy):
        self.config, self.recipe, self.manifest, self.strategy = config, recipe, manifest, strategy
        number = list(REGIONS).index(recipe.region) if recipe.region else 0
        keras.utils.set_random_seed(config.train.seed + number)
        keras.mixed_precision.set_global_policy(config.train.precision)
        self.replicas = self.strategy.num_replicas_in_sync
        self.global_batch = config.train.batch_size * self.replicas
        # As many whole batches as the split fills, at least one; or what the config says.
        self.steps = config.train.steps_per_epoch or max(1, recipe.examples("train") // self.global_batch)
        self.chief = is_chief(self.strategy)
        self.workers = getattr(self.strategy.extended, "_num_workers", 1)
        with self.strategy.scope():
            self.network = recipe.network(self.replicas)
            self.optimizer = recipe.optimizer()
            if config.train.precision == "mixed_float16":
                self.optimizer = keras.optimizers.LossScaleOptimizer(self.optimizer)
            self.optimizer.build(self.network.trainable_variables)
        self.progress = Progress()
        checkpoint = tf.train.Checkpoint(network=self.network, optimizer=self.optimizer, progress=self.progress)
        # Saving is collective: workers other than the first save too, where nobody looks.
        home = recipe.home if self.chief else tempfile.mkdtemp(prefix="tfbrats-worker-")
        self.last = tf.train.CheckpointManager(checkpoint, run.checkpoints(home, "last"), max_to_keep=2)
        self.best = tf.train.CheckpointManager(checkpoint, run.checkpoints(home, "best"), max_to_keep=1)
        self._restore(checkpoint, run.checkpoints(recipe.home, "last"))
        self._train_step = recipe.train_step(self.strategy, self.network, self.optimizer)
        self._validation_step = recipe.validation_step(self.strategy, self.network)

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
                f"{folder}: epoch {progress.epoch + 1} was begun with {progress.global_batch} "
                f"{self.recipe.unit} a step, and now there would be {self.global_batch}. End it on as many "
                "replicas as before, or change train.batch_size in a new run."
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
        schedule = self.recipe.schedule(progress.epoch)
        self.optimizer.learning_rate = schedule["learning_rate"]
        stream = self.recipe.training(progress.epoch, self.global_batch, progress.step, self.workers)
        batches = iter(self.strategy.experimental_distribute_dataset(stream))
        saved = began = time.monotonic()
        before = progress.seconds
        with tqdm(
            total=self.steps,
            initial=progress.step,
            desc=f"{self.recipe.region} epoch {progress.epoch + 1}/{config.train.epochs}".strip(),
            disable=None if self.chief else True,
        ) as bar:
            while progress.step < self.steps:
                found = self._train_step(next(batches), schedule)
                values = {name: float(value) for name, value in found.items()}
                if not math.isfinite(values["loss"]):
                    raise InputError(self._diverged(f"step {progress.step + 1}", values["loss"]))
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
                **schedule,
                **{name: total / self.steps for name, total in progress.sums.items()},
                "seconds": round(progress.seconds, 3),
                f"{self.recipe.unit}_per_second": round(self.steps * self.global_batch / progress.seconds, 3),
            }
        )

    def validate(self) -> None:
        """Scores the validation split, notes an obvious rise, and keeps the best weights.

        Without validation cases the last weights count as the best.
        """
        progress, config = self.progress, self.config
        improved = True
        if self.recipe.examples("validation"):
            batches = self.recipe.validation(self.global_batch)
            sums = sum(
                self._validation_step(batch).numpy()
                for batch in self.strategy.experimental_distribute_dataset(batches)
            )
            scores = self.recipe.validation_scores(sums)
            progress.history[-1].update(scores)
            loss = scores["validation_loss"]
            if not math.isfinite(loss):  # before such weights are saved
                raise InputError(self._diverged("validation", loss))
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
        run.write_history(self.recipe.home, self.progress.history)
        row = self.progress.history[-1]
        with tf.summary.create_file_writer(files.join(self.recipe.home, "tb")).as_default():
            for name, value in row.items():
                if name != "epoch":
                    tf.summary.scalar(name, value, step=row["epoch"])

    def _diverged(self, where: str, loss: float) -> str:
        return (
            f"epoch {self.progress.epoch + 1}, {where}: the loss is {loss}. Start again into another --run "
            f"with a lower train.learning_rate (now {self.config.train.learning_rate:g}); {self.recipe.home} "
            "keeps its last checkpoint."
        )


def _announce(training: Training) -> None:
    config, manifest, progress, recipe = training.config, training.manifest, training.progress, training.recipe
    cases = ", ".join(f"{name} {len(ids)}" for name, ids in manifest.cases.items())
    examples = ", ".join(f"{name} {recipe.examples(name)}" for name in manifest.cases)
    policy = data.shard_policy(len(manifest.shards_of("train", recipe.region)), training.workers)
    print(
        f"network     {' '.join(filter(None, (config.model.name, recipe.region)))}, "
        f"width {config.model.width}, {training.network.count_params():,} parameters, "
        f"{config.train.precision}\n"
        f"loss        {recipe.loss}\n"
        f"records     {config.data.records}: {manifest.kind}, {manifest.bytes / 2**20:.1f} MiB\n"
        f"cases       {cases}\n"
        f"{recipe.unit:<11} {examples}\n"
        f"replicas    {training.replicas} ({type(training.strategy).__name__}), "
        f"{config.train.batch_size} {recipe.unit} each, shards by {policy}\n"
        f"steps       {training.steps} an epoch, {config.train.epochs} epochs\n"
        f"writes      {recipe.home}"
    )
    if (progress.epoch or progress.step) and not training.is_over:
        print(f"resumes     at epoch {progress.epoch + 1}, step {progress.step + 1}")


def train(config: Config, overwrite: bool = False, config_said: str = "CONFIG.yaml") -> list[dict]:
    """Trains `config` on config.data.records into config.run.dir, or goes on with it.

    Args:
        overwrite: delete what the run folder holds first; with one region named, that network's part.
        config_said: the config as it was given, with overrides, for the command that makes missing records.

    Returns:
        the history, a row per epoch; of paper B's networks one after the other, each row with its region.

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
    whole, overwritten = config, config.run.dir
    if isinstance(config, PatchConfig) and config.region != "all":
        # The folder is the run of all three; only this network's part may be deleted.
        whole, overwritten = config.model_copy(update={"region": "all"}), home_of(config, config.regions[0])
    if not overwrite or overwritten != config.run.dir:
        _check_split(config.run.dir, manifest, folder)
    if is_chief(strategy):
        run.start(config.run.dir, whole, [overwritten] if overwrite else [])
        _describe_data(config.run.dir, manifest)
    else:
        run.check(config.run.dir, whole)
    if not isinstance(config, PatchConfig):
        history = _train_network(Training(config, SliceRecipe(config, manifest), manifest, strategy))
    else:
        history = []
        for region in config.regions:
            boxes = predicted_boxes.of_training_cases(config, manifest, region)
            recipe = PatchRecipe(config, manifest, region, boxes)
            rows = _train_network(Training(config, recipe, manifest, strategy))
            history += [{"region": region, **row} for row in rows]
    untrained = _untrained(config)
    if untrained:
        print(f"next: train {' and '.join(untrained)} too, with region={untrained[0].lower()}")
    else:
        print(f"next: python -m tfbrats.export --run {config.run.dir} --output models/{config.model.name}")
    return history


def _train_network(training: Training) -> list[dict]:
    """Trains one network to its end, or what is left of it; its history."""
    recipe, progress = training.recipe, training.progress
    _announce(training)
    if training.chief and progress.history:
        # A run killed between its checkpoint and its history has the row in the checkpoint.
        run.write_history(recipe.home, progress.history)
    if training.is_over:
        print("nothing left to do: the run is complete")
    while not training.is_over:
        training.train_epoch()
        training.validate()
        if training.chief:
            training.write_history()
        row = progress.history[-1]
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    if progress.rises >= training.config.train.stop_patience:
        print(f"stopped: the validation loss stayed high for {progress.rises} epochs on end")
    print(f"best weights: {run.checkpoints(recipe.home, 'best')}, {_best_line(progress)}")
    return progress.history


def _untrained(config: Config) -> list[str]:
    """The regions that still lack a network in this run folder."""
    if not isinstance(config, PatchConfig):
        return []
    return [r for r in REGIONS if not files.is_folder(run.checkpoints(home_of(config, r), "best"))]


def _check_scheme(path: str) -> None:
    """TensorFlow itself reads records and writes checkpoints, and knows fewer places than the rest here."""
    scheme, separator, _ = path.partition("://")
    known = sorted({name for name in tf.io.gfile.get_registered_schemes() if name})
    if separator and scheme not in known:
        raise InputError(
            f"{path}: TensorFlow cannot write there; it knows local folders and {', '.join(known)}."
        )


def _check_split(folder: str, manifest: Manifest, records_folder: str) -> None:
    """A run must not go on with other cases: what it was validated on might be what it was trained on."""
    kept = files.join(folder, "splits.json")
    if not files.exists(kept):
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
    of_records = ("records.", "preprocess.", "data.modalities=", "lws.contour_width_mm=", "sampling.")
    of_records += ("cascade.mask=", "cascade.margin=")
    said = " ".join([options.config, *(o for o in options.overrides if o.startswith(of_records))])
    train(configs.load(options.config, overrides), options.overwrite, said)


if __name__ == "__main__":
    command.run(main)
