"""The database of a process, which may come a little later than the process."""

import asyncio
import time

from slipway_chassis.logs import get_logger
from slipway_chassis.server_checks import ServerAway, ServerRefuses
from slipway_chassis.server_checks.postgres import Wanted, check_postgres
from slipway_chassis.unusable import SettingUnusable

_log = get_logger(__name__)
_PATIENCE = 20.0  # seconds
_AGAIN = 0.5


async def wait_for_database(url: str, wanted: Wanted, setting: str) -> list[str]:
    """Ask until it answers, twenty seconds at most and the ten that the last question may take.

    Answers with what is doubtful. Raises SettingUnusable.
    """
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            return await check_postgres(url, wanted)
        except ServerRefuses as error:
            raise SettingUnusable(f"{setting}: {error}") from None
        except ServerAway as error:
            if time.monotonic() > give_up:
                raise SettingUnusable(f"{setting}: {error}") from None
            _log.warning("server.away", setting=setting, reason=str(error))
            await asyncio.sleep(_AGAIN)
