"""DBOS and LangGraph, installed into a virtual environment of their own outside of the repository."""

import os
import subprocess
import sys
from pathlib import Path

_PACKAGES = (
    "dbos==3.4.0",
    "langgraph==1.2.24",
    "langgraph-checkpoint==4.3.2",
    "langgraph-checkpoint-postgres==3.2.0",
    "psycopg[binary,pool]==3.3.9",
)
PEERS = ("dbos", "langgraph")


class Peers:
    """Runs the peers' programs."""

    def __init__(self) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._venv = cache / "slipway-bench" / "durable-peers-1"

    def install(self) -> None:
        """Make the environment, unless it is there."""
        done = self._venv / "installed"
        if done.exists():
            return
        subprocess.run([sys.executable, "-m", "venv", self._venv], check=True)
        subprocess.run(
            [self._venv / "bin" / "pip", "install", "-q", "--disable-pip-version-check", *_PACKAGES],
            check=True,
            stdout=sys.stderr,
        )
        done.touch()

    def steps_per_second(self, peer: str, database_url: str, runs: int, steps: int) -> float:
        """Durable steps per second of so many runs at once, each of so many steps."""
        program = Path(__file__).with_name(f"peer_{peer}.py")
        command = [self._venv / "bin" / "python", "-W", "ignore", program, database_url, str(runs), str(steps)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        return float(answer.stdout.split()[-1])
