"""A run stops what it has under way: the program is gone within a second, with all that it started. So do its sessions
when it ends."""

import asyncio
import json
import subprocess
from typing import Any

import pytest
from slipway.tools.v1 import tools_pb2
from slipway_chassis.bus import open_bus
from slipway_chassis.errors import SlipwayError


def running(mark: str) -> bool:
    return subprocess.run(["pgrep", "-f", mark], capture_output=True, check=False).returncode == 0


async def test_a_run_stops_a_program_with_all_that_it_started(
    client: Any, effect: Any, unique: Any, eventually: Any
) -> None:
    run_id, mark = unique("run_"), unique("60.")
    key = effect(f"{run_id}/compute/1", epoch=2)
    run = client(run_id=run_id, act="desk@1")
    code = f"import subprocess, time\nsubprocess.Popen(['sleep', '{mark}'])\ntime.sleep(60)"
    asking = asyncio.create_task(run.invoke("python", {"code": code}, effect=key))
    await eventually(lambda: running(f"sleep {mark}"), timeout=30)
    for stranger in (client(), client(run_id=unique("run_")), client(tenant="globex", run_id=unique("run_"))):
        with pytest.raises(SlipwayError) as refused:
            await stranger.call("CancelInvocation", tools_pb2.CancelInvocationRequest(effect=key))
        assert refused.value.reason == "NOT_THE_RUN"
    assert running(f"sleep {mark}")
    answer = await run.call("CancelInvocation", tools_pb2.CancelInvocationRequest(effect=key))
    assert answer.stopped
    with pytest.raises(SlipwayError) as stopped:
        await asking
    assert stopped.value.reason == "EFFECT_CANCELLED"
    await eventually(lambda: not running(f"sleep {mark}"), timeout=10)
    # What is not under way is left alone.
    answer = await run.call("CancelInvocation", tools_pb2.CancelInvocationRequest(effect=key))
    assert not answer.stopped


async def test_a_sessions_processes_and_files_are_gone_when_its_run_ended(
    client: Any, effect: Any, unique: Any, eventually: Any, valkey_url: str
) -> None:
    run_id, other, mark, others = unique("run_"), unique("run_"), unique("61."), unique("62.")
    call = {"session": "work", "keep_state": True}
    for run, sleep in ((run_id, mark), (other, others)):
        code = f"import subprocess\nkept = subprocess.Popen(['sleep', '{sleep}'])"
        first = await client().invoke("python", {"code": code, **call}, effect=effect(f"{run}/one/1"))
        assert first.session.created, first
        assert running(f"sleep {sleep}")
    bus = await open_bus(valkey_url)
    for tenant, run in (("globex", run_id), ("acme", "run_none"), ("acme", run_id)):
        await bus.broadcast("run.ended", json.dumps({"tenant": tenant, "run": run}).encode())
        if tenant == "globex":
            again = await client().invoke("python", {"code": "1", **call}, effect=effect(f"{run_id}/two/1"))
            assert not again.session.created
    await bus.close()
    await eventually(lambda: not running(f"sleep {mark}"), timeout=10)
    assert running(f"sleep {others}")
    anew = await client().invoke(
        "python", {"code": "print('kept' in globals())", **call}, effect=effect(f"{run_id}/three/1")
    )
    assert (anew.session.created, anew.stdout) == (True, "False\n")
