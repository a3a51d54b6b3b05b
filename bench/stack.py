"""The whole stack on this machine: time to ready, time of the tour, memory and processor when idle.

Prints one JSON line a figure. Memory is the proportional set size (shared pages counted once); the local model is told
apart. Usage: bench/stack.py [--idle SECONDS]
"""

import argparse
import json
import signal
import tempfile
import time
from pathlib import Path

import psutil
from slipway_testkit.stack import Stack


def figure(name: str, value: float, unit: str, target: float) -> None:
    """Prints a figure with its target."""
    print(
        json.dumps({"bench": "stack", "figure": name, "value": round(value, 2), "unit": unit, "target": target}),
        flush=True,
    )


def family(stack: Stack) -> list[psutil.Process]:
    """The supervisor and all that it started."""
    supervisor = psutil.Process(stack.process.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def is_model(process: psutil.Process) -> bool:
    """True for the process of the local models."""
    return "slipway_router.local_models" in process.cmdline()


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """Processor time that living processes have used."""
    return sum(sum(process.cpu_times()[:2]) for process in processes if process.is_running())


def main() -> None:
    """Runs the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle", type=float, default=60)
    idle = parser.parse_args().idle
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        began = time.monotonic()
        first = Stack(data, ["--tour"])
        first.wait_for(r"ready\s+slipway")
        figure("first start, to ready", time.monotonic() - began, "s", 30)
        toured = time.monotonic()
        first.wait_for(r"tour: ", seconds=180)
        figure("first tour", time.monotonic() - toured, "s", 45)
        first.process.wait(60)
        first.stop()

        began = time.monotonic()
        second = Stack(data)
        second.ready()
        figure("second start, to ready", time.monotonic() - began, "s", 10)
        processes = family(second)
        time.sleep(5)
        before, since = cpu_seconds(processes), time.monotonic()
        time.sleep(idle)
        share = 100 * (cpu_seconds(processes) - before) / (time.monotonic() - since)
        figure("idle, of one core", share, "%", 3)
        memory = {process: process.memory_full_info().pss / 2**20 for process in processes if process.is_running()}
        figure("idle, resident without the model", sum(m for p, m in memory.items() if not is_model(p)), "MiB", 1536)
        figure("idle, resident of the local models", sum(m for p, m in memory.items() if is_model(p)), "MiB", 0)
        second.process.send_signal(signal.SIGINT)
        second.stop()


if __name__ == "__main__":
    main()
