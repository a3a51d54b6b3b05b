"""The page on data sources, as it stands: its database, its declaration and its commands, on a real stack."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from slipway_testkit.servers.postgres import PostgresServer
from slipway_testkit.stack import Stack

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data-sources.md"


def _blocks(language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))


@pytest.mark.timeout(240)
def test_the_page_on_data_sources_does_what_it_says(
    new_database: Callable[[], str], postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = new_database()
    psql = [postgres_server.bin_dir / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c"]
    subprocess.run([*psql, f"CREATE ROLE crm_reader LOGIN; {_blocks('sql')}"], check=True)
    secrets = tmp_path / "secrets.yaml"
    secrets.touch(mode=0o600)
    secrets.write_text(f"crm-db: {url.replace('postgres@', 'crm_reader@')}\n")
    hosts = parse_qs(urlsplit(url).query)["host"][0]
    stack = Stack(
        tmp_path / "data",
        settings={"SLIPWAY_MEMORY_SOURCE_HOSTS": hosts, "SLIPWAY_MEMORY_SECRETS_FILE": str(secrets)},
    )
    try:
        stack.ready()
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", _blocks("sh")],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "SLIPWAY_DATA_DIR": str(stack.data_dir)},
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        stack.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Ada +\*\*\*@example\.com +\*\*\*4444 +99\.99", done.stdout), done.stdout
    assert "masked: customers.card, customers.email" in done.stderr
    assert re.search(r"^Ben *$", done.stdout, re.MULTILINE)
    assert "customers.salary" in done.stderr
    assert "refused with exit code 3" in done.stdout
    assert "Cyn" not in done.stdout
    assert '"80"' in done.stdout or "'80'" in done.stdout
