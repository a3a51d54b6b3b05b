"""The database that a service owns: who brings it up to date, and how a process makes sure that it is.

By default each process does it when it starts. Where releases are rolled out it is a step of its own, before any
process of the new release starts: `python -m slipway_SERVICE.migrate`, with `SLIPWAY_SERVICE_MIGRATIONS=check` for the
processes.
"""

import asyncio
import json
import sys
from dataclasses import dataclass

import asyncpg
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from slipway_chassis import telemetry
from slipway_chassis.environment import EnvironmentSettings
from slipway_chassis.errors import SlipwayError
from slipway_chassis.postgres import ChassisTable, close_pool, digests, migrate, open_pool, unapplied
from slipway_chassis.server_checks.database import wait_for_database
from slipway_chassis.server_checks.postgres import Wanted
from slipway_chassis.setting_types import DatabaseUrl
from slipway_chassis.settings import LogLevel, Migrations, load_settings
from slipway_chassis.unusable import SettingUnusable


@dataclass(frozen=True)
class Schema:
    """What a service has in its database: its own ``migrations/NNNN_*.sql`` and the chassis tables named."""

    service: str
    chassis: tuple[ChassisTable, ...]
    extensions: tuple[str, ...] = ()
    """Extensions of PostgreSQL that the migrations create."""

    @property
    def package(self) -> str:
        """The Python package that holds the migrations."""
        return f"slipway_{self.service}"

    def wanted(self, connections: int, *, applies: bool) -> Wanted:
        """What the service needs of its database when it opens so many connections, and applies migrations or not."""
        names = tuple(digests(self.package, chassis=self.chassis))
        return Wanted(connections, names, self.extensions, applies)

    async def apply(self, pool: asyncpg.Pool) -> None:
        """Bring the database up to date, see `postgres.migrate`."""
        await migrate(pool, self.package, chassis=self.chassis)

    async def prepare(self, pool: asyncpg.Pool, migrations: Migrations) -> None:
        """Bring it up to date, or with ``check`` only look: SystemExit with a sentence if a migration is missing.

        A database that is ahead, as after a rollback, is right: migrations only add.
        """
        if migrations == "apply":
            await self.apply(pool)
        elif missing := await unapplied(pool, self.package, chassis=self.chassis):
            raise SystemExit(
                f"slipway: the database of {self.service} lacks {len(missing)} migrations, first {missing[0]}: run "
                f"`python -m {self.package}.migrate` of this release first, or set "
                f"SLIPWAY_{self.service.upper()}_MIGRATIONS=apply"
            )


class MigrationSettings(EnvironmentSettings):
    """All that is needed to migrate: no key, and none of the secrets of the running service."""

    database_url: DatabaseUrl = Field(description="postgresql:// URL of the service's own database")
    log_level: LogLevel = "INFO"


def run_migrations(schema: Schema) -> None:
    """The process `python -m slipway_SERVICE.migrate`: status 0 when the database is up to date, else a sentence.

    Status 2: what it was given cannot be used.

    With `--check` it only looks. `--list` asks no database: it prints the migrations of this release, with their
    SHA-256, as a JSON object.
    """
    if sys.argv[1:] == ["--list"]:
        sys.stdout.write(json.dumps(digests(schema.package, chassis=schema.chassis)) + "\n")
        return

    if sys.argv[1:] not in ([], ["--check"]):
        sys.stderr.write(f"usage: python -m {schema.package}.migrate [--check | --list]\n")
        sys.exit(2)

    class Settings(MigrationSettings):
        model_config = SettingsConfigDict(env_prefix=f"SLIPWAY_{schema.service.upper()}_", extra="ignore")

    settings = load_settings(Settings)
    telemetry.setup(f"{schema.service}-migrate", "", settings.log_level)
    migrations: Migrations = "check" if sys.argv[1:] else "apply"
    try:
        asyncio.run(_prepare(schema, settings.database_url.get_secret_value(), migrations))
    except SettingUnusable as error:
        sys.stderr.write(f"slipway: {error}\n")
        sys.exit(2)
    except (SlipwayError, asyncpg.PostgresError, RuntimeError) as error:
        sys.exit(f"slipway: the database of {schema.service} was left as it was: {error}")


async def _prepare(schema: Schema, url: str, migrations: Migrations) -> None:
    setting = f"SLIPWAY_{schema.service.upper()}_DATABASE_URL"
    await wait_for_database(url, schema.wanted(1, applies=migrations == "apply"), setting)
    pool = await open_pool(url, max_size=1)
    try:
        await schema.prepare(pool, migrations)
    finally:
        await close_pool(pool)
