"""A line for each call: who, which model, what, how it ended, how long it took, how many bytes, which request.

    ipv4:127.0.0.1:45138  cun  gzip_int16  OK  10221 ms  9802924 B in  8928071 B out  id 8deeb14248bbc6d0

Nothing of a case, unless the caller makes its id that of the request.
"""

import logging
from collections.abc import Iterable

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"  # of gRPC metadata and of HTTP headers
_LONGEST_NAME = 80


def write(
    peer: str,
    model: str,
    what: str,
    status: str,
    seconds: float,
    bytes_in: int,
    bytes_out: int,
    request_id: str = "",
) -> None:
    """Adds a line.

    Args:
        peer: as gRPC names it.
        what: a signature, or the call where it is no prediction.
        status: gRPC's name of it.
        request_id: as the caller gave it.
    """
    parts = (
        *(peer, _shown(model), _shown(what), status, f"{1000 * seconds:.0f} ms"),
        *(f"{bytes_in} B in", f"{bytes_out} B out", f"id {_shown(request_id)}"),
    )
    log.info("%s", "  ".join(parts))


def request_id_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The caller's id of a request; "" where it gave none."""
    for name, value in metadata:
        if name.lower() == REQUEST_ID:
            return value if isinstance(value, str) else value.decode("latin-1")
    return ""


def _shown(text: str) -> str:
    """What a caller wrote: no line break, no blank by which it would pass for another column, and an end."""
    return ascii(text[:_LONGEST_NAME])[1:-1].replace(" ", r"\x20") or "-"
