"""A folder of records while a job writes it: whose it is, what lies finished. Runs where the command runs.

While a job is under way `parts/` holds its name (job.json), a lock, and a row for each finished shard;
dataset.json takes their place when all are there. Refuses folders that hold anything else: nothing of a
person's is overwritten or deleted.
"""

import collections
import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from tfbrats.cases.split_files import SPLITS
from tfbrats.config import Config
from tfbrats.errors import InputError
from tfbrats.machine import files, locks
from tfbrats.records import manifest
from tfbrats.records.manifest import MANIFEST, SHARD_NAME, Batch, Manifest, Shard, own_regions
from tfbrats.records.shards import PARTS, TALLY, ShardTask, is_finished, part_of

REJECTED = "rejected.jsonl"
_JOB = "job.json"  # under parts/: whose folder this is until dataset.json says so
_LOCK = ".running"  # under parts/
TASKS = "tasks.jsonl.gz"  # under parts/: what the workers are to do (`beam_pipelines.task_list`)
_NAMES = "|".join(map(re.escape, (_JOB, _LOCK, TASKS, TALLY, MANIFEST, REJECTED)))
_OURS = re.compile(rf"{SHARD_NAME.pattern}(\.json)?|{_NAMES}")
_NAMED = 5  # cases, before the rest is counted


@dataclasses.dataclass(frozen=True)
class Remaining:
    """What is left to be written of a set.

    Attributes:
        todo: the tasks of those shards.
        kept: rows of the shards that are on disk as their tasks would write them.
        again: how many shards of `todo` were finished once.
    """

    todo: tuple[ShardTask, ...]
    kept: tuple[Shard, ...]
    again: int


class RecordFolder:
    """A folder of records: looked at once, then claimed, resumed and finished by the one job that holds it.

    Args:
        output: the folder, which need not exist.
        overwrite: the records there are to be deleted, and count as none.

    Attributes:
        state: "free", "unfinished" (a job has begun to write here) or "finished" (dataset.json alone tells).
        batches: the cases that the records were planned for, as they were given; [] where there are none.
        manifest: of dataset.json, which an unfinished set may have too; None where there is none.

    Raises:
        InputError: the folder's own notes are damaged.
    """

    def __init__(self, output: str | os.PathLike, overwrite: bool = False):
        self.output = os.fspath(output)
        self.overwrite = overwrite
        self._job = files.join(output, PARTS, _JOB)
        self._dataset = files.join(output, MANIFEST)
        self._look()

    def _look(self) -> None:
        self._stamps = self._current_stamps()
        self.state: Literal["free", "unfinished", "finished"] = "free"
        self.batches: list[Batch] = []
        self.manifest: Manifest | None = None
        self._identity: dict[str, Any] = {}
        content, damage = _read_if_there(self._dataset)
        if files.exists(self._job):
            self.state = "unfinished"
        elif manifest.is_manifest(content) or (damage is not None and self._holds_shards()):
            self.state = "finished"
        if self.overwrite or self.state == "free":
            return
        if self.state == "unfinished":
            self._identity, self.batches = _plan_in(self._job)
            if manifest.is_manifest(content):
                with contextlib.suppress(InputError):  # damaged: the rows in parts/ tell
                    self.manifest = manifest.from_content(content, self._dataset)
        elif damage is not None:
            raise InputError(f"{damage} {manifest.WRITE_AGAIN}") from damage
        else:
            self.manifest = manifest.from_content(content, self._dataset)
            self._identity = {**self.manifest.identity, "regions": list(self.manifest.regions)}
            self.batches = list(self.manifest.batches)

    def _current_stamps(self) -> tuple[str | None, str | None]:
        return files.stamp(self._job), files.stamp(self._dataset)

    def _holds_shards(self) -> bool:
        return any(SHARD_NAME.fullmatch(files.name(path)) for path in files.walk(self.output))

    @property
    def cases(self) -> dict[str, list[str]]:
        """Split -> sorted ids of all cases that the records were planned for."""
        return cases_of(self.batches)

    # --- whose it is ------------------------------------------------------------------------------------

    def check_free(self) -> None:
        """Raises InputError if the folder holds what this job may not write beside, or not delete."""
        if self.overwrite:
            if foreign := self._foreign_files():
                raise InputError(
                    f"{self.output}: holds {files.name(foreign[0])}, which is no part of a record set: nothing "
                    "is deleted. Choose another --output."
                )
        elif self.state == "free" and (foreign := self._foreign_files()):
            raise InputError(
                f"{self.output}: not empty, and not a record set: it holds {files.name(foreign[0])}. Choose "
                "another --output."
            )

    def freed_bytes(self) -> int:
        """What claiming the folder gives back, by deleting the records that it holds."""
        there = self.overwrite and files.is_folder(self.output)
        return sum(files.walk(self.output).values()) if there else 0

    def _foreign_files(self) -> list[str]:
        """The files that no record set holds; all of them, if the folder is none."""
        listing = list(files.walk(self.output)) if files.is_folder(self.output) else []
        if self.state == "free":
            return [path for path in listing if files.PARTIAL not in files.name(path) and not _is_lock(path)]
        names = {path: files.name(path) for path in listing}
        for path, name in names.items():
            if files.PARTIAL in name:  # .NAME.partial-12345678
                names[path] = name.partition(files.PARTIAL)[0].removeprefix(".")
        at_home = set(self._own_files())
        return [path for path, name in names.items() if path not in at_home or not _OURS.fullmatch(name)]

    def check_claim(self, config: Config, splits: Mapping[str, Sequence[str]]) -> None:
        """Raises InputError unless the folder is free, or its records, finished or not, are of this very job.

        Args:
            splits: split -> ids of all cases, those of earlier batches too.
        """
        if self.state == "free" or self.overwrite:
            return
        cure = "Choose another --output, or pass --overwrite to delete them."
        changed = manifest.other_records(_identity_of(config), self._identity)
        if changed:
            listed = "\n  ".join(changed)
            raise InputError(f"{self.output}: holds records of another configuration:\n  {listed}\n{cure}")
        asked, written = ({i: split for split, ids in of.items() for i in ids} for of in (splits, self.cases))
        moved = [
            f"{i}: {asked.get(i, 'not there')}, in the records {written.get(i, 'not there')}"
            for i in sorted({*asked, *written})
            if asked.get(i) != written.get(i)
        ]
        if moved:
            more = f"\n  and {len(moved) - _NAMED} more" if moved[_NAMED:] else ""
            listed = "\n  ".join(moved[:_NAMED]) + more
            if set(written) < set(asked) or len(self.batches) > 1:
                cure = (
                    "Pass --add to write new cases beside them, choose another --output, or pass --overwrite."
                )
            raise InputError(f"{self.output}: holds records of other cases or splits:\n  {listed}\n{cure}")

    # --- held by one job --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps the folder to one job.

        Raises:
            InputError: another job writes into it, or has since it was looked at.
        """
        lock = files.join(self.output, PARTS, _LOCK)
        with locks.alone(lock, locks.job_at_work(self.output)) as held:
            try:
                self._look_again()
                yield
            finally:
                if held is not None:
                    _leave_nothing(files.canonical(self.output), held)

    def _look_again(self) -> None:
        """Nothing is read where nothing was replaced since; nor where all is to be deleted."""
        if self.overwrite or self._current_stamps() == self._stamps:
            return
        batches = self.batches
        self._look()
        if self.batches != batches:
            raise InputError(f"{self.output}: another job wrote here while this one was looking. Run it again.")

    def remaining(self, tasks: Sequence[ShardTask], planned: Sequence[Batch]) -> Remaining:
        """Which of a set's shards are to be written, and which are kept.

        Args:
            tasks: of all its shards.
            planned: the cases that they are planned for.
        """
        finished = {} if self.overwrite else self._finished_rows()
        accepted = self._shards_of_readers(planned)
        there = [is_finished(task, finished, accepted) for task in tasks]
        todo = tuple(task for task, is_there in zip(tasks, there, strict=True) if not is_there)
        kept = tuple(
            finished[file]
            for task, is_there in zip(tasks, there, strict=True)
            if is_there
            for file in task.files
        )
        return Remaining(todo, kept, sum(file in finished for task in todo for file in task.files))

    def _finished_rows(self) -> dict[str, Shard]:
        """The rows of the shards that an earlier job finished, from dataset.json and parts/, by file."""
        of_readers = self.manifest.shards if self.manifest else ()
        return {shard.file: shard for shard in of_readers} | self._rows_in_parts()

    def _rows_in_parts(self) -> dict[str, Shard]:
        rows: dict[str, Shard] = {}
        parts = files.join(self.output, PARTS)
        for path in files.walk(parts) if files.is_folder(parts) else ():
            if path.endswith(".tfrecord.json"):
                with contextlib.suppress(ValueError):
                    row = Shard.model_validate_json(files.read_bytes(path))
                    rows[row.file] = row
        return rows

    def _shards_of_readers(self, planned: Sequence[Batch]) -> set[str]:
        """The files that dataset.json names while cases are added that it does not know yet; else none.

        Readers keep them meanwhile; so what was rejected then, and was taken for granted, is not tried again.
        """
        if self.manifest is None or len(self.manifest.batches) >= len(planned):
            return set()
        return {shard.file for shard in self.manifest.shards}

    def claim(self, config: Config, planned: Sequence[Batch]) -> None:
        """Marks the folder as this job's before the first shard, and clears what a killed job left."""
        if self.overwrite:
            self.clear()
        if files.is_folder(self.output):
            _remove(path for path in self._own_files() if files.PARTIAL in files.name(path))
        content = {
            "identity": _identity_of(config),
            "batches": [batch.model_dump(mode="json") for batch in planned],
        }
        files.write_json(self._job, content)
        files.remove(files.join(self.output, PARTS, TALLY))

    def clear(self) -> None:
        """Deletes the records, finished or not, but for the lock that is held on them.

        What tells that these are records goes last: killed on the way, the folder is still known as ours.
        """
        if files.is_folder(self.output):
            paths = [path for path in self._own_files() if not _is_lock(path)]
            _remove(sorted(paths, key=lambda path: files.name(path) in (_JOB, MANIFEST)))

    def resume(self, remaining: Remaining) -> None:
        """Back to "unfinished", where shards that dataset.json names are to be rewritten.

        Puts the rows of finished shards under parts/, where a job that goes on finds them, and takes
        dataset.json away: a reader finds no manifest meanwhile. Where shards are only added, readers keep what
        they have.
        """
        if self.manifest is not None:
            of_readers = {shard.file for shard in self.manifest.shards}
            if not of_readers & {file for task in remaining.todo for file in task.files}:
                return
        for row in remaining.kept:
            path = part_of(self.output, row.file)
            if not files.exists(path):
                files.write_bytes(path, row.model_dump_json().encode())
        files.remove(self._dataset)

    def assemble(
        self, tasks: Sequence[ShardTask], kept: Sequence[Shard], config: Config, planned: Sequence[Batch]
    ) -> Manifest:
        """The manifest of a set all of whose shards are on disk.

        Args:
            tasks: of all of its shards.
            kept: rows of those that were there before this job.
            planned: the cases that they were planned for.

        Raises:
            InputError: a shard is missing: the job did not run to its end.
        """
        rows = {row.file: row for row in kept} | self._rows_in_parts()
        sha256_of = {file: task.sha256 for task in tasks for file in task.files}
        missing = [file for file, sha256 in sha256_of.items() if not _is_row_of(rows.get(file), sha256)]
        if missing:
            raise InputError(f"the job ended without {', '.join(missing)}. Run it again: it goes on from here.")
        sources = [source for task in tasks for source in task.cases]
        return manifest.of_shards([rows[file] for file in sha256_of], sources, config, planned)

    def write_rejected(self, whole: Manifest) -> None:
        """Writes rejected.jsonl, a line a case, or removes an old one when none is rejected now."""
        path = files.join(self.output, REJECTED)
        lines = [row.model_dump_json() + "\n" for shard in whole.shards for row in shard.rejected]
        if lines:
            files.write_bytes(path, "".join(lines).encode())
        else:
            files.remove(path)

    def was_accepted(self, whole: Manifest) -> bool:
        """Whether these cases were a finished set already with as many rejected ones, or more."""
        before = self.manifest
        return before is not None and before.batches == whole.batches and whole.rejected <= before.rejected

    def finish(self, whole: Manifest) -> None:
        """Writes dataset.json, then removes what belongs to no shard of it, and parts/, which it now holds.

        Workers that died, or an earlier plan with other shards, may have left such files. parts/ goes last, as
        the lock lies there: from then on what is in the folder may be another job's.
        """
        files.write_bytes(self._dataset, (whole.model_dump_json(indent=1) + "\n").encode())
        current = {shard.file for shard in whole.shards}
        for path in self._own_files():
            name = files.name(path)
            if files.PARTIAL in name or (SHARD_NAME.fullmatch(name) and name not in current):
                files.remove(path)
        files.remove(files.join(self.output, PARTS))

    def _own_files(self) -> list[str]:
        """What lies in the folder itself and in parts/; a folder below may be another record set."""
        root = files.canonical(self.output).rstrip("/")
        at_home = {root, files.join(root, PARTS)}
        paths = files.walk(self.output)
        return [path for path in paths if files.canonical(files.parent(path)).rstrip("/") in at_home]


def cases_of(batches: Iterable[Batch]) -> dict[str, list[str]]:
    """Split -> sorted ids of all batches together."""
    joined = collections.defaultdict(list)
    for batch in batches:
        for split, ids in batch.cases.items():
            joined[split] += ids
    return {split: sorted(joined[split]) for split in SPLITS}


def _identity_of(config: Config) -> dict[str, Any]:
    """What makes a set this job's: all that the bytes depend on, and whose patches are in it."""
    return {**config.records_identity(), "regions": list(own_regions(config))}


def _read_if_there(path: str) -> tuple[Any, InputError | None]:
    """A JSON file's content, and what is wrong with the file; None for either that there is not."""
    if not files.exists(path):
        return None, None
    try:
        return files.read_json(path), None
    except InputError as error:
        return None, error


def _plan_in(path: str) -> tuple[dict[str, Any], list[Batch]]:
    """Whose folder job.json says this is, and the cases planned.

    Raises:
        InputError: it says neither: damaged, or another version wrote it.
    """
    content = files.read_json(path)
    try:
        return content["identity"], [Batch.model_validate(batch) for batch in content["batches"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: damaged, or of another version: it does not say what was to be written here. Choose "
            "another --output, or pass --overwrite to delete the records."
        ) from error


def _is_lock(path: str) -> bool:
    return files.name(path) == _LOCK and files.name(files.parent(path)) == PARTS


def _leave_nothing(folder: str, held: int) -> None:
    """Takes the lock away with the folders made for it, where a job has written nothing else.

    Args:
        held: the lock's file descriptor. Once parts/ is gone, the next job may have made a lock of its own.
    """
    lock = files.join(folder, PARTS, _LOCK)
    with contextlib.suppress(OSError):
        if os.listdir(files.parent(lock)) == [_LOCK] and os.path.samestat(os.fstat(held), os.stat(lock)):
            os.remove(lock)
            os.rmdir(files.join(folder, PARTS))
            os.rmdir(folder)


def _remove(paths: Iterable[str]) -> None:
    for path in list(paths):
        files.remove(path)


def _is_row_of(row: Shard | None, task_sha256: str) -> bool:
    return row is not None and row.task_sha256 == task_sha256
