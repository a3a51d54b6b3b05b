"""Reading the log, which the log remembers too."""

from dataclasses import dataclass

from slipway_chassis.caller import Caller
from slipway_chassis.policy import PolicyEngine, Resource

from slipway_audit.export import Evidence, EvidenceExport
from slipway_audit.reading_store import ReadingStore
from slipway_audit.store import LogStore, StoredLeaf


@dataclass(frozen=True, slots=True)
class Query:
    """Which leaves to read: after an index, at most so many; empty filters match all."""

    run_id: str
    type: str
    after: int
    limit: int


class AuditReader:
    """What callers may read, by policy; each reading of content becomes an event of the log."""

    def __init__(self, store: LogStore, readings: ReadingStore, export: EvidenceExport, policy: PolicyEngine) -> None:
        self._store = store
        self._export = export
        self._policy = policy
        self._readings = readings

    def authorize_heads(self, caller: Caller) -> None:
        """Heads and proofs are for whoever may read the log or export evidence, which rests on them."""
        if not self._policy.decide(caller, "ReadAudit", _log(caller)).allowed:
            self._policy.authorize(caller, "ExportEvidence", _log(caller))

    async def list(self, caller: Caller, query: Query) -> list[StoredLeaf]:
        """A page of the caller's log. Raises PolicyDenied."""
        decision = self._policy.authorize(caller, "ReadAudit", _log(caller))
        leaves = await self._store.page(caller.tenant, query.run_id, query.type, query.after, query.limit)
        facts = {"after": query.after, "limit": query.limit, "events": len(leaves)}
        filters = {"run_id": query.run_id, "type": query.type}
        await self._readings.record(caller, "audit.read", decision, facts | {k: v for k, v in filters.items() if v})
        return leaves

    async def evidence(self, caller: Caller, run_id: str) -> Evidence:
        """The evidence bundle of a run. Raises RunNotFound (also for another tenant's), PolicyDenied."""
        await self._export.check_known(caller.tenant, run_id)
        decision = self._policy.authorize(caller, "ExportEvidence", _log(caller))
        evidence = await self._export.run(caller.tenant, run_id)
        facts = {
            "run_id": run_id,
            "complete": evidence.complete,
            "entries": evidence.entries,
            "tree_size": evidence.tree_size,
            "digest": evidence.digest,
        }
        await self._readings.record(caller, "audit.exported", decision, facts)
        return evidence


def _log(caller: Caller) -> Resource:
    return Resource("AuditLog", caller.tenant, caller.tenant)
