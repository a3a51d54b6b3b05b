"""What is asked of an MCP server, whichever transport it speaks, and how that fails."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from slipway_chassis.caller import Caller

from slipway_tools.mcp.connection import McpServer
from slipway_tools.mcp.definition import Definition

RESULT_LIMIT = 1 << 20  # bytes of one result
EXCHANGE_LIMIT = 4 << 20  # bytes of everything that a server answers in one exchange, lists of tools included


@dataclass(frozen=True)
class Offer:
    """What a server offers. Names that stand in it twice are in `doubled`: which of them is meant is not known."""

    protocol_version: str
    tools: dict[str, Definition]
    doubled: frozenset[str] = frozenset()


@dataclass(frozen=True)
class PinnedCall:
    """A call of a tool that must still be what was pinned; `pinned` is the definition's content."""

    tool: str
    digest: str
    pinned: dict[str, Any]
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What a server answered to a call: its result as JSON, as MCP has it."""

    protocol_version: str
    result: dict[str, Any]
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])


class PeerFailed(Exception):
    """The exchange failed. `in_doubt`: a call was sent, and whether the server acted on it is not known."""

    def __init__(self, code: str, message: str, *, in_doubt: bool = False, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.in_doubt = in_doubt
        self.retryable = retryable


class Drifted(Exception):
    """The tool is not what was pinned: nothing was called. `offered` None: it is not offered any more."""

    def __init__(self, protocol_version: str, offered: Definition | None) -> None:
        super().__init__("the tool is not what was approved")
        self.protocol_version = protocol_version
        self.offered = offered


class Peer(Protocol):
    """Talks to servers of one kind. Every exchange is bounded by the connection's timeout."""

    async def offer(self, caller: Caller, server: McpServer) -> Offer:
        """The tools that the server offers now; raises PeerFailed."""
        ...

    async def call(self, caller: Caller, server: McpServer, call: PinnedCall) -> Reply:
        """Look whether the tool is what was pinned, and call it in the same exchange.

        Raises:
            Drifted: it is not, and it was not called.
            PeerFailed: the server did not answer as it should.
        """
        ...


def find_pinned(offer: Offer, call: PinnedCall) -> None:
    """Raises Drifted unless the server offers the tool exactly as it was pinned, and once."""
    offered = offer.tools.get(call.tool)
    if offered is None or call.tool in offer.doubled or not offered.matches(call.digest):
        raise Drifted(offer.protocol_version, offered)
