"""Runs inside a sandbox's pod, twice: as its first process, which waits, and as the agent that the service talks to.

The agent is started by the service through the cluster's API (`exec`), and speaks over its own standard input and
output: who can't start it can't speak to it, and the pod needs neither a key nor a network. It closes off the runner
and its programs (`confine.py`), hands bytes to and fro, and ends with all of them when the service says so, falls
silent, or is gone; then the first process ends, and with it the pod.

Both directions are frames: kind (1 byte), connection (4), size of what follows (4, at most 64 KiB), content.

    from the service                        from the agent
    b  begin: settings as JSON              h  hello: what is in the image, as JSON
    c  control channel of the runner        o e r  standard output, standard error, report of the runner
    p  ping                                 p  the answer to it
    k  kill everything                      z  the runner ended
                    n  a connection to the egress proxy is new (from the agent)
                    d w x  its data, how much of it was taken (4 bytes), its end

What a runner reports follows all that its program printed. At most `WINDOW` bytes of a connection are under way.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

sys.path.insert(0, "/usr/lib/slipway")
from slipway_tools.sandbox import confine  # noqa: E402

IMAGE = "/usr/lib/slipway/image.json"
HEAD = struct.Struct(">cII")
CHUNK = 1 << 16
WINDOW = 1 << 18
MOST_CONNECTIONS = 128  # more than a door takes: that is what refuses
SILENCE_SECONDS = 90.0  # the service pings far more often
_HIGH_WATER = 1 << 20  # of what waits for the service: no more is taken from programs then
_LAST_SECONDS = 1.0  # for the last words to go out
_LOOK_SECONDS = 5.0


def wait(seconds: float) -> None:
    """The pod's first process: ends with the agent, or after `seconds` without one."""
    signals = {signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans leave nothing
    heard = signal.sigtimedwait(signals, seconds)
    if heard is None or heard.si_signo == signal.SIGTERM:
        return
    while signal.sigtimedwait({signal.SIGTERM}, _LOOK_SECONDS) is None:
        try:
            os.kill(heard.si_pid, 0)
        except ProcessLookupError:
            return


class Agent:
    """Serves one service until its end; `serve` returns when the sandbox shall end."""

    def __init__(self) -> None:
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.control = -1
        self.to_control = bytearray()
        self.report = -1
        self.printed: dict[int, bytes] = {}  # kind of frame by descriptor
        self.runner = 0
        self.listener: socket.socket | None = None
        self.connections: dict[int, Connection] = {}
        self.opened = 0
        self.heard = time.monotonic()
        self.over = False

    def serve(self) -> None:
        for descriptor in (0, 1):
            os.set_blocking(descriptor, False)
        with open(IMAGE, "rb") as file:
            self.say(b"h", file.read())
        while not self.over:
            self.turn()
        if self.runner:
            os.kill(self.runner, signal.SIGKILL)
        last = time.monotonic() + _LAST_SECONDS
        while self.outbox and time.monotonic() < last:
            self.speak()
            time.sleep(0.01)

    def say(self, kind: bytes, content: bytes = b"", connection: int = 0) -> None:
        self.outbox += HEAD.pack(kind, connection, len(content)) + content

    def turn(self) -> None:
        """Wait for something to do, and do it."""
        connections: dict[int, int] = {}
        ready = dict(self.poller(connections).poll(10_000))
        if 0 in ready:
            self.hear()
        elif time.monotonic() - self.heard > SILENCE_SECONDS:
            self.over = True
        for descriptor, kind in list(self.printed.items()):
            # A report follows all that was printed before it: that is in the pipes by now.
            for _ in range(64 if self.report in ready else 1 if descriptor in ready else 0):
                if not self.take(descriptor, kind):
                    break
        if self.report in ready:
            self.take(self.report, b"r")
        if self.listener is not None and self.listener.fileno() in ready:
            self.accept(self.listener)
        for descriptor, number in connections.items():
            if descriptor in ready and number in self.connections:
                self.tend(number)
        if self.to_control:
            self.steer()
        self.speak()

    def poller(self, connections: dict[int, int]) -> select.poll:
        """What there is to wait for; `connections` gets their numbers by descriptor."""
        poller = select.poll()
        poller.register(0, select.POLLIN)
        if self.outbox:
            poller.register(1, select.POLLOUT)
        if self.to_control:
            poller.register(self.control, select.POLLOUT)
        roomy = len(self.outbox) < _HIGH_WATER
        if roomy:
            for descriptor in (*self.printed, *((self.report,) if self.report >= 0 else ())):
                poller.register(descriptor, select.POLLIN)
            if self.listener is not None:
                poller.register(self.listener, select.POLLIN)
        for number, connection in self.connections.items():
            wanted = connection.wanted(roomy=roomy)
            if wanted:
                connections[connection.socket.fileno()] = number
                poller.register(connection.socket, wanted)
        return poller

    def take(self, descriptor: int, kind: bytes) -> bool:
        """Hand on a piece of what the runner or its program wrote; False when there is none."""
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return False
        if data:
            self.say(kind, data)
            return True
        if kind == b"r":
            self.say(b"z")
            self.over = True
        else:
            del self.printed[descriptor]
        return False

    def speak(self) -> None:
        while self.outbox:
            try:
                del self.outbox[: os.write(1, self.outbox[:CHUNK])]
            except BlockingIOError:
                return
            except OSError:
                self.over = True
                self.outbox.clear()

    def steer(self) -> None:
        try:
            del self.to_control[: os.write(self.control, self.to_control[:CHUNK])]
        except BlockingIOError:
            return
        except OSError:
            self.to_control.clear()  # the runner is gone: its report ends too

    def hear(self) -> None:
        try:
            data = os.read(0, CHUNK)
        except BlockingIOError:
            return
        self.heard = time.monotonic()
        if not data:
            self.over = True
        self.inbox += data
        while len(self.inbox) >= HEAD.size:
            kind, number, size = HEAD.unpack_from(self.inbox)
            if len(self.inbox) < HEAD.size + size:
                return
            content = bytes(self.inbox[HEAD.size : HEAD.size + size])
            del self.inbox[: HEAD.size + size]
            self.obey(kind, number, content)

    def obey(self, kind: bytes, number: int, content: bytes) -> None:
        if kind == b"c":
            self.to_control += content
        elif kind == b"b":
            self.begin(json.loads(content))
        elif kind == b"k":
            self.over = True
        elif kind == b"p":
            self.say(b"p")
        elif number in self.connections:
            connection = self.connections[number]
            if kind == b"d":
                connection.outgoing += content
                self.tend(number)
            elif kind == b"w":
                connection.under_way -= int.from_bytes(content, "big")
            elif kind == b"x":
                self.drop(number)

    def begin(self, settings: dict[str, Any]) -> None:
        """Close off what is to come, and start the runner in it; raises confine.Refused."""
        certificate = settings["certificate"]
        self.listener = confine.enter(
            settings["workspace"], settings["inodes"], None if certificate is None else certificate.encode()
        )
        control, stdout, stderr, report = (os.pipe() for _ in range(4))
        self.runner = os.fork()
        if self.runner == 0:
            self.become_runner((control[0], stdout[1], stderr[1], report[1]), settings)
        for theirs in (control[0], stdout[1], stderr[1], report[1]):
            os.close(theirs)
        self.control, self.report = control[1], report[0]
        self.printed = {stdout[0]: b"o", stderr[0]: b"e"}
        for ours in (self.control, self.report, *self.printed):
            os.set_blocking(ours, False)

    def become_runner(self, descriptors: tuple[int, ...], settings: dict[str, Any]) -> None:
        try:
            high = [os.dup2(descriptor, 100 + at) for at, descriptor in enumerate(descriptors)]
            for at, descriptor in enumerate(high):
                os.dup2(descriptor, at)
            os.closerange(len(descriptors), 200)
            os.setsid()
            os.chdir("/work")
            confine.bound(settings["rlimits"])
            confine.filter_calls()
            os.execve(settings["command"][0], settings["command"], {})  # noqa: S606 - from the service
        except BaseException as error:  # noqa: BLE001 - this is another process: nobody above could tell
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(1)

    def accept(self, listener: socket.socket) -> None:
        near, _ = listener.accept()
        if len(self.connections) >= MOST_CONNECTIONS:
            near.close()
            return
        near.setblocking(False)
        self.opened += 1
        self.connections[self.opened] = Connection(near)
        self.say(b"n", connection=self.opened)

    def tend(self, number: int) -> None:
        """Pass on what a connection has and takes; its end."""
        connection = self.connections[number]
        try:
            if connection.outgoing:
                sent = connection.socket.send(connection.outgoing[:CHUNK])
                del connection.outgoing[:sent]
                self.say(b"w", sent.to_bytes(4, "big"), number)
            room = WINDOW - connection.under_way
            data = connection.socket.recv(min(CHUNK, room)) if room > 0 else None
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            connection.under_way += len(data)
            self.say(b"d", data, number)
        elif data is not None:
            self.say(b"x", connection=number)
            self.drop(number)

    def drop(self, number: int) -> None:
        self.connections.pop(number).socket.close()


class Connection:
    """A program's connection to the egress proxy, by way of the relay in its sandbox."""

    def __init__(self, near: socket.socket) -> None:
        self.socket = near
        self.outgoing = bytearray()
        self.under_way = 0

    def wanted(self, *, roomy: bool) -> int:
        reading = select.POLLIN if roomy and self.under_way < WINDOW else 0
        return reading | (select.POLLOUT if self.outgoing else 0)


def main() -> None:
    if sys.argv[1] == "wait":
        wait(float(sys.argv[2]))
        return
    os.kill(1, signal.SIGUSR1)
    try:
        Agent().serve()
    except confine.Refused as error:
        sys.stderr.write(f"refused: {error}\n")
        sys.stderr.flush()
    finally:
        os.kill(1, signal.SIGTERM)


main()
