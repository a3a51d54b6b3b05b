"""Tool calls, held back until they are whole: half of one is no use to anybody, and a broken one does harm."""

from typing import Any

from slipway_router.chat import ToolCall
from slipway_router.errors import MalformedToolCall
from slipway_router.output_checks import OutputChecks
from slipway_router.wire.text import whole_characters

MAX_ARGUMENT_CHARACTERS = 1024 * 1024
MAX_CALLS = 128


class ToolCallAssembler:
    """Puts the fragments of a stream's tool calls together."""

    def __init__(self, checks: OutputChecks, *, repair: bool = False) -> None:
        """`checks` are what the request declared; `repair` says whether broken JSON is mended first."""
        self._checks = checks
        self._repair = repair
        self._repaired = False
        self._calls: dict[int, dict[str, str]] = {}

    def add(self, fragments: Any) -> None:
        """Take the `tool_calls` of one delta, or of a whole message; raises MalformedToolCall."""
        if not isinstance(fragments, list):
            raise MalformedToolCall("tool_calls is not an array")
        for position, fragment in enumerate(fragments):
            if not isinstance(fragment, dict):
                raise MalformedToolCall("a tool call is not an object")
            index = fragment.get("index", position)
            if not isinstance(index, int) or not 0 <= index < MAX_CALLS:
                raise MalformedToolCall(f"a tool call has the index {index!r}")
            call = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
            function = fragment.get("function") or {}
            if not isinstance(function, dict):
                raise MalformedToolCall("the function of a tool call is not an object")
            # Id and name come once; some providers repeat them with every fragment.
            call["id"] = call["id"] or str(fragment.get("id") or "")
            call["name"] = call["name"] or str(function.get("name") or "")
            call["arguments"] += str(function.get("arguments") or "")
            if len(call["arguments"]) > MAX_ARGUMENT_CHARACTERS:
                raise MalformedToolCall(f"arguments of more than {MAX_ARGUMENT_CHARACTERS} characters")

    def finish(self, finish_reason: str) -> tuple[ToolCall, ...]:
        """The calls, in order; raises MalformedToolCall if one cannot be carried out, or if they are not what was
        asked for."""
        self._checks.tool_calls([call["name"] for _, call in sorted(self._calls.items())], finish_reason)
        return tuple(self._checked(index, call) for index, call in sorted(self._calls.items()))

    @property
    def repaired(self) -> bool:
        """True when arguments were mended."""
        return self._repaired

    def _checked(self, index: int, call: dict[str, str]) -> ToolCall:
        given = whole_characters(call["arguments"])
        arguments = self._checks.arguments(call["name"], given, repair=self._repair)
        self._repaired = self._repaired or arguments != (given.strip() or "{}")
        first = next(at for at, other in sorted(self._calls.items()) if other["id"] == call["id"])
        # Some providers send no id, or the same one twice.
        own_id = call["id"] if call["id"] and first == index else f"{call['id'] or 'call'}_{index}"
        return ToolCall(own_id, call["name"], arguments)
