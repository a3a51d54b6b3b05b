"""A Weaviate; nothing is written."""

import asyncio
import re
from urllib.parse import parse_qs, unquote, urlsplit

import httpx

from slipway_cli.checks.finding import Finding, dotted, least

_FORM = "weaviate://[KEY@]HOST:PORT?grpc_port=N[&tls=true]"
_SECONDS = 10.0
# Aliases of collections.
_LEAST = (1, 32)
# What the names of collections begin with where the URL says nothing.
_COLLECTION = "SlipwayPassages"


def wrong_vectors_url(url: str) -> str | None:
    """What is wrong with the form of the URL; None: nothing."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    grpc = parse_qs(parts.query).get("grpc_port", [""])[0]
    if not parts.hostname or not port or not re.fullmatch(r"[1-9][0-9]{0,4}", grpc) or int(grpc) > 65535:
        return f"must be {_FORM}"
    return None


async def holds_passages(url: str) -> bool:
    """Whether a Weaviate that `check_vectors` found usable has collections of the name that the URL says."""
    prefix = parse_qs(urlsplit(url).query).get("collection", [_COLLECTION])[0]
    answer = (await _get(url, "schema")).raise_for_status().json()
    # Memory names them by the size of their vectors, its layout and something random.
    ours = re.compile(f"{re.escape(prefix)}[0-9]+(_.*)?")
    return any(ours.fullmatch(str(one["class"])) for one in answer.get("classes") or ())


async def _get(url: str, page: str) -> httpx.Response:
    parts = urlsplit(url)
    scheme = "https" if parse_qs(parts.query).get("tls") == ["true"] else "http"
    headers = {"authorization": f"Bearer {unquote(parts.username)}"} if parts.username else {}
    place = parts.netloc.rpartition("@")[2]
    async with httpx.AsyncClient(trust_env=False, timeout=_SECONDS) as web:
        return await web.get(f"{scheme}://{place}/v1/{page}", headers=headers)


async def check_vectors(url: str, place: str) -> list[Finding]:
    """Reachable on both of its ports, with the right key, and new enough."""
    parts = urlsplit(url)
    parameters = parse_qs(parts.query)
    try:
        answer = await _get(url, "meta")
    except (httpx.HTTPError, OSError) as error:
        reason = str(error) or f"no answer in {_SECONDS:g} s"
        return [
            Finding(
                "fail", "vectors", f"{place} cannot be reached ({reason})", "start it, or correct the key `vectors`"
            )
        ]
    if answer.status_code in (401, 403):
        return [
            Finding("fail", "vectors", f"{place} refuses the key", f"write an API key of its into `vectors`: {_FORM}")
        ]
    try:
        version = str(answer.raise_for_status().json()["version"])
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
        return [Finding("fail", "vectors", f"{place} is no Weaviate", "correct the key `vectors`")]
    if not least(version, _LEAST):
        return [Finding("fail", "vectors", f"{place} is Weaviate {version}", f"use version {dotted(_LEAST)} or later")]
    port = int(parameters["grpc_port"][0])
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, port)
        writer.close()
    except (OSError, TimeoutError) as error:
        reason = str(error) or f"no answer in {_SECONDS:g} s"
        return [
            Finding(
                "fail",
                "vectors",
                f"its gRPC port {port} cannot be reached ({reason})",
                "correct grpc_port in the key `vectors`, or open the port",
            )
        ]
    return [Finding("ok", "vectors", f"Weaviate {version} at {place}")]
