"""Workers wait for each other before TensorFlow connects them: for so long, and saying for whom. No TensorFlow.

All come to the address of the first, which tells them when the last is there. Whoever is missing by the end of
the time is named by those that came.
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable, Sequence

from tfbrats.errors import InputError

_GO = b"go\n"
_SAY_AFTER_SECONDS = 5.0  # of waiting
_AGAIN_SECONDS = 0.5
_GRACE_SECONDS = 30.0  # the first worker's time may have begun later: it knows who is missing


def meet(addresses: Sequence[str], own: int, seconds: float, check: Callable[[], None] = lambda: None) -> None:
    """Returns when all workers have come here; the port of the first is free again then.

    Args:
        addresses: host:port of all, the first one's first.
        own: which of them is this process.
        seconds: for how long to wait.
        check: called twice a second; gives up by raising.

    Raises:
        InputError: some have not come, or the first one's port is taken.
    """
    if len(addresses) == 1:
        return
    until = _Until(seconds, check)
    if own == 0:
        _gather(addresses, until)
    else:
        _report(addresses, own, until)


def answers(address: str) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection(_host_and_port(address), timeout=2):
            return True
    except OSError:
        return False


class _Until:
    """The end of the time, and one line on the way there."""

    def __init__(self, seconds: float, check: Callable[[], None]):
        self._began, self._seconds, self._said, self._check = time.monotonic(), seconds, False, check

    @property
    def minutes(self) -> str:
        return f"{self._seconds / 60:g} min"

    def left(self) -> float:
        return self._began + self._seconds - time.monotonic()

    def say(self, missing: Sequence[str]) -> None:
        """Once, when it takes longer than starting does. Raises what `check` raises."""
        self._check()
        if not self._said and time.monotonic() - self._began > _SAY_AFTER_SECONDS:
            print(f"waits for   {', '.join(missing)} (at most {self.minutes})", flush=True)
            self._said = True


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _nobody(missing: Sequence[str], until: _Until) -> InputError:
    verb = "has" if len(missing) == 1 else "have"
    return InputError(
        f"TF_CONFIG: {' and '.join(missing)} {verb} not come in {until.minutes}. Start the same command on all "
        "workers, each with its own task index, on machines that reach each other at these addresses."
    )


# --- the first worker -----------------------------------------------------------------------------------


def _gather(addresses: Sequence[str], until: _Until) -> None:
    """Waits as the first worker until all others have come, and lets them go."""
    came: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as opened:
        door = opened.enter_context(_listener(addresses[0], until))
        while True:
            missing = [address for n, address in enumerate(addresses) if n and n not in came]
            if not missing:
                break
            if until.left() <= 0:
                for connection in came.values():
                    _send(connection, ", ".join(missing).encode() + b"\n")
                raise _nobody(missing, until)
            until.say(missing)
            readable, _, _ = select.select([door, *came.values()], [], [], _AGAIN_SECONDS)
            for n in [n for n, connection in came.items() if connection in readable]:
                came.pop(n).close()  # nobody speaks twice: it has gone away again
            if door in readable:
                connection, _ = door.accept()
                opened.enter_context(connection)
                number = _number(connection)
                if number is not None and 0 < number < len(addresses):
                    came[number] = connection
        for connection in came.values():
            _send(connection, _GO)


def _listener(address: str, until: _Until) -> socket.socket:
    """Waits while a worker of a run that is just ending still has the port."""
    _, port = _host_and_port(address)
    while True:
        try:
            if socket.has_dualstack_ipv6():
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
            return socket.create_server(("", port))
        except OSError as error:
            if until.left() <= 0:
                raise InputError(
                    f"TF_CONFIG: {address} is this worker, and its port cannot be taken ({error.strerror}). "
                    "End what listens there, or choose another port on all workers."
                ) from error
            until.say([f"its own port at {address}"])
            time.sleep(_AGAIN_SECONDS)


def _number(connection: socket.socket) -> int | None:
    """Which worker it says it is; None for a stranger."""
    connection.settimeout(2)
    try:
        return int(connection.recv(16))
    except (OSError, ValueError):
        return None


def _send(connection: socket.socket, message: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(message)


# --- the others -----------------------------------------------------------------------------------------


def _report(addresses: Sequence[str], own: int, until: _Until) -> None:
    """Comes to the first worker and waits until it lets all go."""
    while until.left() > 0:
        with contextlib.suppress(OSError), socket.create_connection(_host_and_port(addresses[0]), 2) as first:
            first.sendall(str(own).encode())
            answer = _answer(first, until)
            if answer == _GO:
                return
            missing = answer.decode(errors="replace").strip().split(", ")
            if set(missing) <= set(addresses):
                raise _nobody(missing, until)
            # Gone again, or a server of another run that is just ending.
        until.say([addresses[0]])
        time.sleep(_AGAIN_SECONDS)
    raise _nobody(addresses[:1], until)


def _answer(first: socket.socket, until: _Until) -> bytes:
    """What the first worker says at the end; nothing if that does not come."""
    while until.left() > -_GRACE_SECONDS:
        readable, _, _ = select.select([first], [], [], _AGAIN_SECONDS)
        if readable:
            return first.recv(4096)
        until.say(["the other workers"])
    return b""
