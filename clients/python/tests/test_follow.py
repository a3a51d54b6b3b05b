"""Following a run over connections that break."""

import json
import time

import pytest
from slipway_client import Client, ConnectionFailedError, NotFoundError, UnavailableError, UnexpectedAnswerError
from slipway_testkit.scripted_server import ScriptedServer, answers, streams

HEARTBEAT = b": keep-alive\n\n"


def event(seq: int, kind: str = "step.completed", **data: object) -> bytes:
    body = json.dumps({"seq": seq, "kind": kind, "data": data}, ensure_ascii=False)
    return f"id: {seq}\nevent: {kind}\ndata: {body}\n\n".encode()


def delta(text: str) -> bytes:
    return f"event: model.delta\ndata: {json.dumps({'step_id': 'answer', 'text': text})}\n\n".encode()


END = "run.succeeded"


def test_a_run_is_followed_to_its_terminal_event(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(streams(HEARTBEAT, event(1, "run.started"), delta("Hel"), delta("lo"), event(2), event(3, END)))
    followed = list(client.runs.follow("run_01"))
    assert [(one.seq, one.kind) for one in followed] == [
        (1, "run.started"),
        (None, "model.delta"),
        (None, "model.delta"),
        (2, "step.completed"),
        (3, END),
    ]
    assert "".join(one.data["text"] for one in followed if one.seq is None) == "Hello"
    (asked,) = gateway.asked
    assert asked.headers["accept"] == "text/event-stream"
    assert "last-event-id" not in asked.headers


@pytest.mark.parametrize("kind", ["run.succeeded", "run.failed", "run.cancelled"])
def test_each_terminal_event_ends_it(gateway: ScriptedServer, client: Client, kind: str) -> None:
    gateway.then(streams(event(1, kind), breaks=True))
    assert [one.kind for one in client.runs.follow("run_01")] == [kind]
    assert len(gateway.asked) == 1


def test_a_broken_connection_is_made_anew_with_no_event_missed_or_doubled(
    gateway: ScriptedServer, client: Client
) -> None:
    gateway.then(
        # The third event is cut off in the middle: it was not seen.
        streams(event(1), event(2), event(3)[:20], breaks=True),
        # A gateway that sends one again does not make it come twice.
        streams(event(2), event(3), breaks=True),
        answers({"detail": "starting", "code": "NOT_READY"}, 503),
        # Ended in order, but before the run did: the gateway is stopping.
        streams(HEARTBEAT),
        streams(event(4), event(5, END)),
    )
    assert [one.seq for one in client.runs.follow("run_01")] == [1, 2, 3, 4, 5]
    assert [asked.headers["last-event-id"] for asked in gateway.asked] == [None, "2", "3", "3", "3"]
    assert gateway.is_done


def test_following_starts_after_the_event_that_was_seen_last(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(streams(event(8), event(9, END)))
    assert [one.seq for one in client.runs.follow("run_01", after=7)] == [8, 9]
    assert gateway.asked[0].headers["last-event-id"] == "7"


def test_a_run_whose_last_event_was_seen_is_followed_no_further(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers(b"", 204))
    assert list(client.runs.follow("run_01", after=9)) == []
    assert len(gateway.asked) == 1


def test_the_token_is_asked_for_anew_with_each_connection(gateway: ScriptedServer) -> None:
    tokens = iter(["first", "second"])
    gateway.then(streams(event(1), breaks=True), streams(event(2, END)))
    with Client(gateway.url, lambda: next(tokens)) as client:
        assert len(list(client.runs.follow("run_01"))) == 2
    assert [asked.headers["authorization"] for asked in gateway.asked] == ["Bearer first", "Bearer second"]


def test_patience_ends_when_nothing_comes_any_more(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(streams(event(1), breaks=True))
    events = client.runs.follow("run_01", patience=1)
    assert next(events).seq == 1
    began = time.monotonic()
    with pytest.raises(ConnectionFailedError):
        next(events)
    assert time.monotonic() - began < 3
    assert len(gateway.asked) > 2


def test_a_gateway_that_opens_streams_and_drops_them_at_once_uses_patience_up(
    gateway: ScriptedServer, client: Client
) -> None:
    gateway.then(*[streams(HEARTBEAT, breaks=True)] * 50)
    with pytest.raises(ConnectionFailedError):
        list(client.runs.follow("run_01", patience=1))


def test_a_gateway_that_stays_unavailable_is_told_in_its_own_words(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(*[answers({"detail": "the orchestrator is not ready", "code": "PEER_UNAVAILABLE"}, 503)] * 50)
    with pytest.raises(UnavailableError, match="PEER_UNAVAILABLE"):
        list(client.runs.follow("run_01", patience=0.5))


def test_a_wait_that_the_gateway_asks_for_is_kept(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers({"code": "RATE_LIMITED"}, 429, retry_after="1"), streams(event(1, END)))
    began = time.monotonic()
    assert [one.seq for one in client.runs.follow("run_01")] == [1]
    assert time.monotonic() - began >= 1


def test_what_asking_again_cannot_mend_is_raised_at_once(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers({"detail": "there is no run run_01", "code": "RUN_NOT_FOUND"}, 404))
    with pytest.raises(NotFoundError):
        list(client.runs.follow("run_01"))
    gateway.then(streams(b"data: {oops\n\n"))
    with pytest.raises(UnexpectedAnswerError):
        list(client.runs.follow("run_01"))
    assert len(gateway.asked) == 2


def test_every_character_of_an_event_survives_every_cut_of_its_bytes(gateway: ScriptedServer, client: Client) -> None:
    # Line separators of Unicode are no line ends of the format; a chunk may end inside a character.
    text = "eins\u2028zwei\u2029drei\x85vier \U0001f6a2 fünf"
    whole = event(1, text=text) + event(2, END)
    gateway.then(streams(*(whole[i : i + 1] for i in range(len(whole)))))
    first, last = client.runs.follow("run_01")
    assert first.data == {"text": text}
    assert last.seq == 2


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_three_line_ends_of_the_format_are_read(gateway: ScriptedServer, client: Client, end: str) -> None:
    whole = (event(1) + event(2, END)).replace(b"\n", end.encode()) + b":\n"
    gateway.then(streams(*(whole[i : i + 1] for i in range(len(whole)))))
    assert [one.seq for one in client.runs.follow("run_01")] == [1, 2]
