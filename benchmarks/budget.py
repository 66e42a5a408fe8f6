"""A fixed time on the same few cases: our networks beside MONAI's, scored on a case that none of them saw.

    pip install -e . monai
    python benchmarks/budget.py --cases BraTS2021 --held-out BraTS2021_00006 --minutes 30 --output budget

cun_lws    paper A's network with loss weighted sampling, width 16: `tfbrats train` on slices
monai_2d   MONAI's BasicUNet on our own stream of the same slices
msm        paper B's three networks, width 16, which share the time: equally many steps each
monai_3d   MONAI's SegResNet on patches of the same volumes (`budget_peer.py` says how both of its are set up)

The clock starts with the process that trains: loading libraries, tracing and waiting for data count, records,
pace, export and prediction do not. All contestants have the same cores, one after the other. The methods'
schedules are in epochs, so two short trainings tell the pace beforehand, and an epoch gets as many steps as
make the whole schedule fit; at the end of the time a training that is not done gets SIGTERM, and the weights of
its last whole epoch count. Records are made once by the Beam job. All are scored by `tfbrats evaluate`.

Chosen beforehand for so short a training, and not tuned on the held-out case: batches of 8 slices or 4 patches
for both sides; ours SGD at 0.01, ten times the paper's as in smoke_2d.yaml (0.05 diverged within ten steps on
the training cases), five rungs of two epochs, each 0.3 times the one before (a tenth, the paper's, would learn
nothing on the last three), and Adam at 1e-3, five epochs; MONAI's Adam at 1e-3 along a cosine.
Networks, losses, augmentation and sampling are those of the configs. Hold out a case that has all three
regions, or half of the scores say nothing. One case and one seed: no ranking.

Run again, the same command goes on: what is scored already is not trained again.
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence

import budget_ours

from tfbrats import config as configs
from tfbrats import config_file
from tfbrats.cases import split_files
from tfbrats.config import Config
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS
from tfbrats.machine import files
from tfbrats.terminal import command, wording
from tfbrats.workflows import chain as steps

_HERE = pathlib.Path(__file__).parent
# What is set in the configs: the docstring says why.
_OF_SLICES = (
    *("train.batch_size=8", "train.learning_rate=0.01"),
    *("train.epochs=10", "train.ladder_epochs=2", "train.ladder_factor=0.3"),
)
_OF_VOLUMES = (
    *("records.kind=volumes", "train.batch_size=4", "train.learning_rate=0.001", "train.epochs=5"),
    "data.shuffle_buffer=40",  # each epoch fills it first: eight patches of five cases
)
CONTESTANTS = ("cun_lws", "monai_2d", "msm", "monai_3d")
_KIND = {"cun_lws": "slices", "monai_2d": "slices", "msm": "volumes", "monai_3d": "volumes"}
_STAMP, _RESULT = "settings.json", "result.json"


# --- the plan -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained on what, for how long, and where all of it goes.

    Attributes:
        config_of: kind of records ("slices", "volumes") -> the config's name or path.
        overrides_of: likewise -> what is set in it.
        seconds: each contestant's.
        steps: of an epoch of ours, where a person says it.
    """

    cases: str
    held_out: str
    training: tuple[str, ...]
    seconds: float
    steps: int | None
    output: pathlib.Path
    config_of: Mapping[str, str]
    overrides_of: Mapping[str, tuple[str, ...]]

    def config(self, kind: str, *more: str) -> Config:
        return config_file.load(self.config_of[kind], [*self.overrides_of[kind], *more])

    def arguments(self, kind: str) -> tuple[str, ...]:
        """Config and overrides, as every command takes them."""
        return ("--config", self.config_of[kind], *self.overrides_of[kind])

    def records(self, kind: str) -> str:
        return str(self.output / "records" / kind)


def _plan(options: argparse.Namespace) -> Plan:
    dataset = layouts.find(options.cases)
    (held_out,) = layouts.select(dataset, [options.held_out])
    training = tuple(
        one.case_id for one in dataset.cases if one.label and one.patient_id != held_out.patient_id
    )
    if not held_out.label or not training:
        raise InputError(
            f"{options.cases}: expected {held_out.case_id} and at least one other patient's case with a "
            f"segmentation; found {len(training)} others, and {'one' if held_out.label else 'none'} of its own."
        )
    width = f"model.width={options.width}"
    return Plan(
        os.path.abspath(options.cases),
        held_out.case_id,
        training,
        60 * options.minutes,
        options.steps,
        options.output.absolute(),
        {"slices": options.config_2d, "volumes": options.config_3d},
        {"slices": (width, *_OF_SLICES), "volumes": (width, *_OF_VOLUMES)},
    )


def _check_stamp(plan: Plan, cores: int) -> None:
    """Raises InputError if the folder holds something else, or results of other settings."""
    ours = {
        "training": list(plan.training),
        "held_out": plan.held_out,
        "minutes": plan.seconds / 60,
        "cores": cores,
        "steps": plan.steps,
        **{kind: plan.config(kind).model_dump(mode="json") for kind in plan.config_of},
    }
    path = plan.output / _STAMP
    if not path.exists():
        if plan.output.is_dir() and {one.name for one in plan.output.iterdir()} - {steps.LOCK}:
            raise InputError(f"{plan.output}: not empty, and not of this benchmark. Choose another --output.")
        files.write_json(path, ours)
    elif found := configs.differences(ours, files.read_json(path)):
        raise InputError(
            f"{plan.output}: holds results of other settings:\n  "
            + "\n  ".join(found)
            + "\nChoose another --output."
        )


# --- MONAI's --------------------------------------------------------------------------------------------


def _train_peer(plan: Plan, kind: str, folder: pathlib.Path, chain: steps.Steps) -> dict:
    """Finds the faster memory format, trains for the time -> what is known of the training."""
    config, trained = plan.arguments(kind), folder / "run"
    for stale in ("run", "predictions"):
        shutil.rmtree(folder / stale, ignore_errors=True)
    tried = json.loads(steps.output_of("budget_peer", "try", *config).splitlines()[-1])
    best = min(tried, key=tried.get)
    print(f"    {', '.join(f'{name} {value:.2f} s a step' for name, value in tried.items())}: {best}")
    chain.run(
        f"Train for {plan.seconds / 60:g} minutes",
        *("budget_peer", "train", *config, "--records", plan.records(kind), "--trained", str(trained)),
        *("--seconds", str(plan.seconds), *(("--channels-last",) if best == "channels_last" else ())),
        show=True,
    )
    return {**files.read_json(trained / "trained.json"), "seconds_a_step_tried": tried}


def _predict_peer(plan: Plan, kind: str, folder: pathlib.Path, chain: steps.Steps) -> None:
    chain.run(
        f"Segment {plan.held_out}",
        *("budget_peer", "predict", *plan.arguments(kind), "--trained", str(folder / "run")),
        *("--cases", plan.cases, "--case", plan.held_out, "--output", str(folder / "predictions")),
    )


# --- all of it ------------------------------------------------------------------------------------------


def _contest(plan: Plan, name: str) -> None:
    """One contestant, from the records to its scores, or what is left of it."""
    folder, kind, is_ours = plan.output / name, _KIND[name], not name.startswith("monai")
    if (folder / _RESULT).exists():
        print(f"\n{name}: done already", flush=True)
        return
    print(f"\n== {name} ==", flush=True)
    chain = steps.Steps(folder / "logs")
    note = folder / "trained.json"
    if not note.exists():
        if is_ours:
            of_config = (plan.config_of[kind], plan.overrides_of[kind])
            found = budget_ours.train(*of_config, plan.records(kind), plan.seconds, folder, chain, plan.steps)
        else:
            found = _train_peer(plan, kind, folder, chain)
        files.write_json(note, {**found, "load_after": round(os.getloadavg()[0], 2)})
    # A chain that goes on numbers its steps anew; what it has trained keeps its logs.
    chain = steps.Steps(folder / "logs" / "scoring")
    if is_ours:
        budget_ours.predict(plan.cases, plan.held_out, folder, chain)
    else:
        _predict_peer(plan, kind, folder, chain)
    scores = folder / "scores"
    chain.run(
        f"Score {plan.held_out}",
        *("tfbrats.evaluate", "--prediction", str(folder / "predictions"), "--reference", plan.cases),
        *("--cases", plan.held_out, "--output", str(scores)),
    )
    rows = {row["region"]: row for row in files.read_json(scores / "metrics.json")["rows"]}
    result = files.read_json(note)
    for score in ("dice", "hd95_mm"):
        result[score] = {region: rows[region][score] for region in REGIONS}
    files.write_json(folder / _RESULT, result)


def results_of(output: pathlib.Path) -> dict[str, dict]:
    """Contestant -> its result, of those that are scored."""
    return {
        name: files.read_json(output / name / _RESULT)
        for name in CONTESTANTS
        if (output / name / _RESULT).exists()
    }


def table(results: Mapping[str, Mapping]) -> list[str]:
    """The results as lines of Markdown; a score that is not defined is a dash."""
    heads = ["", "network", "parameters", "minutes", "steps", "examples"]
    heads += [f"Dice {region}" for region in REGIONS] + [f"HD95 {region}, mm" for region in REGIONS]
    lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    for name, one in results.items():
        line = [name, one["network"], f"{one['parameters']:,}", f"{one['seconds'] / 60:.1f}"]
        line += [f"{one['steps']:,}", f"{one['examples']:,}"]
        for score, digits in (("dice", 3), ("hd95_mm", 1)):
            values = [one[score][region] for region in REGIONS]
            line += ["-" if value is None else f"{value:.{digits}f}" for value in values]
        lines.append(line)
    return [f"| {' | '.join(line)} |" for line in lines]


def _report(plan: Plan, cores: int) -> None:
    results = results_of(plan.output)
    versions = {}
    for package in ("tfbrats", "tensorflow", "keras", "torch", "monai"):
        if importlib.util.find_spec(package):
            versions[package] = importlib.metadata.version(package)
    about = {
        "held_out": plan.held_out,
        "training": list(plan.training),
        "minutes": plan.seconds / 60,
        "cores": cores,
        "versions": versions,
    }
    files.write_json(plan.output / "budget.json", {**about, "results": results})
    lines = [
        f"{plan.seconds / 60:g} minutes on {wording.counted(cores, 'core')} each, trained on "
        f"{wording.counted(len(plan.training), 'case')} ({', '.join(plan.training)}), scored on "
        f"{plan.held_out}; " + ", ".join(f"{package} {version}" for package, version in versions.items()) + ".",
        "",
        *table(results),
    ]
    files.write_bytes(plan.output / "budget.md", "\n".join([*lines, ""]).encode())
    print("\n" + "\n".join(lines))
    print(f"\n{plan.output / 'budget.md'}, {plan.output / 'budget.json'}")


def _check_peers(chosen: Sequence[str]) -> None:
    """Raises InputError, before any training, if a chosen contestant lacks its library."""
    needed = [name for name in chosen if name.startswith("monai")]
    missing = [package for package in ("torch", "monai") if not importlib.util.find_spec(package)]
    if needed and missing:
        ours = ",".join(name for name in CONTESTANTS if name not in needed)
        raise InputError(
            f"{' and '.join(needed)}: {' and '.join(missing)} missing. pip install monai, or pass --only "
            f"{ours}."
        )


def _cores(wanted: int) -> int:
    """Keeps this process, and all that it starts, to so many cores where the system can; how many there are."""
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:wanted])
    return len(os.sched_getaffinity(0))


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("budget", __doc__)
    parser.prog = "python benchmarks/budget.py"
    parser.add_argument("--cases", required=True, metavar="DIR", help="data set, in any layout")
    parser.add_argument("--held-out", required=True, metavar="CASE", help="the case that is scored")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training, each contestant")
    parser.add_argument(
        "--output", required=True, type=pathlib.Path, metavar="DIR", help="folder for everything"
    )
    parser.add_argument("--only", default=",".join(CONTESTANTS), help="contestants, with commas between them")
    parser.add_argument("--cores", type=int, default=2, help="that all of them have")
    parser.add_argument("--width", type=int, default=16, help="of our networks")
    parser.add_argument("--steps", type=int, metavar="N", help="of an epoch of ours; else by the pace")
    parser.add_argument("--config-2d", default="cun_lws.yaml", metavar="CONFIG", help="another one for slices")
    parser.add_argument("--config-3d", default="msm.yaml", metavar="CONFIG", help="another one for volumes")
    options = parser.parse_args(arguments)
    chosen = [name for name in CONTESTANTS if name in options.only.split(",")]
    if unknown := set(options.only.split(",")) - set(CONTESTANTS):
        raise InputError(f"--only {', '.join(sorted(unknown))}: the contestants are {', '.join(CONTESTANTS)}.")
    if options.minutes <= 0 or options.cores < 1:
        raise InputError("--minutes and --cores: expected more than 0.")
    _check_peers(chosen)
    cores = _cores(options.cores)
    places = [str(_HERE), *filter(None, [os.environ.get("PYTHONPATH")])]  # of budget_peer
    os.environ.update(CUDA_VISIBLE_DEVICES="", PYTHONPATH=os.pathsep.join(places))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    plan = _plan(options)
    files.check_can_hold(plan.output)
    with steps.alone(plan.output):
        _check_stamp(plan, cores)
        print(
            f"train on {', '.join(plan.training)}\nscore on {plan.held_out}\n"
            f"{plan.seconds / 60:g} minutes each on {wording.counted(cores, 'core')}, "
            f"load {os.getloadavg()[0]:.1f}"
        )
        split_files.write(
            plan.output / "splits.json",
            split_files.named({"train": list(plan.training), "test": [plan.held_out]}),
        )
        chain = steps.Steps(plan.output / "logs")
        for kind in dict.fromkeys(_KIND[name] for name in chosen):
            chain.run(
                f"Make the records of {kind}",
                *("beam_pipelines.nifti_to_tfrecord", *plan.arguments(kind), "--input", plan.cases),
                *("--output", plan.records(kind), "--splits", str(plan.output / "splits.json")),
                log_name=f"records-{kind}",
            )
        for name in chosen:
            _contest(plan, name)
        _report(plan, cores)


if __name__ == "__main__":
    command.run(main)
