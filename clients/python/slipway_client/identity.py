"""Keys of service principals."""

from collections.abc import Iterator, Sequence

from slipway_client.models import ApiKey
from slipway_client.transport import Transport, read, route


class ApiKeys:
    """`/v1/api-keys`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str, roles: Sequence[str], *, expires_in_seconds: int | None = None) -> ApiKey:
        """Makes a key; its `key` is shown this once. Roles are a subset of the caller's."""
        body: dict[str, object] = {"name": name, "roles": list(roles)}
        if expires_in_seconds is not None:
            body["expires_in_seconds"] = expires_in_seconds
        return read(ApiKey, self._transport.call("POST", route("api-keys"), json=body))

    def list(self) -> Iterator[ApiKey]:
        """Keys that the caller may manage, newest first."""
        return self._transport.pages(route("api-keys"), "api_keys", ApiKey)

    def revoke(self, key_id: str) -> None:
        """Makes a key worthless."""
        self._transport.call("DELETE", route("api-keys", key_id))
