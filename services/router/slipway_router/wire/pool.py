"""Clients of all providers, one each, kept as long as the catalogue names the provider as it is."""

from slipway_router.catalogue import Catalogue, Provider
from slipway_router.wire.client import WireClient


class WirePool:
    """Hands out clients; connections are shared by all calls to a provider."""

    def __init__(self) -> None:
        self._clients: dict[Provider, WireClient] = {}
        self._retired: list[WireClient] = []

    def client(self, provider: Provider) -> WireClient:
        """The client of `provider`; made at first use."""
        client = self._clients.get(provider)
        if client is None:
            client = self._clients[provider] = WireClient(provider)
        return client

    async def keep_those_of(self, catalogue: Catalogue) -> None:
        """Let go of the clients of all other providers. Those with calls under way are closed by a later call."""
        kept = {model.provider for model in catalogue.models.values()}
        for provider in [provider for provider in self._clients if provider not in kept]:
            self._retired.append(self._clients.pop(provider))
        for client in [client for client in self._retired if client.idle]:
            self._retired.remove(client)
            await client.aclose()

    async def aclose(self) -> None:
        """Close all clients, whatever they do."""
        for client in [*self._clients.values(), *self._retired]:
            await client.aclose()
