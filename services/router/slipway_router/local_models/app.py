"""The HTTP face of the local models: OpenAI's chat completions, embeddings and models, and `/health`."""

import asyncio
import base64
import contextlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from slipway_router.local_models.chat import CHAT_MODEL_ID, ChatModel, ChatRejected
from slipway_router.local_models.embeddings import BATCH, EMBEDDING_MODEL_ID, Embedded, EmbeddingModel
from slipway_router.local_models.memory import trim

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_INPUTS = 2048


class LocalModels:
    """Loads both models in a thread, and is ready when each has answered once."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self.chat: ChatModel | None = None
        self.embeddings: EmbeddingModel | None = None
        self.ready = asyncio.Event()

    async def load(self) -> None:
        """Load, answer once, and declare readiness; raises ArtifactMissing."""
        loop = asyncio.get_running_loop()
        self.embeddings = await loop.run_in_executor(self._worker, EmbeddingModel, self._threads)
        await self.embed(["ready"])
        chat: ChatModel = await loop.run_in_executor(self._worker, ChatModel, self._threads)
        await chat.answer({"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 1})
        self.chat = chat
        trim()
        self.ready.set()

    async def embed(self, texts: list[str]) -> Embedded:
        """Embed in the one embedding thread, so that batches do not fight for the cores."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._embed, texts)

    def _embed(self, texts: list[str]) -> Embedded:
        assert self.embeddings is not None  # noqa: S101 - load() sets it before anyone can ask
        embedded = self.embeddings.embed(texts)
        if len(texts) > BATCH:
            trim()
        return embedded

    def close(self) -> None:
        """Let the work under way end and free the models."""
        self._worker.shutdown(wait=True, cancel_futures=True)
        if self.chat is not None:
            self.chat.close()


def _error(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    return JSONResponse(
        {"error": {"message": message, "type": kind, "code": code, "param": None}}, status, headers=headers
    )


async def _body(request: Request) -> dict[str, Any]:
    raw = bytearray()
    async for piece in request.stream():
        raw += piece
        if len(raw) > MAX_BODY_BYTES:
            raise ChatRejected(f"the body is larger than {MAX_BODY_BYTES} bytes", status=413, code="body_too_large")
    try:
        body = json.loads(bytes(raw))
    except ValueError as error:
        raise ChatRejected("the body is not JSON") from error
    if not isinstance(body, dict):
        raise ChatRejected("the body is not a JSON object")
    return body


def build(models: LocalModels, api_key: str | None) -> Starlette:
    """The application over `models`; with `api_key`, every route but `/health` asks for it."""

    def endpoint(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if api_key is not None and not hmac.compare_digest(given.encode(), api_key.encode()):
                return _error(401, "wrong API key", "invalid_api_key")
            if not models.ready.is_set():
                return _error(503, "the models are being loaded", "loading", {"retry-after": "1"})
            try:
                return await handler(request)
            except ChatRejected as rejected:
                retry = {"retry-after": "1"} if rejected.status == 429 else None
                return _error(rejected.status, str(rejected), rejected.code, retry)

        return guarded

    async def health(_: Request) -> Response:
        ready = models.ready.is_set()
        return JSONResponse({"status": "ok" if ready else "loading"}, 200 if ready else 503)

    async def list_models(_: Request) -> Response:
        entries = [
            {"id": name, "object": "model", "created": 0, "owned_by": "slipway"}
            for name in (CHAT_MODEL_ID, EMBEDDING_MODEL_ID)
        ]
        return JSONResponse({"object": "list", "data": entries})

    async def chat(request: Request) -> Response:
        body = await _body(request)
        _known(body, CHAT_MODEL_ID)
        assert models.chat is not None  # noqa: S101 - ready
        if not body.get("stream"):
            return JSONResponse(await _unless_gone(request, models.chat.answer(body)))
        options = body.get("stream_options")
        usage_asked = isinstance(options, dict) and bool(options.get("include_usage"))
        chunks = models.chat.chunks(body)
        # A refusal is a status, not a stream: the first chunk is waited for before the headers are sent.
        first = await anext(chunks)
        return StreamingResponse(_events(first, chunks, usage_asked), media_type="text/event-stream")

    async def embed(request: Request) -> Response:
        body = await _body(request)
        _known(body, EMBEDDING_MODEL_ID)
        texts = body.get("input")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_INPUTS:
            raise ChatRejected(f"input must be a text or 1 to {MAX_INPUTS} texts")
        if not all(isinstance(text, str) and text for text in texts):
            raise ChatRejected("every input must be a non-empty text")
        embedded = await models.embed(texts)
        packed = body.get("encoding_format") == "base64"
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode()
                if packed
                else vector.tolist(),
            }
            for index, vector in enumerate(embedded.vectors)
        ]
        usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
        return JSONResponse(
            {"object": "list", "model": EMBEDDING_MODEL_ID, "data": data, "usage": usage},
            headers={"x-slipway-truncated-inputs": str(embedded.truncated)},
        )

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", endpoint(list_models)),
            Route("/v1/chat/completions", endpoint(chat), methods=["POST"]),
            Route("/v1/embeddings", endpoint(embed), methods=["POST"]),
        ]
    )


def _known(body: dict[str, Any], model: str) -> None:
    if body.get("model") != model:
        raise ChatRejected(f"the model here is {model}", status=404, code="model_not_found")


async def _events(
    first: dict[str, Any], rest: AsyncIterator[dict[str, Any]], usage_asked: bool
) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(rest):  # pyright: ignore[reportArgumentType] - an async generator
        yield _event(first)
        try:
            async for chunk in rest:
                if chunk["choices"] or usage_asked:
                    yield _event(chunk)
        except ChatRejected as rejected:
            yield _event({"error": {"message": str(rejected), "type": "server_error", "code": rejected.code}})
            return
        yield b"data: [DONE]\n\n"


def _event(payload: dict[str, Any]) -> bytes:
    payload.pop("timings", None)
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def _unless_gone(request: Request, answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """Wait for the answer, and stop the generation when the caller hangs up."""
    work = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ChatRejected("the caller hung up", status=499, code="cancelled")
        return work.result()
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
