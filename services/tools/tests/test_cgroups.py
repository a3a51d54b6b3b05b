"""Control groups, on folders that stand in for the kernel's: both versions lay them out and limit them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from slipway_tools.sandbox import cgroups
from slipway_tools.sandbox.cgroups import CgroupTree, Overhead
from slipway_tools.sandbox.limits import MIB, Limits
from slipway_tools.sandbox.program import Outcome

LIMITS = Limits(memory=255 * MIB, processes=20, cpus=0.5)
OVERHEAD = Overhead(processes=4, memory=MIB)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Sets what /proc says about this process's groups and where they are mounted."""

    def set_up(own: str, mounts: str) -> Path:
        for name, text in (("cgroup", own), ("mounts", mounts.format(root=tmp_path))):
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(cgroups, "PROC_SELF", tmp_path)
        return tmp_path

    return set_up


def test_version_2_makes_siblings_of_the_services_own_group(place) -> None:
    root = place("0::/app.slice/slipway.scope\n", "cgroup2 {root}/fs cgroup2 rw 0 0\n")
    parent = root / "fs/app.slice"
    (parent / "slipway.scope").mkdir(parents=True)
    (parent / "cgroup.subtree_control").write_text("memory pids\n")
    tree = CgroupTree.open()
    assert tree is not None
    assert (tree.version, tree.controllers) == (2, ("memory", "pids"))
    own = parent / f"slipway-tools-{os.getpid()}"
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids"
    slot = tree.slot(3, LIMITS, OVERHEAD)
    assert slot.folders == (own / "slot-3",)
    assert (own / "slot-3/memory.max").read_text() == str(256 * MIB)
    assert (own / "slot-3/memory.swap.max").read_text() == "0"
    assert (own / "slot-3/pids.max").read_text() == "24"
    assert not slot.bounds_cpu
    for name, text in (
        ("memory.events", "low 0\noom 2\noom_kill 5\n"),
        ("pids.events", "max 3\n"),
        ("memory.peak", "7000\n"),
    ):
        (own / "slot-3" / name).write_text(text)
    slot = tree.slot(3, LIMITS, OVERHEAD)
    before = slot.begin_call()
    assert before == cgroups.Counters(oom_kills=5, refused_processes=3)
    (own / "slot-3/memory.events").write_text("oom_kill 6\n")
    (own / "slot-3/memory.peak").write_text("9000\n")
    outcome = slot.end_call(before, Outcome("exited", 1))
    assert (outcome.out_of_memory, outcome.out_of_processes, outcome.peak_memory) == (True, False, 9000)
    (own / "slot-3/cgroup.procs").write_text("12\n")
    assert not slot.empty()


def test_version_2_without_delegated_controllers_is_a_downgrade(place) -> None:
    root = place("0::/user.slice/session.scope\n", "cgroup2 {root}/fs cgroup2 rw 0 0\n")
    (root / "fs/user.slice/session.scope").mkdir(parents=True)
    (root / "fs/user.slice/cgroup.subtree_control").write_text("\n")
    assert CgroupTree.open() is None


def test_version_1_makes_a_group_per_controller_and_clears_what_dead_processes_left(place) -> None:
    root = place(
        "4:memory:/box\n3:pids:/\n1:cpu,cpuacct:/\n0::/\n",
        "c {root}/m cgroup rw,memory 0 0\nc {root}/p cgroup rw,pids 0 0\nc {root}/c cgroup rw,cpu,cpuacct 0 0\n",
    )
    for folder in ("m/box", "p", "c"):
        (root / folder).mkdir(parents=True)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    old = root / f"p/slipway-tools-{gone.pid}/slot-0"
    old.mkdir(parents=True)
    alive = root / f"p/slipway-tools-{os.getppid()}/slot-0"
    alive.mkdir(parents=True)
    tree = CgroupTree.open()
    assert tree is not None
    assert (tree.version, tree.controllers) == (1, ("memory", "pids", "cpu"))
    assert not old.parent.exists()
    assert alive.exists()
    slot = tree.slot(0, LIMITS, OVERHEAD)
    own = f"slipway-tools-{os.getpid()}/slot-0"
    assert slot.folders == (root / "m/box" / own, root / "p" / own, root / "c" / own)
    assert (slot.folders[0] / "memory.limit_in_bytes").read_text() == str(256 * MIB)
    assert (slot.folders[1] / "pids.max").read_text() == "24"
    assert (slot.folders[2] / "cpu.cfs_quota_us").read_text() == "50000"
    assert slot.bounds_cpu


def test_where_no_group_may_be_made_there_is_none(place) -> None:
    place("0::/\n", "")
    assert CgroupTree.open() is None
