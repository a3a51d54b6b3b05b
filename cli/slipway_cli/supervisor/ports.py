"""Ports on the loopback address."""

import errno
import secrets
import socket
from contextlib import suppress

from slipway_cli.supervisor.refusal import StartRefusedError

LOOPBACK = "127.0.0.1"


# Below the ports that systems give to connections, and to servers that take any: Linux from 32768, others from 49152.
_FIRST, _LAST = 18_000, 29_999


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different, from a random one upwards.

    Until a process listens on its own, nobody takes it by chance but another stack that starts in the same place.
    """
    start = _FIRST + secrets.randbelow(_LAST - _FIRST)
    found: list[int] = []
    for port in (*range(start, _LAST + 1), *range(_FIRST, start)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            found.append(port)
        if len(found) == count:
            return found
    raise StartRefusedError(f"{count} free ports are needed between {_FIRST} and {_LAST}")


def refuse_port_in_use(port: int) -> None:
    """Raises StartRefusedError when nothing can listen on `port`."""
    with socket.socket() as probe:
        # As servers do: a port in TIME_WAIT after a restart counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno == errno.EACCES:
                reason = "needs rights that this user does not have"
            else:
                reason = "is in use by another program"
            raise StartRefusedError(f"port {port} {reason}: choose another with --port") from None
