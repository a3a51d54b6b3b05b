"""Budgets through the whole stack: who has no money left is told so, and nobody else."""

from decimal import Decimal

import pytest
from slipway_client import ApiError, Client
from slipway_testkit.stack import Stack

AGENT = """
apiVersion: slipway.dev/v1
kind: Agent
metadata: {name: thrifty}
spec:
  type: workflow
  description: Asks a model.
  input: {type: object, required: [text], properties: {text: {type: string}}}
  output: {type: object}
  limits: {steps: 5, tokens: 5000, cost_usd: 0.10, wall_time: 1h, tool_errors: 3, repeats: 3, on_limit: fail}
  steps: [{id: ask, model: {task: grounded-answer, prompt: "${input.text}", max_tokens: 8}}]
  result: {text: "${steps.ask.output.text}"}
"""
QUESTION = {"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 8}
NOTHING = Decimal("0.000000001")


def test_a_key_without_money_gets_402_until_its_budget_is_raised(stack: Stack) -> None:
    with stack.as_user("dave") as dave:
        key = dave.api_keys.create("budgeted", ["developer"]).key
        assert key is not None
        dave.budgets.put("of-that-key", scope="key", scope_value="budgeted", period="day", limit_usd=NOTHING)
        with Client(stack.url, key, timeout=120) as program:
            with pytest.raises(ApiError) as caught:
                program.models.chat(QUESTION)
            assert (caught.value.status, caught.value.code) == (402, "BUDGET_EXHAUSTED")
            # Others have money.
            dave.models.chat(QUESTION)
            dave.budgets.put("of-that-key", scope="key", scope_value="budgeted", period="day", limit_usd="1")
            cost = Decimal(str(program.models.chat(QUESTION)["usage"]["cost_usd"]))
        assert cost > 0
        spent = {group.key: group.usage.cost_usd for group in dave.usage.summary("key")}
        assert spent["budgeted"] == cost
        assert [found.spent_usd for found in dave.budgets.get("of-that-key").balances] == [cost]
        dave.budgets.delete("of-that-key")


def test_a_run_of_an_agent_without_money_fails_and_says_why(stack: Stack) -> None:
    with stack.as_user("alice") as alice, stack.as_user("bob") as bob, stack.as_user("dave") as dave:
        version = alice.agents.put("thrifty", AGENT).version
        alice.agents.submit("thrifty", version)
        bob.agents.approve("thrifty", version)
        bob.agents.promote("thrifty", version)
        dave.budgets.put("thrifty", scope="agent", scope_value="thrifty", period="total", limit_usd=NOTHING)
        run = alice.runs.start("thrifty", {"text": "Say yes."}, wait=60)
        assert run.state == "FAILED"
        assert run.error is not None
        assert run.error.code == "BUDGET_EXHAUSTED"
        dave.budgets.delete("thrifty")
        assert alice.runs.start("thrifty", {"text": "Say yes."}, wait=60).state == "SUCCEEDED"
