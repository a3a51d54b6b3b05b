"""What a sandboxed tool may reach outside, as far as policy, taint and repetition need to know."""

from slipway_tools.egress.rules import EgressRules
from slipway_tools.tool import Reach

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Reaches:
    """Looks into the rules for egress in force."""

    def __init__(self, rules: EgressRules) -> None:
        self._rules = rules

    def of(self, tenant: str, tool: str) -> Reach:
        """Whether a program that `tenant` runs as `tool` reaches nothing, only reads (RFC 9110, 9.2.1), or writes."""
        rules = self._rules.of(tenant, tool)
        if rules is None:
            return "nothing"
        return "reads" if all(_SAFE_METHODS.issuperset(rule.methods) for rule in rules.allow) else "writes"


def mcp_program(server: str) -> str:
    """The name by which rules for egress call an MCP server that is a program: no tool can have it."""
    return f"mcp:{server}"
