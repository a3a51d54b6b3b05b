"""The builtin tools that run programs: `python`, `shell` and `node`, with files in, and `result.json` and files out."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from slipway_chassis.caller import current_caller
from slipway_chassis.errors import FieldViolation
from slipway_chassis.ids import is_id

from slipway_tools import left_files, outcome_result
from slipway_tools.egress.link import Egress
from slipway_tools.errors import InvalidToolArguments
from slipway_tools.left_files import FileStore
from slipway_tools.result import SandboxFacts, SessionView, StoredFile, ToolResult, Usage
from slipway_tools.sandbox.limits import Limits
from slipway_tools.sandbox.metrics import LIMITS_REACHED
from slipway_tools.sandbox.pool import SandboxPool, SessionState
from slipway_tools.sandbox.program import Outcome, Program, Runtime
from slipway_tools.sandbox.sessions import SessionKey
from slipway_tools.tainted_sessions import TaintedSessions
from slipway_tools.tool import Declaration

DEFAULT_SECONDS = 30.0
_RESERVED = frozenset({"main.py", "main.sh", "main.js", "result.json", ".stdin"})
_SEGMENT = re.compile(r"[^/\x00-\x1f\x7f]{1,100}")
_LOOKS_LIKE_ID = re.compile(r"file_[0-9A-Za-z]+")

_WHAT: dict[Runtime, str] = {
    "python": "Runs a Python program in a sandbox: {libraries}",
    "shell": "Runs a bash script in a sandbox, with coreutils, grep, sed, awk, find and tar",
    "node": "Runs a JavaScript program with Node.js in a sandbox: its own modules",
}
_DESCRIPTION = """{what}; no network unless the platform allows it.
The program finds `files` in its working directory and leaves its output as JSON in `result.json` there; what it prints
is returned apart. Files that `outputs` names, and pictures (PNG, SVG), are stored and returned by id. Without `session`
nothing remains after the call; with one, the next call of the run that names it finds the same working directory."""


def declarations(limits: Limits, runtimes: Mapping[Runtime, str]) -> dict[str, Declaration]:
    """The declarations of the builtin tools by name; `runtimes` by name with what libraries they have, for people."""
    return {name: _declaration(name, libraries, limits) for name, libraries in runtimes.items()}


def _declaration(runtime: Runtime, libraries: str, limits: Limits) -> Declaration:
    properties: dict[str, Any] = {
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
        "outputs": {
            "type": "array",
            "maxItems": 32,
            "items": {"type": "string", "minLength": 1, "maxLength": 200},
            "description": "Files to return: names, or patterns with * and ?; each must match a file that it leaves",
        },
        "session": {
            "type": "string",
            "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$",
            "description": "Keeps the working directory for the next call of this run that gives the same name",
        },
    }
    if runtime == "python":
        properties["keep_state"] = {
            "type": "boolean",
            "description": "With `session`: variables and imports stay too, as in a notebook",
        }
    return Declaration(
        name=runtime,
        kind="builtin",
        description=_DESCRIPTION.format(what=_WHAT[runtime].format(libraries=libraries)),
        input_schema={
            "type": "object",
            "required": ["code"],
            "additionalProperties": False,
            "properties": properties,
        },
        output_schema=None,
        idempotent=True,
    )


@dataclass(frozen=True)
class PythonCall:
    """A call's arguments, with files that are in the arguments and ids of those to fetch apart.

    `session` empty: a workspace of its own. `tool` is the name that egress rules go by.
    """

    code: str
    stdin: str
    seconds: float
    inline: dict[str, str]
    fetched: dict[str, str]
    runtime: Runtime = "python"
    outputs: tuple[str, ...] = ()
    session: str = ""
    keep: bool = False
    tool: str = "python"


# Fetches a file by id, at most so many bytes, with the caller's own access.
FetchFile = Callable[[str, int], Awaitable[bytes]]


def read_arguments(tool: str, arguments: dict[str, Any], limits: Limits) -> PythonCall:
    """Read validated arguments of a builtin tool; raises InvalidToolArguments for file names and ids that can't be."""
    files: dict[str, str] = arguments.get("files", {})
    faults = file_faults(files)
    if faults:
        raise InvalidToolArguments("the files can't be put into the sandbox", violations=faults)
    session, keep = arguments.get("session", ""), bool(arguments.get("keep_state", False))
    if keep and not session:
        raise InvalidToolArguments("keep_state needs a session", field="/keep_state")
    inline, fetched = split_files(files)
    return PythonCall(
        code=arguments["code"],
        stdin=arguments.get("stdin", ""),
        seconds=float(arguments.get("timeout_seconds", min(DEFAULT_SECONDS, limits.max_seconds))),
        inline=inline,
        fetched=fetched,
        runtime=cast("Runtime", tool),
        outputs=tuple(arguments.get("outputs", ())),
        session=session,
        keep=keep,
        tool=tool,
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
    """Runs programs: calls of the builtin tools, and of what is built on them."""

    def __init__(
        self, pool: SandboxPool, limits: Limits, store: FileStore, egress: Egress, tainted: TaintedSessions
    ) -> None:
        self._pool = pool
        self._limits = limits
        self._store = store
        self._egress = egress
        self._tainted = tainted

    async def call(self, call: PythonCall, fetch: FetchFile, *, run_id: str = "", tainted: bool = False) -> ToolResult:
        """Fetch the files, run the program, read its result, store what it left. `run_id`: whose session it is.

        `tainted`: its arguments derive from what came from outside.

        Raises:
            SandboxUnavailable, QueueFull, TenantLimit, InvalidToolArguments: nothing was run; so do the errors of
                `fetch`.
        """
        caller = current_caller()
        contents = {name: text.encode() for name, text in call.inline.items()}
        run_id = run_id or caller.run_id or ""
        key = SessionKey(caller.tenant, caller.subject, run_id, call.session) if call.session else None
        dealings = self._egress.call(caller, call.tool, run_id)
        network = self._egress.network(dealings) if dealings else None
        async with self._pool.reserve(caller.tenant, session=key, network=network) as run:
            room = self._limits.workspace - sum(map(len, contents.values()))
            for name, file_id in call.fetched.items():
                contents[name] = await fetch(file_id, max(room, 0))
                room -= len(contents[name])
            if key is not None and (tainted or key in self._tainted):
                self._tainted.add(key)
            outcome, state = await run(_program(call, contents))
            if key is not None and state is not None and state.created and not tainted:
                self._tainted.discard(key)  # it was the mark of an earlier session of that name
        view = _session(call, outcome, state, tainted=key in self._tainted)
        return await self._result(call, contents, outcome, view, dealings.requests if dealings else 0)

    async def _result(
        self,
        call: PythonCall,
        contents: Mapping[str, bytes],
        outcome: Outcome,
        session: SessionView | None,
        requests: int,
    ) -> ToolResult:
        limits = self._limits
        failure, output = outcome_result.read(outcome, limits, call.seconds)
        failure = failure or left_files.missing(call.outputs, outcome.files)
        printed = {"stdout.txt": outcome.stdout, "stderr.txt": outcome.stderr}
        long = [cut for name, raw in printed.items() if (cut := left_files.cut(name, raw, limits.stream))]
        stored, not_stored = await left_files.keep(self._store, [*outcome.files, *long], call.outputs)
        stdout, stderr = (left_files.shown(name, raw, limits.stream, stored) for name, raw in printed.items())
        failure = failure or not_stored
        if failure is not None and failure.limit:
            LIMITS_REACHED.labels(failure.limit).inc()
        usage = Usage(round(outcome.cpu_seconds * 1000), outcome.peak_memory, requests)
        return ToolResult(
            output_json="" if failure else output,
            failure=failure,
            stdout=stdout,
            stderr=stderr,
            exit_status=outcome.exit_status,
            sandbox=self._pool.description,
            evidence=_evidence(call, contents, stored, usage),
            facts=SandboxFacts(stored, usage, session),
        )


def _program(call: PythonCall, contents: Mapping[str, bytes]) -> Program:
    return Program(
        code=call.code.encode(),
        runtime=call.runtime,
        stdin=call.stdin.encode(),
        files=contents,
        seconds=call.seconds,
        outputs=call.outputs,
        keep=call.keep,
    )


def _session(call: PythonCall, outcome: Outcome, state: SessionState | None, *, tainted: bool) -> SessionView | None:
    if state is None:
        return None
    own = [(name, size) for name, size in outcome.listing if name not in _RESERVED]
    expires = state.expire_time.isoformat().replace("+00:00", "Z")
    return SessionView(call.session, state.created, expires, own, max(outcome.free_bytes, 0), tainted)


def _evidence(
    call: PythonCall, contents: Mapping[str, bytes], stored: list[StoredFile], usage: Usage
) -> dict[str, Any]:
    files = {
        name: {
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "file_id": call.fetched.get(name, ""),
        }
        for name, content in contents.items()
    }
    evidence: dict[str, Any] = {"files": files, "usage": {"cpu_ms": usage.cpu_ms, "peak_memory": usage.peak_memory}}
    if stored:
        evidence["files_left"] = {
            file.name: {"size": file.size, "sha256": file.sha256, "file_id": file.file_id} for file in stored
        }
    if call.session:
        evidence["session"] = call.session
    if usage.egress_requests:
        evidence["egress_requests"] = usage.egress_requests
    return evidence


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
