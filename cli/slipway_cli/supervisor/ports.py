"""Ports on the loopback address."""

import errno
import socket

from slipway_cli.supervisor.refusal import StartRefusedError

LOOPBACK = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


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
