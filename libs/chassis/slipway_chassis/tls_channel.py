"""A gRPC channel whose certificate may change: new connections show the new one, calls under way lose nothing."""

import asyncio
import contextvars
from typing import Any, Final

import grpc

from slipway_chassis.logs import get_logger
from slipway_chassis.tls import Material, ServiceTls, channel_credentials

_log = get_logger(__name__)
_READY_WITHIN: Final = 10.0  # seconds that connections with a new certificate have to be made
_LONGEST_CALL: Final = 3600.0  # seconds after which what still runs over old connections is cut off


class TlsChannel:
    """Goes where a channel goes. gRPC's own channels keep the credentials that they were made with."""

    def __init__(self, target: str, tls: ServiceTls, options: list[tuple[str, Any]]) -> None:
        self._target = target
        self._tls = tls
        self._options = options
        self._material = tls.current()
        self._channel = self._open(self._material)
        self._renewing: asyncio.Task[None] | None = None
        self._ending: dict[grpc.aio.Channel, asyncio.Task[None]] = {}

    def unary_unary(self, method: str, **codec: Any) -> "_Method":
        """A method of a stub; so are the next three."""
        return _Method(self, "unary_unary", method, codec)

    def unary_stream(self, method: str, **codec: Any) -> "_Method":
        return _Method(self, "unary_stream", method, codec)

    def stream_unary(self, method: str, **codec: Any) -> "_Method":
        return _Method(self, "stream_unary", method, codec)

    def stream_stream(self, method: str, **codec: Any) -> "_Method":
        return _Method(self, "stream_stream", method, codec)

    async def __aenter__(self) -> "TlsChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __getattr__(self, name: str) -> Any:
        # All else is the channel's own.
        return getattr(self._channel, name)

    def current(self) -> grpc.aio.Channel:
        """The channel for the next call."""
        material = self._tls.current()
        if material is not self._material and self._renewing is None:
            renewing = asyncio.get_running_loop().create_task(self._renew(material), context=contextvars.Context())
            self._renewing = renewing
        return self._channel

    async def close(self, grace: float | None = None) -> None:
        """End all connections; calls under way get ``grace`` seconds."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        for old, ending in list(self._ending.items()):
            ending.cancel()
            await old.close(grace)
        await self._channel.close(grace)

    def _open(self, material: Material) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self._target, channel_credentials(material), options=self._options)

    async def _renew(self, material: Material) -> None:
        new = self._open(material)
        try:
            # Where connections work they are kept until new ones do: the other side may hear of a new authority later.
            if self._channel.get_state() is grpc.ChannelConnectivity.READY:
                async with asyncio.timeout(_READY_WITHIN):
                    await new.channel_ready()
        except BaseException as error:
            await new.close()
            if not isinstance(error, TimeoutError):
                raise
            _log.warning("tls.no_new_connection", target=self._target, tried_for=_READY_WITHIN)
        else:
            old, self._channel, self._material = self._channel, new, material
            self._ending[old] = asyncio.get_running_loop().create_task(self._end(old))
        finally:
            self._renewing = None

    async def _end(self, old: grpc.aio.Channel) -> None:
        try:
            await old.close(_LONGEST_CALL)
        finally:
            del self._ending[old]


class _Method:
    """A method of a stub, on whichever channel is the current one."""

    def __init__(self, owner: TlsChannel, kind: str, name: str, codec: dict[str, Any]) -> None:
        self._owner = owner
        self._kind = kind
        # As grpc.aio's, from where `slipway_chassis.channel` takes the name.
        self._method = name.encode()
        self._name = name
        self._codec = codec
        self._channel: grpc.aio.Channel | None = None
        self._callable: Any = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """As grpc.aio's own."""
        channel = self._owner.current()
        if channel is not self._channel:
            self._channel, self._callable = channel, getattr(channel, self._kind)(self._name, **self._codec)
        return self._callable(*arguments, **options)
