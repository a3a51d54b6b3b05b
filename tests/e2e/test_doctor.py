"""`slipway doctor` beside a running stack."""

import json
import subprocess

from slipway_testkit.stack import SLIPWAY, Stack


def test_a_running_stack_is_found_well_with_its_migrations_keys_and_clocks(stack: Stack) -> None:
    ended = subprocess.run(
        [str(SLIPWAY), "doctor", "--data-dir", str(stack.data_dir), "--json"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    checks = json.loads(ended.stdout)["checks"]
    assert [check for check in checks if check["level"] == "fail"] == []
    well = {check["subject"] for check in checks if check["level"] == "ok"}
    assert {"gateway", "issuer", "keys", "clock", "migrations", "processes", "catalogue"} <= well
    assert ended.returncode == (2 if any(check["level"] == "warn" for check in checks) else 0)
