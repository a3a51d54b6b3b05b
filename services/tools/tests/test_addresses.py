"""Where HTTP tools may connect to."""

import asyncio
import ipaddress
import socket
from typing import Any

import pytest
from slipway_chassis.secret_file import SecretFile
from slipway_tools.address import AddressNotAllowed, AllowList, HostUnreachable, checked_addresses, is_public
from slipway_tools.declare import declare
from slipway_tools.http_tool import HttpCaller, HttpInvocation
from slipway_tools.tool import HttpCall


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "168.63.129.16",
        "192.0.0.1",
        "192.0.0.192",
        "192.0.2.1",
        "192.168.1.1",
        "192.88.99.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:7f00:1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:db8::1",
        "2606:4700::5efe:7f00:1",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_addresses_that_are_not_on_the_public_internet_are_told_apart(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


class Resolver:
    """Answers name look-ups with one list after the other."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        if not self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port)) for text in self.answers.pop(0)]


async def test_one_private_address_among_public_ones_refuses_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", Resolver(["1.1.1.1", "10.0.0.1"], ["1.1.1.1"]))
    nothing = AllowList.parse([])
    with pytest.raises(AddressNotAllowed):
        await checked_addresses("mixed.example", 443, nothing)
    assert await checked_addresses("mixed.example", 443, nothing) == [ipaddress.ip_address("1.1.1.1")]


async def test_the_allow_list_names_host_and_port_together(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = AllowList.parse(["Ledger.internal:8090", "[::1]:99"])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", Resolver(["10.0.0.1"], ["10.0.0.1"]))
    assert await checked_addresses("ledger.internal", 8090, allowed)
    with pytest.raises(AddressNotAllowed):
        await checked_addresses("ledger.internal", 8091, allowed)
    assert ("::1", 99) in allowed


@pytest.mark.parametrize("text", ["host", "host:", ":80", "host:0", "host:65536", "host:x"])
def test_an_entry_of_the_allow_list_that_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        AllowList.parse([text])


async def test_a_name_without_address_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", Resolver())
    with pytest.raises(HostUnreachable):
        await checked_addresses("nowhere.example", 443, AllowList.parse([]))


async def test_a_name_that_answers_differently_the_second_time_is_connected_to_as_it_was_checked(
    monkeypatch: pytest.MonkeyPatch, target: Any, unique: Any
) -> None:
    host = "rebinding.example"
    # Asked a second time, the name would lead to an address where nobody listens.
    resolver = Resolver(["127.0.0.1"], ["127.9.9.9"])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver)
    caller = HttpCaller(AllowList.parse([f"{host}:{target.port}"]), SecretFile(None))
    path = f"/{unique('rebinding')}"
    declaration = declare(
        name="rebinding",
        description="",
        input_schema_json='{"type":"object"}',
        output_schema_json="",
        idempotent=True,
        regions=[],
        http=HttpCall("POST", f"http://{host}:{target.port}{path}"),
    )
    result = await caller.call(declaration, {}, HttpInvocation("acme", ""))
    assert result.failure is None
    assert target.to(path)[0].headers["host"] == f"{host}:{target.port}"
    assert resolver.answers == [["127.9.9.9"]]


async def test_the_next_address_is_tried_when_nobody_listens_at_the_first(
    monkeypatch: pytest.MonkeyPatch, target: Any, unique: Any
) -> None:
    host = "two.example"
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", Resolver(["127.9.9.9", "127.0.0.1"]))
    caller = HttpCaller(AllowList.parse([f"{host}:{target.port}"]), SecretFile(None))
    path = f"/{unique('second')}"
    declaration = declare(
        name="second",
        description="",
        input_schema_json='{"type":"object"}',
        output_schema_json="",
        idempotent=False,
        regions=[],
        http=HttpCall("POST", f"http://{host}:{target.port}{path}"),
    )
    result = await caller.call(declaration, {}, HttpInvocation("acme", ""))
    assert result.failure is None
    assert len(target.to(path)) == 1
