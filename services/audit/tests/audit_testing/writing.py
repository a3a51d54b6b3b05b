"""Events as the services write them, and the messages that bring them."""

import json
from datetime import UTC, datetime
from typing import Any

from slipway_audit.leaf import Leaf, parse_leaf
from slipway_chassis.bus import Message
from slipway_chassis.caller import Caller
from slipway_chassis.evidence import GENESIS, Evidence, SealedEvent
from slipway_chassis.jcs import canonical_json, digest

RUN = "run_01jdqxf2k0e3vr6m5t8w9y2b4c"


def caller(subject: str = "alice", tenant: str = "acme", run_id: str | None = RUN) -> Caller:
    return Caller(
        subject=subject,
        tenant=tenant,
        kind="user",
        roles=frozenset({"operator"}),
        groups=frozenset(),
        act="refund-desk@3",
        run_id=run_id,
        token_id="t1",
        expires_at=datetime.now(UTC),
    )


class Writer:
    """Seals events as the services do, and hands them on as messages of the bus."""

    def __init__(self, tenant: str = "acme", run_id: str = RUN, subject: str = "alice") -> None:
        self.tenant, self.run_id, self.subject = tenant, run_id, subject
        self.evidence = Evidence("orchestrator", None)  # type: ignore[arg-type]
        self.messages: list[Message] = []
        self._prev, self._seq = GENESIS, 0

    def event(self, event_type: str, data: dict[str, Any], **more: Any) -> SealedEvent:
        sealed = self.evidence.seal(
            event_type,
            caller=caller(self.subject, self.tenant),
            subject=more.pop("subject", self.subject),
            resource="test/1",
            data=data,
            time=datetime.now(UTC),
            run_id=self.run_id,
            trace_id="0" * 31 + "1",
            **more,
        )
        self.messages.append(message(sealed))
        return sealed

    def record(self, event_type: str, **data: Any) -> dict[str, str]:
        sealed = self.event(event_type, data)
        return {"event_id": sealed.event_id, "commitment": sealed.commitment}

    def journal(self, kind: str, **payload: Any) -> SealedEvent:
        data = {"kind": kind, "epoch": 1, "payload": canonical_json(payload).decode()}
        if "records" in payload:
            data["records"] = payload["records"]
        self._seq += 1
        sealed = self.event("run.event", data, seq=self._seq, prev=self._prev)
        self._prev = sealed.commitment
        return sealed

    def run(self, *, end: bool = True) -> "Writer":
        self.journal("run.started", input={"message": "Grüße 😀"})
        self.journal("step.completed", output=1.5, records=[self.record("model.call", model="smollm2-135m")])
        shown = digest({"amount": 120.5})
        self.journal(
            "approval.requested",
            approval_id="apr_1",
            arguments={"amount": 120.5},
            arguments_digest=shown,
            proposer="alice",
        )
        self.journal(
            "approval.decided",
            approval_id="apr_1",
            decision="approve",
            decider="bob",
            arguments_digest=shown,
            records=[self.record("approval.decision", decision="approve")],
        )
        if end:
            self.journal("run.succeeded", output={"reply": "done"})
        return self


def message(sealed: SealedEvent, **more: Any) -> Message:
    body = {"event": sealed.canonical.decode(), "salt": sealed.salt.hex(), "commitment": sealed.commitment}
    headers = {"commitment": sealed.commitment, "event-type": sealed.type, "run-id": sealed.run_id or ""}
    return Message(sealed.event_id, "audit.events", json.dumps(body | more).encode(), sealed.tenant, headers)


def leaf(one: Message) -> Leaf:
    return parse_leaf(one.id, one.tenant, one.body, one.headers)
