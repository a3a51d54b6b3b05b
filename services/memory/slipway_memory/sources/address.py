"""Where a data source's database is: its URL by reference, and which hosts the platform allows."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import SecretStr
from slipway_chassis.secret_file import SecretFile, SecretUnavailable

from slipway_memory.sources.errors import SourceHostNotAllowed, SourceUrlUnavailable

_TLS = ("disable", "require", "verify-full")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST_URL = 4096


@dataclass(frozen=True)
class DatabaseAddress:
    """How to connect. `host` is a name, an address, or the folder of a Unix socket; `tls` as libpq's sslmode.

    `disable`, `require` (encrypted, whoever answers) or `verify-full` (the system's certificate authorities).
    """

    host: str
    port: int
    user: str
    password: SecretStr
    database: str
    tls: str

    @property
    def place(self) -> str:
        """What an allow list names: `host:port`, or the socket's folder."""
        return self.host if self.host.startswith("/") else f"{self.host}:{self.port}"


class Addresses:
    """Resolves references, within what configuration allows."""

    def __init__(self, secrets: SecretFile, folder: Path | None, allowed: Sequence[str]) -> None:
        """`folder` holds URLs in files `TENANT/NAME`; `allowed` are places, as `DatabaseAddress.place`."""
        self._secrets = secrets
        self._folder = folder
        self._allowed = frozenset(allowed)

    def resolve(self, reference: str, tenant: str) -> DatabaseAddress:
        """The address that a tenant's reference leads to, read anew.

        Raises:
            SourceUrlUnavailable, SourceHostNotAllowed. Neither tells anything of the URL.
        """
        kind, _, name = reference.partition(":")
        address = self._of_secret(name, tenant) if kind == "secret" else self._of_file(name, tenant)
        if address.place not in self._allowed:
            raise SourceHostNotAllowed(
                "the platform's configuration does not allow a database there: the platform team names its host",
                field="url",
            )
        return address

    def _of_secret(self, name: str, tenant: str) -> DatabaseAddress:
        # A secret that is bound to hosts is found with the right one only, which its value says.
        for place in ("", *sorted(self._allowed)):
            host = place if place.startswith("/") else place.rpartition(":")[0]
            try:
                value = self._secrets.resolve(name, tenant=tenant, host=host).get_secret_value()
            except SecretUnavailable:
                continue
            address = parse_url(value)
            if host in ("", address.host):
                return address
        raise SourceUrlUnavailable(f"there is no secret {name} for this tenant: the platform team adds it", field="url")

    def _of_file(self, name: str, tenant: str) -> DatabaseAddress:
        problem = SourceUrlUnavailable(
            f"there is no file {name} for this tenant: the platform team adds it", field="url"
        )
        if self._folder is None or not _TENANT.fullmatch(tenant):
            raise problem
        try:
            with (self._folder / tenant / name).open("rb") as file:
                return parse_url(file.read(_LONGEST_URL).decode().strip())
        except (OSError, UnicodeDecodeError):
            raise problem from None


def parse_url(url: str) -> DatabaseAddress:
    """Read a PostgreSQL URL: one host, and no options but `sslmode` and a socket's `host`.

    Raises SourceUrlUnavailable.
    """
    problem = SourceUrlUnavailable(
        "the reference must lead to postgresql://ROLE:PASSWORD@HOST:PORT/DATABASE, with sslmode as its only option",
        field="url",
    )
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
        options = parse_qs(parts.query, strict_parsing=True, keep_blank_values=True) if parts.query else {}
    except ValueError:
        raise problem from None
    socket = options.pop("host", [""])
    tls = options.pop("sslmode", ["disable" if socket != [""] else "verify-full"])
    host = parts.hostname or socket[0]
    database = unquote(parts.path.removeprefix("/"))
    if (
        parts.scheme not in ("postgresql", "postgres")
        or options
        or not host
        or "," in parts.netloc
        or (socket != [""] and (parts.hostname or not os.path.isabs(socket[0])))
        or len(socket) != 1
        or len(tls) != 1
        or tls[0] not in _TLS
        or not parts.username
        or not database
        or "/" in database
        or parts.fragment
    ):
        raise problem
    password = SecretStr(unquote(parts.password or ""))
    return DatabaseAddress(host, port, unquote(parts.username), password, database, tls[0])
