"""The life of the process: settings, files, keys, the end."""

import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_testing.processes import GATEWAY, Launch
from slipway.runs.v1 import runs_pb2 as pb
from slipway_gateway import keys
from slipway_testkit.certificates import CertificateAuthority
from slipway_testkit.warm import WarmProgram

RUN = "run_01jd0000000000000000000000"


Fails = Callable[..., None]


@pytest.fixture(scope="session")
def fails(launch: Launch) -> Fails:
    """A gateway with these settings ends with sentences that hold these complaints."""

    def check(env: dict[str, str], *complaints: str) -> None:
        process = launch(GATEWAY, env)
        assert process.wait() == 2, process.output
        assert "Traceback" not in process.output
        for complaint in complaints:
            assert complaint in process.output

    return check


def test_missing_settings_are_named_in_one_sentence(fails: Fails) -> None:
    fails({}, "SLIPWAY_GATEWAY_OIDC_ISSUER is not set", "SLIPWAY_GATEWAY_DATABASE_URL is not set")


@pytest.mark.parametrize(
    ("setting", "value", "complaint"),
    [
        ("OIDC_AZP", "[]", "SLIPWAY_GATEWAY_OIDC_AZP"),
        ("OIDC_ISSUER", "http://sso.example.org/realms/slipway", "must be an https URL"),
        ("OIDC_JWKS_URL", "http://sso.example.org/certs", "must be an https URL"),
        ("OIDC_AUDIENCE", "[]", "SLIPWAY_GATEWAY_OIDC_AUDIENCE"),
        ("OIDC_CA_FILE", "/nowhere/ca.pem", "SLIPWAY_GATEWAY_OIDC_CA_FILE"),
        ("OIDC_CA_FILE", __file__, "holds no certificate"),
        ("DIRECTORY_URL", "keycloak+http://sso.example.org/realms/slipway", "must be keycloak+https"),
        ("DIRECTORY_URL", "keycloak+https://sso.example.org/slipway", "/realms/REALM"),
        ("DIRECTORY_URL", "keycloak+https://sso.example.org/realms/slipway", "SLIPWAY_GATEWAY_DIRECTORY_SECRET"),
        ("DIRECTORY_URL", "ldap://example.org", "realm-file://"),
        ("DIRECTORY_URL", "realm-file:///nowhere/realm.json", "/nowhere/realm.json"),
        ("SIGNING_KEY_FILE", "/nowhere/signing.pem", "python -m slipway_gateway.keys init"),
        ("SERVICE_SECRETS", '{"orchestrator": "short"}', "orchestrator"),
        ("SERVICE_SECRETS", "[]", "JSON object"),
        ("SERVICE_SECRETS_FILE", "/nowhere/secrets.json", "SLIPWAY_GATEWAY_SERVICE_SECRETS_FILE"),
        ("POLICY_DIR", "/nowhere/policies", "/nowhere/policies"),
        ("DATA_KEY", "c2hvcnQ=", "SLIPWAY_GATEWAY_DATA_KEY"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    fails: Fails, gateway_env: dict[str, str], free_port: Callable[[], int], setting: str, value: str, complaint: str
) -> None:
    ports = {f"SLIPWAY_GATEWAY_{name}_LISTEN": f"127.0.0.1:{free_port()}" for name in ("HTTP", "GRPC", "METRICS")}
    fails(gateway_env | ports | {f"SLIPWAY_GATEWAY_{setting}": value}, complaint)


def test_an_identity_provider_with_a_strange_certificate_is_named(
    fails: Fails, gateway_env: dict[str, str], free_port: Callable[[], int], tmp_path: Path
) -> None:
    stranger = CertificateAuthority().issue(tmp_path, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(stranger.certificate, stranger.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):  # closed: the test is over
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(ssl.SSLError):
                        context.wrap_socket(connection, server_side=True).close()

        threading.Thread(target=serve, daemon=True).start()
        provider = f"https://127.0.0.1:{listener.getsockname()[1]}/realms/slipway"
        ports = {f"SLIPWAY_GATEWAY_{name}_LISTEN": f"127.0.0.1:{free_port()}" for name in ("HTTP", "GRPC", "METRICS")}
        not_accepted = "the server's certificate is not accepted"
        authority = "SLIPWAY_GATEWAY_OIDC_CA_FILE names its authority"
        fails(gateway_env | ports | {"SLIPWAY_GATEWAY_OIDC_ISSUER": provider}, provider, not_accepted, authority)
        directory = {
            "SLIPWAY_GATEWAY_DIRECTORY_URL": f"keycloak+{provider}?client_id=gateway",
            "SLIPWAY_GATEWAY_DIRECTORY_SECRET": "s",
        }
        fails(gateway_env | ports | directory, f"SLIPWAY_GATEWAY_DIRECTORY_URL: {not_accepted}", authority)


def test_a_port_in_use_is_named(fails: Fails, gateway_env: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        fails(gateway_env | {"SLIPWAY_GATEWAY_HTTP_LISTEN": address}, f"cannot listen on {address}", "in use")


def test_a_signing_key_without_its_public_part_is_refused(
    fails: Fails, gateway_env: dict[str, str], tmp_path: Path
) -> None:
    """Else it would sign tokens that no service accepts."""
    keys.init(tmp_path)
    env = gateway_env | {
        "SLIPWAY_GATEWAY_HTTP_LISTEN": "127.0.0.1:0",
        "SLIPWAY_GATEWAY_SIGNING_KEY_FILE": str(tmp_path / keys.SIGNING_KEY_NAME),
    }
    fails(env, "does not hold the public part")


def test_the_end_is_clean_while_streams_are_open(other_gateway: Callable[..., Any], services: Any, issuer: Any) -> None:
    def watch(call: Any) -> Iterator[Any]:
        yield pb.WatchRunResponse(event=pb.RunEvent(seq=1, kind="run.started"))
        call.cancelled.wait(60)

    services.on("GetRun", lambda call: pb.GetRunResponse(run=pb.Run(run_id=RUN, state=pb.RUN_STATE_RUNNING)))
    services.on("WatchRun", watch)
    running = other_gateway()
    headers = {"Authorization": f"Bearer {issuer.token('alice')}", "Accept": "text/event-stream"}
    with httpx.stream("GET", f"{running.url}/v1/runs/{RUN}/events", headers=headers, timeout=30) as answer:
        lines = answer.iter_lines()
        assert any(line == "id: 1" for line in lines)
        started = time.monotonic()
        running.process.signal(signal.SIGTERM)
        # The stream is ended as a whole answer, so that a client comes back with Last-Event-ID.
        assert not [line for line in lines if line.startswith("event: run.failed")]
    assert running.process.wait() == 0
    assert time.monotonic() - started < 8
    assert '"service.stopped"' in running.process.output


def test_a_request_in_flight_is_finished_before_the_end(
    other_gateway: Callable[..., Any], services: Any, issuer: Any
) -> None:
    arrived, release = threading.Event(), threading.Event()

    def slow(call: Any) -> Any:
        arrived.set()
        release.wait(20)
        return pb.GetRunResponse(run=pb.Run(run_id=RUN, state=pb.RUN_STATE_RUNNING))

    services.on("GetRun", slow)
    running = other_gateway()
    answers: list[int] = []

    def ask() -> None:
        headers = {"Authorization": f"Bearer {issuer.token('alice')}"}
        answers.append(httpx.get(f"{running.url}/v1/runs/{RUN}", headers=headers, timeout=30).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    assert arrived.wait(10)
    running.process.signal(signal.SIGTERM)
    running.process.wait_for(r'"service\.stopping"')
    release.set()
    asking.join(20)
    assert answers == [200]
    assert running.process.wait() == 0


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def command(warm: Callable[[str], WarmProgram]) -> Command:
    """`python -m slipway_gateway.keys` with these arguments."""
    return partial(warm("slipway_gateway.keys").run, environment=os.environ)


def test_keys_are_made_once_and_for_their_owner_only(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    first = command("init", str(folder))
    again = command("init", str(folder))
    assert first.returncode == again.returncode == 0
    assert first.stdout == again.stdout
    assert (folder / keys.SIGNING_KEY_NAME).stat().st_mode & 0o077 == 0
    published = json.loads((folder / keys.JWKS_NAME).read_text())["keys"]
    assert [key["kid"] for key in published] == [first.stdout.strip()]
    assert all("d" not in key for key in published)


def test_a_rotation_publishes_the_new_key_and_keeps_the_old_one_for_a_time(command: Command, tmp_path: Path) -> None:
    old = command("init", str(tmp_path)).stdout.strip()
    new = command("rotate", str(tmp_path)).stdout.strip()
    published = {key["kid"]: key for key in json.loads((tmp_path / keys.JWKS_NAME).read_text())["keys"]}
    assert set(published) == {old, new}
    assert "exp" not in published[new]
    assert published[old]["exp"] > time.time() + 30 * 86_400
    assert set(keys.load_public_keys(tmp_path / keys.JWKS_NAME)) == {old, new}
    published[old]["exp"] = int(time.time()) - 1
    (tmp_path / keys.JWKS_NAME).write_text(json.dumps({"keys": list(published.values())}))
    assert set(keys.load_public_keys(tmp_path / keys.JWKS_NAME)) == {new}


def test_keys_that_cannot_be_made_say_why(command: Command, tmp_path: Path) -> None:
    (tmp_path / keys.SIGNING_KEY_NAME).write_text("not a key")
    answer = command("init", str(tmp_path))
    assert answer.returncode == 2
    assert "is not an unencrypted PEM private key" in answer.stderr
    assert "Traceback" not in answer.stderr
    file = tmp_path / "a-file"
    file.write_text("")
    assert command("init", os.fspath(file)).returncode == 2


def test_a_key_can_be_published_before_it_signs(command: Command, tmp_path: Path) -> None:
    old = command("init", str(tmp_path)).stdout.strip()
    following = command("prepare", str(tmp_path)).stdout.strip()
    assert command("prepare", str(tmp_path)).stdout.strip() == following != old
    assert keys.load_signing_key(tmp_path / keys.SIGNING_KEY_NAME).key_id == old
    assert set(keys.load_public_keys(tmp_path / keys.JWKS_NAME)) == {old, following}
    assert (tmp_path / keys.NEXT_KEY_NAME).stat().st_mode & 0o077 == 0
    assert command("rotate", str(tmp_path)).stdout.strip() == following
    assert keys.load_signing_key(tmp_path / keys.SIGNING_KEY_NAME).key_id == following
    assert set(keys.load_public_keys(tmp_path / keys.JWKS_NAME)) == {old, following}
    assert not (tmp_path / keys.NEXT_KEY_NAME).exists()
