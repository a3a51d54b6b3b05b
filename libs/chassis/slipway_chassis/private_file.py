"""Whether a file that holds a secret is closed to everybody else."""

import os
import stat


def is_private(info: os.stat_result) -> bool:
    """True when only this process's user can read the file.

    A file of another user may also be readable by its group, and by it only: so does Kubernetes mount secrets for a
    process that is not root, whose group is then the pod's alone (``fsGroup``).
    """
    if info.st_uid == os.geteuid():
        return not info.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return not info.st_mode & (stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO)
