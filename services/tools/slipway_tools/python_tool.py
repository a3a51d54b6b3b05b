"""The builtin tool `python`: a program in the sandbox, with files in and `result.json` out."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from slipway_chassis.errors import FieldViolation
from slipway_chassis.ids import is_id

from slipway_tools import jsontext
from slipway_tools.errors import InvalidToolArguments
from slipway_tools.result import ToolFailure, ToolResult
from slipway_tools.sandbox.launch import Outcome, Program
from slipway_tools.sandbox.limits import Limits
from slipway_tools.sandbox.pool import SandboxPool
from slipway_tools.tool import Declaration

DEFAULT_SECONDS = 30.0
_RESERVED = frozenset({"main.py", "result.json", ".stdin"})
_SEGMENT = re.compile(r"[^/\x00-\x1f\x7f]{1,100}")
_LOOKS_LIKE_ID = re.compile(r"file_[0-9A-Za-z]+")

_DESCRIPTION = """Runs a Python program in a sandbox: the standard library, no network, files of this call only.
The program finds `files` in its working directory and leaves its output as JSON in `result.json` there; what it prints
is returned apart. Nothing remains after the call."""


def declaration(limits: Limits) -> Declaration:
    """The declaration of `python` under `limits`."""
    return Declaration(
        name="python",
        kind="builtin",
        description=_DESCRIPTION,
        input_schema={
            "type": "object",
            "required": ["code"],
            "additionalProperties": False,
            "properties": {
                "code": {"type": "string", "minLength": 1, "description": "The program's source"},
                "files": {
                    "type": "object",
                    "maxProperties": 64,
                    "additionalProperties": {"type": "string"},
                    "description": "Files by name: the id of an uploaded file (file_…), or the content itself as text",
                },
                "stdin": {"type": "string", "description": "Standard input"},
                "timeout_seconds": {
                    "type": "number",
                    "minimum": 0.1,
                    "maximum": limits.max_seconds,
                    "description": f"Most time it may take, {DEFAULT_SECONDS:g} s unless given",
                },
            },
        },
        output_schema=None,
        idempotent=True,
    )


@dataclass(frozen=True)
class PythonCall:
    """A call's arguments, with files that are in the arguments and ids of those to fetch apart."""

    code: str
    stdin: str
    seconds: float
    inline: dict[str, str]
    fetched: dict[str, str]


# Fetches a file by id, at most so many bytes, with the caller's own access.
FetchFile = Callable[[str, int], Awaitable[bytes]]


def read_arguments(arguments: dict[str, Any], limits: Limits) -> PythonCall:
    """Read validated arguments; raises InvalidToolArguments for file names and ids that can't be."""
    files: dict[str, str] = arguments.get("files", {})
    faults = file_faults(files)
    if faults:
        raise InvalidToolArguments("the files can't be put into the sandbox", violations=faults)
    inline, fetched = split_files(files)
    return PythonCall(
        code=arguments["code"],
        stdin=arguments.get("stdin", ""),
        seconds=float(arguments.get("timeout_seconds", min(DEFAULT_SECONDS, limits.max_seconds))),
        inline=inline,
        fetched=fetched,
    )


def file_faults(files: Mapping[str, str]) -> list[FieldViolation]:
    """What is wrong with files by name, each an id or the content itself."""
    faults = [FieldViolation(_path(name), fault) for name in files if (fault := _name_fault(name))]
    faults += [
        FieldViolation(_path(name), "is a file, and another file would lie in it")
        for name in files
        if any(other.startswith(f"{name}/") for other in files)
    ]
    return faults + [
        FieldViolation(_path(name), "is no file id")
        for name, value in files.items()
        if _LOOKS_LIKE_ID.fullmatch(value) and not is_id("file", value)
    ]


def split_files(files: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Files whose content is given, and those to fetch by id."""
    fetched = {name: value for name, value in files.items() if _LOOKS_LIKE_ID.fullmatch(value)}
    return {name: value for name, value in files.items() if name not in fetched}, fetched


class PythonTool:
    """Runs calls of `python`."""

    def __init__(self, pool: SandboxPool, limits: Limits) -> None:
        self._pool = pool
        self._limits = limits

    async def call(self, call: PythonCall, fetch: FetchFile) -> ToolResult:
        """Fetch the files, run the program, read its result.

        Raises:
            SandboxUnavailable, QueueFull, InvalidToolArguments: nothing was run; so do the errors of `fetch`.
        """
        contents = {name: text.encode() for name, text in call.inline.items()}
        async with self._pool.reserve() as run:
            room = self._limits.workspace - sum(map(len, contents.values()))
            for name, file_id in call.fetched.items():
                contents[name] = await fetch(file_id, max(room, 0))
                room -= len(contents[name])
            outcome = await run(Program(call.code.encode(), call.stdin.encode(), contents, call.seconds))
        evidence = {
            name: {
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "file_id": call.fetched.get(name, ""),
            }
            for name, content in contents.items()
        }
        failure, output = _read(outcome, self._limits, call.seconds)
        return ToolResult(
            output_json=output,
            failure=failure,
            stdout=_text(outcome.stdout),
            stderr=_text(outcome.stderr),
            exit_status=outcome.exit_status,
            sandbox=self._pool.description,
            evidence={"files": evidence},
        )


def _read(outcome: Outcome, limits: Limits, seconds: float) -> tuple[ToolFailure | None, str]:
    failure = _ending(outcome, limits, seconds) or _result_fault(outcome, limits)
    if failure is not None:
        return failure, ""
    if outcome.result_kind == "none":
        return None, "null"
    try:
        value = jsontext.parse(outcome.result.decode(), field="result.json", limit=limits.result)
        return None, jsontext.compact(value)
    except UnicodeDecodeError:
        return ToolFailure("INVALID_RESULT", "result.json is not UTF-8."), ""
    except jsontext.InvalidJson as error:
        return ToolFailure("INVALID_RESULT", f"result.json {error}."), ""


def _ending(outcome: Outcome, limits: Limits, seconds: float) -> ToolFailure | None:
    if outcome.ended == "timeout":
        return ToolFailure("TIMEOUT", f"The program did not end within {seconds:g} s and was killed.", retryable=True)
    if outcome.ended == "flood":
        return ToolFailure("OUTPUT_TOO_LARGE", f"The program printed more than {limits.flood} bytes and was killed.")
    if outcome.ended == "setup":
        return ToolFailure(
            "WORKSPACE_FULL", f"The files do not fit into {limits.workspace} bytes and {limits.inodes} names."
        )
    if outcome.out_of_memory and (outcome.ended == "lost" or outcome.exit_status != 0):
        return ToolFailure("OUT_OF_MEMORY", f"The program used more than {limits.memory} bytes of memory.")
    if outcome.ended == "lost":
        return ToolFailure("KILLED", "The sandbox was killed from outside.", retryable=True)
    if outcome.exit_status in (128 + 24, 128 + 9) and outcome.seconds >= seconds:
        return ToolFailure("TIMEOUT", f"The program used its {seconds:g} s of processor time.", retryable=True)
    if outcome.exit_status != 0:
        last = _text(outcome.stderr).strip().rpartition("\n")[2][:300]
        return ToolFailure(
            "EXIT_STATUS", f"The program ended with exit status {outcome.exit_status}: {last}".rstrip(": ") + "."
        )
    return None


def _result_fault(outcome: Outcome, limits: Limits) -> ToolFailure | None:
    if outcome.result_kind == "large":
        return ToolFailure("OUTPUT_TOO_LARGE", f"result.json is longer than {limits.result} bytes.")
    if outcome.result_kind == "unsafe":
        return ToolFailure("INVALID_RESULT", "result.json is not a regular file.")
    return None


def _name_fault(name: str) -> str | None:
    segments = name.split("/")
    if len(segments) > 8 or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        return "must be a relative path of at most 8 names of 1 to 100 characters, without control characters"
    if any(segment in (".", "..") for segment in segments):
        return "must not go out of the workspace"
    if any(len(segment.encode("utf-8", "surrogatepass")) > 255 for segment in segments):
        return "must have names of at most 255 bytes"
    return "is reserved" if segments[0] in _RESERVED else None


def _path(name: str) -> str:
    return "/files/" + name.replace("~", "~0").replace("/", "~1")


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
