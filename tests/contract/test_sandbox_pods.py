"""Sandboxes that are pods, on a cluster that is given: what a start says, rights, the pod, orphans, the way out."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from slipway_testkit.pods import SandboxPods
from slipway_tools.sandbox.choice import SandboxChoice
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.held import Network
from slipway_tools.sandbox.kubernetes import pod
from slipway_tools.sandbox.kubernetes.adapter import RIGHTS
from slipway_tools.sandbox.kubernetes.settings import PodSettings
from slipway_tools.sandbox.limits import MIB, Limits
from slipway_tools.sandbox.pool import PoolSize, SandboxPool
from slipway_tools.sandbox.program import Program
from slipway_tools.sandbox.sessions import SessionKey

LIMITS = Limits(memory=256 * MIB, workspace=8 * MIB, file_size=4 * MIB, inodes=500, processes=16)
KEY = SessionKey("acme", "alice", "run_1", "work")


@pytest.fixture(scope="session")
def settings(sandbox_pods: SandboxPods) -> PodSettings:
    given = sandbox_pods
    return PodSettings(given.namespace, given.image, "gvisor", given.kubeconfig, 0.05, 120.0, 3600.0)


def choice(settings: PodSettings) -> SandboxChoice:
    return SandboxChoice(
        "kubernetes", Path("/nowhere"), LIMITS, PoolSize(1, warm=0), ("python",), (), downgrade=False, pods=settings
    )


@pytest.fixture
async def pool(settings: PodSettings) -> AsyncIterator[SandboxPool]:
    opened = await choice(settings).open()
    yield opened
    await opened.close()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"namespace": "slipway-nowhere"}, "there is no namespace slipway-nowhere"),
        ({"runtime_class": "no-such-class"}, "the cluster has no RuntimeClass no-such-class"),
        (
            {"image": "slipway/no-such-image:1", "start_seconds": 30.0},
            "ErrImagePull|ImagePullBackOff|ErrImageNeverPull",
        ),
        ({"kubeconfig": Path("/nowhere/config")}, "SLIPWAY_TOOLS_SANDBOX_KUBECONFIG: /nowhere/config can't be used"),
    ],
)
async def test_what_is_missing_is_told_in_a_sentence_at_the_start(
    settings: PodSettings, wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SandboxUnavailable, match=sentence):
        await choice(replace(settings, **wrong)).open()


async def test_an_api_that_is_away_is_told_by_its_address(settings: PodSettings, tmp_path: Path) -> None:
    away = elsewhere(settings, tmp_path, {"client-certificate-data": None}, server="https://127.0.0.1:1")
    with pytest.raises(SandboxUnavailable, match=r"the cluster's API at https://127\.0\.0\.1:1 can't be reached"):
        await choice(replace(settings, kubeconfig=away)).open()


def elsewhere(settings: PodSettings, folder: Path, user: dict[str, Any], server: str = "") -> Path:
    """The kubeconfig with another user, or another server."""
    assert settings.kubeconfig
    document: Any = YAML(typ="safe").load(settings.kubeconfig.read_text())
    document["users"][0]["user"] = {name: value for name, value in user.items() if value is not None}
    if server:
        document["clusters"][0]["cluster"]["server"] = server
    file = folder / "config"
    file.write_text(json.dumps(document))
    return file


@pytest.fixture
def account(sandbox_pods: SandboxPods) -> Iterator[str]:
    """A token of an account that has no right."""
    sandbox_pods.kubectl("create", "serviceaccount", "tools")
    yield sandbox_pods.kubectl("create", "token", "tools").strip()
    sandbox_pods.kubectl("delete", "serviceaccount", "tools")


async def test_the_rights_that_are_asked_for_are_needed_and_are_enough(
    settings: PodSettings, sandbox_pods: SandboxPods, account: str, tmp_path: Path
) -> None:
    own = choice(replace(settings, kubeconfig=elsewhere(settings, tmp_path, {"token": account})))
    with pytest.raises(SandboxUnavailable, match="may not create pods in the namespace"):
        await own.open()
    rules = [{"apiGroups": [""], "resources": [resource], "verbs": [verb]} for verb, resource in RIGHTS]
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "t"}, "rules": rules}
    sandbox_pods.kubectl("create", "--filename=-", given=json.dumps(role))
    sandbox_pods.kubectl("create", "rolebinding", "t", "--role=t", f"--serviceaccount={sandbox_pods.namespace}:tools")
    opened = await own.open()
    await opened.close()


async def test_a_pod_is_restricted_has_no_token_and_its_programs_have_no_network(
    pool: SandboxPool, sandbox_pods: SandboxPods
) -> None:
    look = (
        b"import os, socket\nprint([name for _, name in socket.if_nameindex()])\n"
        b"for path in ('/proc', '/sys', '/var/run/secrets', '/etc/resolv.conf', '/dev/shm', '/dev/termination-log'):\n"
        b"    print(path, os.path.exists(path))\nprint(sorted(os.environ))\n"
        b"for address in (('10.96.0.1', 443), ('8.8.8.8', 53), ('169.254.169.254', 80)):\n"
        b"    try: socket.create_connection(address, 2); print('reached')\n    except OSError: pass"
    )
    async with pool.reserve("acme", session=KEY) as call:
        outcome, _ = await call(Program(look))
        (running,) = [
            each
            for each in sandbox_pods.pods(ended=False)
            if each["metadata"]["labels"][pod.INSTANCE] == pod.instance()
            and "deletionTimestamp" not in each["metadata"]
        ]
    lines = outcome.stdout.decode().splitlines()
    assert lines[0] in ("['lo']", "[]"), outcome
    assert all(line.endswith("False") for line in lines[1:7]), lines
    assert "reached" not in lines
    assert not [name for name in lines[7:] if "KUBERNETES" in name]
    spec = running["spec"]
    assert spec["runtimeClassName"] == "gvisor"
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["activeDeadlineSeconds"] > 3600
    assert [list(volume) for volume in spec["volumes"]] == [["emptyDir", "name"]]
    assert spec["containers"][0]["resources"]["limits"] == {"cpu": "1", "memory": str(LIMITS.memory + pod.OVERHEAD)}


def names(given: SandboxPods, *, ended: bool) -> set[str]:
    return {each["metadata"]["name"] for each in given.pods(ended=ended)}


async def test_pods_that_processes_left_are_removed_by_the_next_one(
    settings: PodSettings, sandbox_pods: SandboxPods
) -> None:
    shape = pod.PodShape(settings.image, "gvisor", LIMITS, 0.05, wait=600, lifetime=600)
    left = shape.manifest("left-running")
    left["metadata"]["labels"][pod.INSTANCE] = "999999999-1"
    elsewhere_alive = shape.manifest("of-another-machine")
    elsewhere_alive["metadata"]["labels"][pod.OWNER] = "another"
    for manifest in (left, elsewhere_alive):
        sandbox_pods.kubectl("create", "--filename=-", given=json.dumps(manifest))
    opened = await choice(settings).open()
    try:
        async with asyncio.timeout(60):
            while "left-running" in names(sandbox_pods, ended=True):  # noqa: ASYNC110 - the cluster tells nobody
                await asyncio.sleep(0.2)
        assert "of-another-machine" in names(sandbox_pods, ended=False)
    finally:
        await opened.close()
        sandbox_pods.kubectl("delete", "pod", "of-another-machine", "--wait=false")


@dataclass
class Door:
    """A proxy's door, as the egress package makes them."""

    folder: Path

    def close(self) -> None:
        """Nothing is held."""


async def test_the_way_to_the_proxy_carries_much_in_both_directions(pool: SandboxPool, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("certificate")
    received: list[int] = []
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.partition(b"Content-Length: ")[2].split()[0])
            received.append(len(await reader.readexactly(size)))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\nConnection: close\r\n\r\n" + bytes(3_000_000))
            await writer.drain()
            await reader.read()
        finally:
            ended.set()
            writer.close()

    server = await asyncio.start_unix_server(answer, tmp_path / "proxy.sock")

    async def open_door() -> Door:
        return Door(tmp_path)

    network = Network(open_door, lambda door: contextlib.nullcontext())
    code = (
        b"import os, urllib.request\nprint(open(os.environ['SSL_CERT_FILE']).read())\n"
        b"body = urllib.request.urlopen('http://example.com/', data=bytes(2_000_000), timeout=60).read()\n"
        b"print(len(body), set(body))"
    )
    async with server, pool.reserve("acme", network=network) as call:
        outcome, _ = await call(Program(code))
        assert outcome.stdout == b"certificate\n3000000 {0}\n", outcome
        await asyncio.wait_for(ended.wait(), 30)
    assert received == [2_000_000]
