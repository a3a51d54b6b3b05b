"""A RabbitMQ: reachable, with user, password and virtual host, new enough, with the bus' permissions."""

import asyncio
import secrets

from aio_pika.abc import AbstractConnection
from aio_pika.connection import Connection, make_url
from aio_pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    IncompatibleProtocolError,
    ProbableAuthenticationError,
)
from aiormq.exceptions import ChannelAccessRefused, InvalidFrameError
from pamqp.exceptions import PAMQPException

from slipway_chassis.bus.amqp_link import tolerated
from slipway_chassis.server_checks import ServerAway, ServerRefuses
from slipway_chassis.server_checks.reasons import (
    ANSWER_SECONDS,
    away,
    chain,
    place,
    refuse_unreadable_files,
    tls_refusal,
)

RABBITMQ_LEAST = (3, 10)

_PORT = 5672
_FILES = ("cafile", "certfile", "keyfile")


async def check_rabbitmq(url: str, namespace: str = "slipway") -> list[str]:
    """Ask the server; what is declared is exclusive, and gone with the connection. See the package."""
    refuse_unreadable_files(url, _FILES)
    where = place(url, _PORT)
    connection = Connection(make_url(url))
    try:
        async with asyncio.timeout(2 * ANSWER_SECONDS):
            await connection.connect(timeout=ANSWER_SECONDS)
            _refuse_old(connection, where)
            await _try_permissions(connection, namespace)
    except (AMQPError, PAMQPException, OSError, TimeoutError, asyncio.IncompleteReadError, RuntimeError) as error:
        raise _told(error, where) from None
    finally:
        # One that failed too: left alone, it would do so when it is collected, in a task that nobody owns.
        with tolerated():
            await connection.close()
    return []


def _refuse_old(connection: AbstractConnection, where: str) -> None:
    transport = connection.transport
    properties = transport.connection.server_properties if transport is not None else {}
    version = str(properties.get("version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < RABBITMQ_LEAST:
        raise ServerRefuses(f"{where} is RabbitMQ {version}: use {'.'.join(map(str, RABBITMQ_LEAST))} or later")


async def _try_permissions(connection: AbstractConnection, namespace: str) -> None:
    name = f"{namespace}.start.{secrets.token_hex(8)}"
    channel = await connection.channel(publisher_confirms=False)
    exchange = await channel.declare_exchange(name, auto_delete=True)
    queue = await channel.declare_queue(name, exclusive=True)
    await queue.bind(exchange)
    await queue.get(fail=False)
    await queue.delete()


def _told(error: BaseException, where: str) -> ServerRefuses | ServerAway:
    if refusal := tls_refusal(error, authority="cafile", plain="write amqp:// for amqps://"):
        return ServerRefuses(refusal)
    said = str(error)
    match error:
        case ProbableAuthenticationError():
            return ServerRefuses(f"{where} refuses the user or the password: correct them")
        case ChannelAccessRefused():
            return ServerRefuses(f"{where} denies a permission ({said}): `rabbitmqctl set_permissions` gives all three")
        case InvalidFrameError() if "OpenOk" in said:
            return ServerRefuses(
                f"{where} does not let the user into the virtual host: create it and set permissions, or correct the "
                "end of the URL"
            )
        case IncompatibleProtocolError():
            return ServerRefuses(f"what answers at {where} is no RabbitMQ: correct host and port")
        case AMQPConnectionError() if _strange_answer(error):
            return ServerRefuses(f"what answers at {where} is no RabbitMQ: correct host and port")
        case _:
            return ServerAway(away(error, "RabbitMQ", where))


def _strange_answer(error: BaseException) -> bool:
    """Something came, but no frame of the protocol."""
    return any(isinstance(one, asyncio.IncompleteReadError) and one.partial for one in chain(error))
