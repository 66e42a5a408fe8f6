"""Train the folds of a cross-validation, each as a run of its own, on one record set: RUN/fold0, RUN/fold1, ...

RUN/folds.json keeps which cases each holds out. What is trained is not trained again, so that the same command
goes on where it was stopped, and several machines may each take a fold. No TensorFlow before a fold trains.
"""

from collections.abc import Sequence

from tfbrats.cases import split_files
from tfbrats.cases.split_files import Splits
from tfbrats.config import Config
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.machine.stopping import Stop
from tfbrats.runs import listing
from tfbrats.runs.folder import RunFolder
from tfbrats.terminal import style, verbs
from tfbrats.workflows import begun_from as origins
from tfbrats.workflows import whole_run

FOLDS = "folds.json"


def path_of(run: str, number: int) -> str:
    """The run folder of a fold."""
    return files.join(run, f"fold{number}")


def train(
    config: Config,
    path: str,
    number: int | None = None,
    overwrite: bool = False,
    config_arguments: Sequence[str] = ("CONFIG.yaml",),
    stop: Stop | None = None,
    begun_from: str | None = None,
) -> None:
    """Trains what is missing of the folds in a file, one after the other.

    Args:
        config: `config.run.dir` is the folder of all folds.
        path: the file, of `tfbrats split --folds`.
        number: of the one fold that is wanted.
        overwrite, config_arguments, stop, begun_from: as for `whole_run.train`, of each fold.

    Raises:
        InputError: no folds there, other folds than were begun here, a fold that began from something else
            than `begun_from`, and whatever `whole_run.train` raises.
    """
    stop = stop or Stop()
    folds = _read(path, number)
    home = config.run.dir
    wanted = range(len(folds)) if number is None else [number]
    configs = {
        n: config.model_copy(update={"run": config.run.model_copy(update={"dir": path_of(home, n)})})
        for n in wanted
    }
    made_by = [*config_arguments, "--splits", path]
    _check_home(home, folds, path)
    manifest = whole_run.manifest_of(config, made_by)
    for n, of_fold in configs.items():  # what is wrong with the last is told before the first has trained
        view = whole_run.checked_view(of_fold, manifest, overwrite, folds[n])
        origins.origin_of(of_fold, view, begun_from, overwrite)
    if not files.exists(files.join(home, FOLDS)):
        files.write_json(files.join(home, FOLDS), split_files.as_json(folds))
    for n, of_fold in configs.items():
        run = RunFolder(of_fold.run.dir)
        heading = f"fold {n} of 0 to {len(folds) - 1}"
        if run.is_run and not overwrite and not any(r in run.unfinished(of_fold) for r in of_fold.regions):
            print(f"{style.heading(heading)}: trained already, {run.path}", flush=True)
            continue
        print(style.heading(heading), flush=True)
        whole_run.train(of_fold, overwrite, made_by, stop, begun_from, folds[n])
        if stop.is_asked:
            return
    runs = [path_of(home, n) for n in configs]
    if number is None and not any(RunFolder(run).unfinished(config) for run in runs):
        output = f"models/{listing.method(config)}_folds"
        print(style.following(verbs.command_line("tfbrats.export", "--runs", *runs, "--output", output)))


def _read(path: str, number: int | None) -> list[Splits]:
    """The folds of a file.

    Raises:
        InputError: it holds none, or not this one; or one of them is no fold.
    """
    folds = split_files.read_folds(path)
    if not folds:
        raise InputError(
            f"--folds {path}: holds one split, no folds. Deal them with tfbrats split --folds 5, or leave "
            "--folds out."
        )
    if number is not None:
        split_files.read(path, number)
    for n, fold in enumerate(folds):
        if both := sorted(set(fold["train"]) & set(fold["validation"])):
            raise InputError(
                f"--folds {path}: fold {n} both trains and validates on {split_files.some(both)}. Deal the "
                "folds with tfbrats split --folds, or take each case out of one of the two."
            )
        if fold["test"]:
            raise InputError(
                f"--folds {path}: fold {n} keeps {split_files.some(fold['test'])} for testing, and folds have "
                "no test cases: each case is validated once. Leave those cases out of the file."
            )
    return folds


def _check_home(home: str, folds: Sequence[Splits], path: str) -> None:
    """Raises InputError where the folder holds a run, or the runs of other folds."""
    if RunFolder(home).is_run:
        raise InputError(f"{home}: holds a run of one split. Choose another --run for the folds.")
    kept = files.join(home, FOLDS)
    if files.exists(kept) and split_files.read_folds(kept) != list(folds):
        raise InputError(
            f"{home}: was begun on other folds than {path} holds ({kept} has them). Go on with those: --folds "
            f"{kept}, or choose another --run."
        )
