"""Another tenant's things do not exist, whichever way they are asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from slipway_client import Client, NotFoundError, PermissionDeniedError
from slipway_testkit.stack import Stack

AGENT = """
apiVersion: slipway.dev/v1
kind: Agent
metadata: {name: %s}
spec:
  type: workflow
  description: Echoes.
  input: {type: object, required: [text], properties: {text: {type: string}}}
  output: {type: object}
  limits: {steps: 5, tokens: 1000, cost_usd: 0.01, wall_time: 1h, tool_errors: 3, repeats: 3, on_limit: fail}
  steps:
    - {id: echo, set: "${input.text}"}
    - {id: look, approval: {show: "${steps.echo.output}", approvers: [role:reviewer], expires: 1h, on_expiry: reject}}
  result: {text: "${steps.echo.output}"}
"""


class Acme:
    """Things of the tenant acme, by id."""

    def __init__(self, alice: Client, bob: Client, folder: Path) -> None:
        self.collection, self.agent, self.tool = "acme-secrets", "acme-echo", "acme.hook"
        document = folder / "plan.txt"
        document.write_text("The merger with Initech is announced in March.")
        alice.knowledge.put_collection(self.collection)
        alice.knowledge.put_document(self.collection, "plan.txt", document)
        self.file = alice.files.upload(document).file_id
        alice.tools.put(
            self.tool,
            {
                "description": "A hook.",
                "input_schema": {"type": "object"},
                "http": {"method": "POST", "url": "https://hooks.example/acme"},
            },
        )
        version = alice.agents.put(self.agent, AGENT % self.agent)
        alice.agents.submit(self.agent, version.version)
        bob.agents.approve(self.agent, version.version)
        bob.agents.promote(self.agent, version.version)
        self.run = alice.runs.start(self.agent, {"text": "hello"}).run_id
        for event in alice.runs.follow(self.run):
            if event.kind == "approval.requested":
                break
        (self.approval,) = alice.runs.get(self.run).pending_approval_ids
        self.arguments_digest = alice.approvals.get(self.approval).arguments_digest


@pytest.fixture(scope="module")
def acme(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Acme:
    with stack.as_user("alice") as alice, stack.as_user("bob") as bob:
        return Acme(alice, bob, tmp_path_factory.mktemp("acme"))


READS: list[tuple[str, Callable[[Client, Acme], Any]]] = [
    ("run", lambda client, acme: client.runs.get(acme.run)),
    ("events of a run", lambda client, acme: list(client.runs.events(acme.run))),
    ("stream of a run", lambda client, acme: next(client.runs.follow(acme.run))),
    ("cancellation of a run", lambda client, acme: client.runs.cancel(acme.run)),
    ("evidence", lambda client, acme: client.audit.evidence(acme.run)),
    ("approval", lambda client, acme: client.approvals.get(acme.approval)),
    ("agent", lambda client, acme: client.agents.get(acme.agent)),
    ("versions", lambda client, acme: list(client.agents.versions(acme.agent))),
    ("start of an agent", lambda client, acme: client.runs.start(acme.agent, {"text": "x"})),
    ("submission", lambda client, acme: client.agents.submit(acme.agent, 1)),
    ("documents", lambda client, acme: list(client.knowledge.documents(acme.collection))),
    ("document", lambda client, acme: client.knowledge.get_document(acme.collection, "plan.txt")),
    ("deletion", lambda client, acme: client.knowledge.delete_document(acme.collection, "plan.txt")),
    ("search", lambda client, acme: client.knowledge.search(acme.collection, "merger")),
    ("file", lambda client, acme: client.files.get(acme.file)),
    ("content of a file", lambda client, acme: client.files.content(acme.file)),
    ("deletion of a file", lambda client, acme: client.files.delete(acme.file)),
    ("call of a tool", lambda client, acme: client.tools.invoke(acme.tool, {})),
]


@pytest.mark.parametrize(("what", "ask"), READS, ids=[name for name, _ in READS])
def test_another_tenant_is_told_that_it_does_not_exist(
    stack: Stack, acme: Acme, what: str, ask: Callable[[Client, Acme], Any]
) -> None:
    with stack.as_user("gina") as gina, pytest.raises(NotFoundError):
        ask(gina, acme)


def test_another_tenants_approval_cannot_be_decided(stack: Stack, acme: Acme) -> None:
    with stack.as_user("bob") as bob, stack.as_user("gina") as gina:
        shown = bob.approvals.get(acme.approval)
        with pytest.raises(NotFoundError):
            gina.approvals.decide(shown, "approve")
        assert bob.approvals.get(acme.approval).state == "PENDING"


def test_listings_hold_nothing_of_another_tenant(stack: Stack, acme: Acme) -> None:
    with stack.as_user("gina") as gina:
        assert acme.run not in {run.run_id for run in gina.runs.list()}
        assert acme.agent not in {agent.agent for agent in gina.agents.list()}
        assert acme.tool not in {tool.tool for tool in gina.tools.list()}


def test_the_same_names_are_free_in_another_tenant(stack: Stack, acme: Acme, tmp_path: Path) -> None:
    document = tmp_path / "plan.txt"
    document.write_text("Globex has no plans.")
    with stack.as_user("gina") as gina, stack.as_user("alice") as alice:
        gina.knowledge.put_collection(acme.collection)
        gina.knowledge.put_document(acme.collection, "plan.txt", document)
        titles = [passage.text for passage in alice.knowledge.search(acme.collection, "plans of the merger")]
        assert all("Globex" not in text for text in titles)
        assert gina.agents.put(acme.agent, AGENT % acme.agent).version == 1


def test_a_person_without_a_role_may_do_nothing(stack: Stack, acme: Acme) -> None:
    with stack.as_user("erin") as erin:
        for ask in (
            lambda: erin.runs.start(acme.agent, {"text": "x"}),
            lambda: erin.knowledge.search(acme.collection, "merger"),
            lambda: erin.agents.put("erins", AGENT % "erins"),
            lambda: erin.tools.invoke("python", {"code": "1"}),
            lambda: list(erin.audit.events()),
        ):
            with pytest.raises(PermissionDeniedError):
                ask()


@pytest.mark.parametrize("token", ["", "x", "sk-slip-0000", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9."])
def test_what_is_no_token_opens_nothing(stack: Stack, token: str) -> None:
    answer = httpx.get(f"{stack.url}/v1/runs", headers={"Authorization": f"Bearer {token}"} if token else {})
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["code"]
    assert answer.headers["www-authenticate"].startswith("Bearer")
