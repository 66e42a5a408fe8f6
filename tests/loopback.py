"""Addresses of this machine that nobody listens on."""

import contextlib
import socket


def free_addresses(count: int) -> list[str]:
    with contextlib.ExitStack() as sockets:
        taken = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in taken]
