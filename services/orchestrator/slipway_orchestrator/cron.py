"""Cron expressions in a time zone.

An hour that a change of clocks skips is made up for right after it. A fixed hour that comes twice counts once; an
expression for every hour (`*` in its field) goes on through both.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from croniter import croniter
from croniter.croniter import CroniterError
from slipway_chassis.errors import InvalidArgument


class ScheduleInvalid(InvalidArgument):
    """The schedule cannot be kept as it was put."""

    reason = "SCHEDULE_INVALID"


class Cron:
    """The due times of a schedule."""

    def __init__(self, expression: str, time_zone: str) -> None:
        """Raises ScheduleInvalid for an expression of other than five fields, one without any time, or no time zone."""
        if len(expression.split()) != 5:
            raise ScheduleInvalid("five fields: minute, hour, day of month, month, day of week", field="cron")
        try:
            self._zone = _zone(time_zone)
        except (KeyError, ValueError, OSError) as error:
            raise ScheduleInvalid(f"there is no time zone {time_zone}", field="time_zone") from error
        self._expression = expression
        self._every_hour = "*" in expression.split()[1]
        try:
            self.next_after(datetime.now(UTC))
        except (CroniterError, ValueError, OverflowError) as error:
            raise ScheduleInvalid(f"this is no cron expression with a time to come: {error}", field="cron") from error

    def next_after(self, time: datetime) -> datetime:
        """The first due time after a time, in UTC."""
        times = croniter(self._expression, time.astimezone(self._zone), ret_type=datetime)
        while True:
            found: datetime = times.get_next(datetime)
            if self._counts(found):
                return found.astimezone(UTC)

    def newest(self, since: datetime, until: datetime) -> datetime:
        """The last due time up to `until`; `since`, a due time itself, when no later one has come."""
        # Forwards in growing windows: backwards the library loses its way where clocks change.
        window = timedelta(hours=1)
        while True:
            start = max(since, until - window)
            found = self.next_after(start)
            if found <= until:
                while (following := self.next_after(found)) <= until:
                    found = following
                return found
            if start == since:
                return since
            window *= 8

    def _counts(self, time: datetime) -> bool:
        return self._every_hour or time.fold == 0


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
