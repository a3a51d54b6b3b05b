"""How the kernel schedules processes with many short requests."""

import subprocess
import sys

_PROGRAM = """
import os
from slipway_chassis.service import work_undisturbed
before = os.sched_getscheduler(0)
work_undisturbed()
print(before == os.SCHED_OTHER, os.sched_getscheduler(0) == os.SCHED_BATCH)
"""


def test_who_wakes_up_does_not_interrupt_it():
    said = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == "True True\n"
