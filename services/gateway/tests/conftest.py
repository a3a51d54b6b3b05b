"""A gateway and a development issuer as processes, with scripted services behind."""

import base64
import json
import shutil
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from slipway_gateway import keys

# Test folders are no packages here: the tests' own modules are found beside this file.
sys.path.insert(0, str(Path(__file__).parent))

from gateway_testing.processes import GATEWAY, ISSUER, Launch, Process, issuer_env, wait_for_http
from gateway_testing.services import Services
from slipway_testkit.warm import WarmProgram

REALM = Path(__file__).parents[3] / "k8s" / "realm" / "slipway-realm.json"
# Each client would read all certificates of the world, which takes longer than most tests.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
SECRET = "orchestrators-own-secret"


@dataclass
class Issuer:
    """A running development issuer."""

    process: Process
    url: str
    realm_file: Path
    key_dir: Path

    def token(self, username: str, *, client: str = "slipway-cli") -> str:
        answer = self.post(grant_type="password", client_id=client, username=username, password=username)
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]

    def post(self, **form: str) -> httpx.Response:
        return httpx.post(f"{self.url}/protocol/openid-connect/token", data=form, verify=NO_TLS)


@dataclass
class Running:
    """A running gateway."""

    process: Process
    url: str
    grpc_target: str
    metrics_url: str
    key_dir: Path
    env: dict[str, str]


@pytest.fixture(scope="session")
def launch(warm: Callable[[str], WarmProgram]) -> Launch:
    return lambda module, env: Process(warm(module), env)


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int], launch: Launch) -> Iterator[Issuer]:
    folder = tmp_path_factory.mktemp("issuer")
    realm_file = Path(shutil.copy(REALM, folder / "realm.json"))
    address = f"127.0.0.1:{free_port()}"
    process = launch(ISSUER, issuer_env(address, realm_file, folder / "keys"))
    url = f"http://{address}/realms/slipway"
    wait_for_http(process, f"{url}/.well-known/openid-configuration")
    yield Issuer(process, url, realm_file, folder / "keys")
    process.stop()


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    running = Services()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _fresh_services(services: Services) -> Iterator[None]:
    yield
    services.reset()


@pytest.fixture(scope="session")
def gateway_env(
    tmp_path_factory: pytest.TempPathFactory,
    issuer: Issuer,
    services: Services,
    new_database: Callable[[], str],
    valkey_url: str,
    policy_dir: Path,
    free_port: Callable[[], int],
) -> dict[str, str]:
    key_dir = tmp_path_factory.mktemp("gateway-keys")
    keys.init(key_dir)
    services.trust(key_dir / keys.JWKS_NAME)
    peers = {f"{peer}_TARGET": services.target for peer in ("ROUTER", "ORCHESTRATOR", "MEMORY", "TOOLS", "AUDIT")}
    values = peers | {
        "HTTP_LISTEN": f"127.0.0.1:{free_port()}",
        "GRPC_LISTEN": f"127.0.0.1:{free_port()}",
        "METRICS_LISTEN": f"127.0.0.1:{free_port()}",
        "DATABASE_URL": new_database(),
        "REDIS_URL": valkey_url,
        "BUS_URL": valkey_url,
        "CALLER_JWKS_FILE": str(key_dir / keys.JWKS_NAME),
        "SIGNING_KEY_FILE": str(key_dir / keys.SIGNING_KEY_NAME),
        "POLICY_DIR": str(policy_dir),
        "DATA_KEY": base64.b64encode(bytes(32)).decode(),
        "OIDC_ISSUER": issuer.url,
        "OIDC_AZP": json.dumps(["slipway-cli", "slipway-ci"]),
        "DIRECTORY_URL": f"realm-file://{issuer.realm_file}",
        "SERVICE_SECRETS": json.dumps({"orchestrator": SECRET, "audit": "audits-own-secret-here"}),
        "MAX_UPLOAD_BYTES": str(1024 * 1024),
        "MAX_BODY_BYTES": str(256 * 1024),
        "LOG_LEVEL": "DEBUG",
    }
    return {f"SLIPWAY_GATEWAY_{name}": value for name, value in values.items()}


def start_gateway(launch: Launch, env: dict[str, str]) -> Running:
    process = launch(GATEWAY, env)
    process.wait_for(r'"service\.ready"')
    url = f"http://{env['SLIPWAY_GATEWAY_HTTP_LISTEN']}"
    wait_for_http(process, f"{url}/readyz")
    return Running(
        process,
        url,
        env["SLIPWAY_GATEWAY_GRPC_LISTEN"],
        f"http://{env['SLIPWAY_GATEWAY_METRICS_LISTEN']}",
        Path(env["SLIPWAY_GATEWAY_SIGNING_KEY_FILE"]).parent,
        env,
    )


@pytest.fixture(scope="session")
def gateway(gateway_env: dict[str, str], launch: Launch) -> Iterator[Running]:
    running = start_gateway(launch, gateway_env)
    yield running
    running.process.stop()


@pytest.fixture(scope="session")
def other_gateway(
    gateway_env: dict[str, str], free_port: Callable[[], int], launch: Launch
) -> Iterator[Callable[..., Running]]:
    """Starts further gateways with other settings: `other_gateway(RATE_BURST="3")`."""
    started: list[Running] = []

    def start(**settings: str) -> Running:
        ports = {name: f"127.0.0.1:{free_port()}" for name in ("HTTP_LISTEN", "GRPC_LISTEN", "METRICS_LISTEN")}
        own = {f"SLIPWAY_GATEWAY_{name}": value for name, value in (ports | settings).items()}
        started.append(start_gateway(launch, gateway_env | own))
        return started[-1]

    yield start
    for running in started:
        running.process.stop()


class Caller:
    """HTTP as one caller."""

    def __init__(self, url: str, token: str) -> None:
        self.token = token
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30, verify=NO_TLS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.http, name)


@pytest.fixture
def caller(gateway: Running, issuer: Issuer) -> Iterator[Callable[[str], Caller]]:
    """`caller("alice").get("/v1/whoami")`."""
    callers: dict[str, Caller] = {}

    def make(username: str) -> Caller:
        if username not in callers:
            callers[username] = Caller(gateway.url, issuer.token(username))
        return callers[username]

    yield make
    for one in callers.values():
        one.http.close()


@pytest.fixture
def alice(caller: Callable[[str], Caller]) -> Caller:
    return caller("alice")
