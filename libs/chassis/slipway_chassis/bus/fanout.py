"""Local subscribers of the broadcast: one broker subscription per channel serves all of a process."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

MAILBOX_SIZE = 4096
"""Messages that wait for one slow reader; then the oldest are dropped: the newest wake-up is the one that counts."""


class Mailbox(AsyncIterator[bytes]):
    """What one subscriber has not read yet."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque(maxlen=MAILBOX_SIZE)
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, data: bytes) -> None:
        """Adds one message."""
        self._waiting.append(data)
        self._changed.set()

    def close(self) -> None:
        """Ends the iteration after what is waiting."""
        self._closed = True
        self._changed.set()

    async def __anext__(self) -> bytes:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.popleft()


class Fanout:
    """Mailboxes by channel. `attach` subscribes at the broker and returns when that is in force, `detach` ends it."""

    def __init__(self, attach: Callable[[str], Awaitable[None]], detach: Callable[[str], Awaitable[None]]) -> None:
        self._attach = attach
        self._detach = detach
        self._mailboxes: dict[str, set[Mailbox]] = {}
        # Attaching and detaching the same channel must not overtake each other.
        self._lock = asyncio.Lock()

    @property
    def channels(self) -> frozenset[str]:
        """Channels with a subscriber: to be attached again after a reconnect."""
        return frozenset(self._mailboxes)

    def deliver(self, channel: str, data: bytes) -> None:
        """Hands `data` to the subscribers of `channel`."""
        for mailbox in self._mailboxes.get(channel, ()):
            mailbox.put(data)

    def close(self) -> None:
        """Ends all subscriptions."""
        for mailboxes in self._mailboxes.values():
            for mailbox in mailboxes:
                mailbox.close()

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        """A mailbox that is registered at the broker inside the context."""
        mailbox = Mailbox()
        async with self._lock:
            first = channel not in self._mailboxes
            self._mailboxes.setdefault(channel, set()).add(mailbox)
            if first:
                try:
                    await self._attach(channel)
                except BaseException:
                    del self._mailboxes[channel]
                    raise
        try:
            yield mailbox
        finally:
            async with self._lock:
                others = self._mailboxes[channel]
                others.discard(mailbox)
                if not others:
                    del self._mailboxes[channel]
                    await self._detach(channel)
