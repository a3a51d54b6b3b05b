"""Secrets by name: a YAML file of names and values, looked at again when it changes.

    ledger-token: Bearer 3f…                # any tenant may refer to it, for any host
    crm-key:
      value: 9a…
      tenants: [acme]                       # only these tenants
      hosts: [crm.example.com]              # and only for these hosts

Values leave this module only for what they are sent to.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import structlog
from pydantic import SecretStr
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from slipway_chassis.errors import FailedPrecondition
from slipway_chassis.private_file import is_private

log = structlog.get_logger(__name__)


class SecretUnavailable(FailedPrecondition):
    """Something refers to a secret that is not there, or not meant for this tenant or host."""

    reason = "SECRET_UNAVAILABLE"


class InvalidSecrets(ValueError):
    """The file can't be used; the message says where and why, and shows no value."""


@dataclass(frozen=True)
class Secret:
    """A value and who may use it where; an empty set means anybody, anywhere."""

    value: SecretStr
    tenants: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()

    def serves(self, tenant: str, host: str) -> bool:
        """True when `tenant` may have it sent to `host`."""
        return (not self.tenants or tenant in self.tenants) and (not self.hosts or host in self.hosts)


class SecretFile:
    """The secrets in force. An invalid file is refused and logged, and the secrets before it stay in force."""

    def __init__(self, path: Path | None) -> None:
        """Read the file; without one there are no secrets. Raises InvalidSecrets."""
        self._path = path
        self._stamp = _stamp(path)
        self._secrets: Mapping[str, Secret] = load(path) if path else {}

    def resolve(self, name: str, *, tenant: str, host: str) -> SecretStr:
        """The secret's value; raises SecretUnavailable, which does not tell a missing one from a forbidden one."""
        self._take_up_changes()
        secret = self._secrets.get(name)
        if secret is None or not secret.serves(tenant, host):
            raise SecretUnavailable(f"no secret {name} for {host}: the platform team adds it")
        return secret.value

    def _take_up_changes(self) -> None:
        stamp = _stamp(self._path)
        if self._path is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._secrets = load(self._path)
        except InvalidSecrets as error:
            log.error("secrets.refused", file=str(self._path), error=str(error))
        else:
            log.info("secrets.loaded", file=str(self._path), count=len(self._secrets))


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        info = path.stat() if path else None
    except OSError:
        return None
    return (info.st_ino, info.st_size, info.st_mtime_ns) if info else None


def load(path: Path) -> dict[str, Secret]:
    """Read a file of secrets; raises InvalidSecrets."""
    try:
        with path.open("rb") as file:
            if not is_private(os.fstat(file.fileno())):
                raise InvalidSecrets(f"{path} can be read by others: chmod 600 it")
            content: Any = YAML(typ="safe").load(file)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        # The parser's own message quotes the file.
        raise InvalidSecrets(f"{path}, line {line}: is not YAML") from None
    except (OSError, YAMLError) as error:
        raise InvalidSecrets(f"{path}: {error.strerror if isinstance(error, OSError) else 'is not YAML'}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidSecrets(f"{path}: must be a mapping of names to values")
    return {str(name): _secret(path, str(name), entry) for name, entry in cast("dict[Any, Any]", content).items()}


def _secret(path: Path, name: str, entry: Any) -> Secret:
    fields: dict[str, Any] = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {"value": entry}
    value = fields.get("value")
    if unknown := set(fields) - {"value", "tenants", "hosts"}:
        raise InvalidSecrets(f"{path}: {name} has the unknown field {sorted(unknown)[0]}")
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
        raise InvalidSecrets(f"{path}: {name} must be a text of printable ASCII (quote numbers)")
    return Secret(SecretStr(value), _names(path, name, fields.get("tenants")), _names(path, name, fields.get("hosts")))


def _names(path: Path, name: str, entry: Any) -> frozenset[str]:
    if entry is None:
        return frozenset()
    if not isinstance(entry, list) or not entry or not all(isinstance(item, str) for item in cast("list[Any]", entry)):
        raise InvalidSecrets(f"{path}: tenants and hosts of {name} must be lists of names, not empty")
    return frozenset(cast("list[str]", entry))
