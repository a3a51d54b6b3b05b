"""Calling a tool: what is checked before, how often it happens, and what is recorded of it."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slipway_chassis import jcs, telemetry
from slipway_chassis.caller import Caller
from slipway_chassis.effects import EffectKeyLike, EffectLedger, EffectUncertain
from slipway_chassis.errors import FailedPrecondition, SlipwayError
from slipway_chassis.policy import PolicyDecision
from slipway_chassis.secret_file import SecretUnavailable

from slipway_tools import jsontext, python_tool, schema
from slipway_tools.address import AddressNotAllowed
from slipway_tools.errors import ApprovalMismatch, InvalidToolArguments, RegionNotAllowed, ToolQuarantined
from slipway_tools.gate import Gate
from slipway_tools.http_tool import AnswerLost, HttpCaller, HttpInvocation
from slipway_tools.mcp.caller import McpCaller
from slipway_tools.measures import observe_call
from slipway_tools.python_tool import FetchFile
from slipway_tools.record import CallRecord, Recorder, RecordRef, Taint
from slipway_tools.registry import Origin, Registry
from slipway_tools.result import ToolFailure, ToolResult
from slipway_tools.sandbox.limits import Limits
from slipway_tools.sandboxed_tool import PythonProvider, SandboxedTools
from slipway_tools.sql_tool import SqlCaller
from slipway_tools.tool import Declaration, Tool

ARGUMENTS_LIMIT = 256 * 1024


@dataclass(frozen=True)
class Approval:
    """The decision under which a gated call is made."""

    approval_id: str
    approver: str
    arguments_digest: str


@dataclass(frozen=True)
class Invocation:
    """A call as it was asked for. `demanded_regions` None: no demand; an empty list allows nothing.

    `arguments_tainted`: they derive from what came from outside. `version` 0: the newest.
    """

    tool: str
    arguments_json: str
    effect: EffectKeyLike | None
    demanded_regions: Sequence[str] | None
    approval: Approval | None
    arguments_tainted: bool = False
    version: int = 0


@dataclass(frozen=True)
class Answer:
    """What came of a call. `output_tainted`: it comes from outside, or derives from arguments that do."""

    result: ToolResult
    duration_ms: int
    record: RecordRef
    output_tainted: bool = False
    version: int = 0
    kind: str = ""  # answers that were recorded before it was have none

    def to_bytes(self) -> bytes:
        """As the effect ledger keeps it."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_bytes(cls, stored: bytes | str) -> "Answer":
        """The answer of `to_bytes`."""
        fields = json.loads(stored)
        result = fields["result"]
        failure = result.pop("failure")
        return cls(
            ToolResult(**result, failure=ToolFailure(**failure) if failure else None),
            fields["duration_ms"],
            RecordRef(**fields["record"]),
            fields.get("output_tainted", False),
            fields.get("version", 0),
            fields.get("kind", ""),
        )


class ToolFailed(FailedPrecondition):
    """A tool ran and failed: how the effect ledger learns that a higher attempt may run it again.

    Callers get the answer inside of it, not this error.
    """

    reason = "TOOL_FAILED"

    def __init__(self, answer: Answer) -> None:
        super().__init__("the tool failed", metadata={"answer": answer.to_bytes().decode()})


class Invoker:
    """Performs calls."""

    def __init__(
        self,
        registry: Registry,
        ledger: EffectLedger,
        recorder: Recorder,
        http: HttpCaller,
        sandboxes: PythonProvider,
        fetch: FetchFile,
        mcp: McpCaller,
        sql: SqlCaller,
        *,
        limits: Limits,
        gate: Gate,
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._recorder = recorder
        self._http = http
        self._sandboxes = sandboxes
        self._fetch = fetch
        self._sandboxed = SandboxedTools(sandboxes, fetch)
        self._mcp = mcp
        self._sql = sql
        self._limits = limits
        self._gate = gate

    async def invoke(self, caller: Caller, invocation: Invocation) -> Answer:
        """Check the call, perform it once for its effect key, record it.

        Raises:
            ToolNotFound, PolicyDenied, ApprovalRequired, RegionNotAllowed, InvalidJson, InvalidToolArguments,
            ApprovalMismatch, ToolQuarantined, QueueFull, TenantCalls, SandboxUnavailable, SecretUnavailable,
            AddressNotAllowed: nothing was done.
            StaleEpoch, EffectKeyReused, EffectUncertain: the effect ledger's.
        """
        origin = Origin(invocation.arguments_tainted, approved=invocation.approval is not None)
        tool, permission = await self._registry.find_to_invoke(caller, invocation.tool, invocation.version, origin)
        declaration = tool.declaration
        _check_regions(declaration, invocation.demanded_regions)
        arguments = _arguments(declaration, invocation.arguments_json)
        digest = jcs.digest(arguments)
        if invocation.approval is not None and invocation.approval.arguments_digest != digest:
            raise ApprovalMismatch(
                "the approval is for other arguments than those sent", field="approval.arguments_digest"
            )
        fingerprint = hashlib.sha256(f"{declaration.name}\n{digest}".encode()).digest()

        async def action() -> bytes:
            answer = await self._perform(caller, tool, permission, arguments, digest, invocation)
            if answer.result.failure is not None:
                raise ToolFailed(answer)
            return answer.to_bytes()

        in_doubt = "repeat" if tool.repeatable else "uncertain"
        try:
            stored = await self._ledger.perform(caller, invocation.effect, fingerprint, action, in_doubt=in_doubt)
        except SlipwayError as error:
            if error.reason != ToolFailed.reason:
                raise
            stored = error.metadata["answer"]
        return Answer.from_bytes(stored)

    async def _perform(
        self,
        caller: Caller,
        tool: Tool,
        permission: PolicyDecision,
        arguments: dict[str, Any],
        digest: str,
        invocation: Invocation,
    ) -> Answer:
        declaration, effect = tool.declaration, invocation.effect
        output_tainted = tool.untrusted_output or invocation.arguments_tainted
        record = CallRecord(
            tool,
            arguments,
            digest,
            effect,
            invocation.approval,
            permission,
            Taint(invocation.arguments_tainted, output_tainted),
        )
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": declaration.name,
            "gen_ai.tool.type": "function" if declaration.kind == "builtin" else "extension",
        }
        started = time.monotonic()
        with telemetry.span(f"execute_tool {declaration.name}", attributes=attributes) as span:
            outcome = "refused"
            try:
                result = await self._run(caller, tool, arguments, invocation)
                outcome = result.failure.code if result.failure else "ok"
            except AnswerLost as error:
                outcome = "uncertain"
                reference = await self._recorder.record_uncertain(caller, record, _milliseconds(started), str(error))
                facts = {"effect_key": effect.key if effect else "", "record": reference.event_id}
                raise EffectUncertain(f"{declaration.name}: {error}", metadata=facts) from error
            except (AddressNotAllowed, SecretUnavailable, ToolQuarantined) as error:
                await self._recorder.record_refusal(caller, record, error.reason, error.message)
                raise
            finally:
                span.set_attribute("slipway.tool.outcome", outcome)
                observe_call(declaration, outcome, time.monotonic() - started)
            if result.tainted and not output_tainted:
                output_tainted = True
                record = dataclasses.replace(record, taint=Taint(invocation.arguments_tainted, output_tainted))
            duration = _milliseconds(started)
            reference = await self._recorder.record_result(caller, record, result, duration)
            return Answer(result, duration, reference, output_tainted, tool.version, declaration.kind)

    async def _run(self, caller: Caller, tool: Tool, arguments: dict[str, Any], invocation: Invocation) -> ToolResult:
        declaration, effect = tool.declaration, invocation.effect
        match declaration.kind:
            case "builtin":
                call = python_tool.read_arguments(declaration.name, arguments, self._limits)
                run_id = effect.key.partition("/")[0] if effect else ""
                result = await self._sandboxes.python().call(
                    call, self._fetch, run_id=run_id, tainted=invocation.arguments_tainted
                )
                return _not_repeated_blindly(tool, result)
            case "python" | "shell":
                return _not_repeated_blindly(tool, await self._sandboxed.call(declaration, arguments))
            case "mcp":
                async with self._gate.enter(caller.tenant):
                    return await self._mcp.call(caller, tool, arguments)
            case "sql":
                async with self._gate.enter(caller.tenant):
                    return await self._sql.call(declaration, arguments, invocation.demanded_regions)
            case "http":
                async with self._gate.enter(caller.tenant):
                    return await self._http.call(
                        declaration, arguments, HttpInvocation(caller.tenant, effect.key if effect else "")
                    )


def _not_repeated_blindly(tool: Tool, result: ToolResult) -> ToolResult:
    """A program that may write outside has perhaps done so before its time was up: trying again is for a person."""
    failure = result.failure
    if failure is None or not failure.retryable or tool.repeatable:
        return result
    return dataclasses.replace(result, failure=dataclasses.replace(failure, retryable=False))


def _check_regions(declaration: Declaration, demanded: Sequence[str] | None) -> None:
    if demanded is None:
        return
    if not declaration.regions:
        raise RegionNotAllowed(f"tool {declaration.name} declares no region", field="regions")
    outside = sorted(set(declaration.regions) - set(demanded))
    if outside:
        raise RegionNotAllowed(f"tool {declaration.name} acts in {', '.join(outside)}", field="regions")


def _arguments(declaration: Declaration, text: str) -> dict[str, Any]:
    arguments = jsontext.parse(text or "{}", field="arguments_json", limit=ARGUMENTS_LIMIT)
    wrong = schema.violations(declaration.input_schema, arguments)
    if wrong:
        raise InvalidToolArguments(f"the arguments do not fit the schema of {declaration.name}", violations=wrong)
    return arguments


def _milliseconds(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
