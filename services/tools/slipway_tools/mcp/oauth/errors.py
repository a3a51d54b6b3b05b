"""What goes wrong with logins for MCP servers."""

from slipway_chassis.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted

from slipway_tools.mcp.connection import McpServer
from slipway_tools.mcp.peer import PeerFailed


class McpLoginFailed(FailedPrecondition):
    """The MCP server or its authorization server does not do what a safe login needs; begin anew when it does."""

    reason = "MCP_LOGIN_FAILED"


class McpLoginNotFound(NotFound):
    """The caller has no such login under way: it is over, was finished before, or somebody else began it."""

    reason = "MCP_LOGIN_NOT_FOUND"


class McpLoginNotNeeded(InvalidArgument):
    """The connection takes no login: it is a program, or has its own credentials."""

    reason = "MCP_LOGIN_NOT_NEEDED"


class TooManyLogins(ResourceExhausted):
    """The caller has too many logins under way."""

    reason = "MCP_LOGINS_EXHAUSTED"


class TokenRefused(Exception):
    """The authorization server answered a token request with an error; `code` is its own, e.g. `invalid_grant`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class NoAnswer(Exception):
    """The authorization server gave no answer that could be used; it may give one later."""


def login_required(server: McpServer, why: str) -> PeerFailed:
    """The failure of a call that needs a login. It names the command, for whoever reads the run."""
    return PeerFailed("LOGIN_REQUIRED", f"{why}: run `slipway mcp login {server.name}`, then try again.")
