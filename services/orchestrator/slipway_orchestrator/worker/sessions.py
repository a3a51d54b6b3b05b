"""A loop's session: what was said on it before, and what this run adds to it."""

from pydantic import JsonValue
from slipway.memory.v1 import memory_pb2
from slipway_chassis.channel import invoke

from slipway_orchestrator.core.definition import Remember
from slipway_orchestrator.core.events import StepCompleted
from slipway_orchestrator.peers import Peers
from slipway_orchestrator.worker.attempt import Attempt

_PAGE = 200
_MOST_MESSAGES = 1000
"""Messages of a session that are looked at, the newest."""
_MOST_TEXT = 200_000
"""Characters of a message that the session keeps."""


async def read_history(peers: Peers, attempt: Attempt) -> StepCompleted:
    """What user and assistant said on the session. Raises SlipwayError."""
    messages: list[JsonValue] = []
    page = ""
    while True:
        request = memory_pb2.ListSessionMessagesRequest(
            session_id=attempt.run.session_id, page_size=_PAGE, page_token=page
        )
        response: memory_pb2.ListSessionMessagesResponse = await invoke(
            peers.sessions.ListSessionMessages, request, token=attempt.token, timeout=attempt.timeout
        )
        for message in response.messages:
            if message.role in ("user", "assistant"):
                messages.append({"role": message.role, "content": message.content})  # noqa: PERF401 - typed as JSON
        page = response.next_page_token
        if not page:
            return _completed(attempt, {"messages": messages[-_MOST_MESSAGES:]})


async def remember(peers: Peers, call: Remember, attempt: Attempt) -> StepCompleted:
    """Add what was asked and answered to the session, once. Raises SlipwayError."""
    request = memory_pb2.AppendSessionMessagesRequest(
        session_id=attempt.run.session_id,
        messages=[
            memory_pb2.SessionMessage(role=str(item["role"]), content=str(item["content"])[:_MOST_TEXT])
            for item in call.messages
        ],
        request_id=attempt.effect.key,
    )
    await invoke(peers.sessions.AppendSessionMessages, request, token=attempt.token, timeout=attempt.timeout)
    return _completed(attempt, {"added": len(call.messages)})


def _completed(attempt: Attempt, output: JsonValue) -> StepCompleted:
    return StepCompleted(attempt.perform.at.key, attempt.perform.step.type, output, attempt=attempt.perform.attempt)
