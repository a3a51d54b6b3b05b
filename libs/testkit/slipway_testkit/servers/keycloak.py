"""Keycloak in memory on 127.0.0.1, with the realm of the repository imported at its start."""

import fcntl
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from slipway_testkit.servers import programs
from slipway_testkit.servers.process import ServerProcess, ServerUnavailable, free_port

_MIN_JAVA = 21
_REALM = Path(__file__).parents[4] / "k8s" / "realm" / "slipway-realm.json"
_ADMIN = "admin"
# Options that are part of Keycloak's build, in the order in which they are given.
_BUILD = ("--db=dev-mem", "--health-enabled=false", "--metrics-enabled=false")
_JAVA = {
    "JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m -XX:MaxMetaspaceSize=256m",
    # It lives for a minute: what the optimising compiler gains it would not earn back.
    "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1",
}


@dataclass
class KeycloakServer:
    """A running Keycloak. What is in it is lost when it stops; its next start imports realm and key again."""

    process: ServerProcess
    port: int
    password: str
    realm_file: Path
    """What is imported at a start: the repository's realm with a signing key of its own."""

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def issuer(self, realm: str = "slipway") -> str:
        """The `iss` of a realm's tokens."""
        return f"{self.url}/realms/{quote(realm)}"

    def directory_url(self, realm: str = "slipway", options: str = "client_id=slipway-gateway") -> str:
        """The realm as the gateway's setting DIRECTORY_URL names it."""
        return f"keycloak+{self.issuer(realm)}?{options}"

    def start(self) -> None:
        """Starts it and waits until the realm is there (20 s on an idle machine, minutes on a busy one)."""
        self.process.start(self._answers, timeout=300)

    def start_if_stopped(self) -> None:
        """For the end of a test that stops the server, and may have failed in between."""
        if not self.process.running:
            self.start()

    def stop(self, *, crash: bool = False) -> None:
        """Stops it; `crash`: by SIGKILL."""
        self.process.stop(crash=crash)

    def admin(self, method: str, path: str, body: Any = None, *, realm: str = "slipway") -> Any:
        """A call of the Admin REST API below a realm; answers with its JSON, or None. Raises httpx.HTTPStatusError."""
        form = {"grant_type": "password", "client_id": "admin-cli", "username": _ADMIN, "password": self.password}
        with httpx.Client(trust_env=False, timeout=120) as web:
            token = web.post(f"{self.issuer('master')}/protocol/openid-connect/token", data=form)
            headers = {"authorization": f"Bearer {token.raise_for_status().json()['access_token']}"}
            address = f"{self.url}/admin/realms" + (f"/{quote(realm)}{path}" if realm else path)
            answer = web.request(method, address, json=body, headers=headers).raise_for_status()
        return answer.json() if answer.content else None

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.issuer()}/.well-known/openid-configuration", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def keycloak() -> Generator[KeycloakServer]:
    """Keycloak with a temporary folder of its own; ServerUnavailable when it or a JDK is not installed."""
    installed, java = programs.keycloak_home(), programs.java_home(at_least=_MIN_JAVA)
    built = _built(installed, java)
    folder = Path(tempfile.mkdtemp(prefix="slipway-keycloak-"))
    port, password = free_port(), secrets.token_hex(16)
    # The start script finds its server beside itself; what is shared is only read.
    (folder / "bin").mkdir()
    shutil.copy2(installed / "bin" / "kc.sh", folder / "bin")
    shutil.copytree(installed / "conf", folder / "conf")
    for name in ("providers", "themes"):
        (folder / name).symlink_to(installed / name)
    (folder / "lib").symlink_to(built / "lib")
    imported = folder / "data" / "import"
    imported.mkdir(parents=True)
    realm_file = imported / _REALM.name
    realm_file.write_text(json.dumps(_with_key(json.loads(_REALM.read_text()))))
    listen = (
        "--http-enabled=true",
        "--http-host=127.0.0.1",
        f"--http-port={port}",
        f"--hostname=http://127.0.0.1:{port}",
        "--cache=local",
        "--log-level=warn",
    )
    process = ServerProcess(
        "Keycloak",
        [str(folder / "bin" / "kc.sh"), "start", "--optimized", *listen, "--import-realm"],
        folder / "server.log",
        env={
            **_JAVA,
            "JAVA_HOME": str(java),
            "KC_BOOTSTRAP_ADMIN_USERNAME": _ADMIN,
            "KC_BOOTSTRAP_ADMIN_PASSWORD": password,
        },
    )
    server = KeycloakServer(process, port, password, realm_file)
    try:
        server.start()
        yield server
    finally:
        process.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _with_key(realm: dict[str, Any]) -> dict[str, Any]:
    """The realm with a signing key of its own: one that Keycloak makes would be another after each start."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    generated = [{"name": name, "providerId": name, "config": {}} for name in ("hmac-generated", "aes-generated")]
    kept = {"name": "kept", "providerId": "rsa", "config": {"privateKey": [pem], "priority": ["100"]}}
    components = realm["components"] | {"org.keycloak.keys.KeyProvider": [kept, *generated]}
    return realm | {"components": components}


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway" / "servers"


def _built(installed: Path, java: Path) -> Path:
    """Keycloak's build for these tests, kept beside the servers: it takes as long as a start (20 s), and once."""
    built = _cache() / f"keycloak-{installed.joinpath('version.txt').read_text().split()[-1]}-testkit"
    built.parent.mkdir(parents=True, exist_ok=True)
    with built.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (built / "complete").exists():
            shutil.rmtree(built, ignore_errors=True)
            _build(installed, java, built)
            (built / "complete").touch()
    return built


def _build(installed: Path, java: Path, target: Path) -> None:
    (target / "bin").mkdir(parents=True)
    shutil.copy2(installed / "bin" / "kc.sh", target / "bin")
    shutil.copytree(installed / "conf", target / "conf")
    shutil.copytree(installed / "lib", target / "lib")
    (target / "providers").mkdir()
    done = subprocess.run(
        [str(target / "bin" / "kc.sh"), "build", *_BUILD],
        env={**os.environ, **_JAVA, "JAVA_HOME": str(java)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerUnavailable(f"`kc.sh build` ended with {done.returncode}: {done.stdout[-2000:].strip()}")
