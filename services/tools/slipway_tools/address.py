"""Where HTTP tools may connect to: public addresses, and what the platform team allows by name.

Nothing is fetched before a name was resolved and every address of it checked; the connection then goes to a checked
address, so that a name which answers differently the second time (DNS rebinding) gains nothing.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from slipway_chassis.errors import PermissionDenied

_RESOLVE_SECONDS = 5.0
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IPV4_COMPATIBLE = ipaddress.ip_network("::/96")
_ISATAP = (0x5EFE, 0x02005EFE)  # upper half of an interface id whose lower half is an IPv4 address
# What Python takes for public: protocol assignments and clouds' metadata (Oracle's 192.0.0.192, Azure's 168.63.129.16),
# relays of 6to4, documentation.
_NOT_PUBLIC = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "168.63.129.16/32", "192.88.99.0/24", "3fff::/20", "5f00::/16"))
)


class AddressNotAllowed(PermissionDenied):
    """The tool's host resolves to an address that is not public, and no setting allows it."""

    reason = "ADDRESS_NOT_ALLOWED"


class HostUnreachable(OSError):
    """The host's name could not be resolved."""


@dataclass(frozen=True)
class AllowList:
    """`host:port` pairs that may be called whatever their address, also without TLS."""

    pairs: frozenset[tuple[str, int]]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "AllowList":
        """Parse texts `host:port`; raises ValueError with the one that is wrong."""
        pairs: set[tuple[str, int]] = set()
        for part in texts:
            host, separator, port = part.rpartition(":")
            if not separator or not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError(f"{part!r} is not host:port")
            pairs.add((host.strip("[]").lower(), int(port)))
        return cls(frozenset(pairs))

    def __contains__(self, pair: tuple[str, int]) -> bool:
        return (pair[0].lower(), pair[1]) in self.pairs


def is_public(address: Address) -> bool:
    """True for an address on the public Internet; an IPv4 address inside an IPv6 one counts as what it is."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded(address)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or address in _IPV4_COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


async def checked_addresses(host: str, port: int, allowed: AllowList) -> list[Address]:
    """The addresses of `host` that may be connected to, as the resolver ordered them.

    Raises:
        AddressNotAllowed: one of them is not public and `host:port` is not on the allow list.
        HostUnreachable: the name has no address.
    """
    try:
        async with asyncio.timeout(_RESOLVE_SECONDS):
            answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as error:
        raise HostUnreachable(f"{host} has no address") from error
    addresses = list(_distinct(ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers))
    if not addresses:
        raise HostUnreachable(f"{host} has no address")
    if (host, port) not in allowed and not all(is_public(address) for address in addresses):
        raise AddressNotAllowed(f"{host}:{port} is not a public address, and SLIPWAY_TOOLS_HTTP_ALLOW does not name it")
    return addresses


def _distinct(addresses: Iterable[Address]) -> Iterable[Address]:
    return dict.fromkeys(addresses)
