"""A local stand-in for Google Cloud Storage, as a process of its own: several processes can use it.

    python tests/gs_server.py --port 9023 --folder /tmp/buckets

The emulator of the package `gcp-storage-emulator`, with one call more: gcsfs renames by `moveTo`, which the
emulator does not know, and which the real service answers. Not a place to keep anything.
"""

import argparse
import time
from http import HTTPStatus

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

BUCKET = "brats"


def _move(request, response, storage):
    names = request.params
    try:
        moved = objects._copy(
            request.base_url, storage, *(names[key] for key in ("bucket", "source", "bucket", "target"))
        )
        storage.delete_file(names["bucket"], names["source"])
    except NotFound:
        response.status = HTTPStatus.NOT_FOUND
        return
    response.json(moved)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", required=True, help="absolute; objects are kept here as files")
    given = parser.parse_args()
    move = r"^/storage/v1/b/(?P<bucket>[-.\w]+)/o/(?P<source>.+)/moveTo/o/(?P<target>.+)$"
    server.HANDLERS = ((move, {server.POST: _move}), *server.HANDLERS)
    with server.create_server("localhost", given.port, default_bucket=BUCKET, data_dir=given.folder):
        while True:
            time.sleep(1)


if __name__ == "__main__":
    main()
