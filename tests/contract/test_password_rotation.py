"""Passwords of servers are replaced while a service goes on: the server takes both while processes are replaced."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from redis.asyncio import Redis
from slipway_chassis.bus import Bus, Message, open_bus
from slipway_chassis.errors import Unavailable
from slipway_chassis.postgres import close_pool, open_pool
from slipway_testkit.consuming import Consumers
from slipway_testkit.servers.postgres import PostgresServer
from slipway_testkit.servers.rabbitmq import RabbitServer

TOPIC, GROUP = "rotation", "group"
Eventually = Callable[..., Any]


def url_of(server: str, user: str, password: str) -> str:
    parts = urlsplit(server)
    return parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


@dataclass(frozen=True)
class Rotation:
    """A broker that takes a second login beside the first, and then the second alone."""

    first: str
    second: str
    add: Callable[[], Awaitable[object]]
    end_first: Callable[[], Awaitable[object]]


@pytest.fixture(params=["redis", pytest.param("rabbitmq", marks=pytest.mark.servers)])
async def rotation(request: pytest.FixtureRequest) -> AsyncIterator[Rotation]:
    """As docs/operations.md does it: a second password of one user, or a second user."""
    name = f"rotating-{os.urandom(4).hex()}"
    if request.param == "redis":
        url = request.getfixturevalue("valkey_url")
        admin = Redis.from_url(url)

        async def user(*rules: str) -> None:
            await admin.execute_command("ACL", "SETUSER", name, *rules)

        await user("on", ">old-password", "~*", "&*", "+@all")
        yield Rotation(
            url_of(url, name, "old-password"),
            url_of(url, name, "new-password"),
            lambda: user(">new-password"),
            lambda: user("<old-password"),
        )
        await admin.execute_command("ACL", "DELUSER", name)
        await admin.aclose()
        return
    server: RabbitServer = request.getfixturevalue("rabbitmq_server")
    url = server.create_vhost()
    vhost = url.rpartition("/")[2]
    await asyncio.to_thread(server.create_user, vhost, name, "old-password")
    yield Rotation(
        url_of(url, name, "old-password"),
        url_of(url, f"{name}-b", "new-password"),
        lambda: asyncio.to_thread(server.create_user, vhost, f"{name}-b", "new-password"),
        lambda: asyncio.to_thread(server.delete_user, name),
    )


async def test_messages_go_on_while_a_login_of_the_broker_is_replaced(
    rotation: Rotation, eventually: Eventually
) -> None:
    namespace = f"rotation{os.urandom(4).hex()}"
    taken: set[str] = set()
    published: list[str] = []

    async def take(message: Message, _deliveries: int) -> None:
        taken.add(message.id)

    async def publish(*processes: Bus) -> None:
        for bus in processes:
            published.append(f"m{len(published)}")
            await bus.publish(Message(published[-1], TOPIC, b"{}", "acme"))

    consumers = Consumers()
    old = await open_bus(rotation.first, namespace=namespace)
    consuming = consumers.start(old.consume(TOPIC, GROUP, take))
    await publish(old)
    await rotation.add()
    new = await open_bus(rotation.second, namespace=namespace)
    await publish(old, new, old, new)
    # The process is replaced: the old one ends, and only then its login.
    consumers.start(new.consume(TOPIC, GROUP, take))
    await consumers.stop(consuming)
    await old.close()
    await publish(new)
    await rotation.end_first()
    await publish(new)
    await eventually(lambda: taken == set(published))
    late = await open_bus(rotation.first, namespace=namespace)
    with pytest.raises(Unavailable):
        await late.ping()
    await late.close()
    await consumers.close()
    await new.close()


async def test_a_service_goes_on_as_a_second_login_of_its_role(
    postgres_server: PostgresServer, database_url: str
) -> None:
    name = f"rotating_{os.urandom(4).hex()}"
    admin = await asyncpg.connect(database_url)
    await admin.execute(f"CREATE ROLE {name} LOGIN")
    await admin.execute(f"GRANT CREATE ON SCHEMA public TO {name}")
    old = await open_pool(database_url.replace("postgres@", f"{name}@", 1))
    await old.execute("CREATE TABLE kept (id int PRIMARY KEY)")
    # What docs/operations.md says.
    await admin.execute(f"CREATE ROLE {name}_b LOGIN PASSWORD 'new' IN ROLE {name}")
    await admin.execute(f"ALTER ROLE {name}_b SET role = {name}")
    new = await open_pool(database_url.replace("postgres@", f"{name}_b:new@", 1))
    for number, pool in enumerate((old, new, old, new)):
        await pool.execute("INSERT INTO kept VALUES ($1)", number)
    # Migrations of the next release run as the second login, and what they make belongs to the role.
    await new.execute("CREATE TABLE added (id int)")
    await new.execute("ALTER TABLE kept ADD COLUMN added int")
    await close_pool(old)
    await admin.execute(f"ALTER ROLE {name} NOLOGIN")
    assert await new.fetchval("SELECT count(*) FROM kept") == 4
    owners = await admin.fetch("SELECT DISTINCT tableowner AS owner FROM pg_tables WHERE schemaname = 'public'")
    assert [row["owner"] for row in owners] == [name]
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(database_url.replace("postgres@", f"{name}@", 1))
    await close_pool(new)
    await admin.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}_b; DROP ROLE {name}")
    await admin.close()
