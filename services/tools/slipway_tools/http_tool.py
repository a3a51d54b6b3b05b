"""Calls declared HTTP tools: one request, to a checked address, with its answer checked.

No redirect is followed, no proxy of the environment is used, no connection is shared between tools, and no more of an
answer is read than its limit.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
from pydantic import SecretStr
from slipway_chassis.ids import new_id
from slipway_chassis.secret_file import SecretFile

from slipway_tools import jsontext, schema
from slipway_tools.address import AllowList, HostUnreachable, checked_addresses
from slipway_tools.hiding import hide
from slipway_tools.http_request import Parts, Target, build, endpoint
from slipway_tools.result import ToolFailure, ToolResult
from slipway_tools.tool import SECRET_PREFIX, Declaration, HttpCall

ANSWER_LIMIT = 1 << 20
_CONNECT_SECONDS = 10.0
_TRIED_ADDRESSES = 3
_LONGEST_RETRY_AFTER = 3600.0
_RETRYABLE = frozenset({408, 425, 429, 503})
# A gateway's answer: the server behind it may have acted.
_UNKNOWN_OUTCOME = frozenset({502, 504})


@dataclass(frozen=True)
class HttpInvocation:
    """One call: for which tenant, under which effect key (empty: none, so that nobody can ask for it again)."""

    tenant: str
    key: str

    def may_repeat(self, declaration: Declaration) -> bool:
        """True when doing the call again does no harm: it changes nothing, or its target knows the key."""
        return declaration.repeatable and (bool(self.key) or (declaration.http is not None and declaration.http.safe))


class AnswerLost(Exception):
    """The request may have been acted on, no whole answer came back, and asking again could do it twice."""


class HttpCaller:
    """Performs calls of declared HTTP tools."""

    def __init__(self, allowed: AllowList, secrets: SecretFile) -> None:
        self._allowed = allowed
        self._secrets = secrets
        self._tls = ssl.create_default_context()

    def check(self, declaration: Declaration, tenant: str) -> str | None:
        """What forbids the declaration on this machine, or None. Resolves no name: that is done at every call.

        Raises:
            SecretUnavailable: a header refers to a secret that is not there.
        """
        assert declaration.http  # noqa: S101
        scheme, host, port = endpoint(declaration.http)
        for name in declaration.http.secret_names():
            self._secrets.resolve(name, tenant=tenant, host=host)
        if scheme != "https" and (host, port) not in self._allowed:
            return "must be https:// unless SLIPWAY_TOOLS_HTTP_ALLOW names host and port"
        return None

    async def call(
        self, declaration: Declaration, arguments: dict[str, object], invocation: HttpInvocation
    ) -> ToolResult:
        """Perform one call.

        Raises:
            AddressNotAllowed, SecretUnavailable, InvalidToolArguments: nothing was sent.
            AnswerLost: it may have acted, and may not be repeated.
        """
        http = declaration.http
        assert http  # noqa: S101
        parts = build(http, arguments)
        target, body = parts.target, parts.body
        values = self._header_secrets(http, invocation.tenant, target.host)
        headers = self._headers(http, values, parts, invocation.key or new_id("call"))
        repeatable = invocation.may_repeat(declaration)
        evidence = {"egress_host": f"{target.host}:{target.port}", "http_method": http.method}
        try:
            async with asyncio.timeout(http.timeout):
                status, answer_headers, raw = await self._exchange(http.method, target, headers, body)
        except HostUnreachable as error:
            return ToolResult(failure=ToolFailure("UNREACHABLE", f"{error}.", retryable=True), evidence=evidence)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            message = f"No connection to {target.host}:{target.port}."
            return ToolResult(failure=ToolFailure("UNREACHABLE", message, retryable=True), evidence=evidence)
        except TimeoutError:
            return _lost(repeatable, "TIMEOUT", f"No answer within {http.timeout:g} s.", evidence)
        except httpx.TransportError:
            return _lost(repeatable, "CONNECTION_LOST", "The connection broke before the answer was whole.", evidence)
        evidence["http_status"] = str(status)
        text = _hide(raw, values)
        if not 200 <= status < 300:
            return _refused(repeatable, status, answer_headers, evidence)
        return _read(declaration, raw, text, answer_headers, evidence)

    async def _exchange(
        self, method: str, target: Target, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, httpx.Headers, bytes | None]:
        """Send and read; the body is None when it is longer than the limit or encoded."""
        addresses = await checked_addresses(target.host, target.port, self._allowed)
        # A client for one request: connections are kept by address, and two names may share one.
        async with httpx.AsyncClient(
            verify=self._tls,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
        ) as client:
            for index, address in enumerate(addresses[:_TRIED_ADDRESSES]):
                host = f"[{address}]" if address.version == 6 else str(address)
                request = client.build_request(
                    method,
                    f"{target.scheme}://{host}:{target.port}{target.path_and_query}",
                    headers={"Host": target.authority, **headers},
                    content=body,
                    extensions={"sni_hostname": target.host},
                )
                try:
                    response = await client.send(request, stream=True)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if index + 1 == len(addresses[:_TRIED_ADDRESSES]):
                        raise
                    continue
                try:
                    return response.status_code, response.headers, await _body(response)
                finally:
                    await response.aclose()
        raise AssertionError("unreachable")

    def _header_secrets(self, http: HttpCall, tenant: str, host: str) -> dict[str, SecretStr]:
        return {name: self._secrets.resolve(name, tenant=tenant, host=host) for name in http.secret_names()}

    @staticmethod
    def _headers(http: HttpCall, secrets: Mapping[str, SecretStr], parts: Parts, key: str) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "slipway-tools", **parts.headers}
        for name, value in http.headers.items():
            reference = value.removeprefix(SECRET_PREFIX)
            headers[name] = secrets[reference].get_secret_value() if value.startswith(SECRET_PREFIX) else value
        # Nothing encoded is read: a small body could unfold without end.
        headers["Accept-Encoding"] = "identity"
        if parts.body is not None:
            headers["Content-Type"] = "application/json"
        headers[http.idempotency_header] = key
        return headers


def _lost(repeatable: bool, code: str, message: str, evidence: dict[str, str]) -> ToolResult:
    if not repeatable:
        raise AnswerLost(f"{message} It may have acted, and asking again could do it twice.")
    return ToolResult(failure=ToolFailure(code, message, retryable=True), evidence=dict(evidence))


def _refused(repeatable: bool, status: int, headers: httpx.Headers, evidence: dict[str, str]) -> ToolResult:
    if status in _UNKNOWN_OUTCOME and not repeatable:
        return _lost(repeatable, "HTTP_STATUS", f"A gateway answered {status}.", evidence)
    retryable = status in _RETRYABLE or (status >= 500 and repeatable)
    what = "a redirect, which is not followed" if 300 <= status < 400 else "an error"
    failure = ToolFailure(
        "HTTP_STATUS",
        f"The tool answered with {what} (HTTP status {status}).",
        retryable=retryable,
        retry_after=_retry_after(headers) if retryable else None,
    )
    return ToolResult(failure=failure, evidence=dict(evidence))


async def _body(response: httpx.Response) -> bytes | None:
    if response.headers.get("content-encoding", "identity") != "identity":
        return None
    if int(response.headers.get("content-length", "0")) > ANSWER_LIMIT:
        return None
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > ANSWER_LIMIT:
            return None
    return bytes(body)


def _hide(raw: bytes | None, secrets: Mapping[str, SecretStr]) -> str | None:
    """The answer as text, without the secrets that went out with the request: some servers echo headers."""
    if raw is None:
        return None
    try:
        return hide(raw.decode(), (secret.get_secret_value() for secret in secrets.values()))
    except UnicodeDecodeError:
        return None


def _read(
    declaration: Declaration, raw: bytes | None, text: str | None, headers: httpx.Headers, evidence: dict[str, str]
) -> ToolResult:
    def invalid(code: str, message: str) -> ToolResult:
        # The call was done: trying again does it again.
        return ToolResult(failure=ToolFailure(code, message), evidence=dict(evidence))

    if raw is None:
        if headers.get("content-encoding", "identity") != "identity":
            return invalid("INVALID_RESULT", "The answer is compressed although that was not asked for.")
        return invalid("OUTPUT_TOO_LARGE", f"The answer is longer than {ANSWER_LIMIT} bytes.")
    if text is None:
        return invalid("INVALID_RESULT", "The answer is not UTF-8.")
    try:
        output = jsontext.parse(text, field="output", limit=2 * ANSWER_LIMIT) if text.strip() else None
    except jsontext.InvalidJson as error:
        return invalid("INVALID_RESULT", f"The answer {error.message}.")
    if declaration.output_schema is not None:
        wrong = schema.violations(declaration.output_schema, output)
        if wrong:
            return invalid(
                "INVALID_RESULT", f"The answer does not fit the output schema: {wrong[0].field} {wrong[0].message}."
            )
    return ToolResult(output_json=jsontext.compact(output), evidence=dict(evidence))


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that Retry-After asks for (RFC 9110, 10.2.3: a number or a date), at most an hour."""
    text = headers.get("retry-after", "").strip()
    if text.isdigit():
        return min(float(text), _LONGEST_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), _LONGEST_RETRY_AFTER)
