"""Starting children so that none outlives the supervisor, and PostgreSQL even when the supervisor is root."""

import asyncio
import ctypes
import os
import pwd
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000
_libc = ctypes.CDLL(None, use_errno=True)


def _prepare(parent: int, death_signal: int, *, drop_root: bool) -> None:
    """Runs in the child between fork and exec."""
    if drop_root and os.geteuid() == 0:
        # PostgreSQL refuses to run as root. In a user namespace of its own it is `nobody` there and still the owner of
        # its files here: no system user has to be made, and no folder's permissions changed.
        nobody = pwd.getpwnam("nobody")
        if _libc.unshare(_CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "no user namespace for PostgreSQL")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{nobody.pw_uid} 0 1")
        Path("/proc/self/gid_map").write_text(f"{nobody.pw_gid} 0 1")
    # The kernel ends the child with its parent, also when the parent is killed.
    _libc.prctl(_PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


async def spawn(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    log: Path,
    death_signal: int = signal.SIGKILL,
    drop_root: bool = False,
) -> asyncio.subprocess.Process:
    """Starts a child in a session of its own (Ctrl-C reaches the supervisor alone), its output appended to `log`."""
    parent = os.getpid()
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *argv,
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: _prepare(parent, death_signal, drop_root=drop_root),
        )


async def run_once(argv: Sequence[str | Path], *, env: Mapping[str, str], log: Path, drop_root: bool = False) -> int:
    """Runs a command to its end and answers with its exit status."""
    process = await spawn(argv, env=env, log=log, drop_root=drop_root)
    return await process.wait()
