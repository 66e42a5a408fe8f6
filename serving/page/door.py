"""Where the page is to be found, and whether that is safe. Light: what a person may mend is told at once."""

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from tfbrats.errors import InputError
from tfbrats.machine import files

PORT = 8600
_LEAST_TOKEN = 16


@dataclass(frozen=True)
class Door:
    """Where the page is, and who may come in.

    Attributes:
        host: to listen at.
        port: 0 for any free one.
        names: by which others open it; beyond this machine at least one.
        certificate, key: PEM files, for https.
        token: that others have to know; None: none is asked for.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    names: tuple[str, ...] = ()
    certificate: str | None = None
    key: str | None = None
    token: str | None = None

    @property
    def is_of_this_machine(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def scheme(self) -> str:
        return "https" if self.certificate else "http"


def door(
    host: str, port: int, names: Sequence[str], certificate: str | None, key: str | None, token_file: str | None
) -> Door:
    """What a person asked for, where it is safe.

    Raises:
        InputError: beyond this machine without TLS or a name; half of what TLS needs; a weak token.
    """
    check_port(port)
    if (certificate is None) != (key is None):
        raise InputError("--tls-certificate and --tls-key: the two go together.")
    for path in filter(None, (certificate, key)):
        if not files.exists(path):
            raise InputError(f"{path}: no such file.")
    token = None if token_file is None else _token(token_file)
    asked = Door(host, port, tuple(names), certificate, key, token)
    if asked.is_of_this_machine:
        return asked
    if certificate is None:
        raise InputError(
            f"--host {host}: others could read the scans on their way. Beyond this machine the page is served "
            "by TLS alone: give --tls-certificate and --tls-key (PEM), or leave --host out and come by an SSH "
            f"tunnel (ssh -L {port or PORT}:127.0.0.1:{port or PORT} THIS_MACHINE)."
        )
    if not names:
        raise InputError(
            f"--host {host}: by which name do others open it? Give --name, e.g. --name brats.example.org: the "
            "page answers to that name alone, so that no other site can use it."
        )
    return asked if token else Door(host, port, tuple(names), certificate, key, secrets.token_urlsafe(24))


def check_port(port: int) -> None:
    """Raises InputError: there is no such port."""
    if not 0 <= port <= 65535:
        raise InputError(f"port {port}: there are ports 1 to 65535, and 0 for any free one.")


def _token(path: str) -> str:
    token = files.read_text(path).strip()
    if len(token) < _LEAST_TOKEN or not token.isascii() or not all(c.isalnum() or c in "-_." for c in token):
        raise InputError(
            f"{path}: expected {_LEAST_TOKEN} or more letters, digits, - _ or . (openssl rand -hex 24)."
        )
    return token
