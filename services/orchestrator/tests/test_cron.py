"""Due times of cron expressions in time zones."""

from datetime import UTC, datetime

import pytest
from slipway_orchestrator.cron import Cron, ScheduleInvalid


def _times(expression: str, zone: str, start: str, count: int) -> list[str]:
    cron, time, found = Cron(expression, zone), datetime.fromisoformat(start), []
    for _ in range(count):
        before, time = time, cron.next_after(time)
        assert cron.newest(before, time) == time
        found.append(time.strftime("%m-%d %H:%M"))
    return found


def test_due_times_follow_the_local_clock_through_summer_time() -> None:
    assert _times("0 9 * * 1-5", "Europe/Berlin", "2026-03-26T12:00:00+00:00", 3) == [
        "03-27 08:00",
        "03-30 07:00",
        "03-31 07:00",
    ]


def test_an_hour_that_is_skipped_is_made_up_for_right_after_it() -> None:
    assert _times("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00+00:00", 2) == ["03-29 01:00", "03-30 00:30"]


def test_a_fixed_hour_that_comes_twice_counts_once() -> None:
    assert _times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00+00:00", 2) == ["10-25 00:30", "10-26 01:30"]


def test_what_is_due_every_hour_goes_on_through_both() -> None:
    assert _times("30 * * * *", "Europe/Berlin", "2026-10-24T23:45:00+00:00", 3) == [
        "10-25 00:30",
        "10-25 01:30",
        "10-25 02:30",
    ]


@pytest.mark.parametrize(
    ("expression", "newest"),
    [("*/5 * * * *", "05-01 12:00"), ("0 3 * * *", "05-01 03:00"), ("0 3 2 * *", "04-02 03:00"), ("0 3 3 3 *", "")],
)
def test_the_newest_due_time_is_found_over_any_outage(expression: str, newest: str) -> None:
    since, until = datetime(2026, 3, 20, tzinfo=UTC), datetime(2026, 5, 1, 12, 4, 59, tzinfo=UTC)
    found = Cron(expression, "UTC").newest(since, until)
    assert found == since if not newest else found.strftime("%m-%d %H:%M") == newest


@pytest.mark.parametrize(
    ("expression", "zone", "field"),
    [
        ("* * * *", "UTC", "cron"),
        ("* * * * * *", "UTC", "cron"),
        ("@daily", "UTC", "cron"),
        ("61 * * * *", "UTC", "cron"),
        ("0 0 30 2 *", "UTC", "cron"),
        ("a b c d e", "UTC", "cron"),
        ("0 0 * * *", "Europe/Atlantis", "time_zone"),
        ("0 0 * * *", "../../etc/passwd", "time_zone"),
        ("0 0 * * *", "", "time_zone"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_field(expression: str, zone: str, field: str) -> None:
    with pytest.raises(ScheduleInvalid) as caught:
        Cron(expression, zone)
    assert caught.value.field == field
