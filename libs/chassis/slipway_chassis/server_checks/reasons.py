"""Why a connection was not made, in words: what stays wrong (files, TLS), and what may pass."""

import socket
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from slipway_chassis.server_checks import ServerRefuses

ANSWER_SECONDS = 5.0
"""How long a server may take to answer at the start."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from: libraries wrap what the system said."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def place(url: str, port: int) -> str:
    """`host:port` of a URL, without user and password; `port` is the default one."""
    parts = urlsplit(url)
    host = parts.hostname or dict(parse_qsl(parts.query)).get("host", "") or parts.path
    if host.startswith("/"):
        return host
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or port}"


def refuse_unreadable_files(url: str, names: Sequence[str]) -> None:
    """Files that the URL names in these parameters can be read. Raises ServerRefuses."""
    for name, value in parse_qsl(urlsplit(url).query):
        if name not in names:
            continue
        try:
            with Path(value).open("rb"):
                pass
        except OSError as error:
            raise ServerRefuses(
                f"its {name} names {value}, which cannot be read ({error.strerror}): correct the path, or put it there"
            ) from None


def tls_refusal(error: BaseException, *, authority: str, plain: str) -> str:
    """What about TLS will not work; empty if that is not it.

    `authority` is the part of the URL that names the server's authority, `plain` what to write where there is no TLS.
    """
    for one in chain(error):
        if isinstance(one, ssl.SSLCertVerificationError):
            said = one.verify_message
            if "expired" in said:
                return "the server's certificate has expired: put a new one there"
            if "not yet valid" in said:
                return "the server's certificate is not valid yet: compare the clocks, or put another one there"
            if "mismatch" in said:
                return (
                    f"the server's certificate does not name the host of the URL ({said.rstrip('.')}): "
                    "write a host that it names, or put one there that names this host"
                )
            return f"the server's certificate is not accepted ({said}): {authority} names its authority"
        if isinstance(one, ssl.SSLError):
            match one.reason:
                case "WRONG_VERSION_NUMBER" | "RECORD_LAYER_FAILURE" | "HTTP_REQUEST":
                    return f"it demands TLS, which the server does not have: turn it on there, or {plain}"
                case "NO_CERTIFICATE_OR_CRL_FOUND" | "NO_START_LINE" | "PEM_LIB":
                    return f"{authority}, or its own certificate or key, holds none in PEM: put PEM files there"
                case "KEY_VALUES_MISMATCH":
                    return "the key that it names is not that of the certificate: name the two that belong together"
                case str() as reason:
                    return f"TLS fails ({reason.replace('_', ' ').lower()}): compare what both sides demand"
    return ""


def away(error: BaseException, server: str, where: str) -> str:
    """Why nobody answers, with what to do."""
    said = ""
    for one in chain(error):
        if isinstance(one, socket.gaierror):
            said = "its host name is not known"
        elif isinstance(one, ConnectionRefusedError):
            said = "nobody listens there"
        elif isinstance(one, ConnectionResetError):
            said = "it ends the connection without an answer"
        elif isinstance(one, TimeoutError):
            said = said or "no answer in time"
        elif isinstance(one, OSError) and one.strerror:
            said = said or one.strerror.lower()
    said = said or "it ends the connection without an answer"
    return f"no {server} answers at {where} ({said}): start it, or correct host and port"
