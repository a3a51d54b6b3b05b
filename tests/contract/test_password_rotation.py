"""A password of Redis is replaced while messages go on: it takes both for as long as processes are replaced."""

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError
from slipway_chassis.bus import Bus, Message, open_bus
from slipway_testkit.consuming import Consumers

TOPIC, GROUP = "rotation", "group"
Eventually = Callable[..., Any]


def url_of(server: str, user: str, password: str) -> str:
    parts = urlsplit(server)
    return parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


async def test_messages_go_on_while_a_password_of_redis_is_replaced(valkey_url: str, eventually: Eventually) -> None:
    user, namespace = f"rotating-{os.urandom(4).hex()}", f"rotation{os.urandom(4).hex()}"
    admin = Redis.from_url(valkey_url)
    await admin.execute_command("ACL", "SETUSER", user, "on", ">old-password", "~*", "&*", "+@all")
    taken: set[str] = set()
    published: list[str] = []

    async def take(message: Message, _deliveries: int) -> None:
        taken.add(message.id)

    async def publish(*processes: Bus) -> None:
        for bus in processes:
            published.append(f"m{len(published)}")
            await bus.publish(Message(published[-1], TOPIC, b"{}", "acme"))

    consumers = Consumers()
    old = await open_bus(url_of(valkey_url, user, "old-password"), namespace=namespace)
    consuming = consumers.start(old.consume(TOPIC, GROUP, take))
    await publish(old)
    await admin.execute_command("ACL", "SETUSER", user, ">new-password")
    new = await open_bus(url_of(valkey_url, user, "new-password"), namespace=namespace)
    await publish(old, new, old, new)
    # The process is replaced: the old one ends, and only then its password.
    consumers.start(new.consume(TOPIC, GROUP, take))
    await consumers.stop(consuming)
    await old.close()
    await publish(new)
    await admin.execute_command("ACL", "SETUSER", user, "<old-password")
    await publish(new)
    await eventually(lambda: taken == set(published))
    late = Redis.from_url(url_of(valkey_url, user, "old-password"))
    with pytest.raises(AuthenticationError):
        await late.execute_command("PING")
    await consumers.close()
    await new.close()
    for client in (late, admin):
        await client.aclose()
