"""Groups that are committed together."""

import asyncio
from collections.abc import Sequence

from slipway_router.group_commit import GroupCommit

LONG = 3600.0


class Log:
    """What was committed, group by group."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    async def commit(self, items: Sequence[int]) -> Sequence[int]:
        self.groups.append(list(items))
        return [item * 10 for item in items]


async def test_what_lingers_is_committed_together_once_somebody_drains() -> None:
    log = Log()
    commits: GroupCommit[int, int] = GroupCommit(log.commit, linger=LONG)
    results = [commits.submit(item) for item in range(3)]
    await asyncio.sleep(0)
    assert not commits.is_idle
    assert log.groups == []
    await asyncio.wait_for(commits.drain(), 10)
    assert log.groups == [[0, 1, 2]]
    assert [await result for result in results] == [0, 10, 20]
    assert commits.is_idle


async def test_something_urgent_takes_along_what_lingers() -> None:
    log = Log()
    commits: GroupCommit[int, int] = GroupCommit(log.commit, linger=LONG)
    waiting = commits.submit(1)
    await asyncio.sleep(0)
    assert await asyncio.wait_for(commits.submit(2, urgent=True), 10) == 20
    assert await waiting == 10
    assert log.groups == [[1, 2]]


async def test_what_lingers_is_committed_by_itself_after_a_while() -> None:
    log = Log()
    commits: GroupCommit[int, int] = GroupCommit(log.commit, linger=0.01)
    assert await asyncio.wait_for(commits.submit(1), 10) == 10
    assert await asyncio.wait_for(commits.submit(2), 10) == 20
    assert log.groups == [[1], [2]]


async def test_a_full_group_does_not_linger() -> None:
    log = Log()
    commits: GroupCommit[int, int] = GroupCommit(log.commit, linger=LONG)
    results = [commits.submit(item) for item in range(256)]
    await asyncio.wait_for(asyncio.gather(*results), 10)
    assert [len(group) for group in log.groups] == [256]
