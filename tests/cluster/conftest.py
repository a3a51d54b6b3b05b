"""A release on a cluster: only for `make cluster-test`."""

import asyncio
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Test folders are no packages here: the tests' own modules are found beside this file.
sys.path.insert(0, str(Path(__file__).parent))

from cluster_testing import release
from cluster_testing.cluster import KEPT, NAMESPACE, RELEASE, CommandFailed, helm, kubectl
from cluster_testing.desk import BUSY, LASTING, STEADY, Desk

if os.environ.get("SLIPWAY_CLUSTER_TEST") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and values of the release."""
    return tmp_path_factory.mktemp("release")


@pytest.fixture(scope="session")
def installed(folder: Path) -> Iterator[str]:
    """The release, freshly installed in a namespace that takes restricted pods only; what helm said."""
    if KEPT and kubectl("get", "namespace", NAMESPACE, "--ignore-not-found"):
        yield release.put_release(folder)
        return
    kubectl("create", "namespace", NAMESPACE)
    try:
        kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        password, service_password = release.servers(), secrets.token_hex(16)
        asyncio.run(release.databases(password, service_password))
        release.make_secrets(folder, password, service_password)
        release.make_certificates(folder / "certificates")
        yield release.put_release(folder)
    finally:
        if not KEPT:
            try:
                helm("uninstall", RELEASE, "--wait", "--ignore-not-found")
            except CommandFailed as failed:
                sys.stderr.write(f"{failed}\n")
            kubectl("delete", "namespace", NAMESPACE, "--timeout=180s")


@pytest.fixture
def desk(installed: str) -> Iterator[Desk]:
    """The API of the release."""
    assert installed
    opened = Desk()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def agents(installed: str) -> None:
    """The agents of `desk` that only wait and work are in production."""
    assert installed
    desk = Desk()
    for name, definition in (("steady", STEADY), ("lasting", LASTING), ("busy", BUSY)):
        desk.promote(name, definition)
    desk.close()
