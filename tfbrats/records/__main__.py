"""Look at a record set, check it, and give cases back from it.

    tfbrats records show records/cun
    tfbrats records verify records/cun
    tfbrats records stats records/cun
    tfbrats records to-nifti records/cun --output pictures

`show` says what is in a set, `verify` holds every file and record against dataset.json, `stats` tells how much
of each example is tumour. `to-nifti` gives volumes back as NIfTI on the cases' own grids, the segmentation bit
for bit; slices and patches as pictures. Nothing here writes into a record set; no TensorFlow is loaded.
"""

if __name__ == "__main__" and not __package__:  # a file run as a script sees neither its package nor tfbrats
    raise SystemExit("error: run it as python -m tfbrats.records from the folder above.")

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tfbrats.datasets import id_tables
from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.terminal import bars, command, style, verbs
from tfbrats.terminal.wording import counted, grouped, in_units

if TYPE_CHECKING:  # what reads records is imported once the arguments are understood
    from tfbrats.records import verify
    from tfbrats.records.manifest import Manifest


def _bytes_bar(manifest: "Manifest"):
    total = sum(shard.bytes for shard in manifest.shards)
    return bars.bar(total=total, unit="B", unit_scale=True, unit_divisor=1024, desc="records")


def _next(*words: str) -> None:
    """What to do when this has ended."""
    print(style.following(verbs.command_line(*words)))


def _config_for(manifest: "Manifest") -> str:
    """A shipped config that trains on records of this kind."""
    return "cun" if manifest.kind == "slices" else "msm"


def _train(folder: str, manifest: "Manifest") -> None:
    _next("tfbrats.train", "--config", _config_for(manifest), "--records", folder)


# --- show -----------------------------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> int:
    from tfbrats.records import show
    from tfbrats.records.manifest import read_manifest

    manifest = read_manifest(options.folder)
    content = show.describe(options.folder, manifest)
    if options.shards:
        content["shards"] = show.shards(manifest)
    if options.case:
        content["case"] = show.where(options.folder, manifest, options.case)
    if options.json:
        print(json.dumps(content, indent=2))
        return 0
    if options.case:
        show.print_case(content["case"])
        _next("tfbrats.records", "to-nifti", options.folder, "--case", options.case, "--output", "given_back")
        return 0
    show.print_set(content, manifest)
    if options.shards:
        print()
        show.print_shards(content)
    _next("tfbrats.records", "verify", options.folder)
    return 0


# --- verify ---------------------------------------------------------------------------------------------


def _verify(options: argparse.Namespace) -> int:
    from tfbrats.records import verify
    from tfbrats.records.manifest import read_manifest

    try:
        manifest = read_manifest(options.folder)
        started = time.monotonic()
        with _bytes_bar(manifest) as bar:
            report = verify.verify(options.folder, manifest, options.quick, bar.update)
        seconds = time.monotonic() - started
    except InputError as error:
        if not options.json:
            raise
        content = {"folder": options.folder, "faults": [{"text": str(error)}], "sound": False}
        print(json.dumps(content, indent=2))
        return 1
    if options.json:
        content = {"folder": options.folder, "quick": options.quick, "shards": len(manifest.shards)}
        print(json.dumps({**content, **_content(report, seconds)}, indent=2))
        return 1 if report.faults else 0
    shards = counted(len(manifest.shards), "shard")
    if options.quick:
        print(f"looked at the names and sizes of {shards}; without --quick every record is checked")
    else:
        speed = f"{report.bytes / 2**20 / seconds:.0f} MiB/s"
        print(f"read {counted(report.records, 'record')} in {shards}, {in_units(report.bytes)}, {speed}")
    for text in report.notes:
        print(style.note(text))
    if not report.faults:
        print("Nothing is wrong.")
        _train(options.folder, manifest)
        return 0
    _print_faults(report.faults, options.folder)
    _mend(options.folder, manifest, {fault.cure for fault in report.faults})
    return 1


def _mend(folder: str, manifest: "Manifest", cures: set[str]) -> None:
    """The command that mends a set; where something is to be moved away alone, the one that looks again."""
    from tfbrats.records import verify

    if cures == {verify.MOVE}:
        _next("tfbrats.records", "verify", folder)
        return
    more = ["--overwrite"] if verify.OVERWRITE in cures else []
    given = ("--config", _config_for(manifest), "--input", "DATASET", "--output", folder, *more)
    _next("beam_pipelines.nifti_to_tfrecord", *given)


def _content(report: "verify.Report", seconds: float) -> dict[str, Any]:
    return {
        "records": report.records,
        "bytes": report.bytes,
        "seconds": round(seconds, 3),
        "notes": report.notes,
        "faults": [
            {"file": fault.file, "record": fault.record, "text": fault.text, "cure": fault.cure}
            for fault in report.faults
        ],
        "sound": not report.faults,
    }


def _print_faults(faults: Sequence["verify.Fault"], folder: str) -> None:
    """Faults, equal ones as one line; then what to do about them, each cure once."""
    print(f"\n{style.heading('faults')}")
    by_file = defaultdict(list)
    for fault in faults:
        by_file[fault.file if fault.record is not None else ""].append(fault)
    for file, those in by_file.items():
        if file:
            lines = [f"{file}: {line}" for line in grouped((f.text for f in those), lambda _: "record")]
        else:
            lines = grouped(map(str, those))
        for line in lines:
            print("  " + line.replace("\n", "\n  "))
    print(f"\n{counted(len(faults), 'fault')} in {folder}")
    for cure in dict.fromkeys(fault.cure for fault in faults):
        touched = sorted({fault.file for fault in faults if fault.cure == cure})
        print(f"{', '.join(touched[:3])}{' ...' if touched[3:] else ''}: {cure}")


# --- stats ----------------------------------------------------------------------------------------------


def _stats(options: argparse.Namespace) -> int:
    from tfbrats.records import stats
    from tfbrats.records.manifest import read_manifest

    manifest = read_manifest(options.folder)
    whole = stats.denominator(manifest, options.folder)
    with _bytes_bar(manifest) as bar:
        groups = stats.stats(options.folder, manifest, options.csv, bar.update)
    if options.json:
        content = {
            "folder": options.folder,
            "kind": manifest.kind,
            "shares_of_voxels": list(whole) if whole else None,
            "groups": groups,
        }
        print(json.dumps(content, indent=2))
        return 0
    stats.print_shares(manifest, whole, groups)
    stats.print_intensities(groups)
    print(f"\nwrote {options.csv}" if options.csv else "")
    _train(options.folder, manifest)
    return 0


# --- to-nifti -------------------------------------------------------------------------------------------


def _to_nifti(options: argparse.Namespace) -> int:
    from tfbrats.records.manifest import read_manifest

    chosen = id_tables.chosen(options)
    manifest = read_manifest(options.folder)
    if manifest.kind != "volumes":
        return _pictures(options, manifest, chosen)
    if options.examples is not None:
        raise InputError("--examples: of slices and patches; volumes are written whole. Choose with --case.")

    from tfbrats.records import to_nifti

    case_ids = {*(chosen or (case_id for ids in manifest.cases.values() for case_id in ids))}
    with bars.bar(total=len(case_ids), desc="cases", unit="case") as bar:
        outcome = to_nifti.write(
            options.folder, manifest, options.output, chosen, options.overwrite, bar.update
        )
    if outcome.kept:
        kept = f"{outcome.kept} of {len(case_ids)} cases"
        print(f"{kept} were written already and are kept (--overwrite redoes them)")
    if outcome.faults:
        raise InputError(
            "these cases could not be given back:\n"
            + "\n".join(outcome.faults)
            + f"\nWhat else is wrong: {verbs.command_line('tfbrats.records', 'verify', options.folder)}"
        )
    print(f"cases are in {options.output}: z-scored images (float32) and segmentations, on their own grids")
    _next("tfbrats.inspect", options.output)
    return 0


def _pictures(options: argparse.Namespace, manifest: "Manifest", chosen: Sequence[str] | None) -> int:
    number = 8 if options.examples is None else options.examples
    if number < 1:
        raise InputError(f"--examples {number}: expected 1 or more.")

    from tfbrats.records import pictures  # matplotlib

    def report(path: str, is_new: bool) -> None:
        print(f"drew {path}" if is_new else f"{path} is there already and is kept (--overwrite redraws it)")

    pictures.write(options.folder, manifest, options.output, number, chosen, options.overwrite, report)
    _train(options.folder, manifest)
    return 0


# --- the command ----------------------------------------------------------------------------------------


def parser() -> command.Parser:
    """The command's options, by subcommand."""
    whole = command.parser("tfbrats.records", __doc__)
    commands = whole.add_subparsers(required=True, metavar="{show,verify,stats,to-nifti}")

    def subcommand(name: str, does: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument(
            "folder", type=paths.argument, help="a record set, as tfbrats prepare wrote it; gs:// too"
        )
        added.set_defaults(does=does)
        return added

    shown = subcommand("show", _show, "what is in a record set, from its dataset.json")
    shown.add_argument("--shards", action="store_true", help="list each shard too")
    shown.add_argument("--case", metavar="ID", help="where this case lies")
    shown.add_argument("--json", action="store_true", help="print one JSON object instead")
    verified = subcommand(
        "verify", _verify, "every file and record against dataset.json; exit code 1 for any fault"
    )
    verified.add_argument("--quick", action="store_true", help="names and sizes alone")
    verified.add_argument("--json", action="store_true", help="print one JSON object instead")
    measured = subcommand("stats", _stats, "label shares and intensities, by split and region")
    measured.add_argument("--csv", type=paths.argument, metavar="FILE", help="write a row for each example")
    measured.add_argument("--json", action="store_true", help="print one JSON object instead")
    given_back = subcommand("to-nifti", _to_nifti, "volumes back to NIfTI; slices and patches to pictures")
    given_back.add_argument("--output", type=paths.argument, required=True, help="a folder of its own")
    id_tables.add_choice(given_back)
    given_back.add_argument(
        "--examples", type=int, metavar="N", help="slices or patches in a picture (default 8)"
    )
    given_back.add_argument("--overwrite", action="store_true", help="write again what is there")
    return whole


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    options.folder = options.folder.rstrip("/") or "/"
    if getattr(options, "output", None) and files.canonical(options.output) == files.canonical(options.folder):
        raise InputError(f"{options.output}: the record set itself. Choose another --output.")
    return options.does(options)


if __name__ == "__main__":
    command.run(main)
