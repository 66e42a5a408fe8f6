"""How much the page takes: of people, of files, of bytes, of waiting. What is more is refused in words."""

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What the page takes.

    Attributes:
        sessions: people at once; each has a folder until their page is closed.
        files: of a session. Four DICOM series are some 800 of them.
        file_bytes: of one, as it is sent.
        session_bytes: of all files of a session together.
        voxels: of a NIfTI file, all its volumes together. A scan of BraTS has 8.9 million; a model server takes
            messages of 640 MiB, which are four scans of 42 million.
        unpacked_bytes: of a NIfTI file, whatever it is packed to.
        spare_disk_bytes: that stay free on the disk.
        read_s: between two pieces of a file; who sends nothing for so long has gone.
        file_s: for a whole file.
        silent_s: without a word from the page, which speaks every 20 s: then its session ends.
        crowded_s: the same where somebody else waits for room.
    """

    sessions: int = 8
    files: int = 2000
    file_bytes: int = 320 * MIB
    session_bytes: int = 1280 * MIB
    voxels: int = 40_000_000
    unpacked_bytes: int = 320 * MIB
    spare_disk_bytes: int = 1024 * MIB
    read_s: float = 30
    file_s: float = 900
    silent_s: float = 900
    crowded_s: float = 150


class RefusedError(Exception):
    """A request that the page does not serve: an HTTP status, and what to tell the person."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status
