"""compose.yaml: servers at pinned versions that only this machine reaches, and the servers.yaml that goes with them."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ruamel.yaml import YAML
from slipway_cli.supervisor.servers_file import RealServers, read_servers

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return YAML(typ="safe").load(ROOT / "compose.yaml")["services"]


@pytest.fixture
def documented(tmp_path: Path) -> RealServers:
    """The page's file for compose.yaml, read as the command reads it."""
    (text,) = re.findall(r"```yaml\n(# servers\.yaml for compose\.yaml.*?)```", PAGE.read_text(), re.DOTALL)
    file = tmp_path / "servers.yaml"
    file.write_text(text)
    return read_servers(file)


def test_every_image_is_pinned_and_every_server_has_a_healthcheck(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert re.fullmatch(r"[a-z0-9/-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*", service["image"]), name
        assert "healthcheck" in service or service["restart"] == "no", name


def test_only_this_machine_reaches_the_servers(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize(("name", "part"), [("weaviate", "go"), ("objects", "go"), ("keycloak", "keycloak")])
def test_the_versions_are_those_that_tests_use(services: dict[str, Any], name: str, part: str) -> None:
    version = services[name]["image"].rpartition(":")[2].removeprefix("v")
    assert version in (ROOT / "scripts" / "servers" / f"{part}.sh").read_text()


def test_the_documented_servers_file_names_the_ports_that_compose_opens(
    services: dict[str, Any], documented: RealServers
) -> None:
    opened = {int(port.split(":")[1]) for service in services.values() for port in service.get("ports", ())}
    assert documented.vectors
    assert documented.objects
    assert documented.identity
    (grpc,) = parse_qs(urlsplit(documented.vectors).query)["grpc_port"]
    (endpoint,) = parse_qs(urlsplit(documented.objects).query)["endpoint"]
    urls = (
        documented.postgres,
        documented.redis,
        documented.bus,
        documented.vectors,
        endpoint,
        documented.identity.issuer,
    )
    assert {urlsplit(url).port for url in urls} | {int(grpc)} == opened
