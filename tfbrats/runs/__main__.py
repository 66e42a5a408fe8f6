"""Say which runs there are, how far each has come, and how well it does.

    tfbrats runs
    tfbrats runs gs://bucket/runs --json

Lists every folder under FOLDER (default: runs) that holds a config.yaml, a line for each network; runs whose
regions all have a score first, then by mean Dice. The scores are those of the best epoch (train.select), whose
weights are exported. They are of the validation slices (paper A) or patches (paper B), not of whole cases, so
paper A's and paper B's do not compare: for that, tfbrats evaluate.
"""

import datetime
import json
from collections.abc import Sequence

from tfbrats.machine import paths
from tfbrats.runs.listing import as_json, as_text, find, following, notes
from tfbrats.terminal import command, style


def parser() -> command.Parser:
    """The options."""
    options = command.parser("tfbrats.runs", __doc__)
    options.add_argument(
        "folder",
        type=paths.argument,
        nargs="?",
        default="runs",
        help="where the runs lie (default: %(default)s)",
    )
    options.add_argument("--json", action="store_true", help="for programs")
    return options


def main(arguments: Sequence[str]) -> None:
    options = parser().parse_args(arguments)
    runs, others = find(options.folder)
    if options.json:
        print(json.dumps(as_json(runs, others), indent=2))
        return
    print(as_text(runs, datetime.datetime.now(datetime.UTC)))
    for line in notes(runs, others):
        print(line)
    for line in following(runs):
        print(style.following(line))


if __name__ == "__main__":
    command.run(main)
