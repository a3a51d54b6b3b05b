"""Tells whether this machine, or its cluster, can run the sandbox: `python -m slipway_tools.sandbox_check`.

Starts a real sandbox. Exits with 0 and says what protects it, or with 1 and one sentence about the setting that is
missing.
"""

import asyncio
import logging
import sys
from dataclasses import replace
from pathlib import Path

import structlog
from slipway_chassis.settings import load_settings

from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.pool import PoolSize
from slipway_tools.settings import SandboxSettings

_NAMESPACES = ("user", "mnt", "pid", "ipc", "uts", "net", "cgroup")


def missing_setting(proc: Path = Path("/proc")) -> str | None:
    """The first setting of this machine that keeps sandboxes from starting, in a sentence; None: none is known."""
    for name in _NAMESPACES:
        if _read(proc / f"sys/user/max_{name}_namespaces") == "0":
            return f"user.max_{name}_namespaces is 0: `sysctl -w user.max_{name}_namespaces=15000`"
    if _read(proc / "sys/kernel/unprivileged_userns_clone") == "0":
        return "kernel.unprivileged_userns_clone is 0: `sysctl -w kernel.unprivileged_userns_clone=1`, or run as root"
    if _read(proc / "sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "kernel.apparmor_restrict_unprivileged_userns is 1:"
            " `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`,"
            " or load an AppArmor profile for nsjail that allows userns"
        )
    status = _read(proc / "self/status")
    if "\nSeccomp:" not in f"\n{status}":
        return "the kernel has no seccomp filters: it needs CONFIG_SECCOMP_FILTER"
    if "\nSeccomp:\t2" in f"\n{status}":
        return (
            "a seccomp filter, probably the container's, forbids it: give the container a Localhost profile that allows"
            " clone with namespace flags, mount, umount2 and pivot_root"
        )
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


async def _check(settings: SandboxSettings) -> str:
    pool = await replace(settings.choice, size=PoolSize(slots=1, warm=0)).open()
    await pool.close()
    return pool.description


def main() -> None:
    """Check and exit."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    settings = load_settings(SandboxSettings)
    try:
        description = asyncio.run(_check(settings))
    except SandboxUnavailable as error:
        # A pod's kernel is not this machine's.
        setting = None if settings.sandbox == "kubernetes" else missing_setting()
        sys.stdout.write(f"{error.message.partition(' (`')[0]}{f'; {setting}' if setting else ''}.\n")
        sys.exit(1)
    sys.stdout.write(f"{description}\n")


if __name__ == "__main__":
    main()
