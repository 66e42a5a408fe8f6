r"""Show one case in a browser: one HTML file that needs no network and no server.

    tfbrats view BraTS2020/BraTS20_Training_001 --output case.html
    tfbrats view BraTS2020 --case BraTS20_Training_001 --prediction predictions --output case.html
    tfbrats view patient1 --prediction out/patient1.nii.gz --output patient1.html

Three planes with one crosshair and a 3-D view; every scan of the case; prediction and reference as contours or
filled, and where they differ; volumes, scores and a table of lesions. The reference is the case's own
segmentation, where it has one, or --reference. A real case is a file of some 5 MB: docs/how-to/view.md.
"""

from collections.abc import Sequence

from tfbrats.datasets import id_tables
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS
from tfbrats.machine import files, paths
from tfbrats.terminal import command, style

ENDING = ".html"


def parser() -> command.Parser:
    """The command's options."""
    ours = command.parser("tfbrats.view", __doc__)
    ours.add_argument(
        "folder",
        type=paths.argument,
        metavar="CASE",
        help="one case's folder, or a data set with --case; gs:// too",
    )
    ours.add_argument("--case", metavar="ID", help="which case, of a data set")
    ours.add_argument(
        "--prediction", type=paths.argument, help="what a model made of it: the file, or a folder of results"
    )
    ours.add_argument(
        "--reference",
        type=paths.argument,
        help="what it is held against: the file, or a folder that has the case (default: the case's own "
        "segmentation)",
    )
    ours.add_argument("--edition", choices=tuple(EDITIONS), help="overrides what the names say")
    ours.add_argument(
        "--output",
        type=paths.argument,
        required=True,
        metavar="FILE.html",
        help="the page; replaced if it is there",
    )
    return ours


def main(arguments: Sequence[str]) -> None:
    options = parser().parse_args(arguments)
    _check_there(options)
    from tfbrats.viewer import niivue, sources

    niivue.installed()  # before the scans are read
    case_ids = None if options.case is None else id_tables.case_ids_of(options.case, "--case")
    entry, dataset = sources.the_case(options.folder, case_ids, options.edition)
    for note in dataset.guesses:
        print(style.note(note))
    prediction = options.prediction and sources.prediction_of(entry.case_id, options.prediction)
    untold = entry.case_id in dataset.untold
    reference = options.reference and sources.reference_of(entry.case_id, options.reference, options.edition)
    shown = sources.write(options.output, entry, untold, prediction, reference)
    for note in shown.notes:
        print(style.note(f"{entry.case_id}: {note}"))
    megabytes = files.size(options.output) / 1e6
    print(
        f"{entry.case_id} is in {options.output}, {megabytes:.1f} MB; open it in a browser. For research only"
    )


def _check_there(options) -> None:
    """Raises InputError for what names alone tell, before anything that takes long is imported."""
    for name, path in (("", options.folder), ("--prediction ", options.prediction)):
        if path is not None and not files.exists(path):
            raise InputError(f"{name}{path}: no such {'folder' if not name else 'file or folder'}.")
    if options.reference is not None and not files.exists(options.reference):
        raise InputError(f"--reference {options.reference}: no such file or folder.")
    if not options.output.lower().endswith(ENDING):
        raise InputError(f"--output {options.output}: the page is an {ENDING} file.")
    files.check_can_hold(files.parent(options.output) or ".")


if __name__ == "__main__":
    command.run(main)
