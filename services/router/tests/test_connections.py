"""Connections to a provider, against a server that says exactly what a test wants."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable

import pytest
from slipway_router.wire import connections as wire
from slipway_router.wire.connections import BrokenOff, Connections, NotReached

WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


class Server:
    """Answers each request with the next of `answers`; None: hangs up. `heads` has a list for each connection."""

    def __init__(self) -> None:
        self.answers: list[bytes | None] = []
        self.heads: list[list[str]] = []
        self.hung_up = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen: list[str] = []
        self.heads.append(seen)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(line for line in head.lower().split("\r\n") if line.startswith("content-length"))
                await reader.readexactly(int(length.partition(":")[2]))
                seen.append(head)
                answer = self.answers.pop(0)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
                if b"content-length" not in answer and b"chunked" not in answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up.set()
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    running = Server()
    listener = await asyncio.start_server(running.serve, "127.0.0.1", 0)
    running.port = listener.sockets[0].getsockname()[1]
    yield running
    listener.close()


@pytest.fixture
async def connect(server: Server) -> AsyncIterator[Callable[..., Connections]]:
    opened: list[Connections] = []

    def make(**headers: str) -> Connections:
        opened.append(Connections(f"http://127.0.0.1:{server.port}/base/v1", headers, {"api-version": "7"}))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


async def ask(connections: Connections, body: bytes = b"{}") -> tuple[int, bytes]:
    answer = await connections.post("chat", body)
    try:
        return answer.status, b"".join([piece async for piece in answer.pieces()])
    finally:
        answer.close()


async def test_requests_say_what_they_should_and_share_a_connection(server, connect) -> None:
    server.answers = [WHOLE, WHOLE]
    connections = connect(authorization="Bearer key")
    assert [await ask(connections, b'{"a": 1}'), await ask(connections)] == [(200, b"hello")] * 2
    (heads,) = server.heads
    lines = heads[0].split("\r\n")
    assert lines[0] == "POST /base/v1/chat?api-version=7 HTTP/1.1"
    assert {f"host: 127.0.0.1:{server.port}", "authorization: Bearer key", "content-length: 8"} < set(lines)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + WHOLE,
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b"
        % (len(gzip.compress(b"hello")), gzip.compress(b"hello")),
    ],
    ids=["until the connection closes", "chunked", "after an interim answer", "gzip"],
)
async def test_an_answer_is_read_whole_however_it_is_framed(server, connect, answer) -> None:
    server.answers = [answer]
    assert await ask(connect()) == (200, b"hello")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n content-length",
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * 70_000 + b"\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 20\r\n\r\n" + gzip.compress(b"hello" * 9)[:20],
        b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 5\r\n\r\nhello",
    ],
    ids=["none", "cut off", "bad chunk", "no HTTP", "long head", "no gzip", "half of gzip", "unknown coding"],
)
async def test_what_is_no_whole_answer_is_a_broken_one_and_its_connection_is_not_used_again(
    server, connect, answer
) -> None:
    server.answers = [answer, WHOLE]
    connections = connect()
    asked = asyncio.create_task(ask(connections))
    if answer and answer.endswith(b"\r\n\r\nhello") and b"length: 9" in answer:
        # The server waits for the next request: whoever waits for the rest is told by the end of the connection.
        await asyncio.wait({asked}, timeout=0.1)
        connections.close()
    with pytest.raises(BrokenOff):
        await asyncio.wait_for(asked, 10)


async def test_a_small_answer_that_becomes_large_comes_in_bounded_pieces(server, connect) -> None:
    packed = gzip.compress(bytes(8 * 1024 * 1024))
    server.answers = [
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (len(packed), packed)
    ]
    answer = await connect().post("chat", b"{}")
    sizes = [len(piece) async for piece in answer.pieces()]
    answer.close()
    assert sum(sizes) == 8 * 1024 * 1024
    assert max(sizes) <= 256 * 1024


async def test_bytes_that_nobody_asked_for_end_the_connection(server, connect) -> None:
    server.answers = [WHOLE + WHOLE, WHOLE]
    connections = connect()
    assert [await ask(connections), await ask(connections)] == [(200, b"hello")] * 2
    assert len(server.heads) == 2


async def test_a_connection_that_the_server_closes_is_not_used_again(server, connect) -> None:
    server.answers = [WHOLE.replace(b"OK\r\n", b"OK\r\nconnection: close\r\n"), WHOLE]
    connections = connect()
    assert [await ask(connections), await ask(connections)] == [(200, b"hello")] * 2
    assert len(server.heads) == 2


async def test_a_kept_connection_that_ends_as_it_is_used_again_costs_no_request(server, connect) -> None:
    server.answers = [WHOLE, None, WHOLE]
    connections = connect()
    assert [await ask(connections), await ask(connections)] == [(200, b"hello")] * 2
    assert [len(heads) for heads in server.heads] == [2, 1]


async def test_a_fresh_connection_that_ends_without_an_answer_is_not_asked_twice(server, connect) -> None:
    server.answers = [None, WHOLE]
    with pytest.raises(BrokenOff):
        await ask(connect())
    assert [len(heads) for heads in server.heads] == [1]


async def test_leaving_an_answer_early_closes_its_connection(server, connect) -> None:
    server.answers = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n"]
    answer = await connect().post("chat", b"{}")
    async for piece in answer.pieces():
        assert piece == b"he"
        break
    answer.close()
    await asyncio.wait_for(server.hung_up.wait(), 10)


async def test_giving_up_before_the_answer_closes_the_connection_and_frees_its_place(
    server, connect, monkeypatch
) -> None:
    monkeypatch.setattr(wire, "MOST_CONNECTIONS", 1)
    server.answers = [b"HTTP/1.1 102 Processing\r\nx-content-length: none\r\n\r\n", WHOLE]
    connections = connect()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await connections.post("chat", b"{}")
    assert await asyncio.wait_for(ask(connections), 10) == (200, b"hello")


async def test_requests_beyond_the_number_of_connections_wait_for_one(server, connect, monkeypatch) -> None:
    monkeypatch.setattr(wire, "MOST_CONNECTIONS", 2)
    server.answers = [WHOLE] * 6
    connections = connect()
    assert await asyncio.gather(*(ask(connections) for _ in range(6))) == [(200, b"hello")] * 6
    assert len(server.heads) == 2
    monkeypatch.setattr(wire, "CONNECT_SECONDS", 0.1)
    server.answers = [WHOLE] * 2
    held = [await connections.post("chat", b"{}") for _ in range(2)]
    with pytest.raises(NotReached, match="PoolTimeout"):
        await connections.post("chat", b"{}")
    for answer in held:
        answer.close()


async def test_a_server_that_is_not_there_is_not_reached(free_port) -> None:
    connections = Connections(f"http://127.0.0.1:{free_port()}/v1", {}, {})
    with pytest.raises(NotReached, match="ConnectError"):
        await connections.post("chat", b"{}")


async def test_a_key_that_would_break_the_head_is_never_sent(server, connect) -> None:
    with pytest.raises(NotReached, match="InvalidHeader"):
        await connect(authorization="Bearer a\r\nx: y").post("chat", b"{}")
    assert server.heads == []
