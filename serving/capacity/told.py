"""What was measured, planned and tried, as lines for a person."""

import math
from collections.abc import Iterator

import numpy as np

from serving.capacity.measured import Check, Measured, Row
from serving.capacity.queueing import Plan
from tfbrats.terminal import wording

_GIB = 2**30
_LOUD = 0.1  # cores that other programs took: figures are of a busy machine
_MORE_MEMORY = 1.2
_STEP_GIB = 0.5
_HEADS = (
    "cores",
    "at once",
    "a minute",
    "median s",
    "95 % s",
    "core-s a case",
    "ready GiB",
    "most GiB",
    "others",
)
_NAMES = {"mean_s": "mean", "p50_s": "median", "p95_s": "95 of 100 within", "peak_bytes": "most memory"}


def about(measured: Measured) -> str:
    of = measured.about
    shapes = " and ".join(sorted({" x ".join(map(str, shape)) for shape in of["shapes"]}))
    cases = wording.counted(len(of["shapes"]), "case")
    return (
        f"{of['model']} version {of['version']} on {of['server']}: {cases} of {shapes} as {of['signature']}; "
        f"{of['processor']}, {wording.counted(of['machine_cores'], 'core')}"
    )


def table(measured: Measured) -> list[str]:
    """All rows."""
    return wording.columns([_HEADS, *map(_cells, measured.rows)], ["  >"] * len(_HEADS))


def _cells(row: Row) -> list[object]:
    p50, p95 = np.percentile(row.seconds, (50, 95))
    return [
        *(row.cores, row.calls, f"{60 * row.cases_per_s:.2f}", f"{p50:.2f}", f"{p95:.2f}"),
        "?" if row.core_seconds is None else f"{row.core_seconds:.2f}",
        *("?" if size is None else f"{size / _GIB:.2f}" for size in (row.ready_bytes, row.peak_bytes)),
        "?" if row.others_cores is None else f"{row.others_cores:.2f}",
    ]


def doubts(measured: Measured) -> Iterator[str]:
    """Why figures may not be those of a quiet machine."""
    everything = (*measured.rows, *measured.checks)
    loud = [one.others_cores for one in everything if (one.others_cores or 0) > _LOUD]
    if loud:
        yield (
            f"in {len(loud)} of {wording.counted(len(everything), 'measurement')} other programs took up to "
            f"{max(loud):.1f} cores. Remove {measured.path} and measure anew when the machine is quiet"
        )
    if any(row.cores == measured.about["machine_cores"] for row in measured.rows):
        yield "where the server had all cores, the callers took theirs from it: a pod of that size does more"


def planned(measured: Measured, cores: int, cases_per_hour: float, plan: Plan) -> list[str]:
    """Pods of so many cores for a load."""
    rows = measured.of(cores)
    spare = f", and {plan.spare} more, for when as many are away" if plan.spare else ""
    lines = [
        f"{cases_per_hour:g} cases an hour on pods of {wording.counted(cores, 'core')}, each with up to "
        f"{wording.counted(rows[-1].calls, 'call')} at once: {wording.counted(plan.needed, 'pod')}{spare}"
    ]
    counts = (plan.needed + plan.spare, plan.needed) if plan.spare else (plan.needed,)
    for count, busy, waiting in zip(counts, plan.busy, plan.waiting, strict=False):
        lines.append(
            f"  {wording.counted(count, 'pod')}: {100 * busy:.0f} % busy; half of the answers within "
            f"{waiting.p50_s:.1f} s, 95 of 100 within {waiting.p95_s:.1f} s"
        )
    lines.append(f"  memory of each: {_memory(rows[-1])}")
    return lines


def _memory(row: Row) -> str:
    if row.peak_bytes is None:
        return "not measured (the server's process is not seen; give its --pid if it runs on this machine)"
    most = row.peak_bytes / _GIB
    asked = math.ceil(_MORE_MEMORY * most / _STEP_GIB) * _STEP_GIB
    return f"{asked:g} GiB (the most seen was {most:.2f} GiB; a fifth more, rounded up)"


def tried(check: Check) -> list[str]:
    """A prediction beside what came."""
    lines = [
        f"predicted of the rows, then run: {check.cases} cases at random times over {check.seconds:.0f} s, "
        f"{wording.counted(check.cores, 'core')}, {check.calls} at once"
    ]
    for name in check.found:
        numbers = [_number(name, of[name]) for of in (check.predicted, check.found)]
        lines.append(
            f"  {_NAMES[name]}: predicted {numbers[0]}, found {numbers[1]} ({100 * check.apart(name):+.0f} %)"
        )
    return lines


def _number(name: str, value: float) -> str:
    return f"{value / _GIB:.2f} GiB" if name == "peak_bytes" else f"{value:.2f} s"
