"""What a new user does: a fresh clone, an ordinary user, one command."""

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from slipway_cli.supervisor.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
HAS_VENV = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"


@pytest.fixture
def clone() -> Iterator[Path]:
    """The committed files in a folder of nobody's own; pytest's own temporary folders are closed to others."""
    nobody = pwd.getpwnam("nobody").pw_uid
    home = Path("/var/tmp") / f"slipway-fresh-{os.getpid()}"
    home.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", home], input=archive.stdout, check=True)
    subprocess.run(["chown", "-R", f"{nobody}:{nobody}", home], check=True)
    yield home
    shutil.rmtree(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.skipif(
    subprocess.run([PYTHON, "-c", HAS_VENV], capture_output=True).returncode != 0,
    reason=f"{PYTHON} is older than 3.11 or lacks venv",
)
@pytest.mark.timeout(420)
def test_make_run_as_an_ordinary_user_installs_starts_tours_and_leaves_nothing_running(clone: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLIPWAY_", "VIRTUAL_ENV"))
    }
    environment |= {"HOME": str(clone), "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHON": PYTHON}
    (port,) = free_ports(1)
    command = ["make", "run", f"UP_FLAGS=--port {port}"]
    done = subprocess.run(
        command, cwd=clone, env=environment, user=nobody, group=nobody, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^tour: ok \(run_", done.stdout, re.MULTILINE)
    left = subprocess.run(["pgrep", "-u", str(nobody), "-f", str(clone)], capture_output=True, text=True)
    assert left.stdout == ""
