"""Secrets by which the other services prove who they are when they ask for a token of their own."""

import hmac
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import structlog
from slipway_chassis.errors import Unauthenticated

_LEAST = 16
_MOST = 4

log = structlog.get_logger(__name__)


class ServiceSecretWrong(Unauthenticated):
    """There is no such service, or its secret is another."""

    reason = "SERVICE_SECRET_WRONG"


class ServiceSecrets:
    """Checks service secrets, in a time that tells nothing about them.

    A service may have several, all good: so is one rotated. A file is looked at again when it changes; one that can't
    be used is logged and leaves the secrets as they were.
    """

    def __init__(self, text: str = "", *, file: Path | None = None) -> None:
        """`text` or the file: a JSON object of service to secret, or to a list of them. Raises ValueError, OSError."""
        self._file = file
        self._stamp = _stamp(file)
        self._digests = _digests(text if file is None else file.read_text())

    def check(self, service: str, secret: str) -> None:
        """Raises ServiceSecretWrong, the same for an unknown service as for a wrong secret."""
        self._take_up_changes()
        known = self._digests.get(service, ())
        given = sha256(secret.encode()).digest()
        good = False
        # As many comparisons for everybody.
        for one in (*known, *[bytes(32)] * (_MOST - len(known))):
            good |= hmac.compare_digest(one, given)
        if not good:
            raise ServiceSecretWrong("the service or its secret is wrong")

    def _take_up_changes(self) -> None:
        stamp = _stamp(self._file)
        if self._file is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._digests = _digests(self._file.read_text())
        except (OSError, ValueError) as error:
            # What JSON says of the text does not quote it.
            log.error("service_secrets.refused", file=str(self._file), reason=str(error))
        else:
            log.info("service_secrets.loaded", file=str(self._file))


def _digests(text: str) -> Mapping[str, Sequence[bytes]]:
    content: Any = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("the service secrets are not a JSON object")
    digests: dict[str, Sequence[bytes]] = {}
    for service, given in cast("dict[str, Any]", content).items():
        secrets = cast("list[Any]", given) if isinstance(given, list) else [given]
        if not 1 <= len(secrets) <= _MOST:
            raise ValueError(f"{service} has not one to {_MOST} secrets")
        if not all(isinstance(secret, str) and len(secret) >= _LEAST for secret in secrets):
            raise ValueError(f"the secret of {service} is shorter than {_LEAST} characters")
        digests[service] = [sha256(secret.encode()).digest() for secret in secrets]
    return digests


def _stamp(file: Path | None) -> tuple[int, int, int] | None:
    try:
        info = file.stat() if file else None
    except OSError:
        return None
    return (info.st_ino, info.st_size, info.st_mtime_ns) if info else None
