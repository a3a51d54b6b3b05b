"""The services under attack, one per adapter of the sandbox, and the host that is watched."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Test folders are no packages here: the tests' own modules are found beside this file.
sys.path.insert(0, str(Path(__file__).parent))

from hostile_testing import host, service
from hostile_testing.host import Canaries, Watch
from hostile_testing.service import Client, Files, Service
from slipway_testkit.pods import SandboxPods, sandbox_kinds

Start = Callable[..., Service]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The detectors look at the whole host, and would take another test's sandboxes and files for a program's."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.alone)


@pytest.fixture(scope="session")
def policies() -> Path:
    return Path(__file__).parents[2] / "k8s/policies"


@pytest.fixture(scope="session")
def memory() -> Iterator[Files]:
    with service.files() as running:
        yield running


@pytest.fixture(scope="session")
def canaries() -> Iterator[Canaries]:
    with host.planted() as planted:
        yield planted


@pytest.fixture(scope="session")
def facts(canaries: Canaries) -> str:
    """What programs are told of the host."""
    return json.dumps(canaries.facts)


@pytest.fixture(scope="session", params=sandbox_kinds())
def sandbox(request: pytest.FixtureRequest, installed_program: Callable[[str], Path]) -> str:
    """The adapter, as the setting names it: a test that takes it runs against every one."""
    if request.param != "runsc":
        return request.param
    if os.geteuid() != 0:
        pytest.skip("gVisor's sandbox needs root")
    return f"runsc:{installed_program('runsc')}"


@pytest.fixture(scope="session")
def pods(request: pytest.FixtureRequest, sandbox: str) -> SandboxPods | None:
    """The cluster's namespace, if sandboxes are pods."""
    return request.getfixturevalue("sandbox_pods") if sandbox == "kubernetes" else None


@pytest.fixture(scope="session")
def start(
    sandbox: str,
    pods: SandboxPods | None,
    new_database: Callable[[], str],
    valkey_url: str,
    memory: Files,
    signing: Any,
    policies: Path,
) -> Iterator[Start]:
    """Starts services of the adapter; further settings by name."""
    state = Path(tempfile.mkdtemp(prefix="hostile-state-", dir="/tmp"))
    state.chmod(0o755)
    started: list[Service] = []

    def begin(**settings: str) -> Service:
        database = settings.pop("DATABASE_URL", "") or new_database()
        started.append(service.start(sandbox, database, valkey_url, memory, signing, policies, state, pods, **settings))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.stop()
    shutil.rmtree(state)


@pytest.fixture(scope="session")
def attacked(start: Start) -> Service:
    """The service that all programs run in, without sandboxes started ahead: what is there belongs to a call."""
    return start()


@pytest.fixture
def watch(attacked: Service, canaries: Canaries) -> Watch:
    return Watch(canaries, attacked.pid, (canaries.folder, attacked.state))


@pytest.fixture
def alice(attacked: Service, signing: Any) -> Client:
    return Client(attacked.target, signing.token())
