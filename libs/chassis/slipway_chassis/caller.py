"""Who is calling: taken from the verified internal token, for the time of one call."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from slipway_chassis.errors import Unauthenticated


@dataclass(frozen=True, slots=True)
class Caller:
    """The verified caller of the current call.

    ``act`` names the agent version that acts for the subject (``refund-desk@3``), ``run_id`` the run it acts in.
    A service principal has ``kind`` "service", subject ``service:<name>`` and perhaps no tenant. ``owner`` is who made
    the API key that the caller uses; empty for anybody else.
    """

    subject: str
    tenant: str
    kind: Literal["user", "service"]
    roles: frozenset[str]
    groups: frozenset[str]
    act: str | None
    run_id: str | None
    token_id: str
    expires_at: datetime
    name: str = ""
    owner: str = ""

    @property
    def person(self) -> str:
        """Who answers for what the caller does: an API key's owner, else the subject. Four eyes are two persons."""
        return self.owner or self.subject


@dataclass(frozen=True, slots=True)
class _Call:
    caller: Caller
    token: str


_current: ContextVar[_Call | None] = ContextVar("slipway_call", default=None)


def current_caller() -> Caller:
    """The caller of the current call; Unauthenticated outside a call."""
    call = _current.get()
    if call is None:
        raise Unauthenticated("no authenticated caller")
    return call.caller


def current_caller_or_none() -> Caller | None:
    """The caller of the current call, or None outside one (logging)."""
    call = _current.get()
    return call.caller if call else None


def current_token() -> str:
    """The bearer token of the current call, to be handed on with calls made for the same caller."""
    call = _current.get()
    if call is None:
        raise Unauthenticated("no authenticated caller")
    return call.token


def bind_caller(caller: Caller, token: str) -> None:
    """Set the caller for the rest of the current task (server interceptor)."""
    _current.set(_Call(caller, token))


@contextmanager
def acting_as(caller: Caller, token: str) -> Generator[None]:
    """Act for ``caller`` within the block: workers and consumers that hold a token outside of a call."""
    reset = _current.set(_Call(caller, token))
    try:
        yield
    finally:
        _current.reset(reset)
