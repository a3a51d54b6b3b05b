"""After a restore from backup, before any process is started: `python -m slipway_orchestrator.restored`.

Executors keep the highest lease epoch that asked for an effect, and refuse older ones. Their databases may have been
backed up a moment after this one, with epochs that are not here yet: so all runs that go on get epochs beyond any that
can have been given out in between. Run once too often it does no harm. Takes SLIPWAY_ORCHESTRATOR_DATABASE_URL.
"""

import asyncio
import sys

import asyncpg
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from slipway_chassis.errors import SlipwayError
from slipway_chassis.postgres import close_pool, open_pool
from slipway_chassis.settings import load_settings

from slipway_orchestrator.runs import TERMINAL_STATES

_LEAP = 1000
# Both: how many leases have not advanced a run stays the same.
_ADVANCE = """
UPDATE run SET lease_epoch = lease_epoch + $1, progress_epoch = progress_epoch + $1 WHERE NOT state = ANY($2)
"""


class Settings(BaseSettings):
    """All that is needed."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_ORCHESTRATOR_", extra="ignore")

    database_url: SecretStr = Field(description="postgresql:// URL of the service's own database")


async def advance_epochs(pool: asyncpg.Pool) -> int:
    """Give runs that go on epochs beyond any given out before; answers with their number."""
    status = await pool.execute(_ADVANCE, _LEAP, sorted(TERMINAL_STATES))
    return int(status.rpartition(" ")[2])


async def _main(url: str) -> int:
    pool = await open_pool(url, max_size=1)
    try:
        return await advance_epochs(pool)
    finally:
        await close_pool(pool)


def main() -> int:
    """The command."""
    settings = load_settings(Settings)
    try:
        runs = asyncio.run(_main(settings.database_url.get_secret_value()))
    except (SlipwayError, asyncpg.PostgresError) as error:
        sys.stderr.write(f"slipway: {error}\n")
        return 1
    sys.stdout.write(f"{runs} runs go on\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
