"""What runs of one tree tell one another: begun, ended, to be cancelled. All of it in the teller's transaction.

Locks: a child's row, then its parent's. Who holds a parent only leaves something in a child's inbox, and makes the
child due in a transaction of its own afterwards.
"""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import JsonValue
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.ids import new_id

from slipway_orchestrator.core.actions import Tree
from slipway_orchestrator.core.definition import Limits
from slipway_orchestrator.core.state import Totals
from slipway_orchestrator.runs import RunIdentity
from slipway_orchestrator.store.journal import Journal
from slipway_orchestrator.store.runs import NewChild, RunStore, identity_of

_CHILDREN = "SELECT * FROM run WHERE parent_run_id = $1 AND end_time IS NULL ORDER BY run_id"
_LIMIT = """
INSERT INTO run_tree (root_run_id, steps, tokens, cost_usd) VALUES ($1, $2, $3, $4)
ON CONFLICT (root_run_id) DO UPDATE SET steps = $2, tokens = $3, cost_usd = $4
"""
_USED = """
SELECT tree.steps AS most_steps, tree.tokens AS most_tokens, tree.cost_usd AS most_cost, used.*
FROM run_tree tree, LATERAL (
    SELECT coalesce(sum(steps), 0)::bigint AS steps, coalesce(sum(input_tokens), 0)::bigint AS input_tokens,
        coalesce(sum(output_tokens), 0)::bigint AS output_tokens, coalesce(sum(cost_usd), 0) AS cost_usd
    FROM (SELECT * FROM run WHERE depth > 0 AND root_run_id = $1 UNION ALL SELECT * FROM run WHERE run_id = $1) AS r
    WHERE run_id <> $2) AS used
WHERE tree.root_run_id = $1
"""
_MAKE_DUE = """
UPDATE run SET state = 'QUEUED', wake_at = now() WHERE run_id IN (
    SELECT run_id FROM run WHERE run_id = ANY($1) AND state NOT IN ('RUNNING', 'QUEUED') AND end_time IS NULL
    ORDER BY run_id FOR NO KEY UPDATE)
"""


class RunTree:
    """Parents and children in the database."""

    def __init__(self, keys: SubjectKeys, journal: Journal, runs: RunStore) -> None:
        self._keys = keys
        self._journal = journal
        self._runs = runs

    async def begin(self, conn: Any, parent: RunIdentity, children: Sequence[NewChild]) -> None:
        """Insert child runs."""
        for child in children:
            await self._runs.insert_child(conn, parent, child)

    async def limit(self, conn: Any, root: RunIdentity, limits: Limits) -> list[str]:
        """Bind all runs of a tree: those that are paused, perhaps by what bound them before. `wake` them afterwards."""
        await conn.execute(_LIMIT, root.run_id, limits.steps, limits.tokens, limits.cost_usd)
        rows = await conn.fetch(
            "SELECT run_id FROM run WHERE depth > 0 AND root_run_id = $1 AND state = 'PAUSED'", root.run_id
        )
        return [row["run_id"] for row in rows]

    async def used_by_others(self, conn: Any, run_id: str, root_run_id: str) -> Tree | None:
        """What the other runs of a tree have used, and what all of them may; None while nothing binds them."""
        row = await conn.fetchrow(_USED, root_run_id, run_id)
        if row is None:
            return None
        totals = Totals(row["steps"], row["input_tokens"], row["output_tokens"], row["cost_usd"])
        return Tree(totals, row["most_steps"], row["most_tokens"], row["most_cost"])

    async def cancel(self, conn: Any, run_ids: Sequence[str]) -> list[str]:
        """Ask runs to stop, without locking them: those that have not ended. `wake` them afterwards."""
        if not run_ids:
            return []
        rows = await conn.fetch("SELECT * FROM run WHERE run_id = ANY($1) AND end_time IS NULL", list(run_ids))
        for row in rows:
            await self._ask_to_stop(conn, identity_of(row), "what it was begun for was given up")
        return [row["run_id"] for row in rows]

    async def ended(self, conn: Any, run: RunIdentity, *, tainted: bool) -> list[str]:
        """A run has ended: its parent hears of it, its children are asked to stop. `wake` those afterwards.

        `tainted`: its output derives from what came from outside.
        """
        row = await conn.fetchrow(
            "SELECT parent_run_id, parent_step, state, output, error, steps, input_tokens, output_tokens, cost_usd"
            " FROM run WHERE run_id = $1",
            run.run_id,
        )
        if row["parent_run_id"] is not None:
            await self._tell_parent(conn, run, row, tainted=tainted)
        else:
            await conn.execute("DELETE FROM run_tree WHERE root_run_id = $1", run.run_id)
        children = await conn.fetch(_CHILDREN, run.run_id)
        for child in children:
            await self._ask_to_stop(conn, identity_of(child), f"run {run.run_id} has ended")
        return [child["run_id"] for child in children]

    async def wake(self, conn: Any, run_ids: Sequence[str]) -> None:
        """Make parked runs due that were told something."""
        await conn.execute(_MAKE_DUE, list(run_ids))

    async def _tell_parent(self, conn: Any, run: RunIdentity, row: Any, *, tainted: bool) -> None:
        parent = await conn.fetchrow(
            "SELECT * FROM run WHERE run_id = $1 AND end_time IS NULL FOR NO KEY UPDATE", row["parent_run_id"]
        )
        if parent is None:
            return
        output: JsonValue = None
        if row["output"] is not None:
            output = json.loads(await self._keys.decrypt(conn, run.tenant, run.subject, row["output"]))
        body: dict[str, JsonValue] = {
            "step_id": row["parent_step"],
            "child_run_id": run.run_id,
            "state": row["state"],
            "output": output,
            "tainted": tainted,
            "error": json.loads(row["error"]) if row["error"] else None,
            "usage": {
                "steps": row["steps"],
                "input_tokens": row["input_tokens"],
                "output_tokens": row["output_tokens"],
                "cost_usd": str(row["cost_usd"]),
            },
        }
        identity = identity_of(parent)
        await self._runs.put_in_inbox(conn, identity, "child", body)
        await self._runs.wake(conn, identity, new_id("wake"))

    async def _ask_to_stop(self, conn: Any, run: RunIdentity, reason: str) -> None:
        body: dict[str, JsonValue] = {"by": "orchestrator", "reason": reason}
        sealed = await self._journal.seal(conn, run, body)
        await conn.execute("INSERT INTO run_inbox (run_id, kind, body) VALUES ($1, 'cancel', $2)", run.run_id, sealed)
        await self._runs.wake(conn, run, new_id("wake"))
