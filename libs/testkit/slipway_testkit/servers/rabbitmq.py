"""RabbitMQ from Debian, with a port mapper (epmd) of its own, so that nothing outlives the test session."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slipway_testkit.servers.process import ServerProcess, ServerUnavailable, accepts_connections, free_port

_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
# Schedulers that spin while idle would take the processor from the tests.
_ERLANG_FLAGS = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"


@dataclass
class RabbitServer:
    """A running RabbitMQ on 127.0.0.1 whose queues survive a restart."""

    epmd: ServerProcess
    process: ServerProcess
    port: int
    folder: Path

    @property
    def url(self) -> str:
        """Connection URL of the default virtual host, for the user `guest`."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Starts the server on its folder and waits for its port (about 20 s on a busy machine)."""
        self.process.start(lambda: accepts_connections(self.port), timeout=110)

    def start_if_stopped(self) -> None:
        """For the end of a test that stops the server, and may have failed in between."""
        if not self.process.running:
            self.start()

    def would_recover(self, queue: str) -> bool:
        """Whether the quorum queue `queue` comes back after SIGKILL: RabbitMQ 3.10 writes its list of them late."""
        listings = list(self.folder.glob("mnesia/*/quorum/*/names.dets"))
        # An Erlang atom: its length, then its name (of the virtual host "/" and the queue).
        name = f"%2F_{queue}".encode()
        entry = bytes([len(name)]) + name
        return bool(listings) and all(entry in listing.read_bytes() for listing in listings)

    def stop(self, *, crash: bool = False) -> None:
        """Stops the server; `crash`: by SIGKILL."""
        self.process.stop(crash=crash)

    def create_vhost(self) -> str:
        """Creates a virtual host, which shares nothing with the others; returns its URL for the user `guest`."""
        name = f"test{secrets.token_hex(4)}"
        self.evaluate(
            f'rabbit_vhost:add(<<"{name}">>, <<"test">>),'
            f' rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>,'
            ' <<".*">>, <<".*">>, <<".*">>, <<"test">>).'
        )
        return f"{self.url}{name}"

    def create_user(self, vhost: str, user: str, password: str) -> None:
        """Creates a user who may do everything in a virtual host."""
        self.evaluate(
            f'rabbit_auth_backend_internal:add_user(<<"{user}">>, <<"{password}">>, <<"test">>),'
            f' rabbit_auth_backend_internal:set_permissions(<<"{user}">>, <<"{vhost}">>,'
            ' <<".*">>, <<".*">>, <<".*">>, <<"test">>).'
        )

    def delete_user(self, user: str) -> None:
        """Deletes a user, and ends the connections of that name."""
        self.control("delete_user", user)

    def queues(self, vhost: str) -> list[str]:
        """Names of the virtual host's queues, but those that belong to one connection."""
        return self._names("list_queues", vhost)

    def exchanges(self, vhost: str) -> list[str]:
        """Names of the virtual host's exchanges, but the broker's own."""
        return self._names("list_exchanges", vhost)

    def _names(self, command: str, vhost: str) -> list[str]:
        listed = self.control(command, "-p", vhost, "name", "--no-table-headers").splitlines()
        return [name for line in listed if (name := line.strip()) and not name.startswith("amq.")]

    def control(self, *arguments: str) -> str:
        """Runs a command of `rabbitmqctl`; answers with what it prints."""
        command = ["/usr/lib/rabbitmq/bin/rabbitmqctl", "--quiet", *arguments]
        environment = {**os.environ, **self.process.env, "LANG": "C.UTF-8"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def refuse_writes(self) -> None:
        """Raises the broker's memory alarm: it reads no more from connections that publish."""
        self.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.00001).")

    def take_writes(self) -> None:
        """Ends the alarm; without one it does nothing."""
        self.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.6).")

    def evaluate(self, expression: str) -> None:
        """Runs Erlang in the broker: several commands for the price of one, each of which starts a node."""
        self.control("eval", expression)


@contextmanager
def debian_rabbitmq() -> Generator[RabbitServer]:
    """Debian's RabbitMQ; ServerUnavailable when the package is missing."""
    epmd = shutil.which("epmd")
    if epmd is None or not _SERVER.exists():
        raise ServerUnavailable("Debian's package rabbitmq-server is not installed (run `make servers`)")
    folder = Path(tempfile.mkdtemp(prefix="slipway-rabbit-"))
    epmd_port, node_port = free_port(), free_port()
    erlang = {"ERL_EPMD_PORT": str(epmd_port), "ERL_EPMD_ADDRESS": "127.0.0.1", "HOME": str(folder)}
    config = folder / "rabbitmq.conf"
    config.write_text("disk_free_limit.absolute = 50MB\nlog.console = true\nlog.console.level = warning\n")
    advanced = folder / "advanced.config"
    # How long a retry queue waits before it hands over again what the group's queue did not confirm: after a crash that
    # queue may come back later than the retry queue. Three minutes by default.
    advanced.write_text("[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 3000}]}].\n")
    (folder / "enabled_plugins").write_text("[].\n")
    mapper = ServerProcess("epmd", [epmd], folder / "epmd.log", env=erlang)
    node = ServerProcess(
        "RabbitMQ",
        [str(_SERVER)],
        folder / "rabbitmq.log",
        env={
            **erlang,
            "RABBITMQ_NODENAME": f"test{node_port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(node_port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(advanced),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG_FLAGS,
            # The start script then becomes the server instead of watching over it: signals reach it directly.
            "RUNNING_UNDER_SYSTEMD": "true",
        },
    )
    server = RabbitServer(mapper, node, node_port, folder)
    try:
        mapper.start(lambda: accepts_connections(epmd_port), timeout=10)
        server.start()
        yield server
    finally:
        node.stop()
        mapper.stop()
        shutil.rmtree(folder, ignore_errors=True)
