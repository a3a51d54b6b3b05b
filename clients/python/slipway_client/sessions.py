"""Conversations."""

from collections.abc import Iterator, Sequence

from slipway_client.models import Session, SessionMessage
from slipway_client.transport import Transport, read, route


class Sessions:
    """`/v1/sessions`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, *, labels: dict[str, str] | None = None, ttl_seconds: int | None = None) -> Session:
        """Starts a session; it ends `ttl_seconds` after its last use."""
        body = {"labels": labels, "ttl_seconds": ttl_seconds}
        given = {name: value for name, value in body.items() if value is not None}
        return read(Session, self._transport.call("POST", route("sessions"), json=given))

    def get(self, session_id: str) -> Session:
        """One session."""
        return read(Session, self._transport.call("GET", route("sessions", session_id)))

    def append(self, session_id: str, messages: Sequence[tuple[str, str]]) -> Session:
        """Adds (role, content) pairs at the end."""
        body = {"messages": [{"role": role, "content": content} for role, content in messages]}
        return read(Session, self._transport.call("POST", route("sessions", session_id, "messages"), json=body))

    def messages(self, session_id: str) -> Iterator[SessionMessage]:
        """A session's messages, oldest first."""
        return self._transport.pages(route("sessions", session_id, "messages"), "messages", SessionMessage)

    def delete(self, session_id: str) -> None:
        """Removes a session and its messages."""
        self._transport.call("DELETE", route("sessions", session_id))
