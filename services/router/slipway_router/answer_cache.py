"""Answers kept for repetitions of exactly the same question, for tenants that the catalogue names under `cache`.

A question is all of the request but its ids, labels and ceilings, at one catalogue: whatever changes in the file
empties the cache. It never crosses tenants, and an answer is given only by a model that the caller may use right now,
by policy, residency and all demands. Answers lie in Redis encrypted under the key of whom they were given to first:
erasing that person erases them.

Without Redis there is no cache: calls are bought.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError
from slipway_chassis.caller import Caller
from slipway_chassis.crypto import SealBroken, SubjectErased, SubjectKeys
from slipway_chassis.errors import Unavailable
from slipway_chassis.logs import get_logger
from slipway_chassis.postgres import domain_errors

from slipway_router import metrics
from slipway_router.answers import ChatAnswer
from slipway_router.chat import ChatRequest
from slipway_router.eligibility import Candidate
from slipway_router.question import answer_key
from slipway_router.routing import Plan

_log = get_logger(__name__)
_MOST_BYTES = 1024 * 1024
_KEPT_REASONS = frozenset({"stop", "tool_calls"})
_FAILURES = (RedisError, OSError, TimeoutError, Unavailable)


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that was kept, and the candidate that gave it."""

    answer: ChatAnswer
    candidate: Candidate


class AnswerCache:
    """The cache of all tenants, shared by all replicas."""

    def __init__(
        self,
        redis: Redis,
        keys: SubjectKeys,
        database: asyncpg.Pool,
        seconds: Callable[[], Mapping[str, int]],
        *,
        prefix: str = "slipway:router:answer",
    ) -> None:
        """`seconds` are those that answers are kept, by tenant; `redis` should have short time-outs."""
        self._redis = redis
        self._keys = keys
        self._database = database
        self._seconds = seconds
        self._prefix = prefix

    async def find(self, caller: Caller, request: ChatRequest, plan: Plan) -> Kept | None:
        """The answer to the same question, if one of the plan's candidates gave it."""
        if caller.tenant not in self._seconds():
            return None
        try:
            raw = await self._redis.get(self._key(caller, request, plan))
            if not isinstance(raw, bytes):
                return self._missed()
            subject, _, sealed = raw.partition(b"\0")
            with domain_errors():
                text = await self._keys.decrypt(self._database, caller.tenant, subject.decode(), sealed)
        except (SubjectErased, SealBroken):
            return self._missed()
        except _FAILURES as error:
            _log.warning("cache.degraded", error=type(error).__name__)
            return None
        answer = ChatAnswer.decode(text)
        candidate = next((one for one in plan.candidates if one.model.name == answer.catalogue_model), None)
        if candidate is None:
            return self._missed()
        metrics.cache_lookups.labels("hit").inc()
        return Kept(answer, candidate)

    async def keep(self, caller: Caller, request: ChatRequest, plan: Plan, answer: ChatAnswer) -> None:
        """Keep a whole answer; one that was cut off, filtered, refused or is large is not kept."""
        seconds = self._seconds().get(caller.tenant)
        if seconds is None or answer.finish_reason not in _KEPT_REASONS or answer.refusal:
            return
        text = answer.encode()
        if len(text) > _MOST_BYTES:
            return
        try:
            with domain_errors():
                sealed = await self._keys.encrypt(self._database, caller.tenant, caller.subject, text)
            value = caller.subject.encode() + b"\0" + sealed
            await self._redis.set(self._key(caller, request, plan), value, ex=seconds)
        except _FAILURES as error:
            _log.warning("cache.degraded", error=type(error).__name__)

    def _missed(self) -> None:
        metrics.cache_lookups.labels("miss").inc()

    def _key(self, caller: Caller, request: ChatRequest, plan: Plan) -> str:
        return f"{self._prefix}:{answer_key(caller.tenant, plan.catalogue_digest, request)}"
