"""What a service does first: everything that its settings name is looked at, before anything is written."""

import asyncio
import socket
from collections.abc import Awaitable

from pydantic import SecretStr

from slipway_chassis import policy_files
from slipway_chassis.environment import unknown_settings
from slipway_chassis.logs import get_logger
from slipway_chassis.schema import Schema
from slipway_chassis.server_checks import ServerAway, ServerRefuses
from slipway_chassis.server_checks.database import wait_for_database
from slipway_chassis.settings import CoreSettings
from slipway_chassis.tokens import CallerTokenVerifier
from slipway_chassis.unusable import SettingUnusable

_log = get_logger(__name__)


async def look_before_start(
    settings: CoreSettings,
    schema: Schema,
    *,
    bus: SecretStr,
    redis: SecretStr | None = None,
    sessions: bool = False,
    connections: int = 10,
) -> None:
    """Addresses, policies, keys and servers. Nothing is written, and nothing was before.

    What stays wrong however long one waits (another server, password, version, certificate, permission), and a database
    that does not come within twenty seconds, raise SettingUnusable, all of them together. Redis and bus may come later:
    that they are away is logged by the name of the setting, and readiness says it. `sessions`: what is in Redis must
    outlive it. `connections`: most that the process opens to the database.
    """
    if not settings.free_variables:
        for name in unknown_settings(type(settings), others=settings.other_variables):
            _log.warning("setting.unknown", setting=name)
    _refuse_files(settings)
    _refuse_taken(settings)
    asked: dict[str, Awaitable[list[str]]] = {
        "DATABASE_URL": wait_for_database(
            settings.database_url.get_secret_value(),
            schema.wanted(connections, applies=settings.migrations == "apply"),
            f"{settings.prefix}DATABASE_URL",
        ),
        "BUS_URL": _ask_bus(bus.get_secret_value()),
    }
    if redis is not None:
        asked["REDIS_URL"] = _ask_redis(redis.get_secret_value(), lasting=sessions)
    refused: list[str] = []
    for name, outcome in zip(asked, await asyncio.gather(*asked.values(), return_exceptions=True), strict=True):
        setting = f"{settings.prefix}{name}"
        match outcome:
            case ServerRefuses():
                refused.append(f"{setting}: {outcome}")
            case ServerAway():
                _log.warning("server.away", setting=setting, reason=str(outcome))
            case SettingUnusable():
                refused.append(str(outcome))
            case BaseException():
                raise outcome
            case _:
                for doubt in outcome:
                    _log.warning("server.doubtful", setting=setting, reason=doubt)
    if refused:
        raise SettingUnusable("; ".join(refused))


async def _ask_bus(url: str) -> list[str]:
    if url.startswith("amqp"):
        from slipway_chassis.server_checks.rabbitmq import check_rabbitmq

        return await check_rabbitmq(url)
    return await _ask_redis(url, lasting=True)


async def _ask_redis(url: str, *, lasting: bool) -> list[str]:
    from slipway_chassis.server_checks.redis import check_redis

    return await check_redis(url, lasting=lasting)


def _refuse_files(settings: CoreSettings) -> None:
    try:
        policy_files.load(settings.policy_dir)
    except (OSError, ValueError) as error:
        raise SettingUnusable(f"{settings.prefix}POLICY_DIR: {_said(error)}") from None
    try:
        CallerTokenVerifier(settings.caller_jwks_file)
    except (OSError, ValueError) as error:
        raise SettingUnusable(
            f"{settings.prefix}CALLER_JWKS_FILE: {settings.caller_jwks_file} holds no public keys ({_said(error)}): "
            "name the jwks.json that `python -m slipway_gateway.keys init` makes"
        ) from None


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {(error.strerror or '').lower()}"
    return str(error)


def _refuse_taken(settings: CoreSettings) -> None:
    """An address that is in use is told before the database is migrated, not after."""
    for name in ("grpc_listen", "link_listen", "metrics_listen"):
        address: str = getattr(settings, name)
        host, _, port = address.rpartition(":")
        if address.startswith("unix:") or port == "0":
            continue
        try:
            found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, bound = found[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(bound)
        except OSError as error:
            said = (error.strerror or str(error)).lower()
            raise SettingUnusable(
                f"{settings.prefix}{name.upper()}: cannot listen on {address} ({said}): free it, or name another"
            ) from None
