"""The options of commands that segment: which model, which scans, where to. Light: for --help."""

import argparse

from tfbrats.datasets import id_tables
from tfbrats.errors import InputError
from tfbrats.labels import MODALITIES
from tfbrats.machine import files, paths

_WHAT = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1 with contrast", "t2": "T2"}


def add_model(parser: argparse.ArgumentParser) -> None:
    """--model, of commands that load it themselves."""
    parser.add_argument(
        "--model",
        type=paths.argument,
        required=True,
        help="models/cun, whose newest version is taken, or one version, models/cun/1; gs:// too",
    )


def add_input(parser: argparse.ArgumentParser) -> None:
    """--input, or a file a scan; which of the cases; --edition."""
    parser.add_argument(
        "--input",
        type=paths.argument,
        metavar="FOLDER",
        help="a data set, or one patient's folder, with any names, or a DICOM study; gs:// too",
    )
    for modality in MODALITIES:
        parser.add_argument(
            f"--{modality}",
            type=paths.argument,
            metavar="FILE",
            help=f"in place of --input: the {_WHAT[modality]} scan of one patient; or its DICOM series' folder",
        )
    id_tables.add_choice(parser)
    parser.add_argument(
        "--edition",
        help="whose label values are written, e.g. 2023 (default: what the names tell, else the model's)",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """--output, --uncertainty, --provenance, --dicom-seg, --overwrite."""
    parser.add_argument(
        "--output",
        type=paths.argument,
        required=True,
        help="folder for CASE.nii.gz and volumes.csv; or one case's file, as seg.nii.gz",
    )
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="of a model of several runs or of flips: write CASE_unc_whole, _unc_core, _unc_enhance .nii.gz, "
        "entropies of WT, TC and ET in hundredths of a bit",
    )
    parser.add_argument(
        "--provenance", action="store_true", help="write CASE.json beside each: model, hashes, versions"
    )
    parser.add_argument(
        "--dicom-seg",
        nargs="?",
        const=True,
        default=False,
        type=paths.argument,
        metavar="SERIES",
        help="write CASE.dcm beside each, a DICOM-SEG on the series that were read; of NIfTI scans on SERIES, "
        "a folder, on whose voxels they lie",
    )
    parser.add_argument("--overwrite", action="store_true", help="segment again what has a result")


def check_there(options: argparse.Namespace) -> None:
    """Raises InputError where a folder or a scan is not there: at once, before much is imported."""
    if options.input is not None and not files.exists(options.input):
        raise InputError(f"{options.input}: no such folder.")
    for modality in MODALITIES:
        path = getattr(options, modality)
        folder = (path or "").rpartition("#")[0]  # DIR#5 is series 5 of a DICOM folder
        if path is not None and not (files.exists(path) or (folder and files.exists(folder))):
            raise InputError(f"--{modality} {path}: no such file.")
