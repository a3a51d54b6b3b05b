"""One request to `/mcp`: who makes it, how a repeated call is known again, and how one that is cancelled is found."""

import hashlib
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
from mcp.server.context import ServerRequestContext

from slipway_gateway.http.calls import Calls
from slipway_gateway.http.gateway import Gateway
from slipway_gateway.http.mcp.arguments import InvalidToolArguments

SCOPE_KEY: Final = "slipway.mcp"
IDEMPOTENCY_KEY: Final = "dev.slipway/idempotency-key"
_IDEMPOTENCY_HEADER: Final = "idempotency-key"
_IDEMPOTENCY_FORM: Final = re.compile(r"[!-~]{1,255}")
Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Exchange:
    """What a handler works with. `session` correlates requests of a client of the older revisions; empty: none."""

    gateway: Gateway
    calls: Calls
    session: str

    def key(self, request_id: Any) -> Key:
        """Names a call so that only its own caller, in its own session, can cancel it."""
        principal = self.calls.principal
        # Ids are strings or numbers, and "1" is not 1.
        return (principal.tenant, principal.subject, self.session, repr(request_id))


def exchange_of(context: ServerRequestContext[Any, Any]) -> Exchange:
    """The exchange that a handler serves."""
    assert context.request is not None  # noqa: S101 - the HTTP transports set it
    return context.request.scope[SCOPE_KEY]


def request_id_of(context: ServerRequestContext[Any, Any]) -> str:
    """The idempotency key of a call; empty: it has none.

    The client's own, from `_meta` or the header that the HTTP API takes. Else, in a session, its request id: a client
    must not use one twice there, so that the same one again is the same call again.

    Raises:
        InvalidToolArguments: the client's key is none.
    """
    assert context.request is not None  # noqa: S101 - the HTTP transports set it
    own = (context.meta or {}).get(IDEMPOTENCY_KEY, context.request.headers.get(_IDEMPOTENCY_HEADER))
    if own is not None:
        if not isinstance(own, str) or not _IDEMPOTENCY_FORM.fullmatch(own):
            raise InvalidToolArguments("the idempotency key must be 1 to 255 characters of printable ASCII")
        return own
    session = exchange_of(context).session
    if not session:
        return ""
    return "mcp-" + hashlib.sha256(repr((session, context.request_id)).encode()).hexdigest()


class Flight:
    """Calls under way in this process.

    Clients of revision 2026-07-28 cancel by closing the response; older ones send a notification of its own, which is
    honoured when it reaches the process that serves the call.
    """

    def __init__(self) -> None:
        self._scopes: dict[Key, anyio.CancelScope] = {}

    @contextmanager
    def entered(self, key: Key) -> Generator[None]:
        """The block can be cancelled under its key, and is left then; a key that is taken names the newer call."""
        with anyio.CancelScope() as scope:
            self._scopes[key] = scope
            try:
                yield
            finally:
                if self._scopes.get(key) is scope:
                    del self._scopes[key]

    def cancel(self, key: Key) -> None:
        """Cancel a call; one that has ended, or is somebody else's, is none."""
        if (scope := self._scopes.get(key)) is not None:
            scope.cancel()
