"""An identity provider (Keycloak): its keys, its clock, and the client that looks people up; nothing is written."""

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx

from slipway_cli.checks.finding import Finding

_SECONDS = 10.0
_WORST_SKEW = 10.0  # what the gateway forgives of tokens' times, in seconds
_CLAIMS = ("subject", "tenant", "roles", "groups", "client")
_DIRECTORY = ("tenant_attribute", "groups", "roles_client")


@dataclass(frozen=True)
class Identity:
    """A realm whose tokens the gateway takes, as the key `identity` of the servers' file has it."""

    issuer: str
    client_secret: str
    client_id: str = "slipway-gateway"
    audience: tuple[str, ...] = ("slipway",)
    clients: tuple[str, ...] = ("slipway-cli", "slipway-ci")
    ca_file: str = ""
    claims: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names of claims, of those that the realm calls otherwise: subject, tenant, roles, groups, client."""
    directory: Mapping[str, str] = field(default_factory=dict[str, str])
    """Options of the gateway's DIRECTORY_URL: tenant_attribute, groups, roles_client."""

    @property
    def directory_url(self) -> str:
        """Where the gateway looks people up."""
        return f"keycloak+{self.issuer}?{urlencode({'client_id': self.client_id, **self.directory})}"


def wrong_identity(value: Any) -> str | None:
    """What is wrong with the key's value; None: nothing."""
    if not isinstance(value, dict):
        return "must hold issuer and client_secret"
    known = Identity.__dataclass_fields__
    for name, part in value.items():
        if name not in known:
            return f"has an unknown part {name!r}; known are {', '.join(known)}"
        if wrong := _wrong_part(name, part):
            return wrong
    for name in ("issuer", "client_secret"):
        if name not in value:
            return f"lacks {name}"
    parts = urlsplit(value["issuer"])
    if parts.scheme not in ("https", "http") or not parts.hostname or "/realms/" not in parts.path or parts.query:
        return "must have an issuer like https://HOST/realms/REALM"
    if value["issuer"].endswith("/"):
        return "must have its issuer exactly as in tokens, without a slash at its end"
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        return "must have an https issuer: whoever stands between could hand out keys of their own"
    if "ca_file" in value and not Path(value["ca_file"]).is_file():
        return f"names a ca_file {value['ca_file']} that is not there"
    return None


def _wrong_part(name: str, part: Any) -> str | None:
    if name in ("claims", "directory"):
        known = _CLAIMS if name == "claims" else _DIRECTORY
        if not isinstance(part, dict) or not all(_is_text(text) for text in part.values()):
            return f"must map names to text in its {name}"
        unknown = [option for option in part if option not in known]
        return f"has an unknown part {unknown[0]!r} in its {name}; known are {', '.join(known)}" if unknown else None
    if name == "clients" or (name == "audience" and isinstance(part, list)):
        return None if isinstance(part, list) and part and all(map(_is_text, part)) else f"must name {name} as a list"
    return None if _is_text(part) else f"must have text as its {name}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def read_identity(value: dict[str, Any]) -> Identity:
    """The key's value, which `wrong_identity` found right."""
    audience = value.get("audience", Identity.audience)
    parts: dict[str, Any] = {
        **value,
        "clients": tuple(value.get("clients", Identity.clients)),
        "audience": (audience,) if isinstance(audience, str) else tuple(audience),
    }
    return Identity(**parts)


async def check_identity(identity: Identity) -> list[Finding]:
    """The issuer answers as itself, has keys, has the time, and takes the client's secret."""
    verify = ssl.create_default_context(cafile=identity.ca_file) if identity.ca_file else True
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=_SECONDS, verify=verify) as web:
            return await _ask(web, identity)
    except (httpx.HTTPError, OSError) as error:
        reason = str(error) or f"no answer in {_SECONDS:g} s"
        certificate = "CERTIFICATE_VERIFY_FAILED" in reason
        remedy = "name its authority's certificate as ca_file" if certificate else "start it, or correct the issuer"
        return [
            Finding("fail", "identity", f"{identity.issuer} cannot be reached ({reason})", f"{remedy} in `identity`")
        ]


async def _ask(web: httpx.AsyncClient, identity: Identity) -> list[Finding]:
    answer = await web.get(f"{identity.issuer}/.well-known/openid-configuration")
    if answer.status_code == 404:
        return [Finding("fail", "identity", f"{identity.issuer} is no realm there", "correct the issuer in `identity`")]
    try:
        about = answer.raise_for_status().json()
        named, keys_url, token_url = about["issuer"], about["jwks_uri"], about["token_endpoint"]
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
        return [
            Finding("fail", "identity", f"{identity.issuer} is no OpenID provider", "correct the issuer in `identity`")
        ]
    if named != identity.issuer:
        return [
            Finding(
                "fail",
                "identity",
                f"the provider calls itself {named}",
                "write that as the issuer in `identity`, or set the provider's hostname",
            )
        ]
    keys = await web.get(keys_url)
    if keys.status_code != 200 or not keys.json().get("keys"):
        return [Finding("fail", "identity", "the realm has no signing keys", "make one in the realm's settings")]
    form = {"grant_type": "client_credentials"}
    token = await web.post(token_url, data=form, auth=(identity.client_id, identity.client_secret))
    if token.status_code != 200:
        return [
            Finding(
                "fail",
                "identity",
                f"the realm refuses the client {identity.client_id}",
                "correct client_id and client_secret in `identity`, and enable the client's service account",
            )
        ]
    found = [Finding("ok", "identity", f"{identity.issuer}, {len(keys.json()['keys'])} keys")]
    return found + skew("identity", answer.headers.get("date", ""))


def skew(subject: str, date: str) -> list[Finding]:
    """Compares the Date of an answer that came just now (whole seconds) with this machine's clock."""
    try:
        seconds = time.time() - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return []
    if abs(seconds) <= _WORST_SKEW:
        return []
    return [
        Finding(
            "fail",
            subject,
            f"its clock differs from this machine's by {seconds:.0f} s, tokens would be refused",
            "synchronise both clocks (chrony, systemd-timesyncd)",
        )
    ]
