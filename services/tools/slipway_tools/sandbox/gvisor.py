"""Sandboxes by gVisor (`runsc`): programs talk to a kernel in user space, which itself needs little of ours."""

import json
import os
import shutil
import signal
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slipway_tools.sandbox import rootfs
from slipway_tools.sandbox.adapter import STARTED_HERE, Starting, Wiring
from slipway_tools.sandbox.cgroups import Overhead
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.limits import MIB, Limits
from slipway_tools.sandbox.link import Berth, Ears
from slipway_tools.sandbox.process_link import ProcessLink

# Of gVisor's kernel, not of ours. The runner is its root, so that programs can't reach it; they have none.
_RUNNERS_CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETUID")
_PREFIX = "slipway-runsc-"
_REPORT = 3  # the descriptor inside: ours may be beyond the limit of open files there
# Threads of its kernel and of the programs that it stands in for (it counts the program's own itself); its memory.
_OVERHEAD = Overhead(processes=256, memory=96 * MIB)


@dataclass(frozen=True)
class Gvisor:
    """The adapter. `home` holds its state on this machine: bundles, and what runsc notes of running sandboxes."""

    binary: Path
    root: Path
    home: Path
    limits: Limits
    kill_signal: signal.Signals = signal.SIGKILL  # runsc would hand others on to the program
    name: str = "runsc"
    overhead: Overhead = _OVERHEAD
    starting: Starting = STARTED_HERE
    _bundles: dict[str, Path] = field(default_factory=dict[str, Path])

    @classmethod
    def prepare(cls, image: rootfs.Image, limits: Limits, binary: str) -> "Gvisor":
        """Build what is needed. `binary` empty: `runsc` as found in PATH.

        Raises:
            SandboxUnavailable: runsc is not installed, or this user may not use it.
        """
        found = shutil.which(binary or "runsc")
        if found is None:
            raise SandboxUnavailable(f"{binary or 'runsc'} is not installed: docs/sandbox.md says how gVisor is built")
        if os.geteuid() != 0:
            raise SandboxUnavailable("runsc needs root here: run the tools service as root, or use nsjail")
        _remove_leftovers()
        home = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        return cls(Path(found), image.build(os.geteuid()), home, limits)

    @property
    def protection(self) -> str:
        """What closes a program off."""
        return "runsc: gVisor's kernel in user space (systrap) in namespaces of its own; no capabilities; rlimits"

    @property
    def downgrades(self) -> tuple[str, ...]:
        """gVisor's kernel does not count the names in a tmpfs: memory bounds them."""
        return ("inodes are bounded by memory only",)

    def connect(self, berth: Berth, ears: Ears) -> ProcessLink:
        """Start a launcher."""
        return ProcessLink.start(self, berth, ears)

    def command(self, wiring: Wiring) -> list[str]:
        """runsc's command line; what it closes off stands in the bundle."""
        bundle = self._bundle(wiring)
        options = [
            f"--root={self.home}/state",
            "--platform=systrap",
            "--network=none",
            "--ignore-cgroups",
            "--overlay2=none",
            "--host-settings=ignore",
            f"--host-uds={'open' if wiring.egress else 'none'}",
            "--log=/dev/null",
            f"--panic-log=/dev/fd/{wiring.journal}",
        ]
        fds = ["--pass-fd", f"{wiring.report}:{_REPORT}"]
        return [str(self.binary), *options, "run", "--bundle", str(bundle), *fds, self._id(wiring.name)]

    def refusal(self, journal: bytes) -> str:
        """gVisor's own words show paths: they are in the log only."""
        return "runsc did not start the program"

    def forget(self, name: str) -> None:
        """Remove the notes about a sandbox that was killed, and its bundle."""
        for path in (self.home / "state").glob(f"{self._id(name)}*"):
            path.unlink(missing_ok=True)
        bundle = self._bundles.pop(name, None)
        if bundle is not None:
            shutil.rmtree(bundle, ignore_errors=True)

    async def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.home, ignore_errors=True)

    @staticmethod
    def _id(name: str) -> str:
        return f"slipway-{os.getpid()}-{name}"

    def _bundle(self, wiring: Wiring) -> Path:
        folder = self.home / f"bundle-{wiring.name}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(self._spec(wiring)))
        self._bundles[wiring.name] = folder
        return folder

    def _spec(self, wiring: Wiring) -> dict[str, Any]:
        """An OCI runtime specification."""
        limits = self.limits
        rlimits = {
            **({} if wiring.memory_bound else {"RLIMIT_AS": limits.memory}),  # the runner sets a program's
            "RLIMIT_CORE": 0,
            "RLIMIT_FSIZE": limits.file_size,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
            "RLIMIT_NOFILE": limits.open_files,
            "RLIMIT_NPROC": limits.processes,
            "RLIMIT_RTPRIO": 0,
            "RLIMIT_STACK": 8 * MIB,
        }
        mounts: list[dict[str, Any]] = [
            {
                # /work by its other name: without a mount there, runsc puts a tmpfs without a limit on /tmp.
                "destination": "/tmp",  # noqa: S108
                "type": "tmpfs",
                "source": "none",
                "options": ["nosuid", "nodev", "mode=0777", f"size={limits.workspace}"],
            },
            {"destination": "/proc", "type": "proc", "source": "proc"},
        ]
        if wiring.egress is not None:
            options = ["bind", "ro"]
            mounts.append(
                {"destination": rootfs.EGRESS, "type": "bind", "source": str(wiring.egress), "options": options}
            )
        return {
            "ociVersion": "1.0.2",
            "process": {
                "terminal": False,
                "user": {"uid": 0, "gid": 0},
                "args": rootfs.runner_command(_REPORT, egress=wiring.egress is not None),
                "env": [],
                "cwd": "/work",
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _RUNNERS_CAPABILITIES),
                "rlimits": [{"type": name, "hard": value, "soft": value} for name, value in rlimits.items()],
                "noNewPrivileges": True,
            },
            "root": {"path": str(self.root), "readonly": True},
            "hostname": "sandbox",
            "mounts": mounts,
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
        }


def _remove_leftovers() -> None:
    """Folders of processes that are dead."""
    for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = old.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists() and old.stat().st_uid == os.geteuid():
            shutil.rmtree(old, ignore_errors=True)
