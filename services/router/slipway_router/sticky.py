"""Sessions stay with the model that answered them: its prompt cache knows the conversation.

A session is pinned to the model that answered it, and pinned anew when that one fails or no longer fits. Where the
route keeps its order, a pin is needed only for another model than the first. A pin changes the order of candidates,
never which are eligible. Without Redis there are no pins: calls go by the route's order.
"""

import hashlib
from dataclasses import replace

from redis.asyncio import Redis
from redis.exceptions import RedisError
from slipway_chassis.caller import Caller
from slipway_chassis.logs import get_logger

from slipway_router.routing import Plan

_log = get_logger(__name__)
_PIN_SECONDS = 3600
"""Since the session's last request: providers keep prompt caches for five minutes to an hour."""
_FAILURES = (RedisError, OSError, TimeoutError)


class StickySessions:
    """Pins of sessions, shared by all replicas."""

    def __init__(self, redis: Redis, *, prefix: str = "slipway:router") -> None:
        """`redis` should have short time-outs."""
        self._redis = redis
        self._prefix = prefix

    async def ordered(self, plan: Plan, caller: Caller, session_id: str) -> Plan:
        """`plan` with the session's model first, if it is pinned to one of the candidates."""
        if not session_id or len(plan.candidates) < 2:
            return plan
        try:
            pinned = await self._redis.getex(self._key(plan, caller, session_id), ex=_PIN_SECONDS)
        except _FAILURES as error:
            _log.warning("sticky.degraded", error=type(error).__name__)
            return plan
        name = pinned.decode() if isinstance(pinned, bytes) else pinned
        if all(candidate.model.name != name for candidate in plan.candidates):
            return plan
        # A stable sort: the others keep their order.
        order = sorted(plan.candidates, key=lambda candidate: candidate.model.name != name)
        return replace(plan, candidates=tuple(order), session_model=name or "")

    async def answered(self, plan: Plan, caller: Caller, session_id: str, model: str) -> None:
        """Pin the session to `model`, which answered, unless it is there or would be the first one anyway."""
        if not session_id or len(plan.candidates) < 2 or plan.session_model == model:
            return
        if plan.keeps_order and not plan.session_model and plan.candidates[0].model.name == model:
            return
        try:
            await self._redis.set(self._key(plan, caller, session_id), model, ex=_PIN_SECONDS)
        except _FAILURES as error:
            _log.warning("sticky.degraded", error=type(error).__name__)

    def _key(self, plan: Plan, caller: Caller, session_id: str) -> str:
        # Hashed: session ids are the callers' own words. Of each subject: nobody moves another one's session.
        parts = (caller.tenant, caller.subject, plan.scope, session_id)
        name = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        return f"{self._prefix}:session:{name}"
