"""Ports on loopback: found free, or found taken before a child stumbles over it."""

import socket
from collections.abc import Mapping
from contextlib import ExitStack

from dev.errors import DevError


def settle(wanted: Mapping[str, int]) -> list[int]:
    """A port for each option, in order; 0 becomes any free one. Raises DevError for one that is taken.

    All are held until all are known, so they differ.
    """
    with ExitStack() as held:
        return [_bind(held, option, port) for option, port in wanted.items()]


def _bind(held: ExitStack, option: str, port: int) -> int:
    listener = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    # As servers do: a port whose last connections are still fading away is free.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        # SO_REUSEADDR lets two sockets bind, but only one listen.
        listener.listen(1)
    except OSError as error:
        raise DevError(
            f"port {port} is taken ({error.strerror}): choose another with {option} (0 = any free one)"
        ) from None
    return int(listener.getsockname()[1])
