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
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.records import show, stats, to_nifti, verify
from tfbrats.records.manifest import Manifest, read_manifest
from tfbrats.terminal import command, verbs
from tfbrats.terminal.wording import columns, counted, in_units

_REJECTED_SHOWN = 3
_INDENT, _WIDTH = 12, 112


def _line(name: str, text: Any) -> None:
    """A name and its text, wrapped beside it."""
    first, *others = textwrap.wrap(str(text), _WIDTH - _INDENT, break_long_words=False) or [""]
    print("\n".join(columns([(name, first), *(("", line) for line in others)], (f"<{_INDENT}", ""))))


def _bytes_bar(manifest: Manifest) -> tqdm:
    """Quiet where nobody watches."""
    total = sum(shard.bytes for shard in manifest.shards)
    return tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, desc="records", disable=None)


# --- show -----------------------------------------------------------------------------------------------


def _settings(content: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {' '.join(map(str, value)) or 'none' if isinstance(value, list) else value}"
        for key, value in content.items()
    )


def _seconds(by_stage: Mapping[str, float]) -> str:
    each = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in by_stage.items())
    return f"{each}: {sum(by_stage.values()):.2f} in all"


def _table(rows: Sequence[Sequence[str]]) -> None:
    """The first column to the left, the others to the right."""
    for line in columns(rows, ("<", *(["  >"] * (len(rows[0]) - 1)))):
        print(line.rstrip())


def _group_name(group: Mapping[str, Any]) -> str:
    return f"{group['split']} {group['region']}".strip()


def _print_set(content: Mapping[str, Any], manifest: Manifest) -> None:
    _print_origin(content)
    print()
    _print_groups(content, len(manifest.shards))
    _print_rejected(content["rejected"])


def _print_origin(content: Mapping[str, Any]) -> None:
    """What the records were made of, and how."""
    _line("records", f"{content['folder']}: {content['kind']}, format {content['format']}")
    _line("written by", f"tfbrats {content['tfbrats_version']}")
    for text in content["layouts"]:
        _line("layout", text)
    for edition, values in content["label_schemas"].items():
        _line("labels", f"edition {edition}: {values}")
    _line("modalities", ", ".join(content["modalities"]))
    for spacing, count in content["spacings_mm"][:3]:
        of = "" if len(content["spacings_mm"]) == 1 else f": {counted(count, 'case')}"
        _line("spacing", " x ".join(f"{side:.4g}" for side in spacing) + f" mm{of}")
    if more := content["spacings_mm"][3:]:
        _line("", f"and {counted(len(more), 'other spacing')}")
    for section, values in content["settings"].items():
        if isinstance(values, Mapping):
            _line(section, _settings(values))
        else:
            _line("settings", f"{section} {values}")
    _line("fields", ", ".join(f"{name} {text}" for name, text in content["fields"].items()))
    _line("split", f"sha256 {content['split_sha256'][:16]}")
    if content["seconds_per_case"]:
        _line("seconds", f"a case: {_seconds(content['seconds_per_case'])}")
    if len(content["batches"]) > 1:
        counts = [sum(batch.values()) for batch in content["batches"]]
        later = ", then ".join(str(count) for count in counts[1:])
        _line("batches", f"{counted(counts[0], 'case')} at first, then {later} added")


def _print_groups(content: Mapping[str, Any], shard_count: int) -> None:
    rows = [("split", "cases", content["kind"], "bytes", "shards", "smallest", "median", "largest")]
    for group in content["groups"]:
        sizes = [in_units(size) for size in group["shard_bytes"].values()]
        numbers = [str(group[key]) for key in ("cases", "examples")]
        rows.append((_group_name(group), *numbers, in_units(group["bytes"]), str(group["shards"]), *sizes))
    if len(content["groups"]) > 1:
        numbers = (str(content["cases"]), str(content["examples"]), in_units(content["bytes"]))
        rows.append(("all", *numbers, str(shard_count), "", "", ""))
    _table(rows)


def _print_rejected(rejected: Sequence[Mapping[str, Any]]) -> None:
    if not rejected:
        return
    print(f"\nrejected: {counted(len(rejected), 'case')}")
    for case in rejected[:_REJECTED_SHOWN]:
        print(f"  {case['case_id']} ({case['stage']}): " + case["reason"].replace("\n", "\n    "))
    if more := rejected[_REJECTED_SHOWN:]:
        print(f"  and {len(more)} more: --json lists all")


def _print_case(content: Mapping[str, Any]) -> None:
    _line("case", f"{content['case_id']}, in {content['split']}, {counted(content['examples'], 'example')}")
    if content["spacing_mm"]:
        _line("spacing", " x ".join(f"{side:.4g}" for side in content["spacing_mm"]) + " mm")
    if content["source"]:
        shape = " x ".join(map(str, content["source"]["shape"]))
        edition = content["source"]["label_schema"]["edition"]
        _line("its files", f"{shape} voxels, edition {edition}, affine")
        for row in content["source"]["affine"][:3]:
            print(" " * _INDENT + " ".join(f"{value:10.4f}" for value in row))
    print()
    rows = [("shard", "region", "records", "seconds")]
    for part in content["parts"]:
        first, last = part["records"]
        taken = f"{sum(part['seconds'].values()):.2f}" if part["seconds"] else ""
        span = "none" if last < first else f"{first}" if first == last else f"{first} to {last}"
        rows.append((part["file"], part["region"], span, taken))
    _table(rows)


def _print_shards(content: Mapping[str, Any]) -> None:
    rows = [("shard", "cases", content["kind"], "bytes", "crc32c")]
    for shard in content["shards"]:
        cases, examples = str(len(shard["cases"])), str(shard["examples"])
        rows.append((shard["file"], cases, examples, in_units(shard["bytes"]), shard["crc32c"]))
    _table(rows)


def _show(options: argparse.Namespace) -> int:
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
        _print_case(content["case"])
        return 0
    _print_set(content, manifest)
    if options.shards:
        print()
        _print_shards(content)
    return 0


# --- verify ---------------------------------------------------------------------------------------------


def _verify(options: argparse.Namespace) -> int:
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
        print(f"note: {text}")
    if not report.faults:
        print("Nothing is wrong.")
        return 0
    _print_faults(report.faults, options.folder)
    return 1


def _content(report: verify.Report, seconds: float) -> dict[str, Any]:
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


def _print_faults(faults: Sequence[verify.Fault], folder: str) -> None:
    """All faults, then what to do about them, each cure once."""
    print("\nfaults")
    for fault in faults:
        print(f"  {fault}")
    print(f"\n{counted(len(faults), 'fault')} in {folder}")
    for cure in dict.fromkeys(fault.cure for fault in faults):
        touched = sorted({fault.file for fault in faults if fault.cure == cure})
        print(f"{', '.join(touched[:3])}{' ...' if touched[3:] else ''}: {cure}")


# --- stats ----------------------------------------------------------------------------------------------


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _print_shares(manifest: Manifest, whole: Sequence[int] | None, groups: Sequence[Mapping[str, Any]]) -> None:
    """A row for each tissue and region of each group.

    Args:
        whole: voxels along each axis that shares are of; None where they differ (`stats.denominator`).
    """
    example = {"slices": "slice", "patches": "patch", "volumes": "volume"}[manifest.kind]
    of = f"of {' x '.join(map(str, whole))} voxels" if whole else "cropped to the brain"
    padded = ", padding included" if manifest.kind == "slices" else ""
    print(f"Shares in % of a {example} {of}{padded}: mean over all, and quantiles over those that hold any.\n")
    quantiles = [f"{100 * q:.0f} %" for q in stats.QUANTILES]
    rows = [("", manifest.kind, "held by %", "mean", *quantiles[:-1], "most")]
    for group in groups:
        for name, share in group["shares"].items():
            first = name == next(iter(group["shares"]))
            rows.append(
                (
                    f"{_group_name(group) if first else '':<14}{name}",
                    str(group["examples"]) if first else "",
                    _percent(share["held_by"]),
                    _percent(share["mean"]),
                    *map(_percent, share["quantiles_where_held"].values()),
                )
            )
    _table(rows)


def _print_intensities(groups: Sequence[Mapping[str, Any]]) -> None:
    print("\nIntensities in the brain (z-scores: 0 and 1 over a whole case).\n")
    rows = [("", "mean", "std", "min", "max")]
    for group in groups:
        for n, (name, of_modality) in enumerate(group["intensities"].items()):
            numbers = ("-" if value is None else f"{value:.3f}" for value in of_modality.values())
            rows.append((f"{_group_name(group) if n == 0 else '':<14}{name}", *numbers))
    _table(rows)


def _stats(options: argparse.Namespace) -> int:
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
    _print_shares(manifest, whole, groups)
    _print_intensities(groups)
    if options.csv:
        print(f"\nwrote {options.csv}")
    return 0


# --- to-nifti -------------------------------------------------------------------------------------------


def _to_nifti(options: argparse.Namespace) -> int:
    manifest = read_manifest(options.folder)
    if manifest.kind != "volumes":
        return _pictures(options, manifest)
    if options.examples is not None:
        raise InputError("--examples: of slices and patches; volumes are written whole. Choose with --case.")
    case_ids = {*(options.case or (case_id for ids in manifest.cases.values() for case_id in ids))}
    with tqdm(total=len(case_ids), desc="cases", disable=None) as bar:
        outcome = to_nifti.write(
            options.folder, manifest, options.output, options.case, options.overwrite, bar.update
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
    return 0


def _pictures(options: argparse.Namespace, manifest: Manifest) -> int:
    from tfbrats.records import pictures  # matplotlib, which the other commands need not wait for

    number = 8 if options.examples is None else options.examples
    if number < 1:
        raise InputError(f"--examples {number}: expected 1 or more.")

    def report(path: str, is_new: bool) -> None:
        tqdm.write(
            f"drew {path}" if is_new else f"{path} is there already and is kept (--overwrite redraws it)"
        )

    pictures.write(options.folder, manifest, options.output, number, options.case, options.overwrite, report)
    return 0


# --- the command ----------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("tfbrats.records", __doc__)
    commands = parser.add_subparsers(required=True, metavar="{show,verify,stats,to-nifti}")

    def subcommand(name: str, does: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument(
            "folder", type=paths.argument, help="a record set, as the Beam job wrote it; gs:// too"
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
    given_back.add_argument("--case", action="append", metavar="ID", help="only this case; may be repeated")
    given_back.add_argument(
        "--examples", type=int, metavar="N", help="slices or patches in a picture (default 8)"
    )
    given_back.add_argument("--overwrite", action="store_true", help="write again what is there")
    return parser


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    options.folder = options.folder.rstrip("/") or "/"
    if getattr(options, "output", None) and files.canonical(options.output) == files.canonical(options.folder):
        raise InputError(f"{options.output}: the record set itself. Choose another --output.")
    return options.does(options)


if __name__ == "__main__":
    command.run(main)
