"""The host under watch: things that no sandboxed program may read, reach, change, stop or leave behind.

Every detector looks from outside, at the host itself. `test_detectors.py` shows that each of them fires.
"""

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_libc = ctypes.CDLL(None, use_errno=True)
_SHMGET, _SHMAT, _SHMCTL = 29, 30, 31
_ADD_KEY, _KEYCTL = 248, 250


@dataclass
class Canaries:
    """Secrets and services of the host, with one token in all of them; `facts` is what a program is told of them."""

    token: str
    folder: Path
    port: int
    udp_port: int
    addresses: list[str]
    abstract: str
    socket_path: Path
    pid: int
    shm_key: int
    key_name: str
    hits: list[str] = field(default_factory=list[str])

    @property
    def facts(self) -> dict[str, object]:
        """Names of everything; not the token."""
        return {
            "file": str(self.folder / "canary.txt"),
            "private_file": str(self.folder / "private.txt"),
            "writable_file": str(self.folder / "writable.txt"),
            "port": self.port,
            "udp_port": self.udp_port,
            "addresses": self.addresses,
            "abstract": self.abstract,
            "socket": str(self.socket_path),
            "pid": self.pid,
            "shm_key": self.shm_key,
            "key_name": self.key_name,
        }


@contextmanager
def planted() -> Iterator[Canaries]:
    """Plant the canaries, and remove them."""
    token = f"canary{secrets.token_hex(12)}"
    folder = Path(tempfile.mkdtemp(prefix="hostile-host-", dir="/tmp"))
    folder.chmod(0o755)
    for name, mode in (("canary.txt", 0o644), ("private.txt", 0o600), ("writable.txt", 0o666)):
        (folder / name).write_text(token)
        (folder / name).chmod(mode)
    process = subprocess.Popen(
        [sys.executable, "-c", "import time\nwhile True: time.sleep(1)"], env={**os.environ, "CANARY": token}
    )
    canaries = Canaries(
        token,
        folder,
        port=0,
        udp_port=0,
        addresses=_own_addresses(),
        abstract=f"hostile-{token[:20]}",
        socket_path=folder / "canary.sock",
        pid=process.pid,
        shm_key=0x51190000 | secrets.randbelow(1 << 16),
        key_name=f"hostile:{token[:14]}",
    )
    with _listening(canaries), _shared_memory(canaries), _keyring(canaries):
        try:
            yield canaries
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(folder)


def _own_addresses() -> list[str]:
    found = ["127.0.0.1", "::1"]
    for entries in psutil.net_if_addrs().values():
        found += [entry.address.partition("%")[0] for entry in entries if entry.family == socket.AF_INET]
    return list(dict.fromkeys(found))


@contextmanager
def _listening(canaries: Canaries) -> Iterator[None]:
    """TCP and UDP on every address, and Unix sockets: who comes by is noted, and told the token."""
    tcp = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    canaries.port = tcp.getsockname()[1]
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.bind(("::", 0))
    canaries.udp_port = udp.getsockname()[1]
    named = socket.socket(socket.AF_UNIX)
    named.bind(str(canaries.socket_path))
    canaries.socket_path.chmod(0o666)
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0{canaries.abstract}")
    listeners = {"tcp": tcp, "unix": named, "abstract": abstract}

    def accept(kind: str, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                peer, _ = listener.accept()
                canaries.hits.append(kind)
                with suppress(OSError), peer:
                    peer.sendall(canaries.token.encode())

    def receive() -> None:
        with suppress(OSError):
            while True:
                udp.recvfrom(2048)
                canaries.hits.append("udp")

    named.listen()
    abstract.listen()
    for kind, listener in listeners.items():
        threading.Thread(target=accept, args=(kind, listener), daemon=True).start()
    threading.Thread(target=receive, daemon=True).start()
    try:
        yield
    finally:
        for listener in (*listeners.values(), udp):
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()


@contextmanager
def _shared_memory(canaries: Canaries) -> Iterator[None]:
    """A System V segment of the host that everybody may attach."""
    segment = _libc.syscall(_SHMGET, canaries.shm_key, 4096, 0o1666)
    if segment < 0:
        yield
        return
    _libc.shmat.restype = ctypes.c_void_p
    at = _libc.shmat(segment, None, 0)
    ctypes.memmove(at, canaries.token.encode(), len(canaries.token))
    try:
        yield
    finally:
        _libc.shmdt(ctypes.c_void_p(at))
        _libc.syscall(_SHMCTL, segment, 0, 0)


@contextmanager
def _keyring(canaries: Canaries) -> Iterator[None]:
    """A key in the user's keyring."""
    payload = canaries.token.encode()
    key = _libc.syscall(_ADD_KEY, b"user", canaries.key_name.encode(), payload, len(payload), -4)
    try:
        yield
    finally:
        if key > 0:
            _libc.syscall(_KEYCTL, 9, key, -4)  # unlink


@dataclass
class Watch:
    """The host before a program; `damage` says what is different after it."""

    canaries: Canaries
    service: int
    own_folders: tuple[Path, ...]
    _mounts: frozenset[str] = frozenset()
    _names: frozenset[Path] = frozenset()
    _hostname: str = ""
    _hits: int = 0
    _free: int = 0

    def begin(self) -> None:
        """Take the state before."""
        self._mounts = mounts(self.service, *self.own_folders)
        self._names = self._all_names()
        self._hostname = socket.gethostname()
        self._hits = len(self.canaries.hits)
        self._free = shutil.disk_usage(tempfile.gettempdir()).free

    def damage(self, returned: str = "") -> list[str]:
        """What a program did that it must not; `returned` is all that came back of it."""
        canaries = self.canaries
        found: list[str] = []
        if canaries.token in returned:
            found.append("a secret of the host came back")
        found += [f"a listener of the host was reached: {kind}" for kind in canaries.hits[self._hits :]]
        for name in ("canary.txt", "private.txt", "writable.txt"):
            if (canaries.folder / name).read_text() != canaries.token:
                found.append(f"a file of the host was changed: {name}")
        if not psutil.pid_exists(canaries.pid) or psutil.Process(canaries.pid).status() in ("zombie", "stopped"):
            found.append("a process of the host was stopped")
        if socket.gethostname() != self._hostname:
            found.append("the host has another name")
        if mounts(self.service, *self.own_folders) != self._mounts:
            found.append("a mount is left")
        found += [f"a file is left: {path}" for path in sorted(self._all_names() - self._names)]
        if self._free - shutil.disk_usage(tempfile.gettempdir()).free > 300 << 20:
            found.append("the disk is filled")
        return found

    def _all_names(self) -> frozenset[Path]:
        found: set[Path] = set()
        for folder in (*_SHARED, *self.own_folders):
            with suppress(FileNotFoundError):
                found |= {path for path in folder.iterdir() if folder not in _SHARED or _is_a_programs(path)}
        return frozenset(found)


# Where a program could mount, and names of what the service mounts. Container runtimes, which work on the same machine,
# mount elsewhere: below their own folders in /var/lib and /run.
_MOUNTABLE = (
    "/dev",
    "/etc",
    "/home",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run/user",
    "/sys",
    "/tmp",
    "/usr",
    "/var/tmp",
)
_MOUNTED = ("slipway", "nsjail", "runsc")


def mounts(process: int, *folders: Path) -> frozenset[str]:
    """Mounts of the host, as `process` sees it, that a sandbox may have made: by their places, and by `folders`."""
    found: set[str] = set()
    for line in Path(f"/proc/{process}/mounts").read_text().splitlines():
        source, place = line.split(" ")[:2]
        below = place == "/work" or any(place == top or place.startswith(f"{top}/") for top in _MOUNTABLE)
        if below or any(name in f"{source} {place}" for name in (*_MOUNTED, *map(str, folders))):
            found.add(line)
    return frozenset(found)


# Others make files there too: a program's are known by the sandbox's user, and by names that nobody else uses.
_SHARED = (Path("/tmp"), Path("/var/tmp"), Path("/run"), Path("/"), Path("/dev/shm"), Path("/usr"))
_SANDBOX_USER = 1_950_000_000
_PROGRAMS_NAMES = frozenset({"fill", "f0", "result.json", "main.py", "main.sh", "a.tar"})


def _is_a_programs(path: Path) -> bool:
    try:
        owner = path.lstat().st_uid
    except OSError:
        return False
    if path.name.startswith("nsjail."):  # the folders that all sandboxes of a user mount on
        return False
    return owner == _SANDBOX_USER or path.name in _PROGRAMS_NAMES


def processes(service: int, roots: Path) -> list[str]:
    """Programs that are there: children of the service beside its waiting launchers, members of its control groups,
    and whatever has the sandbox's root mounted."""
    found: dict[int, str] = {}
    with suppress(psutil.Error):
        for child in psutil.Process(service).children(recursive=True):
            with suppress(psutil.Error):
                found[child.pid] = child.name()
    for pid in _members(service):
        with suppress(psutil.Error):
            found[pid] = psutil.Process(pid).name()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if (
                process.pid != service
                and f"{roots}/sandbox-python" in Path(f"/proc/{process.pid}/mountinfo").read_text()
            ):
                found[process.pid] = process.name()
    return [name for name in found.values() if name != "sh"]


def control_groups(service: int) -> list[Path]:
    """Folders of control groups that the service made."""
    own = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    found = [Path(f"/sys/fs/cgroup/{names}{path}/slipway-tools-{service}") for _, names, path in own]
    return [folder for folder in found if folder.is_dir()]


def _members(service: int) -> list[int]:
    found: list[int] = []
    for folder in control_groups(service):
        for slot in folder.glob("slot-*"):
            with suppress(FileNotFoundError):
                found += map(int, (slot / "cgroup.procs").read_text().split())
    return found


class MemoryMeter:
    """The most memory that the service's sandboxes took together, in bytes, sampled by a thread."""

    def __init__(self, root: int) -> None:
        self.peak = 0
        self._root = root
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "MemoryMeter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            total = 0
            with suppress(psutil.Error):
                for child in psutil.Process(self._root).children(recursive=True):
                    with suppress(psutil.Error):
                        memory = child.memory_info()
                        total += memory.rss - memory.shared
            self.peak = max(self.peak, total)


def end(process: psutil.Process) -> None:
    """Kill one process."""
    with suppress(psutil.Error):
        process.send_signal(signal.SIGKILL)


def wait_until(condition: Callable[[], bool], seconds: float = 40.0) -> bool:
    """True as soon as `condition()` is."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
