"""Sessions: conversations that outlive a request."""

from datetime import timedelta
from typing import Annotated

from fastapi import Path
from slipway.memory.v1 import memory_pb2 as pb

from slipway_gateway.http.api import PageSizeQuery, PageTokenQuery, api_router
from slipway_gateway.http.resources.sessions import (
    AppendMessages,
    CreateSession,
    Session,
    SessionMessagePage,
    session,
    session_message,
)
from slipway_gateway.http.route import CallsDep, IdempotencyKey

router = api_router("sessions")

SessionId = Annotated[str, Path(min_length=1, max_length=64)]


@router.post("/sessions", status_code=201, summary="Start a session")
async def create_session(calls: CallsDep, request_id: IdempotencyKey, body: CreateSession | None = None) -> Session:
    """A session of the caller."""
    wanted = body or CreateSession()
    message = pb.CreateSessionRequest(labels=wanted.labels, request_id=request_id)
    if wanted.ttl_seconds is not None:
        message.ttl.FromTimedelta(timedelta(seconds=wanted.ttl_seconds))
    answer: pb.CreateSessionResponse = await calls.invoke(calls.peers.sessions.CreateSession, message)
    return session(answer.session)


@router.get("/sessions/{session_id}", summary="Get a session")
async def get_session(session_id: SessionId, calls: CallsDep) -> Session:
    """One session."""
    answer: pb.GetSessionResponse = await calls.invoke(
        calls.peers.sessions.GetSession, pb.GetSessionRequest(session_id=session_id)
    )
    return session(answer.session)


@router.get("/sessions/{session_id}/messages", summary="List a session's messages")
async def list_session_messages(
    session_id: SessionId, calls: CallsDep, page_size: PageSizeQuery = 0, page_token: PageTokenQuery = ""
) -> SessionMessagePage:
    """Oldest first."""
    answer: pb.ListSessionMessagesResponse = await calls.invoke(
        calls.peers.sessions.ListSessionMessages,
        pb.ListSessionMessagesRequest(session_id=session_id, page_size=page_size, page_token=page_token),
    )
    return SessionMessagePage(
        messages=[session_message(item) for item in answer.messages], next_page_token=answer.next_page_token or None
    )


@router.post("/sessions/{session_id}/messages", summary="Add messages to a session")
async def append_session_messages(
    session_id: SessionId, body: AppendMessages, calls: CallsDep, request_id: IdempotencyKey
) -> Session:
    """Adds messages at the session's end."""
    answer: pb.AppendSessionMessagesResponse = await calls.invoke(
        calls.peers.sessions.AppendSessionMessages,
        pb.AppendSessionMessagesRequest(
            session_id=session_id,
            messages=[pb.SessionMessage(role=item.role, content=item.content) for item in body.messages],
            request_id=request_id,
        ),
    )
    return session(answer.session)


@router.delete("/sessions/{session_id}", status_code=204, summary="Delete a session")
async def delete_session(session_id: SessionId, calls: CallsDep) -> None:
    """Removes the session and its messages."""
    await calls.invoke(calls.peers.sessions.DeleteSession, pb.DeleteSessionRequest(session_id=session_id))
