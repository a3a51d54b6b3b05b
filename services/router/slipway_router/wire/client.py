"""One provider, spoken to in OpenAI's wire format over a pool of connections."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx

from slipway_router.catalogue import Model, Provider
from slipway_router.chat import ChatRequest, Completion, Piece, Vectors
from slipway_router.errors import MalformedToolCall, ProviderProtocol, ProviderTimeout, StreamTruncated
from slipway_router.tokens import TokenCount
from slipway_router.wire import body as wire
from slipway_router.wire.failures import failure_of_error_object, failure_of_status, failure_of_transport
from slipway_router.wire.sse import data_events
from slipway_router.wire.tool_calls import ToolCallAssembler, offered_names

MAX_ANSWER_BYTES = 32 * 1024 * 1024
_CONNECT_SECONDS = 5.0
_LIMITS = httpx.Limits(max_connections=256, max_keepalive_connections=64, keepalive_expiry=30)


class WireClient:
    """A provider's client. Close it after use."""

    def __init__(self, provider: Provider) -> None:
        self._name = provider.name
        headers = {"user-agent": "slipway-router"}
        if provider.api_key:
            headers["authorization"] = f"Bearer {provider.api_key}"
        self._http = httpx.AsyncClient(
            base_url=provider.base_url + "/",
            headers=headers,
            limits=_LIMITS,
            # Reading is timed by the call's own deadlines.
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS, pool=_CONNECT_SECONDS),
            # Addresses come from the catalogue only: no redirect, no proxy from the environment.
            follow_redirects=False,
            trust_env=False,
            # For plain http there is no certificate to verify, and loading the roots takes 30 ms and 10 MiB.
            verify=provider.base_url.startswith("https://"),
        )
        self._calls = 0

    async def chat(self, model: Model, request: ChatRequest, *, deadline: float) -> Completion:
        """A whole answer. `deadline` is on the event loop's clock. Raises ProviderFailure."""
        payload = await self._post("chat/completions", wire.chat_body(model, request, stream=False), deadline)
        return wire.completion(payload, request)

    async def embed(self, model: Model, inputs: tuple[str, ...], *, deadline: float) -> Vectors:
        """Vectors for `inputs`, in order. Raises ProviderFailure."""
        payload = await self._post("embeddings", wire.embeddings_body(model, inputs), deadline)
        return wire.vectors(payload, len(inputs))

    async def stream(
        self, model: Model, request: ChatRequest, *, first_token_deadline: float, deadline: float
    ) -> AsyncGenerator[Piece | Completion, None]:
        """Pieces of text as they come, then the whole answer (content None: it was sent already).

        Comments and chunks that only state the role do not stop the first-token timer. Tool calls come with the whole
        answer. Closing the generator closes the connection. Raises ProviderFailure.
        """
        answer = _StreamedAnswer(self._name, request)
        body = json.dumps(wire.chat_body(model, request, stream=True), allow_nan=False).encode()
        with self._in_use():
            async with contextlib.AsyncExitStack() as stack:
                events: AsyncIterator[bytes] | None = None
                while not answer.ended:
                    limit = deadline if answer.begun else min(first_token_deadline, deadline)
                    try:
                        async with asyncio.timeout_at(limit):
                            if events is None:
                                events = await self._open(body, stack)
                            event = await anext(events, None)
                    except TimeoutError as error:
                        what = "the answer did not end" if answer.begun else "no first token"
                        raise ProviderTimeout(f"provider {self._name}: {what} in time") from error
                    except httpx.TransportError as error:
                        if answer.finish_reason is not None:
                            break
                        raise failure_of_transport(self._name, error) from error
                    if event is None:
                        break
                    delta = answer.take(event)
                    if delta:
                        yield Piece(delta, answer.model)
            yield answer.whole()

    async def _open(self, body: bytes, stack: contextlib.AsyncExitStack) -> AsyncIterator[bytes]:
        request = self._http.build_request(
            "POST", "chat/completions", content=body, headers={"content-type": "application/json"}
        )
        response = await self._http.send(request, stream=True)
        stack.push_async_callback(response.aclose)
        if response.status_code != 200:
            raise failure_of_status(self._name, response.status_code, response.headers, await _bounded(response))
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise ProviderProtocol(f"provider {self._name} did not answer with an event stream")
        return data_events(response.aiter_bytes())

    async def _post(self, path: str, body: dict[str, Any], deadline: float) -> dict[str, Any]:
        content = json.dumps(body, allow_nan=False).encode()
        with self._in_use():
            try:
                async with asyncio.timeout_at(deadline):
                    request = self._http.build_request(
                        "POST", path, content=content, headers={"content-type": "application/json"}
                    )
                    response = await self._http.send(request, stream=True)
                    try:
                        raw = await _bounded(response)
                    finally:
                        await response.aclose()
            except TimeoutError as error:
                raise ProviderTimeout(f"provider {self._name} did not answer in time") from error
            except httpx.TransportError as error:
                raise failure_of_transport(self._name, error) from error
        if response.status_code != 200:
            raise failure_of_status(self._name, response.status_code, response.headers, raw)
        payload = _json_object(self._name, raw)
        if payload.get("error"):
            raise failure_of_error_object(self._name, payload["error"])
        return payload

    @contextlib.contextmanager
    def _in_use(self) -> Any:
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    @property
    def idle(self) -> bool:
        """True when no call is under way."""
        return self._calls == 0

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()


class _StreamedAnswer:
    """What a stream has said so far."""

    def __init__(self, provider: str, request: ChatRequest) -> None:
        self._provider = provider
        self._calls = ToolCallAssembler(offered_names(request.tools))
        self.model = ""
        self._usage: TokenCount | None = None
        self.finish_reason: str | None = None
        self.begun = False
        self.ended = False

    def take(self, event: bytes) -> str:
        """Take one event; the text it adds. Raises ProviderFailure."""
        if event == b"[DONE]":
            self.ended = True
            return ""
        chunk = _json_object(self._provider, event)
        if chunk.get("error"):
            failure = failure_of_error_object(self._provider, chunk["error"])
            failure.usage = self._usage
            raise failure
        self.model = self.model or str(chunk.get("model") or "")
        self._usage = wire.token_count(chunk.get("usage")) or self._usage
        try:
            choices = [choice for choice in chunk.get("choices") or () if choice.get("index", 0) == 0]
            return "".join(self._choice(choice) for choice in choices)
        except (AttributeError, TypeError) as error:
            raise ProviderProtocol(f"provider {self._provider} sent a chunk that is not in the wire format") from error

    def _choice(self, choice: dict[str, Any]) -> str:
        delta = choice.get("delta") or {}
        # A streamed refusal is text that the user should see; the contract's stream has no other place for it.
        text = delta.get("content") or delta.get("refusal") or ""
        if delta.get("tool_calls"):
            self._calls.add(delta["tool_calls"])
        # Reasoning is not handed on, but the model is at work: the first-token timer has done its duty.
        self.begun = self.begun or bool(text or delta.get("tool_calls") or delta.get("reasoning_content"))
        if choice.get("finish_reason") is not None:
            self.finish_reason = wire.finish_reason(choice["finish_reason"])
        if not isinstance(text, str):
            raise TypeError("text expected")
        return text

    def whole(self) -> Completion:
        """The end; raises StreamTruncated without a finish reason, MalformedToolCall for a broken call."""
        if self.finish_reason is None:
            truncated = StreamTruncated(f"provider {self._provider} ended its stream without a finish reason")
            truncated.usage = self._usage
            raise truncated
        try:
            calls = self._calls.finish()
        except MalformedToolCall as malformed:
            malformed.usage = self._usage
            raise
        return Completion(
            content=None,
            tool_calls=calls,
            refusal="",
            finish_reason=self.finish_reason,
            model=self.model,
            usage=self._usage,
        )


async def _bounded(response: httpx.Response) -> bytes:
    raw = bytearray()
    async for piece in response.aiter_bytes():
        raw += piece
        if len(raw) > MAX_ANSWER_BYTES:
            raise ProviderProtocol(f"the provider's answer is longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(raw)


def _json_object(provider: str, raw: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ProviderProtocol(f"provider {provider} answered something that is not JSON") from error
    if not isinstance(payload, dict):
        raise ProviderProtocol(f"provider {provider} answered JSON that is not an object")
    return payload
