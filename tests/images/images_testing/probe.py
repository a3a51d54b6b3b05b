"""Runs inside of an image. Prints what must not be there, one a line, and the user that it runs as.

Programs that install, compile or fetch; packages that install; files with more rights than their user, or that
everybody may write; private keys.
"""

import os
import re
import stat

PROGRAMS = re.compile(r"(pip[\d.]*|easy_install.*|cc|[cg]\+\+.*|gcc.*|clang.*|ld|as|make|apt|apt-get|curl|wget)")
PACKAGES = {"pip", "setuptools", "wheel"}
NOT_OF_THE_IMAGE = ("/proc", "/sys", "/dev")
TEXT = (".pem", ".key", ".yaml", ".json", ".env")


def holds_a_key(path: str) -> bool:
    """Is a private key in a file of ours?"""
    if not path.startswith(("/opt", "/etc/slipway")) or not path.endswith(TEXT):
        return False
    with open(path, "rb") as file:
        return b"PRIVATE KEY-----\n" in file.read()


def main() -> None:
    """Walk through everything."""
    for folder, folders, files in os.walk("/"):
        folders[:] = [one for one in folders if os.path.join(folder, one) not in NOT_OF_THE_IMAGE]
        if os.path.basename(folder) == "site-packages":
            for one in PACKAGES.intersection(folders):
                print("package", folder, one)
        for name in files:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if not stat.S_ISREG(mode):
                continue
            if mode & 0o6000:
                print("set-id", path)
            if mode & 0o111 and PROGRAMS.fullmatch(name):
                print("program", path)
            if mode & 0o002:
                print("writable", path)
            if holds_a_key(path):
                print("key", path)
    print("uid", os.getuid())


main()
