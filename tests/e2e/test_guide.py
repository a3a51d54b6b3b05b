"""The guide's commands and the client's example, as they stand."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from slipway_testkit.stack import SLIPWAY, Stack

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str, language: str) -> str:
    """All code blocks of a language on a page, one after the other."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return "\n".join(re.findall(pattern, (ROOT / page).read_text(), re.MULTILINE | re.DOTALL))


def run(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(stack: Stack) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "SLIPWAY_DATA_DIR": str(stack.data_dir)}


@pytest.fixture(scope="module")
def guide(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the guide's commands print."""
    script = blocks("docs/first-agent.md", "sh")
    assert "slipway audit verify" in script
    return run(["bash", "-euo", "pipefail", "-c", script], tmp_path_factory.mktemp("guide"), environment)


@pytest.mark.timeout(240)
def test_the_first_agent_guide_leads_to_verified_evidence(guide: str) -> None:
    assert "signed in as alice" in guide
    assert "190 euros" in guide
    assert "SUCCEEDED" in guide
    assert re.search(r"ok: run_\w+ of acme, \d+ events verified", guide)


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("guide")
def test_the_clients_example_follows_a_run_to_its_gate(
    stack: Stack, environment: dict[str, str], tmp_path: Path
) -> None:
    program = blocks("clients/python/README.md", "python").replace("http://127.0.0.1:8080", stack.url)
    assert stack.url in program
    token = run([str(SLIPWAY), "token", "--as", "alice"], tmp_path, environment).strip()
    said = run([sys.executable, "-c", program], tmp_path, {**environment, "SLIPWAY_TOKEN": token})
    lines = said.splitlines()
    assert lines[0] == "alice"
    assert "1 run.started" in said
    assert "190 euros" in lines[-1]
    assert lines[-1].endswith("waits for ['role:reviewer']")
