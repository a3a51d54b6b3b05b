"""Which index a URL names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

_FORM = "weaviate://[KEY@]HOST:PORT?grpc_port=N[&tls=true][&collection=NAME]"
_PARAMETERS = ("grpc_port", "tls", "collection")
_COLLECTION = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")


@dataclass(frozen=True, slots=True)
class WeaviateAddress:
    """Where a Weaviate is. `collection` is what the names of this installation's collections begin with."""

    host: str
    port: int
    grpc_port: int
    tls: bool
    key: str
    collection: str


def weaviate_address(url: str) -> WeaviateAddress:
    """Reads `weaviate://[KEY@]HOST:PORT?grpc_port=N[&tls=true][&collection=NAME]`; KEY percent-encoded.

    Raises ValueError with a sentence that says what is wrong with the URL, without its key.
    """
    parts = urlsplit(url)
    if parts.scheme != "weaviate":
        raise ValueError(f"must be empty (pgvector in the service's own database) or {_FORM}")
    if not parts.hostname or parts.path.strip("/") or parts.password is not None:
        raise ValueError(f"must be {_FORM}")
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(parameters.keys() - set(_PARAMETERS)):
        raise ValueError(f"parameter {unknown[0]!r} is none of {', '.join(_PARAMETERS)}")
    tls = parameters.get("tls", "false")
    if tls not in ("true", "false"):
        raise ValueError("its parameter tls must be true or false")
    collection = parameters.get("collection", "SlipwayPassages")
    if not _COLLECTION.fullmatch(collection):
        raise ValueError("its parameter collection must be letters and digits, the first an upper-case letter")
    try:
        port = parts.port
    except ValueError:
        port = None
    grpc_port = parameters.get("grpc_port", "")
    if not port or not re.fullmatch(r"[1-9][0-9]{0,4}", grpc_port) or int(grpc_port) > 65535:
        raise ValueError(f"must name both ports, {_FORM}")
    if port == int(grpc_port):
        raise ValueError("its two ports must differ")
    return WeaviateAddress(
        parts.hostname, port, int(grpc_port), tls == "true", unquote(parts.username or ""), collection
    )
