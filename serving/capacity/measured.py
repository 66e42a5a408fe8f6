"""What was measured of a server, in one JSON file: a row for so many cores and calls at once. No network.

A row is written as soon as it is there, so that a command that was stopped goes on where it was.
"""

import dataclasses
import os
import pathlib
import platform
from typing import Any

import numpy as np

from serving.capacity.queueing import Pod
from tfbrats.errors import InputError
from tfbrats.machine import files, memory

_FORMAT = 1
_NEARLY_BEST = 0.95  # calls that add less to the pace only cost memory


@dataclasses.dataclass(frozen=True)
class Row:
    """So many callers, each of whom sends the next case when the last is answered.

    Attributes:
        seconds: of each answer.
        cases_per_s: of all callers together.
        core_seconds: the server's CPU time a case; None where its process is not seen.
        ready_bytes, peak_bytes: the server's resident memory before the calls, and its most during them.
        others_cores: how many cores other programs of the machine took meanwhile.
    """

    cores: int
    calls: int
    seconds: tuple[float, ...]
    cases_per_s: float
    core_seconds: float | None
    ready_bytes: int | None
    peak_bytes: int | None
    others_cores: float | None


@dataclasses.dataclass(frozen=True)
class Check:
    """A prediction, made of the rows alone, and the run that it was made for.

    Attributes:
        share: of what the server can do.
        seconds: over which the cases came.
        predicted, found: name -> number.
    """

    cores: int
    calls: int
    cases: int
    share: float
    seconds: float
    predicted: dict[str, float]
    found: dict[str, float]
    others_cores: float | None

    def apart(self, name: str) -> float:
        """By which share of the prediction the run came out higher."""
        return self.found[name] / self.predicted[name] - 1


class Measured:
    """The file. `about`, what was measured and where, stays the same.

    Args:
        path: a file that need not be there yet.
        about: None for what the file says.

    Raises:
        InputError: no such file, or one of something else.
    """

    def __init__(self, path: str | os.PathLike, about: dict[str, Any] | None = None):
        self.path = os.fspath(path)
        self.rows: list[Row] = []
        self.checks: list[Check] = []
        if not files.exists(path):
            if about is None:
                raise InputError(f"{path}: nothing was measured yet. Give --model and --input, or --server.")
            self.about = about
            return
        content = files.read_json(path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise InputError(f"{path}: no file of tfbrats capacity, or of another version of it.")
        self.about = content["about"]
        for key, value in (about or {}).items():
            if self.about.get(key) != value:
                raise InputError(
                    f"{path}: holds figures of {key} {self.about.get(key)}; now it is {value}. Choose another "
                    "--output."
                )
        for row in content["rows"]:
            self.rows.append(Row(**{**row, "seconds": tuple(row["seconds"])}))
        self.checks += [Check(**check) for check in content["checks"]]

    def write(self) -> None:
        content = {"format": _FORMAT, "about": self.about}
        content |= {"rows": list(map(dataclasses.asdict, self.rows))}
        files.write_json(self.path, content | {"checks": list(map(dataclasses.asdict, self.checks))})

    def has(self, cores: int, calls: int) -> bool:
        return any((row.cores, row.calls) == (cores, calls) for row in self.rows)

    def has_check(self, cores: int, share: float) -> bool:
        return any((check.cores, check.share) == (cores, share) for check in self.checks)

    def add(self, row: Row) -> None:
        self.rows = sorted([*self.rows, row], key=lambda one: (one.cores, one.calls))
        self.write()

    def add_check(self, check: Check) -> None:
        self.checks.append(check)
        self.write()

    @property
    def cores(self) -> list[int]:
        return sorted({row.cores for row in self.rows})

    def of(self, cores: int) -> list[Row]:
        """The rows of so many cores, as many as are worth while: the last call adds to the pace."""
        rows = [row for row in self.rows if row.cores == cores]
        best = max(row.cases_per_s for row in rows)
        enough = next(n for n, row in enumerate(rows, 1) if row.cases_per_s >= _NEARLY_BEST * best)
        return rows[:enough]

    def pod(self, cores: int) -> Pod:
        """A server of so many cores. Rates between those that were measured lie on a line between them."""
        rows = self.of(cores)
        if rows[0].calls != 1:
            raise InputError(f"{self.path}: one call at a time was not measured. Add 1 to --calls.")
        calls, rates = [row.calls for row in rows], [row.cases_per_s for row in rows]
        alone = np.array(rows[0].seconds)
        between = np.interp(range(1, calls[-1] + 1), calls, rates)
        return Pod(tuple(map(float, between)), tuple(map(float, alone / alone.mean())))


def this_machine() -> dict[str, Any]:
    """Which machine it is, as far as it tells."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"processor": (names or [platform.processor() or platform.machine()])[0], "cores": memory.cores()}
