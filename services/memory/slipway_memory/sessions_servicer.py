"""SessionsService over the domain."""

from __future__ import annotations

from typing import Any

import grpc
from slipway.memory.v1 import memory_pb2 as pb
from slipway.memory.v1 import memory_pb2_grpc
from slipway_chassis.caller import current_caller

from slipway_memory import convert
from slipway_memory.sessions import Sessions

Context = grpc.aio.ServicerContext[Any, Any]


class SessionsServicer(memory_pb2_grpc.SessionsServiceServicer):
    """Converts and calls."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Context) -> pb.CreateSessionResponse:
        """See proto."""
        session = await self._sessions.create(
            current_caller(),
            labels=dict(request.labels),
            ttl=convert.session_ttl(request),
            request_id=request.request_id,
        )
        return pb.CreateSessionResponse(session=convert.session_message(session))

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        """See proto."""
        session = await self._sessions.get(current_caller(), request.session_id)
        return pb.GetSessionResponse(session=convert.session_message(session))

    async def AppendSessionMessages(
        self, request: pb.AppendSessionMessagesRequest, context: Context
    ) -> pb.AppendSessionMessagesResponse:
        """See proto."""
        session = await self._sessions.append(
            current_caller(), request.session_id, convert.new_messages(request), request.request_id
        )
        return pb.AppendSessionMessagesResponse(session=convert.session_message(session))

    async def ListSessionMessages(
        self, request: pb.ListSessionMessagesRequest, context: Context
    ) -> pb.ListSessionMessagesResponse:
        """See proto."""
        page, token = await self._sessions.messages(
            current_caller(), request.session_id, size=request.page_size, token=request.page_token
        )
        return pb.ListSessionMessagesResponse(messages=map(convert.turn_message, page), next_page_token=token)

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
        """See proto."""
        await self._sessions.delete(current_caller(), request.session_id)
        return pb.DeleteSessionResponse()
