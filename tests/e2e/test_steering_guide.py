"""The page on steering, as it stands: its commands work, one after the other, on a real stack."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from slipway_testkit.stack import Stack

PAGE = Path(__file__).resolve().parents[2] / "docs" / "steering.md"


@pytest.mark.timeout(300)
def test_the_steering_page_does_what_it_says(stack: Stack, tmp_path: Path) -> None:
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLIPWAY_DATA_DIR": str(stack.data_dir)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert "parcel P-1 is at the depot" in done.stdout
    assert re.search(r"count +2", done.stdout)
    assert re.search(r"same +yes", done.stdout)
    assert "morning" in done.stdout
    assert re.search(r"TENANT +drill", done.stdout)
