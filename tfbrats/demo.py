"""The whole way once, on simulated cases: NIfTI -> TFRecord -> training -> SavedModel -> gRPC -> scores.

    tfbrats demo
    tfbrats demo --method msm

Takes three and a half minutes of processor time: about four minutes on two idle cores (eight with msm), ten on
two that have much else to do. Needs no data. Each step is a command that you could have typed; it is printed
before it runs, and its output is kept under logs/. Run again, it goes on where it was stopped.
"""

import json
import pathlib
import re
import subprocess
import time
from collections.abc import Sequence

from tfbrats import __version__
from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.terminal import command, style, verbs
from tfbrats.workflows.chain import Steps, exported_since

METHODS = {  # name -> config, and what is trained
    "cun": ("smoke_2d.yaml", "the cascaded U-Net with loss weighted sampling"),
    "msm": ("smoke_3d.yaml", "the multi-scale 3-D U-Nets for WT, TC and ET"),
}
CASES = 20  # 12 to train on, 4 to validate, 4 that nothing has seen
SHAPE = ("96", "96", "64")
SERVER_START_S = 120


class _Places:
    """Where everything of a demo lies, under one folder.

    Args:
        output: the folder itself; scores and the report page lie in it.
        config: name of the method's YAML.
    """

    def __init__(self, output: pathlib.Path, config: str):
        self.output, self.config = output, config
        self.cases, self.records, self.run = output / "cases", output / "records", output / "run"
        self.model = output / "models" / config.removesuffix(".yaml")
        self.predictions = output / "predictions"
        self.page = output / "report.html"
        self.view = output / "case.html"


def demo(output: pathlib.Path, method: str) -> None:
    """Runs all steps under `output`.

    Args:
        method: a key of `METHODS`.

    Raises:
        InputError: a step failed.
    """
    started = time.monotonic()
    config, what = METHODS[method]
    _check_stamp(output, config)
    places = _Places(output, config)
    steps = Steps(output / "logs")
    _prepare(steps, places)
    _train_and_export(steps, places, what)
    unseen = _unseen(places)
    _segment(steps, places, unseen)
    _score_and_draw(steps, places, what, unseen)
    _show(steps, places, unseen[0])
    print(f"\ndone in {time.monotonic() - started:.0f} s. Look at")
    print("\n".join(_what_is_there(places)))


def _what_is_there(places: _Places) -> list[str]:
    """The demo's files, and what to do with its model, as lines."""
    commands = (
        ("tfbrats.predict", "--model", places.model, "--input", "BraTS2021", "--output", "predictions"),
        ("tfbrats.evaluate", "--prediction", "predictions", "--reference", "BraTS2021", "--output", "scores"),
    )
    records = ("--config", "cun_lws", "--input", "BraTS2021", "--output", "records/cun", "--price")
    return [
        f"    {places.view}  one case, to be turned in three dimensions",
        f"    {places.page}  pictures beside scores",
        f"    {places.output / 'metrics.csv'}  a row per case and region",
        f"    {places.predictions}/  the segmentations, NIfTI",
        f"    {places.run}/  the run: config, history, TensorBoard, checkpoints",
        f"    {places.model}/  the SavedModel's versions, each with its tfbrats.json",
        style.following(f"look at {places.view} and {places.page} in a browser"),
        "",
        "The same on your own cases. This model has seen simulated brains alone: it shows the way, no result.",
        *(f"    {verbs.command_line(*command_line)}" for command_line in commands),
        "A model of real cases begins with its records, and their price:",
        f"    {verbs.command_line('beam_pipelines.nifti_to_tfrecord', *records)}",
    ]


def _prepare(steps: Steps, places: _Places) -> None:
    """NIfTI, looked at, as TFRecords."""
    steps.run(
        "Simulate glioma cases",
        *("tfbrats.phantom", "--output", str(places.cases), "--count", str(CASES), "--edition", "2021"),
        *("--seed", "1", "--shape", *SHAPE),
    )
    steps.run("Look at them", "tfbrats.inspect", str(places.cases))
    steps.run(
        "Turn NIfTI into TFRecords with Beam",
        *("beam_pipelines.nifti_to_tfrecord", "--config", places.config),
        *("--input", str(places.cases), "--output", str(places.records)),
    )


def _train_and_export(steps: Steps, places: _Places, what: str) -> None:
    """A run, and a model of it."""
    steps.run(
        f"Train {what}",
        *("tfbrats.train", "--config", places.config),
        *("--records", str(places.records), "--run", str(places.run)),
        show=True,
    )

    from tfbrats.runs.folder import RunFolder

    RunFolder(places.run).check_finished()
    steps.run(
        "Export it",
        *("tfbrats.export", "--run", str(places.run), "--output", str(places.model)),
        is_done=exported_since(places.run, places.model),
    )


def _unseen(places: _Places) -> list[str]:
    """The cases that neither trained the model nor chose its checkpoint."""
    from tfbrats.records import manifest

    return list(manifest.read_manifest(places.records).cases["test"])


def _segment(steps: Steps, places: _Places, case_ids: Sequence[str]) -> None:
    """The cases through a server of the model, which runs while they are segmented."""
    arguments = ("serving.server", "--model_base_path", str(places.model), "--port", "0")
    with steps.background("Serve it", *arguments) as (process, log):
        steps.run(
            "Segment the cases that nothing has seen, over gRPC",
            *("serving.client", "--server", _address(process, log)),
            *("--model-name", places.model.name, "--overwrite"),
            *("--input", str(places.cases), *(text for case_id in case_ids for text in ("--case", case_id))),
            *("--output", f"{places.predictions}/"),
            show=True,
        )


def _address(process: subprocess.Popen, log: pathlib.Path) -> str:
    """Where the server listens, as host:port, once it is ready.

    Raises:
        InputError: it ended, or is not ready after `SERVER_START_S`.
    """
    limit = time.monotonic() + SERVER_START_S
    while time.monotonic() < limit and process.poll() is None:
        ready = re.search(r"^ready: .* on (\S+:\d+)", log.read_text("utf-8", "replace"), re.MULTILINE)
        if ready:
            print(f"    ready on {ready.group(1)}", flush=True)
            return ready.group(1)
        time.sleep(0.2)
    printed = log.read_text("utf-8", "replace")[-2000:]
    raise InputError(f"the server did not start:\n{printed}")


def _score_and_draw(steps: Steps, places: _Places, what: str, case_ids: Sequence[str]) -> None:
    """Scores of the segmentations, and the page of them."""
    steps.run(
        "Score the segmentations",
        *("tfbrats.evaluate", "--prediction", str(places.predictions), "--reference", str(places.cases)),
        *("--cases", ",".join(case_ids), "--output", str(places.output)),
        show=True,
    )
    steps.run(
        "Draw them",
        *("tfbrats.report", "--scores", str(places.output), "--prediction", str(places.predictions)),
        *("--reference", str(places.cases), "--run", str(places.run), "--output", str(places.page)),
        *("--title", f"Demo: {what}"),
        notes=["Simulated cases, none of them a patient. What was run:", *(f"`{line}`" for line in steps.done)],
    )


def _show(steps: Steps, places: _Places, case_id: str) -> None:
    """One of them in the viewer."""
    steps.run(
        "Turn one in three dimensions",
        *("tfbrats.view", str(places.cases), "--case", case_id),
        *("--prediction", str(places.predictions), "--output", str(places.view)),
    )


def _check_stamp(output: pathlib.Path, name: str) -> None:
    """A demo goes on with what an earlier run of the same demo left, and with nothing else.

    Args:
        name: the config's.

    Raises:
        InputError: the folder is that of another version or config.
    """
    from tfbrats import config_file

    stamp = {"tfbrats": __version__, "config": config_file.load(name).model_dump(mode="json"), "shape": SHAPE}
    stamp = json.loads(json.dumps(stamp))
    path = output / "demo.json"
    if path.exists() and files.read_json(path) != stamp:
        raise InputError(
            f"{output}: a demo of another method or version of tfbrats. Delete it, or choose another --output."
        )
    if not path.exists() and output.exists() and any(output.iterdir()):
        raise InputError(f"{output}: not empty, and not a demo. Choose another --output.")
    files.write_json(path, stamp)


def parser() -> command.Parser:
    """The command's options."""
    parser = command.parser("tfbrats.demo", __doc__)
    parser.add_argument("--method", choices=tuple(METHODS), default="cun", help="(default: %(default)s)")
    parser.add_argument(
        "--output", type=paths.argument, help="folder for everything (default: demo, or demo_METHOD)"
    )
    return parser


def main(arguments: Sequence[str]) -> None:
    asked = parser().parse_args(arguments)
    output = asked.output or ("demo" if asked.method == "cun" else f"demo_{asked.method}")
    # A path object forgets the ./ before a name that reads as an option or a home folder without it.
    demo(pathlib.Path(paths.absolute(output) if output.startswith("./") else output), asked.method)


if __name__ == "__main__":
    command.run(main)
