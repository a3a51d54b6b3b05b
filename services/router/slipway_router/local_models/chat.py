"""SmolLM2-135M-Instruct on llama.cpp: one loaded model, two generations at a time."""

import asyncio
import importlib
import queue
import secrets
import threading
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from slipway_router.local_models.artifacts import chat_weights

CHAT_MODEL_ID = "SmolLM2-135M-Instruct-Q4_1"
CONTEXT_TOKENS = 4096
"""Context of one conversation: prompt and answer together."""
DEFAULT_OUTPUT_TOKENS = 512
MAX_OUTPUT_TOKENS = 1024
SLOTS = 2
"""Generations that run at once; llama.cpp batches them."""
MAX_WAITING = 32
"""Requests that may wait for a slot before callers are told to come back."""

# Jinja templates and grammars are llama.cpp's own business; these parameters are what SmolLM2 can honour.
_PASSED = frozenset(
    {
        "messages",
        "temperature",
        "top_p",
        "stop",
        "seed",
        "response_format",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
    }
)


class ChatRejected(Exception):
    """The request cannot be served; `status` is the HTTP status, the message says why."""

    def __init__(self, message: str, *, status: int = 400, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ChatModel:
    """The loaded chat model. Loading takes about a second and 330 MiB (98 MiB of them the mapped file)."""

    def __init__(self, threads: int) -> None:
        """Load the weights with `threads` threads for a generation; raises ArtifactMissing."""
        # The extension module has no stubs.
        llama: Any = importlib.import_module("xllamacpp")
        params = llama.CommonParams()
        params.model.path = str(chat_weights())
        params.model_alias = {CHAT_MODEL_ID}
        params.n_ctx = CONTEXT_TOKENS * SLOTS
        params.n_parallel = SLOTS
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.verbosity = -1
        # Prompt caching beyond the slots would keep callers' prompts in memory, up to 8 GiB of them by default.
        params.cache_ram_mib = 0
        # llama.cpp opens a listener of its own on loopback. Nobody needs it: a key that is told to nobody closes it.
        params.api_keys = [secrets.token_urlsafe(32)]
        params.n_threads_http = 1
        params.ui = False
        params.endpoint_slots = False
        params.endpoint_props = False
        params.endpoint_metrics = False
        self._server: Any = llama.Server(params)
        self._slots = ThreadPoolExecutor(SLOTS, thread_name_prefix="chat")
        self._admitted = 0

    async def chunks(self, body: Mapping[str, object]) -> AsyncIterator[dict[str, Any]]:
        """Generate the answer to an OpenAI chat body as chunk objects, usage chunk last.

        Closing the iterator stops the generation at its next token (a prompt that is still being read is read to its
        end: llama.cpp looks only between tokens). Raises ChatRejected.
        """
        request = _request(body)
        if self._admitted >= SLOTS + MAX_WAITING:
            raise ChatRejected("the local model is busy", status=429, code="busy")
        self._admitted += 1
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        produced: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        abandoned = threading.Event()

        def put(item: dict[str, Any] | None) -> None:
            produced.put(item)
            loop.call_soon_threadsafe(arrived.set)

        def on_chunk(chunk: dict[str, Any]) -> bool:
            put(chunk)
            return abandoned.is_set()

        def generate() -> None:
            try:
                if not abandoned.is_set():
                    self._server.handle_chat_completions(request, on_chunk)
            finally:
                put(None)

        generation = loop.run_in_executor(self._slots, generate)
        try:
            while True:
                await arrived.wait()
                arrived.clear()
                while not produced.empty():
                    chunk = produced.get_nowait()
                    if chunk is None:
                        await _outcome(generation)
                        return
                    if "error" in chunk:
                        raise _rejection(chunk["error"])
                    yield chunk
        finally:
            abandoned.set()
            generation.add_done_callback(self._leave)

    def _leave(self, generation: "asyncio.Future[None]") -> None:
        self._admitted -= 1
        if not generation.cancelled():
            generation.exception()

    async def answer(self, body: Mapping[str, object]) -> dict[str, Any]:
        """Generate the whole answer as a `chat.completion` object; raises ChatRejected."""
        text: list[str] = []
        finish: str | None = None
        last: dict[str, Any] = {}
        usage: dict[str, Any] = {}
        async for chunk in self.chunks(body):
            last = chunk
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                text.append(choice["delta"].get("content") or "")
                finish = choice["finish_reason"] or finish
        if finish is None:
            raise ChatRejected("the local model stopped without an answer", status=500, code="no_answer")
        return {
            "id": last["id"],
            "object": "chat.completion",
            "created": last["created"],
            "model": CHAT_MODEL_ID,
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "".join(text)}, "finish_reason": finish}
            ],
            "usage": usage,
        }

    def close(self) -> None:
        """Free the model and its threads; generations under way end first."""
        self._slots.shutdown(wait=True, cancel_futures=True)


async def _outcome(generation: "asyncio.Future[None]") -> None:
    try:
        await generation
    except (ValueError, RuntimeError) as error:
        # llama.cpp reports a message it cannot template (wrong content type, an image) as one of these.
        raise ChatRejected(str(error)) from error


def _rejection(error: Mapping[str, Any]) -> ChatRejected:
    code = "context_length_exceeded" if error.get("type") == "exceed_context_size_error" else "invalid_request"
    return ChatRejected(str(error.get("message", "rejected")), status=int(error.get("code", 400)), code=code)


def _request(body: Mapping[str, object]) -> dict[str, object]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ChatRejected("messages must be a non-empty array")
    if body.get("tools"):
        raise ChatRejected(f"{CHAT_MODEL_ID} cannot call tools", code="unsupported_parameter")
    if body.get("n") not in (None, 1):
        raise ChatRejected("n must be 1", code="unsupported_parameter")
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_OUTPUT_TOKENS
    if not isinstance(limit, int) or not 1 <= limit <= MAX_OUTPUT_TOKENS:
        raise ChatRejected(f"max_tokens must be 1 to {MAX_OUTPUT_TOKENS}")
    request = {key: value for key, value in body.items() if key in _PASSED and value is not None}
    # Without a limit llama.cpp generates until the context is full: a minute and a half of two cores.
    request["max_tokens"] = limit
    request["stream"] = True
    request["stream_options"] = {"include_usage": True}
    return request
