"""Control groups for sandboxes: made ahead, one per slot, and used again.

Joining a group costs milliseconds (an RCU grace period per controller), so the processes that start sandboxes join
before a call comes. A slot's limits hold for everything in it together; resource limits alone hold per process.
"""

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from slipway_tools.sandbox.limits import Limits
from slipway_tools.sandbox.program import Outcome

log = structlog.get_logger(__name__)
CONTROLLERS = ("memory", "pids", "cpu")
PROC_SELF = Path("/proc/self")
_PREFIX = "slipway-tools-"
_PERIOD_US = 100_000


@dataclass(frozen=True)
class Overhead:
    """What a kind of sandbox itself needs in a control group, beside the program: processes, and bytes of memory."""

    processes: int
    memory: int


@dataclass(frozen=True)
class Counters:
    """What the kernel counted in a slot, ever: processes killed for want of memory, and processes refused."""

    oom_kills: int
    refused_processes: int


@dataclass(frozen=True)
class SlotGroup:
    """The groups of one slot: one folder (v2) or one per controller (v1)."""

    folders: tuple[Path, ...]
    oom_file: Path | None
    pids_file: Path | None
    peak: int | None  # descriptor: version 2 forgets a peak for who asked it to only
    bounds_cpu: bool
    bounds_memory: bool

    def begin_call(self) -> Counters:
        """Start measuring a call."""
        if self.peak is not None:
            with contextlib.suppress(OSError):  # version 2 can't forget before Linux 6.12
                os.pwrite(self.peak, b"0", 0)
        return self.counters()

    def end_call(self, before: Counters, outcome: Outcome) -> Outcome:
        """The outcome, with what the kernel counted since `begin_call`."""
        after = self.counters()
        peak = int(os.pread(self.peak, 32, 0)) if self.peak is not None else 0
        return replace(
            outcome,
            out_of_memory=after.oom_kills > before.oom_kills,
            out_of_processes=after.refused_processes > before.refused_processes,
            peak_memory=peak or outcome.peak_memory,
        )

    def counters(self) -> Counters:
        """The counters now."""
        return Counters(_count(self.oom_file, "oom_kill"), _count(self.pids_file, "max"))

    def empty(self) -> bool:
        """True when no process is in the slot, and none is charged to it: what has died is for a moment yet."""
        return all(_settled(folder) for folder in self.folders)


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

    def slot(self, index: int, limits: Limits, overhead: Overhead) -> SlotGroup:
        """Make the group of slot `index` with `limits`; raises OSError where a limit is not taken."""
        limits = replace(
            limits, memory=limits.memory + overhead.memory, processes=limits.processes + overhead.processes
        )
        folders: list[Path] = []
        for root in self._roots.values():
            folder = root / f"slot-{index}"
            folder.mkdir(exist_ok=True)
            folders.append(folder)
        if self.version == 2:
            _limit_v2(folders[0], self.controllers, limits)
            home = folders[0]
            oom_file, peak_file = home / "memory.events", home / "memory.peak"
            pids_file = home / "pids.events"
        else:
            by_name = dict(zip(self._roots, folders, strict=True))
            _limit_v1(by_name, limits)
            home = by_name.get("memory", folders[0])
            oom_file, peak_file = home / "memory.oom_control", home / "memory.max_usage_in_bytes"
            pids_file = by_name.get("pids", folders[0]) / "pids.events"
        return SlotGroup(
            tuple(folders),
            _present(oom_file),
            _present(pids_file),
            _opened(peak_file),
            bounds_cpu="cpu" in self.controllers,
            bounds_memory="memory" in self.controllers,
        )

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
        (pids / "pids.max").write_text(str(limits.processes))
    if cpu := folders.get("cpu"):
        (cpu / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (cpu / "cpu.cfs_quota_us").write_text(str(int(limits.cpus * _PERIOD_US)))


def _limit_v2(folder: Path, controllers: Sequence[str], limits: Limits) -> None:
    if "memory" in controllers:
        (folder / "memory.max").write_text(str(limits.memory))
        with contextlib.suppress(FileNotFoundError):
            (folder / "memory.swap.max").write_text("0")
    if "pids" in controllers:
        (folder / "pids.max").write_text(str(limits.processes))
    if "cpu" in controllers:
        (folder / "cpu.max").write_text(f"{int(limits.cpus * _PERIOD_US)} {_PERIOD_US}")


def _present(file: Path) -> Path | None:
    return file if file.exists() else None


def _opened(file: Path) -> int | None:
    try:
        return os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None


def _settled(folder: Path) -> bool:
    if (folder / "cgroup.procs").read_text().strip():
        return False
    charged = folder / "pids.current"
    return not charged.exists() or charged.read_text().strip() == "0"


def _count(file: Path | None, name: str) -> int:
    found = re.search(rf"^{name} (\d+)$", file.read_text(), re.MULTILINE) if file is not None else None
    return int(found[1]) if found else 0


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
