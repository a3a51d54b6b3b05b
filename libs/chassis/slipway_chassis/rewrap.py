"""Wraps subjects' keys under the first data key, while the service runs: `python -m slipway_chassis.rewrap SERVICE`.

Takes SLIPWAY_<SERVICE>_DATABASE_URL and …_DATA_KEY, with the new data key before the old one. When it has ended the old
one opens nothing any more, and may leave the setting.
"""

import argparse
import asyncio
import sys

import asyncpg
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.errors import SlipwayError
from slipway_chassis.postgres import close_pool, open_pool
from slipway_chassis.settings import DataKeys, load_settings


class RewrapSettings(BaseSettings):
    """All that is needed of a service's environment."""

    database_url: SecretStr = Field(description="postgresql:// URL of the service's own database")
    data_key: DataKeys = Field(description="base64 of 32 bytes; several with commas, the first wraps")


async def _rewrap(url: str, data_key: str) -> tuple[int, int]:
    pool = await open_pool(url, max_size=1)
    try:
        return await SubjectKeys(pool, data_key).rewrap()
    finally:
        await close_pool(pool)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m slipway_chassis.rewrap", description="Rotates a data key.")
    parser.add_argument("service", choices=["gateway", "router", "orchestrator", "memory", "tools", "audit"])
    service = parser.parse_args().service

    class Settings(RewrapSettings):
        model_config = SettingsConfigDict(env_prefix=f"SLIPWAY_{service.upper()}_", extra="ignore")

    settings = load_settings(Settings)
    try:
        wrapped, seen = asyncio.run(
            _rewrap(settings.database_url.get_secret_value(), settings.data_key.get_secret_value())
        )
    except (SlipwayError, asyncpg.PostgresError) as error:
        sys.stderr.write(f"slipway: {error}\n")
        return 1
    sys.stdout.write(f"{wrapped} of {seen} keys of {service} wrapped under the first data key\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
