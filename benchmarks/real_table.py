"""What `real.py` tells: each row's out-of-fold scores, how far rows differ, pictures of the worst cases."""

import importlib.metadata
import importlib.util
import math
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence

import numpy as np

from tfbrats.labels import REGIONS
from tfbrats.machine import files
from tfbrats.scoring import comparison
from tfbrats.terminal import wording
from tfbrats.workflows import chain as steps

RESULT = "result.json"
SCORES = {"dice": ("Dice", 3), "hd95_mm": ("HD95, mm", 1), "rq": ("F1", 3)}  # rq: F1 of lesions, rule of 2026
_PICTURES = 3  # of the worst cases
_PEERS = ("segresnet", "nnunet")


def scored(plan, row, folds: Sequence, chain: steps.Steps) -> list[dict]:
    """Case, region and scores of all cases of these folds; tables and page lie beside the predictions."""
    whole = plan.output / "rows" / row.folder
    predictions, scores = whole / "predictions", whole / "scores"
    ids = [one for fold in folds for one in fold.scored]
    raw = predictions if row.network != "nnunet" else whole / "raw"
    for folder in (raw, predictions):
        shutil.rmtree(folder, ignore_errors=True)  # of other folds, perhaps; all of it is made again at once
        folder.mkdir(parents=True, exist_ok=True)
    for fold in folds:
        for one in fold.scored:
            of_fold = plan.output / f"fold-{fold.number}" / "rows" / row.folder / "predictions"
            (raw / f"{one}.nii.gz").symlink_to(of_fold / f"{one}.nii.gz")
    for fold in folds if raw != predictions else ():
        others = [one for one in ids if one not in fold.scored]
        chain.run(
            f"Choose {row.name}'s rule of components for fold {fold.number}",
            *("real_peers", "clean", "--peer", row.network, "--cases", plan.cases, "--raw", str(raw)),
            *("--ids", ",".join(fold.scored), "--others", ",".join(others), "--output", str(predictions)),
            show=True,
        )
    files.write_bytes(whole / "cases.txt", "".join(f"{one}\n" for one in ids).encode())
    folders = ("--prediction", str(predictions), "--reference", plan.cases)
    chain.run(
        f"Score {row.name}",
        *("tfbrats.evaluate", *folders, "--cases", str(whole / "cases.txt"), "--lesions", "2026"),
        *("--output", str(scores)),
    )
    found = files.read_json(scores / "metrics.json")
    lesions = {(one["case_id"], one["region"]): one for one in found["lesions"]["rows"]}
    rows = [_numbers({**lesions[one["case_id"], one["region"]], **one}) for one in found["rows"]]
    worst = sorted(ids, key=lambda one: np.nanmean([row["dice"] for row in rows if row["case_id"] == one]))
    chosen = [text for one in worst[:_PICTURES] for text in ("--case", one)]
    chain.run(
        f"Picture the worst of {row.name}",
        *("tfbrats.report", "--scores", str(scores), *folders, "--output", str(whole / "worst.html"), *chosen),
    )
    return rows


def _numbers(row: Mapping) -> dict:
    """A row as it was before JSON, which has no nan."""
    return {key: math.nan if value is None else value for key, value in row.items()}


def _mean(rows: Sequence[Mapping], score: str, region: str) -> float:
    values = [row[score] for row in rows if row["region"] == region]
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan


def _cell(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def table(found: Mapping[str, tuple[Mapping, Sequence[Mapping]]]) -> list[str]:
    """Row -> (notes, scores of its cases) as lines of Markdown; a score that no case has is a dash."""
    heads = ["", "network", "parameters", "minutes", "steps"]
    heads += [f"{title} {region}" for title, _ in SCORES.values() for region in REGIONS]
    lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    for name, (note, rows) in found.items():
        line = [name, note["network"], f"{note['parameters']:,}", f"{note['seconds'] / 60:.1f}"]
        line.append(f"{note['steps']:,}")
        for score, (_, digits) in SCORES.items():
            line += [_cell(_mean(rows, score, region), digits) for region in REGIONS]
        lines.append(line)
    return [f"| {' | '.join(line)} |" for line in lines]


def pairs(rows: Sequence) -> list[tuple[str, str]]:
    """Which rows are compared: every one of ours with each peer, and with its own network's plain row."""
    peers = [row.name for row in rows if row.network in _PEERS]
    ours = [row for row in rows if row.network not in _PEERS]
    found = []
    for row in ours:
        for other in ours:
            if (other.network, other.kind, other.overrides) == (row.network, "", ()) and other != row:
                found.append((row.name, other.name))
    return found + [(row.name, peer) for row in ours for peer in peers]


def differences(found: Mapping[str, tuple[Mapping, Sequence[Mapping]]], compared: Sequence[tuple[str, str]]):
    """Lines of Markdown: one row less another, with its interval; ** where 0 lies outside."""
    heads = ["less", *(f"{title} {region}" for title, _ in SCORES.values() for region in REGIONS)]
    lines, numbers = [heads, ["---", *["---:"] * (len(heads) - 1)]], []
    for name, other in compared:
        each = comparison.differences(found[name][1], found[other][1], tuple(SCORES))
        line = [f"{name} less {other}"]
        for one in each:
            digits = SCORES[one.score][1]
            text = "-"
            if one.cases:
                text = f"{one.difference:+.{digits}f} ({one.low:+.{digits}f} to {one.high:+.{digits}f})"
            line.append(f"**{text}**" if one.excludes_0 else text)
            values = (one.difference, one.low, one.high)
            numbers.append(
                {"row": name, "less": other, "region": one.region, "score": one.score, "cases": one.cases}
                | dict(
                    zip(
                        ("difference", "low", "high"),
                        (None if math.isnan(v) else v for v in values),
                        strict=True,
                    )
                )
            )
        lines.append(line)
    return [f"| {' | '.join(line)} |" for line in lines], numbers


def notes_of(plan, row, folds: Sequence) -> dict:
    """What is known of a row's trainings: seconds and steps are means over the folds."""
    each = [
        files.read_json(plan.output / f"fold-{fold.number}" / "rows" / row.folder / RESULT) for fold in folds
    ]
    means = {key: round(sum(one[key] for one in each) / len(each)) for key in ("steps", "examples")}
    return {**each[0], **means, "seconds": sum(one["seconds"] for one in each) / len(each), "folds": each}


def report(plan, rows: Sequence, folds: Sequence, chain: steps.Steps) -> None:
    """Scores all rows, writes real.md and real.json, prints the former."""
    found = {row.name: (notes_of(plan, row, folds), scored(plan, row, folds, chain)) for row in rows}
    versions = {
        package: importlib.metadata.version(package)
        for package in ("tfbrats", "tensorflow", "keras", "torch", "monai", "nnunetv2")
        if importlib.util.find_spec(package)
    }
    ids = [one for fold in folds for one in fold.scored]
    clock = "of the clock" if plan.clock.which == "wall" else "of CPU time over the cores"
    compared, numbers = differences(found, pairs(rows))
    lines = [
        f"{plan.seconds / 60:g} minutes {clock} on {wording.counted(plan.clock.cores, 'core')} each, "
        f"{wording.counted(len(folds), 'fold')} of {len(plan.folds)}, "
        f"{wording.counted(len(ids), 'case')} scored by networks that have not seen the patient; "
        + ", ".join(f"{a} {b}" for a, b in versions.items())
        + ".",
        "",
        *table(found),
        "",
        "The first row less the second, with the 95 % interval; bold where it excludes 0:",
        "",
        *compared,
    ]
    about = {"minutes": plan.seconds / 60, "clock": plan.clock.which, "cores": plan.clock.cores, "cases": ids}
    results = {
        name: {**note, "scores": [{k: v for k, v in row.items() if v == v} for row in of_cases]}
        for name, (note, of_cases) in found.items()
    }
    files.write_json(
        plan.output / "real.json", {**about, "versions": versions, "rows": results, "differences": numbers}
    )
    files.write_bytes(plan.output / "real.md", "\n".join([*lines, ""]).encode())
    print("\n" + "\n".join(lines))
    pages = pathlib.Path("rows") / "ROW" / "worst.html"
    print(f"\n{plan.output / 'real.md'}, {plan.output / 'real.json'}; pictures: {plan.output}{os.sep}{pages}")
