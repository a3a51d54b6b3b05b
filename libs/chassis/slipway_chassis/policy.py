"""Authorization by Cedar policies: default deny, one schema for all services, digests in all decisions."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cedarpy

from slipway_chassis import policy_files
from slipway_chassis.caller import Caller
from slipway_chassis.errors import PermissionDenied
from slipway_chassis.logs import get_logger

_log = get_logger(__name__)
_CHECK_EVERY = 2.0  # seconds between looks at the files
_CACHED_DECISIONS = 4096

Value = str | bool | int | Sequence[str]
_Facts = tuple[tuple[str, str | bool | int | tuple[str, ...]], ...]


@dataclass(frozen=True)
class Resource:
    """What is acted on: entity type without namespace (``Run``), id, owning tenant, the schema's other attributes."""

    type: str
    id: str
    tenant: str
    attributes: Mapping[str, Value] = field(default_factory=dict[str, Value])


@dataclass(frozen=True)
class PolicyDecision:
    """The answer, the digest of the bundle that gave it, and the policies that decided (their ``@id``)."""

    allowed: bool
    digest: str
    policies: tuple[str, ...]


class PolicyDenied(PermissionDenied):
    """No policy permits it, or one forbids it."""

    reason = "POLICY_DENIED"


class PolicyEngine:
    """Decides by the bundle in a folder. A changed bundle is taken up within seconds; an invalid one is refused, logged
    with file and line, and the one before stays in force."""

    def __init__(self, directory: Path) -> None:
        """Loads the bundle; InvalidPolicies or OSError if that fails."""
        self._directory = directory
        self._stamp = policy_files.stamp(directory)
        self._bundle = policy_files.load(directory)
        self._checked = time.monotonic()
        # A decision is a pure function of the bundle and the question; evaluating costs 100 µs, looking up 5.
        self._decided: OrderedDict[tuple[Any, ...], PolicyDecision] = OrderedDict()

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of the bundle in force."""
        return self._bundle.digest

    def decide(
        self, caller: Caller, action: str, resource: Resource, context: Mapping[str, Value] | None = None
    ) -> PolicyDecision:
        """Whether ``caller`` may perform ``action`` on ``resource``.

        A request that does not fit the schema, and a policy that fails on it, deny: an unevaluated ``forbid`` must not
        let anything through.
        """
        self._take_up_changes()
        facts = tuple(sorted((name, _plain(value)) for name, value in resource.attributes.items()))
        given = tuple(sorted((name, _plain(value)) for name, value in (context or {}).items()))
        key = (caller.kind, caller.subject, caller.person, caller.tenant, caller.roles, caller.groups, caller.act)
        question = (key, action, resource.type, resource.id, resource.tenant, facts, given)
        decision = self._decided.get(question)
        if decision is None:
            decision = self._decided[question] = _evaluate(self._bundle, caller, action, resource, facts, given)
            if len(self._decided) > _CACHED_DECISIONS:
                self._decided.popitem(last=False)
        return decision

    def authorize(
        self, caller: Caller, action: str, resource: Resource, context: Mapping[str, Value] | None = None
    ) -> PolicyDecision:
        """Like ``decide``, but a denial is raised as PolicyDenied; it names the action and the resource."""
        decision = self.decide(caller, action, resource, context)
        if not decision.allowed:
            raise PolicyDenied(
                f"{action} on {resource.type} {resource.id} is not permitted",
                metadata={
                    "action": action,
                    "resource": f"{resource.type}/{resource.id}",
                    "policy_digest": decision.digest,
                    "policies": ",".join(decision.policies),
                },
            )
        return decision

    def _take_up_changes(self) -> None:
        now = time.monotonic()
        if now - self._checked < _CHECK_EVERY:
            return
        self._checked = now
        stamp = self._stamp
        try:
            stamp = policy_files.stamp(self._directory)
            if stamp == self._stamp:
                return
            bundle = policy_files.load(self._directory)
        except OSError as error:
            # Perhaps in the middle of a change: looked at again.
            _log.error("policy.unreadable", error=str(error), in_force=self._bundle.digest)
            return
        except policy_files.InvalidPolicies as error:
            self._stamp = stamp
            _log.error("policy.refused", error=str(error), in_force=self._bundle.digest)
            return
        self._stamp, self._bundle = stamp, bundle
        self._decided.clear()
        _log.info("policy.loaded", digest=bundle.digest)


def _principal(caller: Caller) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if caller.kind == "service":
        uid = {"type": "Slipway::Service", "id": caller.subject.removeprefix("service:")}
    else:
        uid = {"type": "Slipway::User", "id": f"{caller.tenant}/{caller.subject}"}
    roles = [{"type": "Slipway::Role", "id": role} for role in sorted(caller.roles)]
    handles = [f"user:{caller.subject}"]
    handles += [f"role:{role}" for role in caller.roles]
    handles += [f"group:{group}" for group in caller.groups]
    attributes = {
        "tenant": caller.tenant,
        "subject": caller.subject,
        "person": caller.person,
        "agent": caller.act is not None,
        "act": caller.act or "",
        "handles": handles,
    }
    return (
        {"uid": uid, "attrs": attributes, "parents": roles},
        [{"uid": role, "attrs": {}, "parents": []} for role in roles],
    )


def _plain(value: Value) -> str | bool | int | tuple[str, ...]:
    return value if isinstance(value, str | bool | int) else tuple(value)


def _evaluate(
    bundle: policy_files.Bundle, caller: Caller, action: str, resource: Resource, facts: _Facts, context: _Facts
) -> PolicyDecision:
    principal, roles = _principal(caller)
    uid = {"type": f"Slipway::{resource.type}", "id": resource.id}
    request = {
        "principal": principal["uid"],
        "action": {"type": "Slipway::Action", "id": action},
        "resource": uid,
        "context": dict(context),
    }
    target = {"uid": uid, "attrs": {"tenant": resource.tenant, **dict(facts)}, "parents": []}
    result = cedarpy.is_authorized(request, bundle.policies, [principal, *roles, target], bundle.schema)
    diagnostics = result.diagnostics
    if diagnostics.errors:
        # The text before the last bracket repeats the entities, and with them who asked.
        errors = [str(error).rsplit("]: ", 1)[-1] for error in diagnostics.errors]
        _log.error("policy.not_evaluated", action=action, resource=resource.type, errors=errors)
        return PolicyDecision(False, bundle.digest, ())
    named = diagnostics.id_annotations_by_reason
    policies = sorted(named.get(reason) or bundle.place_of(reason) for reason in diagnostics.reasons)
    return PolicyDecision(result.allowed, bundle.digest, tuple(policies))
