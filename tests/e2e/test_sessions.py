"""Runs on sessions."""

from pathlib import Path

import pytest
from slipway_client import NotFoundError
from slipway_testkit.stack import Stack

AGENT = """
apiVersion: slipway.dev/v1
kind: Agent
metadata: {name: parrot}
spec:
  type: workflow
  description: Echoes.
  input: {type: object, required: [text], properties: {text: {type: string}}}
  output: {type: object}
  limits: {steps: 5, tokens: 1000, cost_usd: 0.01, wall_time: 1h, tool_errors: 3, repeats: 3, on_limit: fail}
  steps: [{id: echo, set: "${input.text}"}]
  result: {text: "${steps.echo.output}"}
"""


def test_a_run_starts_on_a_session_of_the_callers_own_and_on_no_other(stack: Stack, tmp_path: Path) -> None:
    with stack.as_user("alice") as alice, stack.as_user("bob") as bob, stack.as_user("dave") as dave:
        version = alice.agents.put("parrot", AGENT).version
        alice.agents.submit("parrot", version)
        bob.agents.approve("parrot", version)
        bob.agents.promote("parrot", version)
        own, other = alice.sessions.create().session_id, dave.sessions.create().session_id
        run = alice.runs.start("parrot", {"text": "hello"}, session_id=own, wait=20)
        assert (run.state, run.session_id, run.output) == ("SUCCEEDED", own, {"text": "hello"})
        for session_id in ("ses_nope", other):
            with pytest.raises(NotFoundError):
                alice.runs.start("parrot", {"text": "hello"}, session_id=session_id)
