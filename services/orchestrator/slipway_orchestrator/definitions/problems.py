"""What is wrong with a definition, collected so that its author sees all of it at once."""

from slipway_chassis.errors import FieldViolation

from slipway_orchestrator.errors import AgentInvalid

_SHOWN = 50


class Problems:
    """Violations with path and line."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: str, line: int, message: str) -> None:
        """Note that the value at `path` (`spec.steps[3].tool`) is wrong; line 0 is left out."""
        where = f"line {line}: " if line else ""
        violation = FieldViolation(path or "definition", where + message)
        if violation not in self._found:
            self._found.append(violation)

    def check(self) -> None:
        """Raise AgentInvalid when anything was noted."""
        if not self._found:
            return
        first = self._found[0]
        more = f" (and {len(self._found) - 1} more)" if len(self._found) > 1 else ""
        raise AgentInvalid(
            f"the definition is not valid: {first.field}: {first.message}{more}", violations=self._found[:_SHOWN]
        )
