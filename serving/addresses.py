"""Where a gRPC server is: what a person may write, told at once where it is none. No network is asked.

gRPC itself takes `http://host:8500` for a name to look up, and waits; and it sends calls to a server of this
machine through the proxy that http_proxy names.
"""

import ipaddress
import os
import re
import socket

from tfbrats.errors import InputError

_SCHEMES = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds", "passthrough")  # gRPC's own
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # in gRPC's order; upper case it does not read
_SPARED = ("no_grpc_proxy", "no_proxy")
_LABEL = r"(?:[A-Za-z0-9_-]|[^\x00-\x7f])+"  # between dots
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_EXPECTED = "expected host:port of its gRPC service, e.g. localhost:8500"


def checked(address: str) -> str:
    """The address as it was given, which gRPC can use: host:port, [IPv6]:port, or a scheme of gRPC's own.

    Raises:
        InputError: it is something else, with what is wrong and what is expected.
    """

    def wrong(what: str, instead: str = "") -> InputError:
        return InputError(f"server {address!r}: {what}; {f'write {instead}' if instead else _EXPECTED}.")

    if not address.strip():
        raise wrong("it is empty")
    if re.search(r"\s", address):
        raise wrong("it has a space in it", "" if " " in address.strip() else address.strip())
    scheme = re.match(r"([a-z][a-z0-9+-]*):(?![0-9]+$)", address, re.IGNORECASE)
    if scheme and scheme.group(1).lower() in _SCHEMES:
        return address
    if match := re.match(r"([a-z][a-z0-9+.-]*)://+([^/?#]*)", address, re.IGNORECASE):
        place = match.group(2)
        instead = place if _port_of(place) else f"{place}:8500" if place else ""
        raise wrong(f"gRPC has no {match.group(1)}:// in front", instead)
    if "/" in address:
        place = address.partition("/")[0]
        raise wrong("it has a path behind it", place if _port_of(place) else "")
    if "@" in address:
        raise wrong("it names a user, and gRPC has none")
    if address.count(":") > 1 and not address.startswith("["):
        host, _, port = address.rpartition(":")
        instead = f"[{host}]:{port}" if _is_ipv6(host) else f"[{address}]:8500" if _is_ipv6(address) else ""
        raise wrong("an IPv6 address stands in brackets, its port behind them", instead)
    host, colon, port = address.rpartition(":")
    if not host and port.isascii() and port.isdecimal():
        raise wrong("it has no host", f"localhost:{port}")
    if not colon or not port or address.endswith("]"):
        raise wrong("it has no port", f"{address.rstrip(':')}:8500" if address.strip(":") else "")
    if not _port_of(address):
        raise wrong(f"{port!r} is no port (1 to 65535)")
    if host.startswith("[") and not (host.endswith("]") and _is_ipv6(host[1:-1])):
        raise wrong(f"{host} is no IPv6 address in brackets")
    if not host.startswith("[") and not _HOST.fullmatch(host):
        raise wrong(f"{host!r} is no name of one host")
    return address


def parted(address: str) -> tuple[str, str]:
    """host:port/MODEL -> host:port and MODEL. An address may have slashes of its own, as dns:///host:port.

    Raises:
        InputError: it names no model.
    """
    host, _, model = address.rpartition("/")
    if not host or not model or ":" in model:
        if "://" in address:
            checked(address.rstrip("/"))
        raise InputError(f"{address}: which model? Give it, or write {address}/MODEL.")
    return host, model


def _port_of(address: str) -> int | None:
    port = address.rpartition(":")[2]
    return int(port) if ":" in address and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 2**16 else None


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text.partition("%")[0]).version == 6
    except ValueError:
        return False


def _host_of(address: str) -> str:
    target = re.sub(r"^(dns|ipv4|ipv6|passthrough):(//[^/]*/)?", "", address, flags=re.IGNORECASE)
    return re.sub(r":\d+$", "", target).strip("[]").lower()


def is_of_this_machine(address: str) -> bool:
    """Whether no proxy may stand between us and the server: it is on this machine, by name or by number."""
    host = _host_of(address)
    if address.lower().startswith("unix") or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        number = ipaddress.ip_address(host.partition("%")[0])
        return number.is_loopback or number.is_unspecified
    except ValueError:
        return host == socket.gethostname().lower()


def proxy_to(address: str) -> str | None:
    """The setting that sends calls to this server through a proxy, e.g. "http_proxy=..."; None without one.

    By gRPC's rules: it reads the names in lower case, and no_proxy as ends of hosts' names.
    """
    if is_of_this_machine(address):
        return None
    host = _host_of(address)
    spared = next((os.environ[name] for name in _SPARED if os.environ.get(name)), "")
    if any(name and host.endswith(name) for name in (part.strip().lower() for part in spared.split(","))):
        return None
    return next((f"{name}={os.environ[name]}" for name in _PROXIES if os.environ.get(name)), None)
