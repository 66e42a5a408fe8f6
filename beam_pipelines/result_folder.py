"""What `segment_cases` keeps in its output folder beside the segmentations. Runs where the command runs.

While a job is under way `.parts/` holds a row for each case that a worker has ended with, and `.segmenting` is
its lock; both go with it. `rejected.jsonl` stays while cases are without a result. Refuses a second job in the
same folder.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from tfbrats.cases.rejected import Rejected
from tfbrats.machine import files, locks
from tfbrats.predictions import results

REJECTED = "rejected.jsonl"
_PARTS = ".parts"
_LOCK = ".segmenting"
_TASKS = "tasks.jsonl.gz"  # under .parts/: what the workers are to do (`task_list`)


@contextlib.contextmanager
def alone(output: str) -> Iterator[None]:
    """Keeps the folder to one job; takes away, at its end, the lock and a folder that it made for nothing.

    Raises:
        InputError: another job writes into it.
    """
    lock = files.join(output, _LOCK)
    was_there = files.is_folder(output)
    with locks.alone(lock, locks.job_at_work(output)):
        try:
            yield
        finally:
            files.remove(files.join(output, _PARTS))
            if files.is_local(output):  # on gs:// the lock goes by itself, and there are no empty folders
                files.remove(lock)
                if not was_there:
                    with contextlib.suppress(OSError):  # not empty
                        os.rmdir(files.canonical(output))


def sweep(output: str, case_ids: Sequence[str]) -> None:
    """Removes what a killed job has left: its rows, and half files of these cases. The folder is held."""
    files.remove(files.join(output, _PARTS))
    files.sweep([path for name in case_ids for path in results.target(name, output).all_paths], 0)


# --- the rows -------------------------------------------------------------------------------------------


def write_row(output: str, case_id: str, row: dict[str, Any]) -> None:
    """A worker has ended with this case."""
    files.write_json(_row_path(output, case_id), row)


def rows(output: str, case_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Case id -> row, of those of the cases that have one."""
    paths = {case_id: _row_path(output, case_id) for case_id in case_ids}
    return {case_id: files.read_json(path) for case_id, path in paths.items() if files.exists(path)}


def row_count(output: str) -> int:
    """How many cases workers have ended with."""
    parts = files.join(output, _PARTS)
    return sum(path.endswith(".json") for path in files.walk(parts)) if files.is_folder(parts) else 0


def list_of(output: str) -> str:
    """Where the list of the job's cases lies."""
    return files.join(output, _PARTS, _TASKS)


def _row_path(output: str, case_id: str) -> str:
    return files.join(output, _PARTS, f"{case_id}.json")


# --- rejected cases -------------------------------------------------------------------------------------


def write_rejected(output: str, rejected: Sequence[Rejected], case_ids: Sequence[str]) -> None:
    """Writes rejected.jsonl, a line a case; takes it away where no case is without a result.

    Args:
        rejected: now.
        case_ids: of this job; what an earlier job said of others stays while they have no result.
    """
    path = files.join(output, REJECTED)
    kept = [
        row
        for row in _rejected_before(path)
        if row.case_id not in case_ids and not results.target(row.case_id, output).is_done()
    ]
    rows = sorted([*kept, *rejected], key=lambda row: row.case_id)
    if rows:
        files.write_bytes(path, "".join(row.model_dump_json() + "\n" for row in rows).encode())
    else:
        files.remove(path)


def _rejected_before(path: str) -> list[Rejected]:
    if not files.exists(path):
        return []
    lines = files.read_bytes(path).splitlines()
    with contextlib.suppress(ValueError):  # another program's file of that name
        return [Rejected.model_validate_json(line) for line in lines]
    return []
