"""Types of settings: what an address or a URL must look like. Messages follow the name, and show no value."""

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

_CHARACTERS: Final = "write special characters of user and password as %XX, addresses of IPv6 in []"
_REDIS: Final = ("redis", "rediss", "unix")
_AMQP: Final = ("amqp", "amqps")
_TARGET: Final = re.compile(r"(?:dns:(?://[^/]*/)?|ipv[46]:)?(?P<address>.+)")


def _is_port(text: str, *, least: int) -> bool:
    return text.isascii() and text.isdigit() and least <= int(text) <= 65_535


def _is_listen(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or "/" in host or not _is_port(port, least=0):
        raise ValueError("must be HOST:PORT, an address of this machine and a port; 0 takes a free one")
    return value


def _is_target(value: str) -> str:
    if value.startswith("unix:"):
        return value
    found = _TARGET.fullmatch(value)
    host, _, port = found["address"].rpartition(":") if found else ("", "", "")
    if not host or "/" in host or not _is_port(port, least=1):
        raise ValueError("must be HOST:PORT or dns:///HOST:PORT, without http://")
    return value


def _refuse_form(url: str, schemes: tuple[str, ...], form: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"is no URL: {_CHARACTERS}") from None
    if parts.scheme not in schemes:
        raise ValueError(f"must be {form}")
    if port == 0:
        raise ValueError("names no port from 1 to 65535")
    if parts.fragment or (parts.password is None and "@" in parts.path):
        raise ValueError(f"is no URL: {_CHARACTERS}")


def _is_database(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    _refuse_form(url, ("postgresql", "postgres"), "postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    return value


def _is_redis(value: SecretStr) -> SecretStr:
    return SecretStr(_redis(value.get_secret_value(), ""))


def _is_bus(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    if not url.startswith("amqp"):
        return SecretStr(_redis(url, " or amqp://USER:PASSWORD@HOST:PORT/VHOST"))
    _refuse_form(url, _AMQP, "amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:// with TLS")
    if not urlsplit(url).hostname:
        raise ValueError("names no host: amqp://USER:PASSWORD@HOST:PORT/VHOST")
    return value


def _redis(url: str, other: str) -> str:
    if url.startswith("valkey"):
        url = url.replace("valkey", "redis", 1)
    _refuse_form(
        url, _REDIS, f"redis://USER:PASSWORD@HOST:PORT/NUMBER, rediss:// with TLS,{other or ' or unix://PATH'}"
    )
    parts = urlsplit(url)
    if parts.scheme != "unix":
        if not parts.hostname:
            raise ValueError("names no host: redis://USER:PASSWORD@HOST:PORT/NUMBER")
        if (number := parts.path.strip("/")) and not number.isdigit():
            raise ValueError("must end in the number of a database, as in redis://HOST:PORT/0")
    return url


def _is_collector(value: str) -> str:
    if value:
        _refuse_form(value, ("http", "https"), "http://HOST:PORT or https://HOST:PORT, that of OTLP over gRPC (4317)")
        if not urlsplit(value).hostname:
            raise ValueError("names no host: http://HOST:4317")
    return value


Listen = Annotated[str, AfterValidator(_is_listen)]
"""Address that a server listens on."""
Target = Annotated[str, AfterValidator(_is_target)]
"""gRPC target of another service."""
DatabaseUrl = Annotated[SecretStr, AfterValidator(_is_database)]
"""postgresql://…"""
RedisUrl = Annotated[SecretStr, AfterValidator(_is_redis)]
"""redis://…; valkey://… is the same."""
BusUrl = Annotated[SecretStr, AfterValidator(_is_bus)]
"""redis://… or amqp://…"""
CollectorUrl = Annotated[str, AfterValidator(_is_collector)]
"""http://… of OTLP over gRPC; empty: none."""
Seconds = Annotated[float, Field(allow_inf_nan=False)]
"""A time that ends."""
Secret = Annotated[SecretStr, Field(min_length=1)]
"""Not empty."""
