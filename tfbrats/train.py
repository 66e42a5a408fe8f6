"""Train one row of a paper's table.

    tfbrats train --config cun.yaml
    tfbrats train --config cun_lws.yaml --records records/cun --run runs/cun_lws train.epochs=50
    tfbrats train --config msm.yaml --records records/msm --run runs/msm region=wt
    tfbrats train --config cun_lws.yaml --records records/own --run runs/own --from models/cun_lws
    tfbrats train --config cun_lws.yaml --records records/folds --run runs/folds --folds folds.json

Says what will happen, does it, says what happened. The same command again goes on where the last one
stopped, on as many devices or others; SIGTERM and Ctrl-C save first. Runs on one device, on several
(MirroredStrategy) and on several machines (TF_CONFIG). Paper B's networks, WT, TC and ET, are trained in turn,
or the one that region= names. Folds are trained in turn too, each into a run folder of its own under --run, or
one of them with --fold.
"""

from collections.abc import Sequence

from tfbrats import config_file
from tfbrats.errors import InputError
from tfbrats.machine import paths, stopping
from tfbrats.terminal import command
from tfbrats.workflows import folds, whole_run


def parser() -> command.Parser:
    """The options."""
    options = command.parser("tfbrats.train", __doc__)
    config_file.add_arguments(options)
    options.add_argument(
        "--records", type=paths.argument, help="record set (default: data.records of the config)"
    )
    options.add_argument("--run", type=paths.argument, help="run folder (default: run.dir of the config)")
    options.add_argument("--overwrite", action="store_true", help="delete what the run folder holds first")
    options.add_argument(
        "--from",
        dest="begun_from",
        type=paths.argument,
        metavar="MODEL",
        help="begin with the best weights of this run, or of this exported model",
    )
    options.add_argument(
        "--folds", type=paths.argument, metavar="FILE", help="train each of its folds, of tfbrats split --folds"
    )
    options.add_argument("--fold", type=int, metavar="N", help="only this one of --folds")
    options.renamed({"--data": "--records"})
    return options


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_intermixed_args(arguments)
    if options.fold is not None and options.folds is None:
        raise InputError(f"--fold {options.fold} needs --folds: the file that holds the folds.")
    overrides = list(options.overrides)
    overrides += [f"data.records={options.records}"] if options.records else []
    overrides += [f"run.dir={options.run}"] if options.run else []
    # What a record set depends on must go into the command that makes it.
    of_records = ("records.", "preprocess.", "data.modalities=", "lws.contour_width_mm=", "sampling.")
    of_records += ("cascade.mask=", "cascade.margin=", "region=")
    of_the_set = [override for override in options.overrides if override.startswith(of_records)]
    with stopping.on_signals("stopping after this step: what is done will be saved") as stop:
        config = config_file.load(options.config, overrides)
        rest = (options.overwrite, [options.config, *of_the_set], stop, options.begun_from)
        if options.folds is not None:
            folds.train(config, options.folds, options.fold, *rest)
        else:
            whole_run.train(config, *rest)
    return stop.exit_code


if __name__ == "__main__":
    command.run(main)
