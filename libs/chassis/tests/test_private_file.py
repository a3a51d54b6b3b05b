"""Files with secrets: closed to everybody else, also where Kubernetes mounts them."""

import os
import stat

import pytest
from slipway_chassis.private_file import is_private

OWN, ANOTHER = os.geteuid(), os.geteuid() + 1


@pytest.mark.parametrize(
    ("owner", "mode", "private"),
    [
        (OWN, 0o600, True),
        (OWN, 0o400, True),
        (OWN, 0o640, False),
        (OWN, 0o604, False),
        # As the kubelet mounts a secret with fsGroup: root's, read by the group that is the pod's.
        (ANOTHER, 0o440, True),
        (ANOTHER, 0o640, True),
        (ANOTHER, 0o460, False),
        (ANOTHER, 0o444, False),
    ],
)
def test_a_secret_is_private_when_nobody_but_the_process_can_read_it(owner: int, mode: int, private: bool) -> None:
    info = os.stat_result((stat.S_IFREG | mode, 1, 1, 1, owner, 0, 0, 0, 0, 0))
    assert is_private(info) is private
