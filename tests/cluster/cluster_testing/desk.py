"""The API of the release, as its users see it, over connections that are made again when a pod ends."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from typing import TypeVar
from urllib.parse import quote

from slipway_cli.session import DevelopmentSignIn
from slipway_client import Client, ConnectionFailedError, Run, UnavailableError

from cluster_testing.cluster import CommandFailed, forwarded, ready_pods
from cluster_testing.release import ISSUER_PORT

T = TypeVar("T")
ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}
AGENT = """
apiVersion: slipway.dev/v1
kind: Agent
metadata: {{name: {name}}}
spec:
  type: workflow
  description: For the tests on a cluster.
  input: {{type: object, required: [question], properties: {{question: {{type: string}}}}}}
  output: {{type: object}}
  limits: {{steps: 40, tokens: 60000, cost_usd: 0.50, wall_time: 2d, tool_errors: 3, repeats: 3, on_limit: fail}}
  steps:
{steps}
  result: {result}
"""


def _waiting(name: str, seconds: int) -> str:
    """16 steps with waits between: such a run is in many workers' hands, one after the other."""
    steps = "\n".join(
        f'    - {{id: s{n}, set: "${{input.question}}"}}\n    - {{id: w{n}, wait: {{for: {seconds}s}}}}'
        for n in range(8)
    )
    return AGENT.format(name=name, steps=steps, result='{echo: "${steps.s7.output}"}')


STEADY = _waiting("steady", 4)
LASTING = _waiting("lasting", 25)
# Nothing but steps: it keeps a worker busy until it has ended.
BUSY = AGENT.format(
    name="busy",
    steps="\n".join(f'    - {{id: s{n}, set: "${{input.question}}"}}' for n in range(36)),
    result='{echo: "${steps.s35.output}"}',
)
DESK = AGENT.format(
    name="travel-desk",
    steps="""    - id: policy
      retrieve: {collection: travel, query: "${input.question}", limit: 2}
    - id: answer
      model: {task: grounded-answer, prompt: "${input.question}", context: "${steps.policy.output.passages}"}
      retry: {attempts: 5, backoff: 1s, max_backoff: 10s, on: [UNAVAILABLE, DEADLINE_EXCEEDED]}""",
    result='{reply: "${steps.answer.output.text}", citations: "${steps.answer.output.citations}"}',
)


class Desk:
    """alice, bob and carol at one of the gateways; at another one when that is gone."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._clients: dict[str, Client] = {}

    def close(self) -> None:
        """End the connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self._open.close()

    def ask(self, user: str, question: Callable[[Client], T], *, patience: float = 90) -> T:
        """What the question comes to; asked again while no gateway answers, or one says 503."""
        ends = time.monotonic() + patience
        while True:
            try:
                return question(self._client(user))
            except (ConnectionFailedError, UnavailableError, CommandFailed, IndexError):
                self.close()
                if time.monotonic() > ends:
                    raise
                time.sleep(1)

    def _client(self, user: str) -> Client:
        if not self._clients:
            pod = f"pod/{ready_pods('gateway')[0]}"
            http = self._open.enter_context(forwarded(pod, 8080))
            issuer = self._open.enter_context(forwarded(pod, ISSUER_PORT))
            for name in ("alice", "bob", "carol"):
                token = DevelopmentSignIn(f"http://127.0.0.1:{issuer}/realms/slipway", name)
                self._clients[name] = Client(f"http://127.0.0.1:{http}", token)
        return self._clients[user]

    def promote(self, name: str, definition: str) -> None:
        """An agent's way to production: alice writes, bob approves."""
        version = self.ask("alice", lambda client: client.agents.put(name, definition)).version
        if self.ask("alice", lambda client: client.agents.get(name)).production_version == version:
            return
        self.ask("alice", lambda client: client.agents.submit(name, version))
        self.ask("bob", lambda client: client.agents.approve(name, version, "for the test"))
        self.ask("bob", lambda client: client.agents.promote(name, version))

    def start(self, agent: str, question: str, not_before: datetime | None = None) -> str:
        """The run's id. The key makes a repeated request the same run."""
        body = {"question": question}
        key = quote(f"{agent}/{question}")
        return self.ask(
            "alice", lambda client: client.runs.start(agent, body, not_before=not_before, idempotency_key=key)
        ).run_id

    def ended(self, run_id: str, *, seconds: float = 240) -> Run:
        """The run when it has ended."""
        ends = time.monotonic() + seconds
        while (run := self.ask("alice", lambda client: client.runs.get(run_id))).state not in ENDED:
            assert time.monotonic() < ends, f"{run_id} is {run.state} after {seconds:g} s"
            time.sleep(1)
        return run
