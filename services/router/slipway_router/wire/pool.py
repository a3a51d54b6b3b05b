"""Clients of all providers, one each, kept as long as the catalogue names the provider as it is."""

import contextlib
from typing import Protocol

from slipway_router.catalogue import Catalogue, Provider
from slipway_router.errors import ProviderUnavailable
from slipway_router.wire.client import WireClient


class Bridge(Protocol):
    """The way to providers that do not speak OpenAI's wire format, see litellm_bridge."""

    def through(self, provider: Provider) -> Provider: ...


class WirePool:
    """Hands out clients; connections are shared by all calls to a provider."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._clients: dict[Provider, WireClient] = {}
        self._retired: list[WireClient] = []

    def client(self, provider: Provider) -> WireClient:
        """The client of `provider`; made at first use. Raises ProviderUnavailable while the way to it is closed."""
        if not provider.is_direct:
            provider = self._bridge.through(provider)
        client = self._clients.get(provider)
        if client is None:
            client = self._clients[provider] = WireClient(provider)
        return client

    async def keep_those_of(self, catalogue: Catalogue) -> None:
        """Let go of the clients of all other providers. Those with calls under way are closed by a later call."""
        kept: set[Provider] = set()
        for provider in {model.provider for model in catalogue.models.values()}:
            # While the bridge is away there is no client of a provider behind it.
            with contextlib.suppress(ProviderUnavailable):
                kept.add(provider if provider.is_direct else self._bridge.through(provider))
        for provider in [provider for provider in self._clients if provider not in kept]:
            self._retired.append(self._clients.pop(provider))
        for client in [client for client in self._retired if client.idle]:
            self._retired.remove(client)
            await client.aclose()

    async def aclose(self) -> None:
        """Close all clients, whatever they do."""
        for client in [*self._clients.values(), *self._retired]:
            await client.aclose()
