"""The client: one caller at one gateway."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from slipway_client.agents import Agents
from slipway_client.budgets import Budgets
from slipway_client.identity import ApiKeys
from slipway_client.knowledge import Knowledge
from slipway_client.model_catalogue import Models
from slipway_client.models import WhoAmI
from slipway_client.resources import Audit, Files, Usage
from slipway_client.runs import Approvals, Runs
from slipway_client.schedules import KillSwitch, Schedules
from slipway_client.sessions import Sessions
from slipway_client.sources import Sources
from slipway_client.tools import McpServers, Tools
from slipway_client.transport import Transport, read, route


class Client:
    """The Slipway API as one caller.

    `token` is an OIDC access token or a Slipway API key, or a function that answers with one (asked before every
    request). `timeout` is in seconds and holds for ordinary requests; uploads and waits have their own.
    """

    def __init__(self, base_url: str, token: str | Callable[[], str], *, timeout: float = 30) -> None:
        source = (lambda: token) if isinstance(token, str) else token
        self._transport = Transport(base_url, source, timeout)
        self.agents = Agents(self._transport)
        self.schedules = Schedules(self._transport)
        self.kill_switch = KillSwitch(self._transport)
        self.runs = Runs(self._transport)
        self.approvals = Approvals(self._transport)
        self.knowledge = Knowledge(self._transport)
        self.sources = Sources(self._transport)
        self.sessions = Sessions(self._transport)
        self.files = Files(self._transport)
        self.tools = Tools(self._transport)
        self.mcp_servers = McpServers(self._transport)
        self.models = Models(self._transport)
        self.usage = Usage(self._transport)
        self.budgets = Budgets(self._transport)
        self.audit = Audit(self._transport)
        self.api_keys = ApiKeys(self._transport)

    def whoami(self) -> WhoAmI:
        """Who the gateway takes this caller for."""
        return read(WhoAmI, self._transport.call("GET", route("whoami")))

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
