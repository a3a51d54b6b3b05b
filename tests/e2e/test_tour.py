"""The tour, as `make run` takes it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from slipway_testkit.stack import Stack


@pytest.mark.timeout(300)
def test_the_tour_takes_a_governed_run_through_all_services_and_ends_the_stack(
    start_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    stack = start_stack(tmp_path / "data", "--tour")
    stack.wait_for(r"tour: (ok|failed)", seconds=150)
    assert stack.process.wait(60) == 0
    said = "\n".join(stack.lines)
    assert re.search(r"^tour: ok \(run_\w+, \d+ steps, \d+ events verified, \$0\.\d+\)$", said, re.MULTILINE)
    # What the tour is there to show.
    assert said.count("refused alice's own approval") == 2
    assert re.search(r"killed worker-\d .* with SIGKILL", said)
    assert "booked once: B-00001, 249.0 USD" in said
    assert re.search(r"source: refunds\.md: Refund handbook", said)
    assert "one digit altered: commitment_mismatch" in said
