"""One provider, spoken to in OpenAI's wire format over a pool of connections."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx

from slipway_router.catalogue import Model, Provider
from slipway_router.chat import ChatRequest, Completion, Piece, Vectors
from slipway_router.errors import ProviderFailure, ProviderProtocol, ProviderTimeout
from slipway_router.failover import AttemptTimes
from slipway_router.wire import body as wire
from slipway_router.wire.failures import failure_of_error_object, failure_of_status, failure_of_transport
from slipway_router.wire.json_object import json_object
from slipway_router.wire.sse import data_events
from slipway_router.wire.streamed_answer import StreamedAnswer

MAX_ANSWER_BYTES = 32 * 1024 * 1024
_CONNECT_SECONDS = 5.0
_LIMITS = httpx.Limits(max_connections=256, max_keepalive_connections=64, keepalive_expiry=30)


class WireClient:
    """A provider's client. Close it after use."""

    def __init__(self, provider: Provider) -> None:
        self._name = provider.name
        self._http = httpx.AsyncClient(
            base_url=provider.base_url + "/",
            headers={"user-agent": "slipway-router", **provider.credentials()},
            params={"api-version": provider.api_version} if provider.api_version else None,
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

    async def chat(self, model: Model, request: ChatRequest, times: AttemptTimes) -> Completion:
        """A whole answer. Raises ProviderFailure."""
        payload = await self._post("chat/completions", wire.chat_body(model, request, stream=False), times.end)
        return wire.completion(payload, request.checks, repair=times.limits.repair)

    async def embed(self, model: Model, inputs: tuple[str, ...], times: AttemptTimes) -> Vectors:
        """Vectors for `inputs`, in order. Raises ProviderFailure."""
        payload = await self._post("embeddings", wire.embeddings_body(model, inputs), times.end)
        return wire.vectors(payload, len(inputs))

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
                    except httpx.TransportError as error:
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
        payload = json_object(self._name, raw)
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


async def _bounded(response: httpx.Response) -> bytes:
    raw = bytearray()
    async for piece in response.aiter_bytes():
        raw += piece
        if len(raw) > MAX_ANSWER_BYTES:
            raise ProviderProtocol(f"the provider's answer is longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(raw)
