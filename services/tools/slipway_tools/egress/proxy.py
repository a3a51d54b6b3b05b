"""The egress proxy: the only way out of a sandbox, one HTTP request at a time.

Requests come in plain (`GET http://…`) or through CONNECT, whose TLS is ended here with a certificate that only the
sandbox trusts: so method and path are seen, credentials can be added, and nothing is relayed that was not looked at.
Names are resolved here, every address is checked, and the connection goes to a checked one. Redirects are handed back:
following one is another request. A rule is looked up for every request, and none means no.
"""

import asyncio
import ipaddress
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11
import httpx
import structlog
from pydantic import SecretStr
from slipway_chassis.secret_file import SecretFile, SecretUnavailable

from slipway_tools.address import AddressNotAllowed, AllowList, HostUnreachable, checked_addresses
from slipway_tools.egress.authority import Authority
from slipway_tools.egress.call import EgressCall
from slipway_tools.egress.door import Door
from slipway_tools.egress.rules import Rule, ToolRules, plain_path

log = structlog.get_logger(__name__)
_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_TRIED_ADDRESSES = 3
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"expect",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# By these a program would have a server perform another method or path than the one that was looked at.
_OVERRIDES = frozenset(
    {
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-uri",
        b"x-original-url",
        b"x-override-url",
        b"x-rewrite-url",
    }
)


class Refused(Exception):
    """A request that gets no further; `outcome` is what audit and metrics call it."""

    def __init__(self, outcome: str, message: str, status: int = 403) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.status = status


@dataclass(frozen=True)
class Server:
    """Where a request wants to go."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port as in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


class Proxy:
    """Serves the doors of all sandboxes."""

    def __init__(self, allowed: AllowList, secrets: SecretFile) -> None:
        self.authority = Authority()
        self._allowed = allowed
        self._secrets = secrets
        self._tls = ssl.create_default_context()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, door: Door) -> None:
        """Serve one connection of a sandbox."""
        try:
            async with asyncio.timeout(_SECONDS):
                await _Connection(self, reader, writer, door).run()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ssl.SSLError, h11.ProtocolError, httpx.HTTPError):
            return  # the program's side or the server broke the connection, or spoke no HTTP

    def resolve(self, rule: Rule, tenant: str, host: str) -> tuple[dict[str, str], list[SecretStr]]:
        """The headers that `rule` adds, and the secrets among them."""
        headers: dict[str, str] = {}
        secrets: list[SecretStr] = []
        for name, value in rule.headers.items():
            if value.startswith("secret:"):
                secret = self._secrets.resolve(value.removeprefix("secret:"), tenant=tenant, host=host)
                secrets.append(secret)
                headers[name] = secret.get_secret_value()
            else:
                headers[name] = value
        return headers, secrets

    async def addresses(self, server: Server) -> list[str]:
        """Checked addresses of `server`; raises AddressNotAllowed, HostUnreachable."""
        found = await checked_addresses(server.host, server.port, self._allowed)
        return [str(address) for address in found[:_TRIED_ADDRESSES]]

    async def send(
        self, server: Server, address: str, method: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> tuple[httpx.AsyncClient, httpx.Response]:
        """Send one request to a checked address; the caller closes both."""
        host = f"[{address}]" if ":" in address else address
        client = httpx.AsyncClient(
            verify=self._tls,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(_SECONDS, connect=_CONNECT_SECONDS),
        )
        request = httpx.Request(
            method,
            f"{server.scheme}://{host}:{server.port}{target}",
            headers=[(b"host", server.authority.encode()), *headers],
            content=body or None,
            extensions={"sni_hostname": server.host, "timeout": client.timeout.as_dict()},
        )
        try:
            return client, await client.send(request, stream=True)
        except BaseException:
            await client.aclose()
            raise


class _Connection:
    """One connection: requests one after the other."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, door: Door) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._door = door
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16)
        self._tunnel: Server | None = None

    async def run(self) -> None:
        while True:
            event = await self._event()
            if not isinstance(event, h11.Request):
                return
            call = self._door.call
            if call is None:
                return
            call.requests += 1
            if event.method == b"CONNECT" and self._tunnel is None:
                if not await self._connect(event, call):
                    return
                continue
            try:
                await self._request(event, call)
            except Refused as refusal:
                await self._refuse(call, event, refusal)
                return
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _connect(self, event: h11.Request, call: EgressCall) -> bool:
        """Answer CONNECT and end the TLS that follows; False when it is refused."""
        try:
            server = _server_of("https", event.target.decode("ascii", "replace"))
            if not _rules(call).find("https", server.host, server.port):
                raise Refused("not_allowed", f"{server.host}:{server.port} may not be reached")
        except Refused as refusal:
            await self._refuse(call, event, refusal)
            return False
        if self._http.trailing_data[0]:
            return False  # it did not wait for the answer: what it sent is no TLS for us
        self._writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await self._writer.start_tls(self._proxy.authority.context(server.host))
        self._tunnel = server
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16)
        call.requests -= 1  # what comes through it counts
        return True

    async def _request(self, event: h11.Request, call: EgressCall) -> None:
        method = event.method.decode()
        server, target = self._where(event)
        path = target.partition("?")[0]
        rules = _rules(call)
        candidates = rules.find(server.scheme, server.host, server.port)
        if not candidates:
            raise Refused("not_allowed", f"{server.host}:{server.port} may not be reached")
        if not plain_path(path):
            raise Refused("not_allowed", "the path has steps up, empty segments or characters that hide them")
        rule = next((rule for rule in candidates if rule.allows(method, path)), None)
        if rule is None:
            raise Refused("not_allowed", f"{method} {path} may not be sent to {server.host}")
        body = await self._body(call, rules)
        if (limit := call.limit_reached(rules.limits)) is not None:
            raise Refused("limit", f"the call is beyond its limit of {limit}", 429)
        try:
            own, secrets = self._proxy.resolve(rule, call.caller.tenant, server.host)
            addresses = await self._proxy.addresses(server)
        except AddressNotAllowed:
            raise Refused("address", f"{server.host} has an address that is not public") from None
        except SecretUnavailable as error:
            raise Refused("secret", error.message, 502) from None
        except HostUnreachable as error:
            raise Refused("unreachable", str(error), 502) from None
        headers = _outgoing(event, own, hide=bool(secrets))
        await self._exchange(call, rules, server, addresses, method, target, headers, body, secrets)

    async def _exchange(
        self,
        call: EgressCall,
        rules: ToolRules,
        server: Server,
        addresses: list[str],
        method: str,
        target: str,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        secrets: list[SecretStr],
    ) -> None:
        for index, address in enumerate(addresses):
            try:
                client, response = await self._proxy.send(server, address, method, target, headers, body)
                break
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if index + 1 == len(addresses):
                    raise Refused("unreachable", f"no connection to {server.host}:{server.port}", 502) from None
            except httpx.HTTPError:
                raise Refused("unreachable", f"{server.host} gave no answer", 502) from None
        else:
            raise Refused("unreachable", f"{server.host} has no address", 502)
        try:
            await call.note(
                "allowed",
                **_facts(method, server, target),
                address=address,
                status=response.status_code,
                request_bytes=len(body),
            )
            await self._answer(call, rules, response, secrets)
        finally:
            await response.aclose()
            await client.aclose()

    async def _answer(
        self, call: EgressCall, rules: ToolRules, response: httpx.Response, secrets: list[SecretStr]
    ) -> None:
        """Hand the answer on, up to the limit; without the secrets that went out with the request."""
        headers = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in _HOP_BY_HOP]
        most = rules.limits.response_bytes
        if not secrets:
            await self._send(h11.Response(status_code=response.status_code, headers=headers))
            async for part in response.aiter_raw():
                call.received += len(part)
                if call.received > most:
                    raise OSError("the call is beyond its limit of response_bytes")  # cuts the connection
                await self._send(h11.Data(data=part))
            await self._send(h11.EndOfMessage())
            return
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Refused("encoded", "the answer is compressed although that was not asked for", 502)
        whole = bytearray()
        async for part in response.aiter_raw():
            whole += part
            call.received += len(part)
            if call.received > most:
                raise Refused("limit", "the call is beyond its limit of response_bytes", 502)
        clean = _hidden(bytes(whole), secrets)
        headers = [(name, _hidden(value, secrets)) for name, value in headers if name != b"content-length"]
        headers.append((b"content-length", b"%d" % len(clean)))
        await self._send(h11.Response(status_code=response.status_code, headers=headers))
        await self._send(h11.Data(data=clean))
        await self._send(h11.EndOfMessage())

    def _where(self, event: h11.Request) -> tuple[Server, str]:
        """The server and the target (path and query) of a request."""
        target = event.target.decode("ascii", "replace")
        if self._tunnel is not None:
            host = next((value.decode("ascii", "replace") for name, value in event.headers if name == b"host"), "")
            if _server_of("https", host) != self._tunnel or not target.startswith("/"):
                raise Refused("not_allowed", "the request names another host than its connection", 421)
            return self._tunnel, target.partition("#")[0]
        parts = urlsplit(target)
        if parts.scheme != "http" or not parts.netloc or "@" in parts.netloc:
            raise Refused("malformed", "a proxy takes `METHOD http://host/path`, or CONNECT for https", 400)
        rest = target[len("http://") + len(parts.netloc) :].partition("#")[0]
        return _server_of("http", parts.netloc), rest if rest.startswith("/") else f"/{rest}"

    async def _body(self, call: EgressCall, rules: ToolRules) -> bytes:
        body = bytearray()
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        while not isinstance(event := await self._event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise Refused("malformed", "the request broke off", 400)
            body += event.data
            call.sent += len(event.data)
            if call.sent > rules.limits.request_bytes:
                raise Refused("limit", "the call is beyond its limit of request_bytes", 413)
        return bytes(body)

    async def _refuse(self, call: EgressCall, event: h11.Request, refusal: Refused) -> None:
        target = event.target.decode("ascii", "replace")
        await call.note(
            refusal.outcome, method=event.method.decode("ascii", "replace"), target=target[:500], message=str(refusal)
        )
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = f"slipway egress: {refusal}\n".encode()
        headers = [("content-type", "text/plain"), ("content-length", str(len(body))), ("connection", "close")]
        await self._send(h11.Response(status_code=refusal.status, headers=headers))
        await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(1 << 16))
        return event

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)
            await self._writer.drain()


def _rules(call: EgressCall) -> ToolRules:
    rules = call.rules()
    if rules is None:
        raise Refused("not_allowed", "this tool may reach nothing")
    return rules


def _server_of(scheme: str, authority: str) -> Server:
    """Host and port of an authority; an address is written the one way that it has."""
    try:
        parts = urlsplit(f"//{authority}")
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise Refused("malformed", "the host is none", 400) from None
    if not host or not host.isascii() or parts.path or parts.query or "@" in authority or "%" in host:
        raise Refused("malformed", "the host is none", 400)
    try:
        host = str(ipaddress.ip_address(host))
    except ValueError:
        host = host.lower()
    return Server(scheme, host, port or (443 if scheme == "https" else 80))


def _outgoing(event: h11.Request, own: Mapping[str, str], *, hide: bool) -> list[tuple[bytes, bytes]]:
    """The request's headers as they go out: the rule's own instead of the program's of that name."""
    replaced = {name.lower().encode() for name in own} | ({b"accept-encoding"} if hide else set())
    named = b",".join(value for name, value in event.headers if name == b"connection")
    dropped = _HOP_BY_HOP | _OVERRIDES | replaced | {part.strip().lower() for part in named.split(b",")}
    dropped |= {b"content-length"}
    # Many servers take `_` for `-`.
    headers = [(name, value) for name, value in event.headers if name.replace(b"_", b"-") not in dropped]
    headers += [(name.encode(), value.encode()) for name, value in own.items()]
    return [*headers, (b"accept-encoding", b"identity")] if hide else headers


def _facts(method: str, server: Server, target: str) -> dict[str, str]:
    path, _, query = target.partition("?")
    return {
        "method": method,
        "url": f"{server.scheme}://{server.authority}{path[:500]}",
        "query_bytes": str(len(query)),
    }


def _hidden(raw: bytes, secrets: list[SecretStr]) -> bytes:
    """Bytes of an answer without the secrets that went out with the request: some servers echo headers."""
    for secret in secrets:
        value = secret.get_secret_value()
        # The whole first: else its scheme would be left behind.
        for form in (value, value.rpartition(" ")[2]):
            if len(form) >= 4:
                raw = raw.replace(json.dumps(form)[1:-1].encode(), b"[secret]").replace(form.encode(), b"[secret]")
    return raw
