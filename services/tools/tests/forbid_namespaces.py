"""Runs a command on a machine that allows no more namespaces of a kind: `forbid_namespaces.py user COMMAND…`.

The command lives in a user namespace of its own, whose limits can be set to zero without touching the machine's. Its
users are the machine's (or, for an ordinary user, only that user, as root).
"""

import ctypes
import os
import sys

_CLONE_NEWUSER = 0x10000000


def main() -> None:
    kind, *command = sys.argv[1:]
    uid, gid, pid = os.geteuid(), os.getegid(), os.getpid()
    ready, tell = os.pipe()
    if os.fork() == 0:
        os.read(ready, 1)
        for name, own in (("uid_map", uid), ("gid_map", gid)):
            if uid != 0 and name == "gid_map":
                write(f"/proc/{pid}/setgroups", "deny")
            write(f"/proc/{pid}/{name}", "0 0 4294967295" if uid == 0 else f"0 {own} 1")
        os._exit(0)
    if ctypes.CDLL(None).unshare(_CLONE_NEWUSER) != 0:
        sys.exit(77)
    os.write(tell, b"x")
    os.wait()
    write(f"/proc/sys/user/max_{kind}_namespaces", "0")
    os.execvp(command[0], command)


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


main()
