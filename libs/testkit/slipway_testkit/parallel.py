"""Tests beside each other in several processes (`pytest -n auto`, pytest-xdist): who takes what, and what runs alone.

A file is taken as a whole. A worker stays in its folder, whose servers it has started, and helps in others' only when
no folder is left that nobody is in. Each worker has servers of its own.

A test marked `alone` watches what is shared (mounts, /tmp, processes), and would take another's sandbox for
what it looks for: no test that may start one runs at its time. It waits until those come to the end of their files, so
that no token of theirs grows old meanwhile. Their folders come first, so that the others are left to run beside it.
"""

import fcntl
import os
from collections import defaultdict
from collections.abc import Generator, Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Any

import psutil
import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# With its servers a worker takes about this much at its peak.
_MEMORY_OF_A_WORKER = 3 << 30
# Their tests are alone.
_ALONE = "tests/hostile"
# Folders below these have tests that start sandboxes: of the tools service, of a stack, of a check.
_SANDBOXES = ("cli/", "services/tools/", "tests/")
# Files that need Keycloak, which takes longer to start than all else: as if in one folder, so that one worker does.
_KEYCLOAK = "services/tools/keycloak"
_WITH_KEYCLOAK = (
    "services/gateway/tests/test_identity.py",
    "services/gateway/tests/test_keycloak.py",
    "services/tools/tests/test_mcp_keycloak.py",
)
ALONE = "alone: no test that may start a sandbox may run at its time (pytest -n)"


def workers(cpus: int, memory: int) -> int:
    """What `-n auto` means: one more than processors, as tests often wait, if `memory` (bytes) is enough."""
    return max(1, min(cpus + 1, memory // _MEMORY_OF_A_WORKER))


def next_file(waiting: Iterable[str], own: str | None, others: set[str]) -> str:
    """Which of the `waiting` files a worker takes that was in the folder `own`, while others are in theirs.

    One of its own folder; else of the first folder that nobody is in; else of the folder that has most left. Folders
    with sandboxes come first, the later names before the earlier: the slow ones are named `tests/…`. Tests that are
    alone wait until nobody is in such a folder, and then are the next.
    """
    left: dict[str, list[str]] = defaultdict(list)
    for file in sorted(waiting, key=lambda file: (makes_sandboxes(f"{_folder(file)}/"), _folder(file)), reverse=True):
        left[_folder(file)].append(file)
    alone = left.pop(_ALONE, [])
    if alone and not any(makes_sandboxes(f"{folder}/") for folder in others | left.keys()):
        return alone[0]
    if not left:
        return alone[0]
    if own in left:
        return left[own][0]
    for folder, files in left.items():
        if folder not in others:
            return files[0]
    return max(left.values(), key=len)[-1]


def makes_sandboxes(file: str) -> bool:
    """Whether tests of the file may start sandboxes, and so wait for those that are alone."""
    return file.startswith(_SANDBOXES)


def _folder(file: str) -> str:
    return _KEYCLOAK if file in _WITH_KEYCLOAK else str(PurePosixPath(file).parent)


class FolderScheduling(LoadScopeScheduling):
    """Files as units of work."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False
        self._in: dict[WorkerController, str] = {}

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.split("::", 1)[0]

    def _assign_work_unit(self, node: WorkerController) -> None:
        others = {folder for other, folder in self._in.items() if other is not node and other in self.assigned_work}
        file = next_file(self.workqueue, self._in.get(node), others)
        self._in[node] = _folder(file)
        self.workqueue.move_to_end(file, last=False)
        super()._assign_work_unit(node)


class Turns:
    """One test at a time holds the machine when it is `alone`; those with sandboxes share it. By file locks.

    Whoever waits for the machine keeps the next ones from starting, so that it does not wait for ever.
    """

    def __init__(self, folder: Path) -> None:
        self._queue: IO[bytes] = (folder / "tests-queue.lock").open("ab")
        self._machine: IO[bytes] = (folder / "tests-machine.lock").open("ab")
        self._holds = False

    def begin(self, *, alone: bool) -> None:
        """Waits for the turn of a test, unless the machine was kept for it."""
        if self._holds:
            return
        fcntl.flock(self._queue, fcntl.LOCK_EX)
        fcntl.flock(self._machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._queue, fcntl.LOCK_UN)
        self._holds = True

    def end(self, *, keep: bool) -> None:
        """Gives the machine, or the share in it, free; `keep`: the next test, which is of the same kind, has it."""
        if not keep:
            fcntl.flock(self._machine, fcntl.LOCK_UN)
            self._holds = False

    def close(self) -> None:
        """Closes the files."""
        self._queue.close()
        self._machine.close()


class TakingTurns:
    """The plugin of a worker."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Around all of a test, before its time begins to count: fixtures, repetitions, and what is taken down."""
        if not (_is_alone(item) or makes_sandboxes(item.nodeid)):
            return (yield)
        self._turns.begin(alone=_is_alone(item))
        try:
            return (yield)
        finally:
            self._turns.end(keep=nextitem is not None and _go_together(item, nextitem))

    def pytest_unconfigure(self) -> None:
        """At the end of the session."""
        self._turns.close()


def _go_together(item: pytest.Item, following: pytest.Item) -> bool:
    if _is_alone(item) != _is_alone(following):
        return False
    return _is_alone(item) or item.path == following.path


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`."""
    return workers(os.cpu_count() or 1, psutil.virtual_memory().total)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FolderScheduling | None:
    """In place of xdist's default; another one that was asked for (`--dist`) is used."""
    return FolderScheduling(config, log) if config.getoption("dist") == "load" else None


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker, and in a worker the turns."""
    config.addinivalue_line("markers", ALONE)
    if hasattr(config, "workerinput"):
        # The temporary folders of all workers of a session lie beside each other.
        folder = Path(str(config.getoption("basetemp"))).parent
        config.pluginmanager.register(TakingTurns(Turns(folder)))
