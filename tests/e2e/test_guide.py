"""The guide's commands, as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from slipway_testkit.stack import Stack

ROOT = Path(__file__).resolve().parents[2]


def commands(page: str) -> str:
    """All `sh` blocks of a page, one after the other."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL))


@pytest.mark.timeout(240)
def test_the_first_agent_guide_leads_to_verified_evidence(stack: Stack, tmp_path: Path) -> None:
    script = commands("first-agent.md")
    assert "slipway audit verify" in script
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLIPWAY_DATA_DIR": str(stack.data_dir),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "signed in as alice" in done.stdout
    assert "190 euros" in done.stdout
    assert re.search(r"SUCCEEDED", done.stdout)
    assert re.search(r"ok: run_\w+ of acme, \d+ events verified", done.stdout)
