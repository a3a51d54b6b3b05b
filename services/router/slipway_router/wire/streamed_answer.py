"""What a provider's stream has said so far, chunk by chunk."""

from typing import Any

from slipway_router.catalogue import Limits
from slipway_router.chat import Completion
from slipway_router.errors import (
    BadOutput,
    ProviderFailure,
    ProviderProtocol,
    ProviderTimeout,
    StreamTruncated,
)
from slipway_router.output_checks import OutputChecks
from slipway_router.tokens import TokenCount
from slipway_router.wire import body as wire
from slipway_router.wire.failures import failure_of_error_object
from slipway_router.wire.json_object import json_object
from slipway_router.wire.text import TextJoiner, text_of
from slipway_router.wire.tool_calls import ToolCallAssembler
from slipway_router.wire.usage import token_count


class StreamedAnswer:
    """An answer that grows. `begun` once a token came, `ended` after the provider's last word."""

    def __init__(self, provider: str, checks: OutputChecks, limits: Limits) -> None:
        self._provider = provider
        self._checks = checks
        self._limits = limits
        # What may be mended or asked for again must not be half sent already.
        self._holds_text = checks.is_json and (limits.repair or limits.bad_output_retries > 0)
        self._calls = ToolCallAssembler(checks, repair=limits.repair)
        self._joiner = TextJoiner()
        self._text: list[str] = []
        self._refused = False
        self._usage: TokenCount | None = None
        self.model = ""
        self.finish_reason: str | None = None
        self.begun = False
        self.is_at_work = False
        """The last chunk brought text, reasoning, a part of a tool call, or the end."""
        self.ended = False

    def take(self, event: bytes) -> str:
        """Take one event; the text that can be passed on. Raises ProviderFailure."""
        if event == b"[DONE]":
            self.ended = True
            return ""
        chunk = json_object(self._provider, event)
        if chunk.get("error"):
            raise self.failed(failure_of_error_object(self._provider, chunk["error"]))
        self.model = self.model or str(chunk.get("model") or "")
        self._usage = token_count(chunk.get("usage")) or self._usage
        self.is_at_work = False
        try:
            choices = [choice for choice in chunk.get("choices") or () if choice.get("index", 0) == 0]
            text = self._joiner.take("".join(self._choice(choice) for choice in choices))
        except (AttributeError, TypeError, KeyError) as error:
            foreign = ProviderProtocol(f"provider {self._provider} sent a chunk that is not in the wire format")
            raise self.failed(foreign) from error
        except ProviderFailure as failure:
            raise self.failed(failure)  # noqa: B904 - the same failure, with the usage reported
        if self._checks.is_json:
            self._text.append(text)
        return "" if self._holds_text else text

    def _choice(self, choice: dict[str, Any]) -> str:
        delta = choice.get("delta") or {}
        # A streamed refusal is text that the user should see; the contract's stream has no other place for it.
        text = text_of(delta.get("content") or delta.get("refusal") or "")
        self._refused = self._refused or bool(delta.get("refusal"))
        if delta.get("tool_calls"):
            self._calls.add(delta["tool_calls"])
        # Reasoning is not handed on, but the model is at work: the first-token timer has done its duty.
        if text or delta.get("tool_calls") or delta.get("reasoning_content") or delta.get("reasoning"):
            self.begun = self.is_at_work = True
        if choice.get("finish_reason") is not None:
            self.finish_reason = wire.finish_reason(choice["finish_reason"])
            self.is_at_work = True
        return text

    def timed_out(self, *, silent: bool) -> ProviderFailure:
        """What it means that nothing came in time; `silent`: not the whole attempt took too long."""
        if not self.begun:
            what = "no first token"
        else:
            what = "nothing more after the last token" if silent else "the answer did not end"
        late = ProviderTimeout(f"provider {self._provider}: {what} in time")
        # A long answer, or a caller in a hurry: the model was at work.
        late.unhealthy = silent or not self.begun
        return self.failed(late)

    def failed(self, failure: ProviderFailure) -> ProviderFailure:
        """`failure`, with the usage that was reported until then."""
        failure.usage = failure.usage or self._usage
        return failure

    def whole(self) -> Completion:
        """The end; raises StreamTruncated without a finish reason, BadOutput for broken calls or JSON."""
        if self.finish_reason is None:
            message = f"provider {self._provider} ended its stream without a finish reason"
            raise self.failed(StreamTruncated(message))
        held = "".join([*self._text, self._joiner.rest()])
        try:
            calls = self._calls.finish(self.finish_reason)
            text: str | None = held
            if not calls and not self._refused:
                text = wire.checked_text(held, self._checks, self.finish_reason, repair=self._limits.repair)
        except BadOutput as bad:
            raise self.failed(bad)  # noqa: B904 - the same failure, with the usage reported
        return Completion(
            content=text if self._holds_text and held else None,
            tool_calls=calls,
            refusal="",
            finish_reason=self.finish_reason,
            model=self.model,
            usage=self._usage,
            repaired=self._calls.repaired or text != held,
        )
