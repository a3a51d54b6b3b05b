"""Control groups for sandboxes: made ahead, one per slot, and used again.

Joining a group costs milliseconds (an RCU grace period per controller), so the processes that start sandboxes join
before a call comes. A slot's limits hold for everything in it together; resource limits alone hold per process.
"""

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from slipway_tools.sandbox.limits import Limits

log = structlog.get_logger(__name__)
CONTROLLERS = ("memory", "pids", "cpu")
PROC_SELF = Path("/proc/self")
_PREFIX = "slipway-tools-"
_PERIOD_US = 100_000
_OWN_PROCESSES = 4  # launcher, nsjail, the runner and one to spare


@dataclass(frozen=True)
class SlotGroup:
    """The groups of one slot: one folder (v2) or one per controller (v1)."""

    folders: tuple[Path, ...]
    oom_file: Path | None
    bounds_cpu: bool

    def oom_kills(self) -> int:
        """How many processes of the slot the kernel has killed for want of memory, ever."""
        if self.oom_file is None:
            return 0
        found = re.search(r"^oom_kill (\d+)$", self.oom_file.read_text(), re.MULTILINE)
        return int(found[1]) if found else 0

    def empty(self) -> bool:
        """True when no process is in the slot."""
        return not any((folder / "cgroup.procs").read_text().strip() for folder in self.folders)


class CgroupTree:
    """The groups that this process made below its own: `version` 1 or 2, with what of `CONTROLLERS` is there."""

    def __init__(self, version: int, roots: dict[str, Path], controllers: Sequence[str]) -> None:
        self.version = version
        self.controllers = tuple(controllers)
        self._roots = roots

    @classmethod
    def open(cls) -> "CgroupTree | None":
        """Make this process's groups; None where it may not (an ordinary user without delegation)."""
        own = _own_paths((PROC_SELF / "cgroup").read_text())
        mounts = _mounts((PROC_SELF / "mounts").read_text())
        return cls._open_v2(own, mounts) or cls._open_v1(own, mounts)

    @classmethod
    def _open_v2(cls, own: dict[str, str], mounts: dict[str, Path]) -> "CgroupTree | None":
        if "" not in own or "" not in mounts:
            return None
        # A group with processes can't give controllers to its children: ours are siblings of the service's own.
        home = mounts[""] / own[""].lstrip("/")
        parent = home.parent if home != mounts[""] else home
        try:
            available = (parent / "cgroup.subtree_control").read_text().split()
            wanted = [name for name in CONTROLLERS if name in available]
            if not wanted:
                return None
            root = _fresh(parent)
            (root / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))
        except OSError:
            return None
        return cls(2, {"": root}, wanted)

    @classmethod
    def _open_v1(cls, own: dict[str, str], mounts: dict[str, Path]) -> "CgroupTree | None":
        roots: dict[str, Path] = {}
        for name in CONTROLLERS:
            if name in own and name in mounts:
                with contextlib.suppress(OSError):
                    roots[name] = _fresh(mounts[name] / own[name].lstrip("/"))
        return cls(1, roots, list(roots)) if roots else None

    def slot(self, index: int, limits: Limits) -> SlotGroup:
        """Make the group of slot `index` with `limits`; raises OSError where a limit is not taken."""
        folders: list[Path] = []
        for root in self._roots.values():
            folder = root / f"slot-{index}"
            folder.mkdir(exist_ok=True)
            folders.append(folder)
        if self.version == 2:
            _limit_v2(folders[0], self.controllers, limits)
            oom_file = folders[0] / "memory.events" if "memory" in self.controllers else None
        else:
            by_name = dict(zip(self._roots, folders, strict=True))
            _limit_v1(by_name, limits)
            oom_file = by_name["memory"] / "memory.oom_control" if "memory" in by_name else None
        return SlotGroup(tuple(folders), oom_file, "cpu" in self.controllers)

    def close(self) -> None:
        """Remove the groups; those that still hold a process stay and are taken away at the next start."""
        for root in self._roots.values():
            _remove(root)


def _limit_v1(folders: dict[str, Path], limits: Limits) -> None:
    if memory := folders.get("memory"):
        (memory / "memory.limit_in_bytes").write_text(str(limits.memory))
        with contextlib.suppress(FileNotFoundError):  # kernels without swap accounting
            (memory / "memory.memsw.limit_in_bytes").write_text(str(limits.memory))
    if pids := folders.get("pids"):
        (pids / "pids.max").write_text(str(limits.processes + _OWN_PROCESSES))
    if cpu := folders.get("cpu"):
        (cpu / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (cpu / "cpu.cfs_quota_us").write_text(str(int(limits.cpus * _PERIOD_US)))


def _limit_v2(folder: Path, controllers: Sequence[str], limits: Limits) -> None:
    if "memory" in controllers:
        (folder / "memory.max").write_text(str(limits.memory))
        with contextlib.suppress(FileNotFoundError):
            (folder / "memory.swap.max").write_text("0")
    if "pids" in controllers:
        (folder / "pids.max").write_text(str(limits.processes + _OWN_PROCESSES))
    if "cpu" in controllers:
        (folder / "cpu.max").write_text(f"{int(limits.cpus * _PERIOD_US)} {_PERIOD_US}")


def _own_paths(text: str) -> dict[str, str]:
    """Controller to path, from /proc/self/cgroup; the unified hierarchy is the empty name."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path
    return paths


def _mounts(text: str) -> dict[str, Path]:
    """Controller to mount point, from /proc/self/mounts; the unified hierarchy is the empty name."""
    found: dict[str, Path] = {}
    for line in text.splitlines():
        _, point, kind, options, *_ = line.split()
        if kind == "cgroup2":
            found[""] = Path(point)
        elif kind == "cgroup":
            found.update({name: Path(point) for name in options.split(",") if name in CONTROLLERS})
    return found


def _fresh(parent: Path) -> Path:
    """Make this process's own folder below `parent`; take away what dead processes left there."""
    for old in parent.glob(f"{_PREFIX}*"):
        pid = old.name.removeprefix(_PREFIX)
        if pid == str(os.getpid()) or not Path("/proc", pid).exists():
            _remove(old)
    folder = parent / f"{_PREFIX}{os.getpid()}"
    folder.mkdir()
    return folder


def _remove(root: Path) -> None:
    for folder in (*root.glob("slot-*"), root):
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("sandbox.cgroup_left", folder=str(folder), error=error.strerror)
