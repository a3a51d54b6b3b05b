"""Declared functions and commands: programs of the sandbox that call them and leave the output in `result.json`."""

import json
from dataclasses import replace
from typing import Any, Protocol

from slipway_tools import schema
from slipway_tools.python_tool import FetchFile, PythonCall, PythonTool
from slipway_tools.result import ToolFailure, ToolResult
from slipway_tools.tool import PLACEHOLDER, Declaration, PythonFunction, ShellCommand

# Both read their call from standard input, which no file of the workspace can shadow.
_CALL_FUNCTION = """
import asyncio, inspect, json, sys

call = json.load(sys.stdin)
namespace = {"__name__": "tool", "__file__": "tool.py"}
with open("tool.py") as source:
    exec(compile(source.read(), "tool.py", "exec"), namespace)
function = namespace.get(call["function"])
if not callable(function):
    sys.exit("tool.py defines no function " + call["function"])
output = function(**call["arguments"])
if inspect.iscoroutine(output):
    output = asyncio.run(output)
with open("result.json", "w") as result:
    json.dump(output, result, allow_nan=False)
"""

_RUN_COMMAND = """
import json, subprocess, sys

call = json.load(sys.stdin)
command = call["command"]
if command[0] in ("python", "python3"):
    command = [sys.executable, *command[1:]]
try:
    done = subprocess.run(command, input=call["stdin"].encode(), stdout=subprocess.PIPE)
except OSError as error:
    sys.exit(f"{command[0]}: {error.strerror}")
if done.returncode:
    sys.stdout.buffer.write(done.stdout)
    sys.exit(done.returncode if done.returncode > 0 else 128 - done.returncode)
if call["json"]:
    output = done.stdout
else:
    output = json.dumps({"stdout": done.stdout.decode(errors="replace")}).encode()
with open("result.json", "wb") as result:
    result.write(output)
"""


class PythonProvider(Protocol):
    """Where the sandboxes come from; raises SandboxUnavailable while there are none."""

    def python(self) -> PythonTool: ...


class SandboxedTools:
    """Calls declared functions and commands."""

    def __init__(self, sandboxes: PythonProvider, fetch: FetchFile) -> None:
        self._sandboxes = sandboxes
        self._fetch = fetch

    async def call(self, declaration: Declaration, arguments: dict[str, Any]) -> ToolResult:
        """Perform one call; raises like `PythonTool.call`."""
        if declaration.python:
            program = _function(declaration.python, arguments)
        else:
            assert declaration.shell  # noqa: S101
            program = _command(declaration.shell, arguments)
        result = await self._sandboxes.python().call(replace(program, tool=declaration.name), self._fetch)
        return _held_to_schema(declaration, result)


def _held_to_schema(declaration: Declaration, result: ToolResult) -> ToolResult:
    if result.failure is not None or declaration.output_schema is None:
        return result
    wrong = schema.violations(declaration.output_schema, json.loads(result.output_json))
    if not wrong:
        return result
    message = f"The output does not fit the output schema: {wrong[0].field} {wrong[0].message}."
    return replace(result, output_json="", failure=ToolFailure("INVALID_RESULT", message))


def _function(python: PythonFunction, arguments: dict[str, Any]) -> PythonCall:
    call = {"function": python.function, "arguments": arguments}
    return PythonCall(_CALL_FUNCTION, json.dumps(call), python.timeout, {"tool.py": python.code}, {})


def _command(shell: ShellCommand, arguments: dict[str, Any]) -> PythonCall:
    command = [_filled(part, arguments) for part in shell.command]
    stdin = _text(arguments[shell.stdin_argument]) if shell.stdin_argument else ""
    call = {"command": command, "stdin": stdin, "json": shell.json_output}
    return PythonCall(_RUN_COMMAND, json.dumps(call), shell.timeout, {}, {})


def _filled(part: str, arguments: dict[str, Any]) -> str:
    """An element of the command; an argument is one whole element, so that it can't become two or an option's end."""
    match = PLACEHOLDER.fullmatch(part)
    return _text(arguments[match[1]]) if match else part


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
