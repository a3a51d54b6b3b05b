"""Every hostile program, in every sandbox: the host is as it was, the service answers, and nothing is left."""

from typing import Any

import pytest
from hostile_testing.host import MemoryMeter, Watch, wait_until
from hostile_testing.programs import PROGRAMS, Hostile
from hostile_testing.service import Client, Files, Service

_OVERHEAD = 160 << 20  # of gVisor's kernel, and of the samples
_GRACE = 40.0  # beyond the program's own time: on a machine that does much else at a time


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: f"{program.kind}: {program.name}")
async def test_the_host_does_not_notice(
    program: Hostile, alice: Client, attacked: Service, watch: Watch, facts: str, memory: Files
) -> None:
    watch.begin()
    with MemoryMeter(attacked.pid) as meter:
        answer: Any = await alice.run(
            program.source(facts), program.tool, timeout=program.seconds + _GRACE, timeout_seconds=program.seconds
        )
    left = wait_until(lambda: not attacked.programs())
    assert left, attacked.programs()
    returned = str(answer) + "".join(memory.kept.pop(file.file_id).decode(errors="replace") for file in answer.files)
    assert watch.damage(returned) == []
    if attacked.bounds_memory:
        assert meter.peak <= (256 << 20) + _OVERHEAD
    if program.expect is not None:
        assert answer.error.code in program.expect, answer
    assert all(len(file.name) <= 512 and file.name.isprintable() for file in answer.files)


async def test_after_all_of_them_the_service_works_as_before(alice: Client, attacked: Service) -> None:
    answer = await alice.run("print(6 * 7)")
    assert (answer.stdout, answer.exit_status) == ("42\n", 0)
    assert attacked.process.poll() is None


def test_there_are_programs_of_every_class() -> None:
    assert len({program.name for program in PROGRAMS}) == len(PROGRAMS) >= 60
    kinds = {program.kind for program in PROGRAMS}
    assert kinds == {"exhaustion", "output", "files", "kernel", "network", "secrets", "interpreters"}
