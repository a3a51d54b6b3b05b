"""Cedar policies: default deny, strict requests, reload, refusal of invalid bundles."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from slipway_chassis import policy
from slipway_chassis.caller import Caller
from slipway_chassis.errors import ErrorKind
from slipway_chassis.policy import PolicyDenied, PolicyEngine, Resource
from slipway_chassis.policy_files import InvalidPolicies, split

SCHEMA = """
namespace Slipway {
  entity Role;
  entity User in [Role] = {
    tenant: String, subject: String, person: String, agent: Bool, act: String, handles: Set<String>
  };
  entity Service in [Role] = {
    tenant: String, subject: String, person: String, agent: Bool, act: String, handles: Set<String>
  };
  entity File = { tenant: String, owner: String, readers: Set<String>, size?: Long };
  action ReadFile, DeleteFile appliesTo {
    principal: [User, Service], resource: File, context: { region?: String }
  };
}
"""
POLICIES = """
// A comment; with a semicolon, and a "quote.
@id("tenants")
forbid (principal, action, resource) unless { principal.tenant == resource.tenant };

@id("owner")
permit (principal, action == Slipway::Action::"ReadFile", resource)
when { resource.owner == principal.subject };

@id("reader")
permit (principal, action == Slipway::Action::"ReadFile", resource)
when { resource.readers.containsAny(principal.handles) };

permit (principal in Slipway::Role::"janitor", action, resource) unless { principal.agent };

@id("janitor-service")
permit (principal == Slipway::Service::"janitor", action, resource);

@id("not-abroad")
forbid (principal, action, resource) when { context has region && context.region == "us" };

@id("huge")
forbid (principal, action, resource) when { resource has size && resource.size + 9223372036854775807 > 0 };
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "slipway.cedarschema").write_text(SCHEMA)
    (tmp_path / "files.cedar").write_text(POLICIES)
    return tmp_path


@pytest.fixture
def engine(folder: Path) -> PolicyEngine:
    return PolicyEngine(folder)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to let the time between two looks at the files pass."""
    now = time.monotonic()

    def later() -> None:
        nonlocal now
        now += 10

    monkeypatch.setattr(policy.time, "monotonic", lambda: now)
    return later


def file(owner: str = "alice", tenant: str = "acme", **attributes: Any) -> Resource:
    return Resource("File", "file_1", tenant, {"owner": owner, "readers": [], **attributes})


def test_a_permitted_action_names_the_policy_and_the_bundle(
    engine: PolicyEngine, caller: Callable[..., Caller]
) -> None:
    decision = engine.authorize(caller(), "ReadFile", file())
    assert decision.allowed
    assert decision.policies == ("owner",)
    assert decision.digest == engine.digest
    assert decision.digest.startswith("sha256:")


def test_what_no_policy_permits_is_denied_with_action_and_resource(
    engine: PolicyEngine, caller: Callable[..., Caller]
) -> None:
    with pytest.raises(PolicyDenied) as denied:
        engine.authorize(caller(), "DeleteFile", file())
    error = denied.value
    assert (error.kind, error.reason) == (ErrorKind.PERMISSION_DENIED, "POLICY_DENIED")
    assert (error.metadata["action"], error.metadata["resource"]) == ("DeleteFile", "File/file_1")
    assert error.metadata["policy_digest"] == engine.digest


def test_tenants_never_meet(engine: PolicyEngine, caller: Callable[..., Caller]) -> None:
    decision = engine.decide(caller(tenant="globex"), "ReadFile", file())
    assert (decision.allowed, decision.policies) == (False, ("tenants",))
    assert not engine.decide(caller(roles=frozenset({"janitor"})), "DeleteFile", file(tenant="globex")).allowed


@pytest.mark.parametrize("handle", ["user:alice", "role:operator", "group:eu"])
def test_access_lists_name_users_roles_and_groups(
    engine: PolicyEngine, caller: Callable[..., Caller], handle: str
) -> None:
    alice = caller(groups=frozenset({"eu"}))
    assert engine.decide(alice, "ReadFile", file("bob", readers=[handle])).policies == ("reader",)
    assert not engine.decide(alice, "ReadFile", file("bob", readers=["user:carol", "role:x", "group:us"])).allowed


def test_an_agent_has_its_users_roles_but_is_known_as_an_agent(
    engine: PolicyEngine, caller: Callable[..., Caller]
) -> None:
    janitor = caller(roles=frozenset({"janitor"}))
    decision = engine.decide(janitor, "DeleteFile", file())
    assert decision.allowed
    # A policy without an @id is known by its place.
    assert decision.policies == ("files.cedar:14",)
    assert not engine.decide(caller(roles=frozenset({"janitor"}), act="bot@1"), "DeleteFile", file()).allowed


def test_a_user_cannot_pass_for_a_service_of_the_same_name(engine: PolicyEngine, caller: Callable[..., Caller]) -> None:
    service = caller(subject="service:janitor", kind="service", roles=frozenset({"service"}))
    assert engine.decide(service, "DeleteFile", file()).allowed
    for name in ("janitor", "service:janitor"):
        assert not engine.decide(caller(subject=name), "DeleteFile", file()).allowed


def test_the_context_decides_too_and_decisions_do_not_mix(engine: PolicyEngine, caller: Callable[..., Caller]) -> None:
    for _ in range(2):
        assert engine.decide(caller(), "ReadFile", file(), {"region": "eu"}).allowed
        assert engine.decide(caller(), "ReadFile", file(), {"region": "us"}).policies == ("not-abroad",)
        assert engine.decide(caller(), "ReadFile", file()).allowed
        assert not engine.decide(caller(subject="bob"), "ReadFile", file()).allowed


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        ("ReadFile", Resource("File", "f", "acme", {"owner": "alice"}), {}),
        ("ReadFile", Resource("File", "f", "acme", {"owner": "alice", "readers": [], "colour": "red"}), {}),
        ("ReadFile", Resource("File", "f", "acme", {"owner": True, "readers": []}), {}),
        ("ReadFile", Resource("Folder", "f", "acme", {}), {}),
        ("FlyFile", file(), {}),
        ("ReadFile", file(), {"weather": "fine"}),
    ],
    ids=["missing attribute", "unknown attribute", "wrong type", "unknown type", "unknown action", "unknown context"],
)
def test_a_request_that_does_not_fit_the_schema_is_denied_and_logged(
    engine: PolicyEngine, caller: Callable[..., Caller], action: str, resource: Resource, context: dict[str, str]
) -> None:
    with structlog.testing.capture_logs() as logs:
        assert not engine.decide(caller(), action, resource, context).allowed
    assert logs[0]["event"] == "policy.not_evaluated"
    assert "alice" not in str(logs[0]["errors"])


def test_a_forbid_that_fails_does_not_let_the_request_through(
    engine: PolicyEngine, caller: Callable[..., Caller]
) -> None:
    assert not engine.decide(caller(), "ReadFile", file(size=7)).allowed


def test_who_answers_for_an_api_key_is_part_of_the_question(folder: Path, caller: Callable[..., Caller]) -> None:
    (folder / "files.cedar").write_text(
        "permit (principal, action, resource) when { principal.person == resource.owner };"
    )
    engine = PolicyEngine(folder)
    own, other = caller(subject="api-key:x", owner="alice"), caller(subject="api-key:x", owner="bob")
    assert engine.decide(own, "ReadFile", file()).allowed
    assert not engine.decide(other, "ReadFile", file()).allowed


def test_ids_with_quotes_and_newlines_are_taken_as_they_are(
    engine: PolicyEngine, caller: Callable[..., Caller]
) -> None:
    odd = 'a"\n\\; permit(principal, action, resource);'
    resource = Resource("File", odd, "acme", {"owner": odd, "readers": []})
    assert engine.decide(caller(subject=odd), "ReadFile", resource).allowed
    assert not engine.decide(caller(), "ReadFile", resource).allowed


def test_a_changed_bundle_is_taken_up(
    engine: PolicyEngine, folder: Path, caller: Callable[..., Caller], clock: Callable[[], None]
) -> None:
    before = engine.digest
    assert engine.decide(caller(), "ReadFile", file()).allowed
    (folder / "00-closed.cedar").write_text('@id("closed") forbid (principal, action, resource);')
    clock()
    assert engine.decide(caller(), "ReadFile", file()).policies == ("closed",)
    assert engine.digest != before
    (folder / "00-closed.cedar").unlink()
    clock()
    assert engine.decide(caller(), "ReadFile", file()).allowed
    assert engine.digest == before


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("files.cedar", POLICIES + "\n\npermit (principal action);", "files.cedar:26: unexpected token"),
        (
            "files.cedar",
            POLICIES + '\npermit (principal, action, resource) when { resource.colour == "red" };',
            ":25: ",
        ),
        ("files.cedar", POLICIES + "\npermit (principal, action, resource)", "files.cedar:25: "),
        ("files.cedar", "// nothing", "no policies"),
        ("slipway.cedarschema", "entity;", "slipway.cedarschema: "),
    ],
    ids=["syntax", "unknown attribute", "unterminated", "empty", "schema"],
)
def test_an_invalid_bundle_is_refused_with_its_place_and_the_old_one_stays(
    engine: PolicyEngine,
    folder: Path,
    caller: Callable[..., Caller],
    clock: Callable[[], None],
    name: str,
    content: str,
    says: str,
) -> None:
    before = engine.digest
    (folder / name).write_text(content)
    with pytest.raises(InvalidPolicies) as invalid:
        PolicyEngine(folder)
    assert says in str(invalid.value)
    clock()
    with structlog.testing.capture_logs() as logs:
        assert engine.decide(caller(), "ReadFile", file()).allowed
    assert logs[0]["event"] == "policy.refused"
    assert says in logs[0]["error"]
    assert engine.digest == before


def test_a_bundle_without_a_schema_is_refused(folder: Path) -> None:
    (folder / "slipway.cedarschema").unlink()
    with pytest.raises(InvalidPolicies, match="missing"):
        PolicyEngine(folder)


def test_statements_are_told_apart_by_semicolons_outside_of_strings_and_comments() -> None:
    text = 'a "x;\\";" b;\n// c; d\n\ne;\n// end'
    assert [(s.line, s.text) for s in split("f", text)] == [(1, 'a "x;\\";" b;'), (4, "e;")]


def test_the_policies_of_the_repository_load(policy_dir: Path, caller: Callable[..., Caller]) -> None:
    engine = PolicyEngine(policy_dir)
    agent = Resource("Agent", "refund-desk", "acme", {"name": "refund-desk"})
    assert engine.decide(caller(), "StartAgent", agent).allowed
    assert not engine.decide(caller(roles=frozenset()), "StartAgent", agent).allowed
