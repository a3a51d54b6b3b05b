"""Internal tokens: service tokens, run grants and their exchange over gRPC."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from gateway_testing.identity import SECRET, Identity
from slipway.identity.v1 import identity_pb2 as pb
from slipway.identity.v1.identity_pb2_grpc import IdentityServiceStub
from slipway.runs.v1 import runs_pb2, schedules_pb2
from slipway_chassis.channel import connect, invoke
from slipway_chassis.errors import ErrorKind, RemoteError
from slipway_chassis.ids import new_id
from slipway_chassis.tokens import CallerTokenVerifier
from slipway_gateway import keys


@pytest.fixture
async def identity(gateway: Any) -> AsyncIterator[Identity]:
    channel = connect(gateway.grpc_target)
    yield Identity(IdentityServiceStub(channel), CallerTokenVerifier(gateway.key_dir / keys.JWKS_NAME))
    await channel.close()


@pytest.fixture
def grant_of(services: Any, caller: Callable[[str], Any]) -> Callable[..., str]:
    """The run grant that the gateway signs when a user starts a run."""
    services.on("StartRun", lambda call: runs_pb2.StartRunResponse(run=runs_pb2.Run(run_id=new_id("run"))))

    def start(who: Any = "alice", agent: str = "refund-desk") -> str:
        client = caller(who) if isinstance(who, str) else who
        assert client.post(f"/v1/agents/{agent}/runs", json={"input": {}}).status_code == 202
        return services.last("StartRun").request.run_grant

    return start


async def refused(call: Any, reason: str) -> None:
    with pytest.raises(RemoteError) as caught:
        await call
    assert caught.value.reason == reason


async def test_a_grant_becomes_a_token_of_the_agent_version_acting_for_the_user(
    identity: Identity, grant_of: Callable[..., str]
) -> None:
    run_id = new_id("run")
    caller = await identity.exchange(grant_of(), version=3, run_id=run_id)
    assert (caller.subject, caller.tenant, caller.kind) == ("alice", "acme", "user")
    assert caller.act == "refund-desk@3"
    assert caller.run_id == run_id
    assert caller.roles == {"developer", "operator"}
    assert caller.groups == {"acme", "support"}


async def test_roles_are_those_of_now_and_a_disabled_users_run_does_not_go_on(
    identity: Identity, grant_of: Callable[..., str], issuer: Any
) -> None:
    grant = grant_of()
    original = issuer.realm_file.read_text()
    realm = json.loads(original)
    user = next(user for user in realm["users"] if user["username"] == "alice")
    try:
        user["realmRoles"] = ["operator"]
        issuer.realm_file.write_text(json.dumps(realm))
        assert (await identity.exchange(grant)).roles == {"operator"}

        user["enabled"] = False
        issuer.realm_file.write_text(json.dumps(realm))
        await refused(identity.exchange(grant), "SUBJECT_DISABLED")

        realm["users"].remove(user)
        issuer.realm_file.write_text(json.dumps(realm))
        await refused(identity.exchange(grant), "SUBJECT_DISABLED")

        user["enabled"], user["attributes"] = True, {"tenant": ["globex"]}
        realm["users"].append(user)
        issuer.realm_file.write_text(json.dumps(realm))
        await refused(identity.exchange(grant), "SUBJECT_DISABLED")
    finally:
        issuer.realm_file.write_text(original)
    assert (await identity.exchange(grant)).subject == "alice"


async def test_a_revoked_grant_is_useless_and_others_are_not(identity: Identity, grant_of: Callable[..., str]) -> None:
    revoked, other = grant_of(), grant_of()
    grant_id = jwt.decode(revoked, options={"verify_signature": False})["jti"]
    await identity.revoke(tenant="globex", grant_id=grant_id)
    assert await identity.exchange(revoked), "another tenant cannot revoke it"
    await identity.revoke(grant_id=grant_id)
    await identity.revoke(grant_id=grant_id)
    await refused(identity.exchange(revoked), "GRANT_REVOKED")
    assert (await identity.exchange(other)).subject == "alice"


async def test_all_grants_of_a_subject_end_together(identity: Identity, grant_of: Callable[..., str]) -> None:
    grants = [grant_of("dave"), grant_of("dave", "triage")]
    await identity.revoke(subject="dave")
    for grant in grants:
        await refused(identity.exchange(grant), "GRANT_REVOKED")
    assert (await identity.exchange(grant_of("alice"))).subject == "alice"


async def test_the_run_of_an_api_key_ends_with_its_key(
    identity: Identity, grant_of: Callable[..., str], gateway: Any, alice: Any
) -> None:
    import httpx

    made = alice.post("/v1/api-keys", json={"name": "runner", "roles": ["operator"]}).json()
    with httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {made['key']}"}) as key:
        grant = grant_of(key)
    caller = await identity.exchange(grant)
    assert (caller.subject, caller.roles) == ("api-key:runner", {"operator"})
    alice.delete(f"/v1/api-keys/{made['key_id']}")
    await refused(identity.exchange(grant), "SUBJECT_DISABLED")


async def test_only_the_orchestrator_exchanges_and_revokes(
    identity: Identity, grant_of: Callable[..., str], services: Any
) -> None:
    grant = grant_of()
    audit = await identity.service_token("audit", "audits-own-secret-here")
    await refused(identity.exchange(grant, token=audit), "NOT_THE_ORCHESTRATOR")
    user = services.last("StartRun").metadata["authorization"].removeprefix("Bearer ")
    await refused(identity.exchange(grant, token=user), "NOT_THE_ORCHESTRATOR")
    acting = await invoke(
        identity.stub.ExchangeRunGrant,
        pb.ExchangeRunGrantRequest(run_grant=grant, run_id=new_id("run")),
        token=await identity.service_token(),
        timeout=10,
    )
    await refused(identity.exchange(grant, token=acting.token), "NOT_THE_ORCHESTRATOR")
    await refused(identity.exchange(grant, token="x.y.z"), "INVALID_TOKEN")


async def test_what_is_no_grant_is_not_exchanged(
    identity: Identity, grant_of: Callable[..., str], services: Any, signing: Any, issuer: Any
) -> None:
    grant = grant_of()
    caller_token = services.last("StartRun").metadata["authorization"].removeprefix("Bearer ")
    strangers = signing.token(header={"typ": "slipway-run-grant+jwt"}, aud="slipway-identity", agent="refund-desk")
    altered = grant[:-10] + ("A" if grant[-10] != "A" else "B") + grant[-9:]
    for wrong in (caller_token, strangers, altered, issuer.token("alice"), "x", "a.b.c"):
        await refused(identity.exchange(wrong), "GRANT_INVALID")
    with pytest.raises(RemoteError) as caught:
        await identity.exchange("")
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT


async def test_roles_and_users_that_nobody_knows_are_told(identity: Identity) -> None:
    asked = ["role:reviewer", "role:nobody", "user:bob", "user:mallory", "user:gina", "group:acme"]
    request = pb.ListUnknownPrincipalsRequest(principals=asked)
    token = await identity.service_token(tenant="acme")
    answer = await invoke(identity.stub.ListUnknownPrincipals, request, token=token, timeout=10)
    # Gina belongs to another tenant; a group approves nothing.
    assert list(answer.unknown) == ["role:nobody", "user:mallory", "user:gina", "group:acme"]


async def test_a_service_proves_itself_by_its_secret(identity: Identity) -> None:
    token = await identity.service_token(tenant="acme")
    caller = identity.verifier.verify(token)
    assert (caller.subject, caller.kind, caller.tenant) == ("service:orchestrator", "service", "acme")
    assert caller.roles == {"service"}
    for service, secret in (("orchestrator", "wrong"), ("orchestrator", ""), ("nobody", SECRET), ("", "")):
        await refused(identity.service_token(service, secret), "SERVICE_SECRET_WRONG")


async def test_a_rotated_key_signs_at_once_and_grants_of_the_old_one_stay_good(
    identity: Identity, grant_of: Callable[..., str], gateway: Any
) -> None:
    grant = grant_of()
    old = jwt.get_unverified_header(grant)["kid"]
    new = keys.rotate(gateway.key_dir).key_id
    assert new != old
    token = await identity.service_token()
    assert jwt.get_unverified_header(token)["kid"] == new
    fresh = CallerTokenVerifier(gateway.key_dir / keys.JWKS_NAME)
    answer = await invoke(
        identity.stub.ExchangeRunGrant,
        pb.ExchangeRunGrantRequest(run_grant=grant, run_id=new_id("run")),
        token=await eventually_accepted(identity),
        timeout=10,
    )
    assert fresh.verify(answer.token).subject == "alice"


async def eventually_accepted(identity: Identity) -> str:
    """A token that the server takes, once the new key is on its disk."""
    from slipway_testkit.waiting import eventually

    async def accepted() -> str:
        token = await identity.service_token()
        request = pb.ExchangeRunGrantRequest(run_grant="x", run_id=new_id("run"))
        with pytest.raises(RemoteError) as caught:
            await invoke(identity.stub.ExchangeRunGrant, request, token=token, timeout=10)
        return token if caught.value.reason == "GRANT_INVALID" else ""

    return await eventually(accepted)


async def test_an_expired_grant_says_so(other_gateway: Callable[..., Any]) -> None:
    from datetime import UTC, datetime

    from slipway_gateway.caller_tokens import CallerTokens
    from slipway_gateway.directory import Subject
    from slipway_gateway.keys import KeyRing
    from slipway_gateway.principal import Principal
    from slipway_gateway.run_grants import GrantExpired, RunGrants

    del other_gateway

    class Directory:
        async def find(self, tenant: str, subject: str) -> Subject | None:
            return Subject(subject, frozenset(), frozenset())

    class NoRevocations:
        async def is_revoked(self, grant: Any) -> bool:
            return False

        async def revoke_grant(self, tenant: str, grant_id: str) -> None: ...

        async def revoke_subject(self, tenant: str, subject: str) -> None: ...

    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        keys.init(Path(folder))
        ring = KeyRing(Path(folder) / keys.SIGNING_KEY_NAME, Path(folder) / keys.JWKS_NAME)
        now = 1_800_000_000.0
        grants = RunGrants(ring, CallerTokens(ring), Directory(), NoRevocations(), lifetime=60, clock=lambda: now)
        who = Principal(
            "alice", "acme", frozenset(), frozenset(), "alice", "oidc", "t", datetime.fromtimestamp(now + 300, UTC)
        )
        signed = grants.sign(who, "refund-desk")
        now += 59
        assert (await grants.exchange(signed, run_id=new_id("run"), version=1)).token
        now += 1
        with pytest.raises(GrantExpired):
            await grants.exchange(signed, run_id=new_id("run"), version=1)


async def test_a_sub_agent_acts_under_the_grant_of_its_root(identity: Identity, grant_of: Callable[..., str]) -> None:
    request = pb.ExchangeRunGrantRequest(run_grant=grant_of(), run_id=new_id("run"), version=2, agent="triage")
    answer = await invoke(identity.stub.ExchangeRunGrant, request, token=await identity.service_token(), timeout=10)
    caller = identity.verifier.verify(answer.token)
    assert (caller.subject, caller.act) == ("alice", "triage@2")


async def test_a_grant_of_a_delayed_run_lives_from_its_start_on(services: Any, caller: Callable[[str], Any]) -> None:
    services.on("StartRun", lambda call: runs_pb2.StartRunResponse(run=runs_pb2.Run(run_id=new_id("run"))))
    caller("alice").post("/v1/agents/refund-desk/runs", json={})
    soon = jwt.decode(services.last("StartRun").request.run_grant, options={"verify_signature": False})
    caller("alice").post("/v1/agents/refund-desk/runs", json={"not_before": "2099-01-01T00:00:00Z"})
    later = jwt.decode(services.last("StartRun").request.run_grant, options={"verify_signature": False})
    assert later["exp"] - soon["exp"] > 365 * 86_400


class Scheduled:
    """A schedule's grant as the gateway signs it, traded as a worker does."""

    def __init__(self, identity: Identity, services: Any, caller: Callable[[str], Any]) -> None:
        self.identity, self.services, self.caller = identity, services, caller
        services.on("PutSchedule", lambda call: schedules_pb2.PutScheduleResponse(created=True))

    def grant(self, who: Any = "alice", agent: str = "refund-desk") -> str:
        client = self.caller(who) if isinstance(who, str) else who
        path = f"/v1/agents/{agent}/schedules/daily"
        assert client.put(path, json={"cron": "0 7 * * *"}).status_code == 201
        return self.services.last("PutSchedule").request.schedule_grant

    async def issue(self, grant: str, agent: str = "refund-desk", token: str | None = None) -> Any:
        request = pb.IssueScheduledRunGrantRequest(schedule_grant=grant, agent=agent)
        token = await self.identity.service_token() if token is None else token
        return await invoke(self.identity.stub.IssueScheduledRunGrant, request, token=token, timeout=10)


@pytest.fixture
def scheduled(identity: Identity, services: Any, caller: Callable[[str], Any]) -> Scheduled:
    return Scheduled(identity, services, caller)


async def test_a_schedules_grant_becomes_a_run_grant_of_its_owner_each_time(scheduled: Scheduled) -> None:
    grant = scheduled.grant()
    first, second = await scheduled.issue(grant), await scheduled.issue(grant)
    caller = scheduled.identity.verifier.verify(first.token)
    assert (caller.subject, caller.tenant, caller.act) == ("alice", "acme", None)
    assert caller.roles == {"developer", "operator"}
    assert first.run_grant != second.run_grant
    # Signed anew, and as good: a schedule outlives the keys that sign for it.
    again = await scheduled.issue(second.schedule_grant)
    assert scheduled.identity.verifier.verify(again.token).subject == "alice"
    assert (await scheduled.identity.exchange(second.run_grant)).act == "refund-desk@3"


async def test_a_schedules_grant_is_no_run_grant_and_the_other_way_round(
    scheduled: Scheduled, grant_of: Callable[..., str]
) -> None:
    schedule_grant, run_grant = scheduled.grant(), grant_of()
    await refused(scheduled.identity.exchange(schedule_grant), "GRANT_INVALID")
    await refused(scheduled.issue(run_grant), "GRANT_INVALID")
    await refused(scheduled.issue(schedule_grant, agent="other"), "GRANT_INVALID")
    other = await scheduled.identity.service_token("audit", "audits-own-secret-here")
    await refused(scheduled.issue(schedule_grant, token=other), "NOT_THE_ORCHESTRATOR")


async def test_a_disabled_users_schedule_starts_nothing_more(scheduled: Scheduled, issuer: Any) -> None:
    grant = scheduled.grant()
    original = issuer.realm_file.read_text()
    realm = json.loads(original)
    next(user for user in realm["users"] if user["username"] == "alice")["enabled"] = False
    try:
        issuer.realm_file.write_text(json.dumps(realm))
        await refused(scheduled.issue(grant), "SUBJECT_DISABLED")
    finally:
        issuer.realm_file.write_text(original)


async def test_a_revoked_subject_or_grant_starts_nothing_more(scheduled: Scheduled) -> None:
    grant = scheduled.grant()
    await scheduled.identity.revoke(subject="alice")
    await refused(scheduled.issue(grant), "GRANT_REVOKED")
