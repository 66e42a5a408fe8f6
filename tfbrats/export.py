"""Export a trained run as a SavedModel for TensorFlow Serving.

    tfbrats export --run runs/cun --output models/cun
    tfbrats export --run runs/cun --output models/cun_bf16 --precision mixed_bfloat16
    tfbrats export --runs runs/fold0 runs/fold1 runs/fold2 --output models/cun_folds

Writes models/cun/<next version>/ under another name, replays its own warm-up requests on it, checks that it
answers as the Keras model does, and only then renames it: a server that watches the folder never loads half
a model or one that does not work. Signatures: serving_default, int16 and gzip_int16 (a whole case by modality
name), any_axes_int16 (of axes that the caller names), cases_int16 (several of one grid), slices or patches_wt,
patches_tc and patches_et (the bare networks), describe (tfbrats.json over the wire).

Batch normalisation that follows a convolution is folded into it, where the answer stays the same: in float32
within 0.00001 in probability, and not one label.

--runs makes one model of several runs of one row, whose widths may differ: the mean of their probabilities.
Each network's weights are in it once. One network runs after the other, so that memory grows by the weights
alone. --flips averages over mirrored inputs too: along the axes along which training mirrored slices, else from
left to right alone. The card tells passes, bytes of weights and seconds beside one network, and of each run
which of all runs' cases did not train it.

What tfbrats tune has chosen for the run (tuned.json in its folder) goes into the graph and onto the card:
predict, client, server and Beam answer alike. It is refused where it was chosen with other weights. --plain
leaves it away: the model answers as the paper says.

In mixed_bfloat16 the weights are the same and the network computes with 8 bits of mantissa. On some CPUs that
is faster, on others slower, and some labels change. Each export tries it on this machine, on a small
simulated case, for up to half a minute at width 32, and says what it found; the card keeps it. Networks
narrower than 16 channels are not tried.

At the end it says whether TensorFlow Serving of the image that our files name has every op of the model, and
if not, which it lacks.
"""

from collections.abc import Sequence

from tfbrats.exports import next_version
from tfbrats.exports.chosen import APART, FREE
from tfbrats.machine import paths
from tfbrats.terminal import command, style, verbs, wording


def parser() -> command.Parser:
    """The options."""
    options = command.parser("tfbrats.export", __doc__)
    which = options.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=paths.argument, help="run folder of tfbrats train")
    which.add_argument(
        "--runs",
        type=paths.argument,
        nargs="+",
        metavar="RUN",
        help="several, of one row: one model, whose answer is the mean of their networks' probabilities",
    )
    options.add_argument(
        "--output", type=paths.argument, required=True, help="folder of the model; its name is the model's"
    )
    options.add_argument("--edition", help="whose label values come out (default: the training data's)")
    options.add_argument(
        "--precision",
        choices=tuple(APART),
        default="float32",
        help="in which the network computes (default: %(default)s)",
    )
    options.add_argument(
        "--flips",
        action="store_true",
        help="average over mirrored inputs too: four times the passes for slices, twice for patches",
    )
    options.add_argument(
        "--plain", action="store_true", help="leave away what tfbrats tune has chosen for the run"
    )
    options.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help=f"of a cascade: {', '.join(FREE)}"
    )
    options.keys = lambda: FREE
    return options


def main(arguments: Sequence[str]) -> None:
    options = parser().parse_intermixed_args(arguments)
    final = next_version.export(
        options.runs or options.run,
        options.output,
        options.edition,
        options.overrides,
        options.precision,
        options.flips,
        options.plain,
    )
    from tfbrats.predictions import doubts, model_card  # now loaded anyway; it would slow --help

    card = model_card.read(final)
    if note := doubts.other_n4_note(card):
        print(style.note(note))
    for run in card.training_data.get("runs", [card.training_data]):
        of = run["config"]["train"]["epochs"]
        which = f"{run['name']}: " if "name" in run else ""
        for region, epochs in run["unfinished"].items():
            print(style.note(f"{which}{region or 'the network'} has had {epochs} of {of} epochs"))
    if card.batch_norm.startswith("none"):
        print(style.note(f"batch normalisation: {card.batch_norm}"))
    if card.bfloat16:
        print(f"bfloat16: {card.bfloat16}")
    if card.averaged:
        print(f"averaged: {card.averaged.text}")
    if card.tuned:
        print(f"tuned: {card.tuned.text}")
        if options.flips and not card.tuned.choices.get("flips"):
            text = "chosen without mirrored inputs, it may not suit them; tfbrats tune --flips tries them"
            print(style.note(text))
    print(wording.wrapped(f"callers send {'; '.join(doubts.asked_of_caller(card))}", indent=4))
    _tell_of_serving(final)
    print(f"exported {final}")
    following = ("--model", options.output, "--input", "FOLDER", "--output", "predictions")
    print(style.following(verbs.command_line("tfbrats.predict", *following)))


def _tell_of_serving(folder: str) -> None:
    """Whether the image of TensorFlow Serving that our files name can load the version."""
    from tfbrats.exports import op_check, op_list

    line, warnings = op_check.told(folder, op_list.read())
    for warning in warnings:
        print(style.warning(warning))
    print(style.note(line) if warnings else line)


if __name__ == "__main__":
    command.run(main)
