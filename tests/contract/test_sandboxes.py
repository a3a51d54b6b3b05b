"""Every kind of sandbox keeps the same contract: what a program gets, what it may use, and what stays of it."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from slipway_testkit.pods import SandboxPods, sandbox_kinds
from slipway_tools import outcome_result
from slipway_tools.sandbox import runtimes
from slipway_tools.sandbox.choice import SandboxChoice
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.kubernetes.settings import PodSettings
from slipway_tools.sandbox.limits import MIB, Limits
from slipway_tools.sandbox.pool import PoolSize, SandboxPool
from slipway_tools.sandbox.program import Outcome, Program
from slipway_tools.sandbox.sessions import SessionKey, SessionLimits
from slipway_tools.sandbox.turns import TenantLimit

LIMITS = Limits(
    memory=256 * MIB, workspace=8 * MIB, file_size=4 * MIB, inodes=500, processes=16, open_files=64, collect=MIB
)
SIZE = PoolSize(slots=2, warm=2, sessions=SessionLimits(4, 3, 60.0, 3600.0))
KEY = SessionKey("acme", "alice", "run_1", "work")


@pytest.fixture(scope="module", params=sandbox_kinds())
def choice(request: pytest.FixtureRequest, installed_program: Callable[[str], Path]) -> Iterator[SandboxChoice]:
    """The kind of sandbox: the suite runs against each."""
    kind = request.param
    if kind == "kubernetes":
        given: SandboxPods = request.getfixturevalue("sandbox_pods")
        pods = PodSettings(given.namespace, given.image, "gvisor", given.kubeconfig, 0.05, 120.0, 3600.0)
        yield SandboxChoice(kind, Path("/nowhere"), LIMITS, SIZE, ("python", "shell"), (), downgrade=False, pods=pods)
        return
    if kind == "runsc":
        if os.geteuid() != 0:
            pytest.skip("gVisor's sandbox needs root")
        kind = f"runsc:{installed_program('runsc')}"
    state = Path(tempfile.mkdtemp(prefix="sandbox-contract-", dir="/tmp"))
    state.chmod(0o755)
    names = tuple(name for name in runtimes.installed() if name in ("python", "shell"))
    yield SandboxChoice(kind, state, LIMITS, SIZE, names, (), downgrade=True)
    shutil.rmtree(state)


@pytest.fixture
async def pool(choice: SandboxChoice) -> AsyncIterator[SandboxPool]:
    opened = await choice.open()
    yield opened
    await opened.close()


async def run(pool: SandboxPool, code: str, **program: object) -> Outcome:
    return await pool.run(Program(code.encode(), **program))  # type: ignore[arg-type]


async def in_session(pool: SandboxPool, code: str, key: SessionKey = KEY, **program: object) -> Outcome:
    async with pool.reserve(key.tenant, session=key) as call:
        outcome, state = await call(Program(code.encode(), **program))  # type: ignore[arg-type]
    assert state is not None
    return outcome


def limit_of(outcome: Outcome, seconds: float = 30.0) -> str:
    failure, _ = outcome_result.read(outcome, LIMITS, seconds)
    return failure.limit if failure else ""


async def test_a_program_gets_its_files_and_input_and_leaves_output_status_and_result(pool: SandboxPool) -> None:
    outcome = await run(
        pool,
        "import sys\nprint(sys.stdin.read(), open('in/a.txt').read())\nprint('err', file=sys.stderr)\n"
        "open('result.json', 'w').write('[1]')\nsys.exit(3)",
        stdin=b"input",
        files={"in/a.txt": b"content"},
    )
    assert (outcome.ended, outcome.exit_status) == ("exited", 3)
    assert (outcome.stdout, outcome.stderr) == (b"input content\n", b"err\n")
    assert (outcome.result_kind, outcome.result) == ("file", b"[1]")


async def test_a_shell_script_has_its_tools(pool: SandboxPool) -> None:
    script = "printf 'b\\na\\n' | sort | tr a-z A-Z; wc -c < in.txt; seq 3 | awk '{s+=$1} END {print s}'; exit 4"
    outcome = await run(pool, script, runtime="shell", files={"in.txt": b"12345"})
    assert (outcome.stdout, outcome.exit_status) == (b"A\nB\n5\n6\n", 4)


@pytest.mark.parametrize(
    ("limit", "code", "seconds"),
    [
        ("wall_time", "import time\ntime.sleep(100)", 0.5),
        ("memory", "held = []\nwhile True: held.append(bytearray(1 << 20))", 30),
        ("processes", "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()", 30),
        ("file_size", "open('f', 'wb').write(bytes(5 << 20))", 30),
        ("disk", "for n in range(9): open(f'f{n}', 'wb').write(bytes(1 << 20))", 30),
        ("descriptors", "held = [open('/dev/null') for _ in range(100)]", 30),
        ("output", "import os\nwhile True: os.write(1, bytes(65536))", 30),
        ("result", "open('result.json', 'w').write('\"' + 'x' * (1 << 20) + '\"')", 30),
    ],
)  # fmt: skip
async def test_reaching_a_limit_is_told_by_its_name(pool: SandboxPool, limit: str, code: str, seconds: float) -> None:
    assert limit_of(await run(pool, code, seconds=seconds), seconds) == limit


async def test_names_of_files_are_bounded_or_the_downgrade_is_declared(pool: SandboxPool) -> None:
    if any("inodes" in downgrade for downgrade in pool.adapter.downgrades):
        assert "downgrade: inodes" in pool.description
        return
    assert limit_of(await run(pool, "for n in range(1000): open(f'f{n}', 'w').close()")) == "inodes"


async def test_processor_time_is_bounded_over_all_processes_together(pool: SandboxPool) -> None:
    code = "import os\nfor _ in range(2):\n    if os.fork() == 0:\n        while True: pass\nos.wait()"
    assert limit_of(await run(pool, code, seconds=1.0), 1.0) in ("cpu_time", "wall_time")


async def test_what_a_program_used_is_told(pool: SandboxPool) -> None:
    outcome = await run(pool, "block = bytearray(50 << 20)\nn = 0\nwhile n < 3_000_000: n += 1")
    assert outcome.cpu_seconds > 0.02
    assert outcome.peak_memory > 50 << 20


async def test_files_that_were_asked_for_and_new_pictures_come_out(pool: SandboxPool) -> None:
    outcome = await run(
        pool,
        "import os\nos.mkdir('out')\nopen('out/a.csv', 'w').write('1,2')\nopen('b.txt', 'w').write('no')\n"
        "open('plot.svg', 'w').write('<svg/>')\nopen('given.png', 'a').close()",
        files={"given.png": b"\x89PNG"},
        outputs=("out/*.csv",),
    )
    assert {file.name: file.content for file in outcome.files} == {"out/a.csv": b"1,2", "plot.svg": b"<svg/>"}
    large = await run(pool, "open('large.bin', 'wb').write(bytes(2 << 20))", outputs=("large.bin",))
    assert [(file.name, file.whole) for file in large.files] == [("large.bin", False)]
    assert limit_of(large) == "files"


async def test_nothing_of_a_call_is_there_in_the_next(pool: SandboxPool) -> None:
    plant = "import os\nopen('left.txt', 'w').write('secret')\nopen('/tmp/left', 'w').write('secret')\nif os.fork() == 0:\n    while True: pass"
    look = "import os\nprint(sorted(os.listdir('/work')), sorted(os.listdir('/tmp')))"
    for _ in range(4):  # more than there are warm sandboxes
        await run(pool, plant)
        assert (await run(pool, look)).stdout == b"['main.py'] ['main.py']\n"


async def test_a_session_keeps_its_workspace_and_lists_it(pool: SandboxPool) -> None:
    first = await in_session(pool, "import os\nos.mkdir('d')\nopen('d/a.txt', 'w').write('kept')", files={"b": b"22"})
    assert {name: size for name, size in first.listing if name != "main.py"} == {"b": 2, "d/a.txt": 4}
    assert 0 < first.free_bytes < LIMITS.workspace
    second = await in_session(pool, "cat d/a.txt b", runtime="shell")
    assert second.stdout == b"kept22"


async def test_a_session_forgets_results_and_ends_processes_between_calls(pool: SandboxPool) -> None:
    await in_session(
        pool, "import os\nopen('result.json', 'w').write('1')\nif os.fork() == 0:\n    while True: open('beat', 'w')"
    )
    second = await in_session(pool, "import os, time\nos.unlink('beat')\ntime.sleep(0.05)\nprint(os.listdir('.'))")
    assert second.result_kind == "none"
    assert b"beat" not in second.stdout


async def test_variables_are_kept_when_that_is_asked_for_and_a_timeout_loses_them_but_not_the_files(
    pool: SandboxPool,
) -> None:
    await in_session(pool, "x = 41\nopen('f', 'w').write('file')", keep=True)
    assert (await in_session(pool, "x += 1\nprint(x)", keep=True)).stdout == b"42\n"
    failed = await in_session(pool, "import sys\nprint(sys.stdin.read())\nraise ValueError(x)", keep=True, stdin=b"in")
    assert (failed.exit_status, failed.stdout, failed.kept) == (1, b"in\n", True)
    late = await in_session(pool, "while True: pass", keep=True, seconds=0.5)
    assert (late.ended, late.kept) == ("timeout", False)
    after = await in_session(pool, "print(open('f').read(), 'x' in globals())", keep=True)
    assert after.stdout == b"file False\n"


async def test_another_run_subject_or_tenant_has_another_session(pool: SandboxPool) -> None:
    await in_session(pool, "open('secret', 'w').write('x')")
    for key in (replace(KEY, run="run_2"), replace(KEY, subject="bob"), replace(KEY, tenant="globex")):
        assert (await in_session(pool, "import os; print(os.listdir('.'))", key)).stdout == b"['main.py']\n"


async def test_sessions_end_when_they_are_not_used_and_are_bounded(choice: SandboxChoice) -> None:
    size = replace(SIZE, sessions=SessionLimits(4, 1, 0.2, 3600.0))
    pool = await replace(choice, size=size).open()
    try:
        first = await in_session(pool, "open('f', 'w')")
        assert "f" in dict(first.listing)
        with pytest.raises(TenantLimit) as refused:
            await in_session(pool, "1", replace(KEY, name="second"))
        assert refused.value.metadata == {"limit": "tenant_sessions", "value": "1"}
        async with asyncio.timeout(20):
            while True:
                try:
                    await in_session(pool, "1", replace(KEY, name="second"))
                    break
                except TenantLimit:
                    await asyncio.sleep(0.05)
    finally:
        await pool.close()


async def test_a_tenant_that_sends_too_much_is_told_its_limit_and_harms_no_other(choice: SandboxChoice) -> None:
    pool = await replace(choice, size=replace(SIZE, slots=1, tenant_calls=3)).open()
    started = asyncio.Event()

    async def one(tenant: str, code: bytes) -> Outcome:
        async with pool.reserve(tenant) as call:
            started.set()
            return (await call(Program(code)))[0]

    try:
        many = [asyncio.create_task(one("acme", b"import time; time.sleep(0.3)")) for _ in range(3)]
        await started.wait()
        with pytest.raises(TenantLimit) as refused:
            await one("acme", b"1")
        assert refused.value.metadata["limit"] == "tenant_calls"
        other = asyncio.create_task(one("globex", b"print('turn')"))
        assert (await other).stdout == b"turn\n"
        assert not many[2].done()  # globex did not wait for all of acme's
        await asyncio.gather(*many)
    finally:
        await pool.close()


async def test_a_call_that_is_given_up_ends_its_program_and_a_session_goes_on(pool: SandboxPool) -> None:
    await in_session(pool, "open('f', 'w').write('kept')")
    call = asyncio.create_task(in_session(pool, "import os, time\nopen('begun', 'w')\nos.fork()\ntime.sleep(1000)"))
    await asyncio.sleep(0.3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await in_session(pool, "print(open('f').read())")).stdout == b"kept\n"
    alone = asyncio.create_task(run(pool, "import time; time.sleep(1000)"))
    await asyncio.sleep(0.3)
    alone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await alone
    assert (await run(pool, "print(1)")).stdout == b"1\n"


async def test_the_root_and_the_libraries_can_not_be_written(pool: SandboxPool) -> None:
    code = "import os, sys\nfor path in ('/', '/usr/bin', os.path.dirname(os.__file__)):\n    try: open(path + '/x', 'w')\n    except OSError: print('refused')"
    assert (await run(pool, code)).stdout == b"refused\n" * 3


async def test_declared_packages_can_be_imported_and_no_others(choice: SandboxChoice) -> None:
    pool = await replace(choice, packages=("numpy",)).open()
    try:
        code = "import numpy\nprint(int(numpy.arange(5).sum()))\ntry: import httpx\nexcept ImportError: print('none')"
        outcome = await run(pool, code)
        assert outcome.stdout == b"10\nnone\n", outcome
    finally:
        await pool.close()


async def test_a_package_or_program_that_is_not_installed_is_named(choice: SandboxChoice) -> None:
    with pytest.raises(SandboxUnavailable, match="no-such-package is not installed"):
        await replace(choice, packages=("no-such-package",)).open()


async def test_without_downgrades_a_machine_that_can_not_bound_memory_runs_no_code(
    choice: SandboxChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    if choice.pods is not None:
        pytest.skip("the node bounds the memory of a pod, always")
    from slipway_tools.sandbox.cgroups import CgroupTree

    monkeypatch.setattr(CgroupTree, "open", classmethod(lambda cls: None))
    with pytest.raises(SandboxUnavailable, match="SANDBOX_DOWNGRADE is off"):
        await replace(choice, downgrade=False).open()


@pytest.mark.skipif("node" not in runtimes.installed(), reason="Node.js is not installed")
async def test_javascript_runs_where_node_is_installed(choice: SandboxChoice) -> None:
    if choice.pods is not None:
        pytest.skip("the image has no Node.js")
    pool = await replace(choice, runtimes=("python", "node")).open()
    try:
        code = "const fs = require('fs'); fs.writeFileSync('result.json', JSON.stringify(fs.readFileSync(0).length)); console.log('hi')"
        outcome = await run(pool, code, runtime="node", stdin=b"12345")
        assert (outcome.stdout, outcome.result) == (b"hi\n", b"5"), outcome
    finally:
        await pool.close()
