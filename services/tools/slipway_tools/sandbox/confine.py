"""Runs inside a sandbox's pod, in its agent: closes programs off from the pod, in namespaces of their own.

Under gVisor these are namespaces of gVisor's own kernel, so that making them shows nothing of the node's. Programs see
the read-only `/usr`, four devices and their workspace; no `/proc`, no `/sys`, no file of the pod; they have a loopback
interface and no other, whatever network policies say, and can't name a process of the pod. Their user is the agent's
and the runner's (a restricted pod has no other): a filter refuses the calls by which they could end or trace the
runner, and those that would make further namespaces or mounts.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import socket
import struct

ROOT = "/work"  # of the pod: the only folder that can be written, and so where the new root is put together
USER = 1000
DEVICES = ("null", "zero", "random", "urandom")
FOLDERS = ("dev", "etc", "run/egress", "usr", "work")
LINKS = {"tmp": "work", "bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib"}
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
NAMESPACE_FLAGS = 0x7E020000
_NAMESPACES = 0x7C020000  # the same without NEWCGROUP, which gVisor has none of
_NOSUID, _NODEV, _RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE, _DETACH = 2, 4, 1, 32, 4096, 16384, 1 << 18, 2
_EPERM, _ENOSYS = 1, 38
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06

# Numbers of system calls: architecture's mark, pivot_root, clone; those that are refused; those refused for process 1.
_MACHINES = {
    "x86_64": (
        0xC000003E,
        155,
        56,
        # ptrace pivot_root chroot mount umount2 add_key request_key keyctl unshare perf_event_open name_to_handle_at
        # open_by_handle_at setns process_vm_readv process_vm_writev kcmp bpf userfaultfd
        (101, 155, 161, 165, 166, 248, 249, 250, 272, 298, 303, 304, 308, 310, 311, 312, 321, 323),
        # kill rt_sigqueueinfo tkill tgkill rt_tgsigqueueinfo prlimit64
        (62, 129, 200, 234, 297, 302),
    ),
    "aarch64": (
        0xC00000B7,
        41,
        220,
        (117, 41, 51, 40, 39, 217, 218, 219, 97, 241, 264, 265, 268, 270, 271, 272, 280, 282),
        (129, 138, 130, 131, 240, 261),
    ),
}
# The same everywhere: io_uring_setup, _enter, _register, open_tree, move_mount, fsopen, fsconfig, fsmount, fspick,
# pidfd_getfd, mount_setattr.
_REFUSED = (425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 442)
_CLONE3, _PIDFD_OPEN = 435, 434


class Refused(Exception):
    """The pod's kernel does not let its sandbox be made; the message is the call and its error."""


def enter(workspace: int, inodes: int, certificate: bytes | None) -> socket.socket | None:
    """Leave the pod: new namespaces for this process and its children to come, with a root of their own.

    `workspace` bytes and `inodes` names are what the program's folder may hold. With `certificate` there is a way to
    the egress proxy: the socket returned is what programs connect to.

    Raises:
        Refused: the kernel forbids a part of it.
    """
    uid, gid = os.getuid(), os.getgid()
    _call("unshare", _NAMESPACES)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{USER} {uid} 1")
    _write("/proc/self/gid_map", f"{USER} {gid} 1")
    socket.sethostname("sandbox")
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("none", ROOT, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=0755")
    for name in FOLDERS:
        os.makedirs(f"{ROOT}/{name}")
    for name, target in LINKS.items():
        os.symlink(target, f"{ROOT}/{name}")
    _mount("/usr", f"{ROOT}/usr", None, _BIND)
    _mount(None, f"{ROOT}/usr", None, _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV)
    for name in DEVICES:
        os.close(os.open(f"{ROOT}/dev/{name}", os.O_CREAT | os.O_WRONLY))
        _mount(f"/dev/{name}", f"{ROOT}/dev/{name}", None, _BIND)
    _mount("none", f"{ROOT}/work", "tmpfs", _NOSUID | _NODEV, f"size={workspace},nr_inodes={inodes},mode=0755")
    listener = None if certificate is None else _furnish(f"{ROOT}/run/egress", certificate)
    _mount(None, ROOT, None, _REMOUNT | _RDONLY | _NOSUID | _NODEV)
    os.chdir(ROOT)
    _call("syscall", _machine()[1], b".", b".")
    _call("umount2", b".", _DETACH)
    os.chdir("/")
    return listener


def _furnish(folder: str, certificate: bytes) -> socket.socket:
    with open(f"{folder}/ca.pem", "wb") as file:
        file.write(certificate)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/proxy.sock")
    listener.listen(64)
    return listener


def bound(limits: dict[str, int]) -> None:
    """Set resource limits by name, hard ones; raises ValueError, OSError."""
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))


def filter_calls() -> None:
    """Install the filter of system calls, for good, here and in all that is started; raises Refused."""
    program = b"".join(_program())
    kept = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(kept))
    _call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    _call("prctl", 22, 2, head, 0, 0)  # PR_SET_SECCOMP: filter


def _program() -> list[bytes]:
    """Classic BPF over (number, architecture, …, first argument at 16); a false test skips to the next rule."""
    mark, _, clone, refused, of_the_first = _machine()
    refuse, allow = (_RETURN, 0, 0, _ERRNO | _EPERM), (_RETURN, 0, 0, _ALLOW)
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, mark), refuse, (_LOAD, 0, 0, 0)]
    for number in (*refused, *_REFUSED):
        lines += [(_EQUAL, 0, 1, number), refuse]
    # It passes its flags in memory, where a filter can't look: libraries fall back to `clone`.
    lines += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    lines += [(_EQUAL, 0, 4, clone), (_LOAD, 0, 0, 16), (_ANY_BIT, 0, 1, NAMESPACE_FLAGS), refuse, allow]
    for number in (*of_the_first, _PIDFD_OPEN):
        lines += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, 16), (_EQUAL, 0, 1, 1), refuse, allow]
    return [struct.pack("HBBI", *line) for line in (*lines, allow)]


def _machine() -> tuple[int, int, int, tuple[int, ...], tuple[int, ...]]:
    try:
        return _MACHINES[platform.machine()]
    except KeyError:
        raise Refused(f"{platform.machine()}: no list of system calls") from None


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from None


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    given = [None if text is None else text.encode() for text in (source, target, kind, data)]
    _call("mount", given[0], given[1], given[2], ctypes.c_ulong(flags), given[3])


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise Refused(f"{name}: {os.strerror(ctypes.get_errno())}")
