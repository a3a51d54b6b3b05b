"""OpenAI's wire format in front of litellm's SDK: a process that the router starts when its catalogue needs it.

Runs by its path under the interpreter of an environment that holds requirements-litellm.txt and nothing of Slipway:
litellm takes seconds to import, 180 MiB, and other versions of libraries than the services. Listens on loopback; the
first line of standard input is the secret that callers show, its end ends the process. Prints `{"port": …}` when ready.

    POST /{anthropic|gemini}/chat/completions     authorization: Bearer SECRET
    POST /{anthropic|gemini}/embeddings           x-slipway-provider-key: KEY, x-slipway-api-base: URL
"""

import asyncio
import hmac
import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

VERSION = "1.106.2"
"""Others are not run: 1.82.7, 1.82.8 and 1.107.0 were malicious."""
_PROVIDERS = frozenset({"anthropic", "gemini"})
_MAX_BODY_BYTES = 64 * 1024 * 1024
# What is handed on. Anything else could reach litellm's own switches: other addresses, callbacks, made-up answers.
_PARAMETERS = frozenset(
    {
        "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "seed", "tools",
        "tool_choice", "parallel_tool_calls", "response_format", "presence_penalty", "frequency_penalty", "logit_bias",
        "logprobs", "top_logprobs", "reasoning_effort", "n", "user",
    }
)  # fmt: skip
_OWN = frozenset({"model", "stream", "stream_options"})


class Refused(Exception):
    """A request that is not handed on; shown as OpenAI shows it."""

    def __init__(self, status: int, message: str, code: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def load_litellm() -> Any:
    """The SDK, quiet and without downloads. Exits when it is another version."""
    found = importlib.metadata.version("litellm")
    if found != VERSION:
        sys.exit(f"slipway: litellm {found} is installed, only {VERSION} is run")
    # The price table stays the one of the wheel: prices are the catalogue's.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.drop_params = True
    litellm.num_retries = 0
    litellm.success_callback = []
    litellm.failure_callback = []
    return litellm


class Bridge:
    """Serves the two routes."""

    def __init__(self, litellm: Any, secret: str) -> None:
        self._litellm = litellm
        self._secret = secret.encode()

    async def chat(self, request: Any) -> Any:
        """A chat completion, whole or as server-sent events."""
        from aiohttp import web

        try:
            body = await self._read(request)
            arguments = self._arguments(request, body)
            strange = sorted(body.keys() - _PARAMETERS - _OWN)
            if strange:
                raise Refused(400, f"{', '.join(strange)} cannot be passed to {request.match_info['provider']}")
            check_parts(body.get("messages"))
            arguments.update({name: body[name] for name in _PARAMETERS & body.keys()})
            if not body.get("stream"):
                answer = await self._litellm.acompletion(**arguments)
                return web.json_response(answer.model_dump(exclude_none=True), dumps=_dumps)
            stream = await self._litellm.acompletion(**arguments, stream=True, stream_options={"include_usage": True})
            first = await anext(aiter(stream), None)
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises becomes an answer
            return failed(error)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            if first is not None:
                await _send(response, _chunk(first, stream))
                async for chunk in stream:
                    await _send(response, _chunk(chunk, stream))
            await response.write(b"data: [DONE]\n\n")
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - as above, within the stream
            await _send(response, {"error": error_object(error)})
        await response.write_eof()
        return response

    async def embeddings(self, request: Any) -> Any:
        """Vectors for texts, as lists of numbers."""
        from aiohttp import web

        try:
            body = await self._read(request)
            answer = await self._litellm.aembedding(**self._arguments(request, body), input=body.get("input"))
            return web.json_response(answer.model_dump(exclude_none=True), dumps=_dumps)
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises becomes an answer
            return failed(error)

    async def _read(self, request: Any) -> dict[str, Any]:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, self._secret):
            raise Refused(401, "the secret is wrong")
        body = await request.json()
        if not isinstance(body, dict) or not isinstance(body.get("model"), str):
            raise Refused(400, "an object with a model is expected")
        return body

    def _arguments(self, request: Any, body: Mapping[str, Any]) -> dict[str, Any]:
        provider = request.match_info["provider"]
        if provider not in _PROVIDERS:
            raise Refused(404, f"there is no provider {provider}")
        arguments = {
            "model": f"{provider}/{body['model']}",
            "api_key": request.headers.get("x-slipway-provider-key", ""),
            # The router keeps the time, and tries again where that makes sense.
            "timeout": 3600,
            "max_retries": 0,
            # Tools are the caller's and no gateway's; the SDK would look for MCP packages otherwise.
            "_skip_mcp_handler": True,
        }
        base = request.headers.get("x-slipway-api-base", "")
        return arguments | ({"api_base": base} if base else {})


def check_parts(messages: Any) -> None:
    """Refuse content that the SDK would fetch: addresses are the callers', the network is the platform's."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            held = part.get("image_url") or part.get("file") or {} if isinstance(part, dict) else {}
            address = held if isinstance(held, str) else held.get("url") or held.get("file_data") or ""
            if not isinstance(held, str) and held.get("file_id"):
                raise Refused(400, "files are sent as file_data here, not by file_id")
            if held and not str(address).startswith("data:"):
                raise Refused(400, "images and files are sent as data: URLs here; others are not fetched")


def error_object(error: Exception) -> dict[str, Any]:
    """OpenAI's error object for whatever the SDK raised."""
    status = _status(error)
    name = type(error).__name__
    codes = {
        "ContextWindowExceededError": "context_length_exceeded",
        "ContentPolicyViolationError": "content_policy_violation",
        "RateLimitError": "rate_limit_exceeded",
    }
    code = error.code if isinstance(error, Refused) else codes.get(name, "")
    message = str(error) if 400 <= status < 500 and status not in (401, 403) else name
    return {"message": message[:2000], "type": name, "code": code or None, "status": status}


def failed(error: Exception) -> Any:
    """The answer that tells of `error`."""
    from aiohttp import web

    headers = {}
    response = getattr(error, "response", None)
    wait = response.headers.get("retry-after") if response is not None else None
    if wait:
        headers["retry-after"] = wait
    return web.json_response({"error": error_object(error)}, status=_status(error), headers=headers)


def _chunk(chunk: Any, stream: Any) -> dict[str, Any]:
    """The chunk on the wire. The SDK makes a `stop` up when a provider's stream just ends: that is an error here."""
    ends = any(choice.finish_reason for choice in chunk.choices)
    if ends and not (stream.received_finish_reason or stream.intermittent_finish_reason):
        raise Refused(502, "the provider ended its stream without a finish reason", "stream_truncated")
    return chunk.model_dump(exclude_none=True)


def _status(error: Exception) -> int:
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, ValueError):
        return 400
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and 400 <= status < 600 else 502


async def _send(response: Any, payload: Mapping[str, Any]) -> None:
    await response.write(b"data: " + _dumps(payload).encode() + b"\n\n")


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), default=str)


async def serve() -> None:
    """Serve until standard input ends."""
    from aiohttp import web

    loop = asyncio.get_running_loop()
    secret = (await loop.run_in_executor(None, sys.stdin.readline)).strip()
    bridge = Bridge(load_litellm(), secret)
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_post("/{provider}/chat/completions", bridge.chat)
    app.router.add_post("/{provider}/embeddings", bridge.embeddings)
    # Who hangs up ends the provider's generation.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sys.stdout.write(json.dumps({"port": runner.addresses[0][1]}) + "\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve())
