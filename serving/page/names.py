"""Names of files as a browser sends them: a path in the session's own folder, or refused. Pure."""

import re
import unicodedata

from serving.page.limits import RefusedError

_PART_BYTES = 120  # of a file's or a folder's name; disks take 255, and we add endings
_DEPTH = 5  # a study, its series, and what lies around them


def inside(name: str) -> str:
    """A name that may be joined to the session's folder: "BraTS20_Training_001/BraTS20_Training_001_t1.nii.gz".

    Raises:
        RefusedError: empty, too long, or it has parts that lead elsewhere.
    """

    def refused(why: str) -> RefusedError:
        return RefusedError(400, f"{shown(name)}: {why}. Rename the file, and drop it again.")

    if not name:
        raise RefusedError(400, "a file without a name. Rename it, and drop it again.")
    if "\\" in name or re.match(r"[A-Za-z]:", name):
        raise refused("its name has a \\ or a drive's letter in it")
    if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name):  # half a character is none
        raise refused("its name has signs that cannot be shown")
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise refused("its name leads out of its folder")
    if any(part.startswith(".") for part in parts):
        raise refused("its name begins with a dot: a hidden file")
    if len(parts) > _DEPTH:
        raise refused(f"it lies {len(parts)} folders deep, and {_DEPTH} are taken")
    if any(len(part.encode()) > _PART_BYTES for part in parts):
        raise refused(f"its name is longer than {_PART_BYTES} bytes")
    return name


def shown(name: str) -> str:
    """A name as a message may hold it: on one line, and not too long."""
    line = "".join(sign if sign.isprintable() else "?" for sign in name)
    return line if len(line) <= 100 else f"{line[:97]}..."
