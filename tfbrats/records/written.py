"""What to-nifti has written into a folder, so that it can go on there and never touches anything else.

A list of what was made from which shard lies beside the files. A file that the list does not name is a
person's; one that was made from other records is stale, and is replaced only when asked for.
"""

import os
from collections.abc import Sequence

from tfbrats import files
from tfbrats.command import InputError

FILE = "from_records.json"


class Written:
    """An output folder.

    Raises:
        InputError: it holds files, and no list of this command; or it cannot be written to.
    """

    def __init__(self, output: str | os.PathLike):
        self._output = os.fspath(output)
        self._path = files.join(output, FILE)
        self._sources: dict[str, str] = {}
        files.check_can_hold(output)
        if files.exists(self._path):
            content = files.read_json(self._path)
            if not isinstance(content, dict) or not isinstance(content.get("made_from"), dict):
                raise InputError(f"{self._path}: not the list that to-nifti keeps. Choose another --output.")
            self._sources = content["made_from"]
        elif files.is_folder(output):
            there = [path for path in files.walk(output) if files.PARTIAL not in files.name(path)]
            if there:
                raise InputError(
                    f"{output}: not empty, and not written by to-nifti: it holds {files.name(there[0])}. "
                    "Choose another --output."
                )

    def is_done(self, name: str, source: str, paths: Sequence[str], overwrite: bool) -> bool:
        """Whether all of `paths` are there already, made from `source`.

        Args:
            name: of the case or picture.
            source: what tells its records from others'.
            overwrite: what is there is to be made again, and may be of other records.

        Raises:
            InputError: a file that was not written here stands in the way, or one of other records.
        """
        there = [path for path in paths if files.exists(path)]
        if there and name not in self._sources:
            raise InputError(f"{there[0]}: exists, and to-nifti did not write it. Choose another --output.")
        if overwrite or not there:
            return False
        if self._sources[name] != source:
            raise InputError(
                f"{there[0]}: written from other records, or with other options. Choose another --output, or "
                "pass --overwrite."
            )
        return len(there) == len(paths)

    def begin(self, name: str, source: str, paths: Sequence[str]) -> None:
        """Before the files of `name` are written. Killed at any moment, none is left that is of two sources."""
        if self._sources.get(name) != source:
            for path in paths:
                files.remove(path)
            self._sources[name] = source
            files.write_json(self._path, {"made_from": dict(sorted(self._sources.items()))})
