"""The largest batch that fits, and the hours of a training, from a few steps on made-up data.

No TensorFlow before records are counted: what trains, trains in a process of its own.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import signal
import tempfile
from collections.abc import Callable

from tfbrats.config import Config
from tfbrats.errors import InputError
from tfbrats.machine import memory
from tfbrats.records.manifest import check_identity, read_manifest
from tfbrats.terminal.wording import in_units
from tfbrats.workflows.chain import ended, output

# Examples in a batch that `largest_batch` takes at most: the papers have 8 and 24, and on a CPU an example of a
# large batch takes as long as one of two.
MOST = {"GPU": 128, "CPU": 32}
_GPU_SHARE = 0.9  # of the largest batch that fits; the rest is for batches fetched ahead and for fragments
_SECOND = 3  # a batch that says, beside one of 1, how memory grows on a CPU
_TRIED_STEPS = 1  # of a batch that may not fit, after one that compiles
# What ends a process for want of memory, as TensorFlow, cuDNN, C++ and Python put it.
_OUT_OF_MEMORY = (
    "RESOURCE_EXHAUSTED",
    "ResourceExhausted",
    "OOM when allocating",
    "OUT_OF_MEMORY",
    "out of memory",
    "ALLOC_FAILED",
    "No algorithm worked",  # cuDNN found no room for any algorithm's workspace
    "bad_alloc",
    "MemoryError",
)
# Where no records say how many examples there are.
_CASES = {"slices": 210, "patches": 285}  # paper A: BraTS 2017 HGG; paper B: BraTS 2018
_DEPTH, _WITH_BRAIN = 155, 139  # axial slices of a BraTS case; the mean of six cases of BraTS 2021


@dataclasses.dataclass(frozen=True)
class Trial:
    """What one network costs.

    Attributes:
        region: whose network, where each region has its own; else "".
        device: "GPU" or "CPU".
        batch_size: examples in a step.
        steps: that were timed.
        train_seconds: an example, forward, backward and update.
        forward_seconds: an example, forward alone.
        slots: numbers that the optimizer keeps for each parameter.
        peak_bytes: the most memory that was taken: of a GPU its own, of a CPU this process', over what it had
            taken when it started; of several networks in one process, since the first.
    """

    region: str
    device: str
    parameters: int
    batch_size: int
    steps: int
    train_seconds: float
    forward_seconds: float
    slots: int
    peak_bytes: int


def named(config: Config, region: str) -> str:
    """What a person calls a network, e.g. "msm WT"."""
    return f"{config.model.name} {region}".strip()


def trial_of(config: Config, region: str, batch_size: int, count: int) -> Trial | None:
    """`tfbrats.workflows.trial` of one network in its own process; None if its batch does not fit into memory.

    Args:
        count: of steps.

    Raises:
        InputError: it failed for another reason; the message ends with the last lines that it printed.
    """
    changes: dict = {"train": config.train.model_copy(update={"batch_size": batch_size})}
    changes |= {"region": region.lower()} if region else {}
    arguments = ["tfbrats.workflows.trial", "--batch", str(batch_size), "--steps", str(count)]
    arguments += ["--memory", str(int(memory.spendable_bytes()))]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "config.yaml"
        path.write_text(config.model_copy(update=changes).to_yaml(), "utf-8")
        # A person does not see its stderr, and TensorFlow's errors in it may be all that tells of memory.
        process = ended(*arguments, "--config", str(path), TF_CPP_MIN_LOG_LEVEL="1")
    if process.returncode in (128 + signal.SIGINT, -signal.SIGINT):
        raise KeyboardInterrupt  # Ctrl-C reaches it too, and may reach it alone where we only take note of it
    # SIGKILL is what Linux and schedulers send to a process that takes too much.
    starved = any(sign in process.stderr for sign in _OUT_OF_MEMORY) or process.returncode == -signal.SIGKILL
    if process.returncode and starved:
        return None
    (trial,) = json.loads(output(process))
    return Trial(**trial)


def nothing_fits(config: Config, region: str) -> InputError:
    """The error to raise where not even a batch of one example fits; it says what to make smaller."""
    smaller = [f"model.width={max(2, config.model.width // 2)}"]
    if config.train.precision == "float32":
        smaller.append("train.precision=mixed_bfloat16 (or mixed_float16 on an older GPU)")
    if config.unit == "patches":
        smaller.append(f"sampling.patch_size={max(8, config.sampling.patch_size // 16 * 8)}")
    else:
        smaller.append("a smaller records.slice_shape")
    return InputError(
        f"{named(config, region)}, width {config.model.width}: not even a batch of 1 fits into the memory "
        f"({in_units(memory.free_bytes())} are free for processes here, if it is no GPU's). Take "
        f"{', '.join(smaller)}, or a machine with more memory."
    )


def largest_batch(config: Config, say: Callable[[str], None] = print) -> int:
    """The largest batch a replica that fits into the memory, for every network of a config.

    On a GPU by doubling, then halving the distance, each try a process; on a CPU by how memory grows from a
    batch of 1 to one of 3, as running out of it there hurts others. At most `MOST`, and at most the training
    examples of an epoch. Call it before this process uses a GPU.

    Args:
        say: gets a line for each try.

    Raises:
        InputError: a batch of 1 does not fit, a network does not train at all, or it is for a TPU, which no
            trial takes.
    """
    if config.train.strategy == "tpu":
        raise InputError("train.batch_size=auto: not with train.strategy=tpu. Name a number.")

    def tried(region: str, batch_size: int) -> Trial | None:
        trial = trial_of(config, region, batch_size, _TRIED_STEPS)
        result = f"fits: {in_units(trial.peak_bytes)} of {trial.device} memory" if trial else "too large"
        say(f"{named(config, region)}, batch {batch_size}: {result}")
        return trial

    smallest = {}
    for region in config.regions:
        trial = tried(region, 1)
        if trial is None:
            raise nothing_fits(config, region)
        smallest[region] = trial
    device = smallest[region].device
    most = min(MOST[device], *(max(1, examples_of(config, region)[0][0]) for region in smallest))
    search = _largest_on_gpu if device == "GPU" else _largest_on_cpu
    size, reason = search(smallest, most, tried)
    say(f"batch {size}: {reason}")
    return size


def _largest_on_gpu(smallest: dict[str, Trial], most: int, tried: Callable) -> tuple[int, str]:
    """The batch, and why."""
    fits = most
    # The network that takes most is likely to decide: the others are then tried once.
    regions = sorted(smallest, key=lambda region: smallest[region].peak_bytes, reverse=True)
    for region in regions:
        if region != regions[0] and (fits == 1 or tried(region, fits)):
            continue
        low, high = 1, fits + 1 if region == regions[0] else fits  # fits; does not
        while high - low > max(1, low // 8):
            between = min(2 * low, most) if high > most else (low + high) // 2
            if tried(region, between):
                low = between
            else:
                high = between
        fits = low
    if fits == most:
        return fits, "no larger one is tried"
    return max(1, int(_GPU_SHARE * fits)), f"{fits} fit; the rest is for batches fetched ahead and fragments"


def _largest_on_cpu(smallest: dict[str, Trial], most: int, tried: Callable) -> tuple[int, str]:
    """The batch, and why."""
    allowed = memory.spendable_bytes()  # the rest is for the shuffle buffer, a checkpoint, and other people
    first, second = 1, min(_SECOND, most)
    if second == first:
        return first, "no larger one is tried"
    each, sizes = {}, {}
    for region, trial in smallest.items():
        larger = tried(region, second)
        if larger is None:
            each[region], sizes[region] = math.inf, first
            continue
        each[region] = max(1.0, (larger.peak_bytes - trial.peak_bytes) / (second - first))
        fitting = first + (allowed - trial.peak_bytes) / each[region]
        sizes[region] = int(min(most, max(first, fitting)))
    # The one that allows least decides, or of equals the one that takes most.
    region = min(sizes, key=lambda name: (sizes[name], -each[name]))
    size = sizes[region]
    while size > second:
        trial = tried(region, size)
        if trial and trial.peak_bytes <= allowed:
            break
        size = max(second, size * 3 // 4)
    if size == most:
        return size, "no larger one is tried"
    return size, f"{in_units(allowed)} of memory may be taken, {memory.SHARE:.0%} of what is free"


def examples_of(config: Config, region: str) -> tuple[tuple[int, int], str]:
    """Examples of training and of validation in an epoch, and whose."""
    folder = config.data.records
    with contextlib.suppress(InputError):  # none, or of another config: a person tries before they write
        manifest = read_manifest(folder)
        check_identity(manifest, config, folder)
        from tfbrats.training.recipes import recipe_for

        recipe = recipe_for(config, manifest, region)
        return (recipe.examples("train"), recipe.examples("validation")), folder
    dealt = [_CASES[config.unit] * part // sum(config.records.split) for part in config.records.split]
    whose = f"the paper's {dealt[0]} and {dealt[1]} cases; --records RECORDS counts yours"
    trained = validated = config.examples_per_case
    if trained is None:  # only training drops slices, those without brain first
        trained = min(_WITH_BRAIN, round(_DEPTH * (1 - config.records.dropped_fraction)))
        validated = _WITH_BRAIN
    return (dealt[0] * trained, dealt[1] * validated), whose


def training_hours(config: Config, trial: Trial, trained: int, validated: int) -> float:
    """Hours of one network for all epochs.

    Args:
        trained: training examples in an epoch, where train.steps_per_epoch does not say it.
        validated: validation examples.
    """
    seen = (config.train.steps_per_epoch or max(1, trained // trial.batch_size)) * trial.batch_size
    return config.train.epochs * (seen * trial.train_seconds + validated * trial.forward_seconds) / 3600
