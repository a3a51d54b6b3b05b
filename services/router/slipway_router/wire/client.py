"""One provider, spoken to in OpenAI's wire format over a pool of connections."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from functools import partial
from typing import Any

from slipway_router.attempts import AttemptTimes
from slipway_router.catalogue import Model, Provider
from slipway_router.chat import ChatRequest, Completion, Piece, Vectors
from slipway_router.errors import ProviderFailure, ProviderProtocol, ProviderTimeout
from slipway_router.tokens import TokenCount
from slipway_router.wire import body as wire
from slipway_router.wire.connections import Answer, Connections, TransportFailure
from slipway_router.wire.failures import failure_of_error_object, failure_of_status, failure_of_transport
from slipway_router.wire.json_object import json_object
from slipway_router.wire.sse import data_events
from slipway_router.wire.streamed_answer import StreamedAnswer

MAX_ANSWER_BYTES = 32 * 1024 * 1024
_READ_BESIDE = 64 * 1024
"""Bytes of an answer with vectors from which on a thread of its own reads it."""


class WireClient:
    """A provider's client. Close it after use."""

    def __init__(self, provider: Provider) -> None:
        self._name = provider.name
        # Reading is timed by the call's own deadlines. Addresses come from the catalogue only: no redirect is followed,
        # and no proxy is taken from the environment.
        self._connections = Connections(
            provider.base_url,
            {"user-agent": "slipway-router", "accept-encoding": "identity", **provider.credentials()},
            {"api-version": provider.api_version} if provider.api_version else {},
        )
        self._calls = 0

    async def chat(self, model: Model, request: ChatRequest, times: AttemptTimes) -> Completion:
        """A whole answer. Raises ProviderFailure."""
        payload = await self._post("chat/completions", wire.chat_body(model, request, stream=False), times.end)
        return wire.completion(payload, request.checks, repair=times.limits.repair)

    async def embed(self, model: Model, inputs: tuple[str, ...], times: AttemptTimes) -> Vectors:
        """Vectors for `inputs`, in order, asked for in as many requests as the model needs. Raises ProviderFailure; its
        `usage` contains what requests before it have used."""
        parts: list[Vectors] = []
        for first in range(0, len(inputs), model.max_inputs):
            batch = inputs[first : first + model.max_inputs]
            try:
                raw = await self._request("embeddings", wire.embeddings_body(model, batch), times.end)
                # A batch of vectors is megabytes of JSON: other calls should not wait while it is read.
                large = len(raw) > _READ_BESIDE
                read = partial(self._vectors, raw, len(batch))
                parts.append(await asyncio.to_thread(read) if large else read())
            except ProviderFailure as failure:
                if parts:
                    failure.usage = _sum([*(part.usage for part in parts), failure.usage or TokenCount()])
                raise
        values = tuple(value for part in parts for value in part.values)
        usage = _sum([part.usage for part in parts])
        if len({len(value) for value in values}) != 1:
            uneven = ProviderProtocol(f"provider {self._name} answered vectors of different lengths")
            uneven.usage = usage
            raise uneven
        return Vectors(values, parts[-1].model, usage)

    def _vectors(self, raw: bytes, expected: int) -> Vectors:
        return wire.vectors(self._object(raw), expected)

    async def stream(
        self, model: Model, request: ChatRequest, times: AttemptTimes
    ) -> AsyncGenerator[Piece | Completion, None]:
        """Pieces of text as they come, then the whole answer (content None: it was sent already).

        Comments and chunks that only state the role stop no timer: neither that of the first token nor that of the
        silence after it. Tool calls come with the whole answer; so does JSON that the route lets be mended or asked for
        again. Closing the generator closes the connection. Raises ProviderFailure.
        """
        answer = StreamedAnswer(self._name, request.checks, times.limits)
        body = json.dumps(wire.chat_body(model, request, stream=True), allow_nan=False).encode()
        clock = asyncio.get_running_loop()
        silent_until = times.first_token
        with self._in_use():
            async with contextlib.AsyncExitStack() as stack:
                events: AsyncIterator[bytes] | None = None
                while not answer.ended:
                    try:
                        async with asyncio.timeout_at(min(silent_until, times.end)):
                            if events is None:
                                events = await self._open(body, stack)
                            event = await anext(events, None)
                    except TimeoutError as error:
                        late = answer.timed_out(silent=silent_until <= times.end)
                        raise late from error
                    except TransportFailure as error:
                        if answer.finish_reason is not None:
                            break
                        raise answer.failed(failure_of_transport(self._name, error)) from error
                    except ProviderFailure as failure:
                        raise answer.failed(failure)  # noqa: B904 - the same failure, with the usage reported
                    if event is None:
                        break
                    delta = answer.take(event)
                    if answer.is_at_work:
                        silent_until = clock.time() + times.limits.between_tokens_seconds
                    if delta:
                        yield Piece(delta, answer.model)
            yield answer.whole()

    async def _open(self, body: bytes, stack: contextlib.AsyncExitStack) -> AsyncIterator[bytes]:
        answer = await self._connections.post("chat/completions", body)
        stack.callback(answer.close)
        if answer.status != 200:
            raise failure_of_status(self._name, answer.status, answer.headers, await _bounded(answer))
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            raise ProviderProtocol(f"provider {self._name} did not answer with an event stream")
        return data_events(answer.pieces())

    async def _post(self, path: str, body: dict[str, Any], deadline: float) -> dict[str, Any]:
        return self._object(await self._request(path, body, deadline))

    def _object(self, raw: bytes) -> dict[str, Any]:
        payload = json_object(self._name, raw)
        if payload.get("error"):
            raise failure_of_error_object(self._name, payload["error"])
        return payload

    async def _request(self, path: str, body: dict[str, Any], deadline: float) -> bytes:
        content = json.dumps(body, allow_nan=False).encode()
        with self._in_use():
            try:
                async with asyncio.timeout_at(deadline):
                    answer = await self._connections.post(path, content)
                    status, headers = answer.status, answer.headers
                    try:
                        raw = await _bounded(answer)
                    finally:
                        answer.close()
            except TimeoutError as error:
                raise ProviderTimeout(f"provider {self._name} did not answer in time") from error
            except TransportFailure as error:
                raise failure_of_transport(self._name, error) from error
        if status != 200:
            raise failure_of_status(self._name, status, headers, raw)
        return raw

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
        self._connections.close()


def _sum(usages: Sequence[TokenCount | None]) -> TokenCount | None:
    """All together; None when one is not known."""
    total = TokenCount()
    for usage in usages:
        if usage is None:
            return None
        total += usage
    return total


async def _bounded(answer: Answer) -> bytes:
    raw: list[bytes] = []
    size = 0
    async for piece in answer.pieces():
        raw.append(piece)
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise ProviderProtocol(f"the provider's answer is longer than {MAX_ANSWER_BYTES} bytes")
    return b"".join(raw)
