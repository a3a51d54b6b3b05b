"""Sessions and their messages."""

from datetime import datetime
from typing import Literal

from pydantic import Field
from slipway.memory.v1 import memory_pb2 as pb

from slipway_gateway.http.resources.fields import Command, Labels, Page, Resource, labels_of, time_of


class Session(Resource):
    """A conversation."""

    session_id: str
    owner: str
    labels: dict[str, str]
    message_count: int
    create_time: datetime | None
    expire_time: datetime | None = Field(description="When it ends unless it is used.")


class CreateSession(Command):
    """A session to start."""

    labels: Labels = Field(default={})
    ttl_seconds: int | None = Field(
        default=None, ge=60, le=30 * 86_400, description="Since the last use; absent: 24 hours."
    )


class SessionMessage(Resource):
    """One turn."""

    seq: int
    role: str
    content: str
    time: datetime | None


class NewMessage(Command):
    """A turn to add."""

    role: Literal["user", "assistant", "system", "tool"]
    content: str = Field(max_length=100_000)


class AppendMessages(Command):
    """Turns to add at the end."""

    messages: list[NewMessage] = Field(min_length=1, max_length=100)


class SessionMessagePage(Page):
    """A page of messages, oldest first."""

    messages: list[SessionMessage]


def session(message: pb.Session) -> Session:
    """Converts a session."""
    return Session(
        session_id=message.session_id,
        owner=message.owner,
        labels=labels_of(message.labels),
        message_count=message.message_count,
        create_time=time_of(message, "create_time"),
        expire_time=time_of(message, "expire_time"),
    )


def session_message(message: pb.SessionMessage) -> SessionMessage:
    """Converts a message."""
    return SessionMessage(seq=message.seq, role=message.role, content=message.content, time=time_of(message, "time"))
