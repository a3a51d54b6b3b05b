"""Runs inside the sandbox beside a program that may use the network: hands its connections to the egress proxy.

The sandbox has a loopback interface and nothing else. Programs speak to a proxy at 127.0.0.1:3128, as their environment
says; this process passes the bytes of each connection on to the proxy's Unix socket, which is mounted from outside.
What may be reached is decided there: a program that kills or replaces this process gains nothing.
"""

from __future__ import annotations

import os
import select
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ADDRESS = ("127.0.0.1", 3128)
SOCKET = "/run/egress/proxy.sock"
CERTIFICATE = "/run/egress/ca.pem"
MOST = 32
CHUNK = 1 << 16
ENVIRONMENT = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), f"http://{ADDRESS[0]}:{ADDRESS[1]}"),
    **dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"), CERTIFICATE),
}


def listen() -> socket.socket:
    """The socket that programs connect to."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(ADDRESS)
    listener.listen(MOST)
    return listener


def serve(listener: socket.socket) -> None:
    """Relay until killed."""
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    peers: dict[int, tuple[socket.socket, socket.socket]] = {}  # by descriptor: the socket and the other side's
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == listener.fileno():
                near, _ = listener.accept()
                far = _connect() if len(peers) < 2 * MOST else None
                if far is None:
                    near.close()
                    continue
                for one, other in ((near, far), (far, near)):
                    peers[one.fileno()] = (one, other)
                    poller.register(one, select.POLLIN)
            elif descriptor in peers:
                one, other = peers[descriptor]
                if not _pass_on(one, other):
                    for end in (one, other):
                        poller.unregister(end)
                        del peers[end.fileno()]
                    one.close()
                    other.close()


def _connect() -> socket.socket | None:
    far = socket.socket(socket.AF_UNIX)
    try:
        far.connect(SOCKET)
    except OSError:
        far.close()
        return None
    return far


def _pass_on(one: socket.socket, other: socket.socket) -> bool:
    """Pass on what is there; False at the end of a side: neither side's HTTP half-closes."""
    try:
        data = one.recv(CHUNK)
        if data:
            other.sendall(data)
    except OSError:
        return False
    return bool(data)


def start(listener: socket.socket, inherited: list[int], leave_root: Callable[[], None]) -> int:
    """Fork the relay; `inherited` descriptors are closed in it, and it runs as the program does. Its process id."""
    pid = os.fork()
    if pid:
        return pid
    leave_root()
    for descriptor in inherited:
        os.close(descriptor)
    try:
        serve(listener)
    finally:
        os._exit(1)
