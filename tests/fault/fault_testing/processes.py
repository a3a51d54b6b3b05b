"""The processes of a running stack: found by what the stack tells of itself, killed, frozen and measured."""

import os
import signal
import urllib.request

import psutil
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from slipway_testkit.stack import Stack


def running(stack: Stack, name: str) -> psutil.Process | None:
    """The process that runs under a name now; None between its death and its restart."""
    for record in stack.state.processes:
        if record.name == name:
            try:
                process = psutil.Process(record.pid)
            except psutil.NoSuchProcess:
                return None
            return process if abs(process.create_time() - record.create_time) < 1 else None
    return None


def kill(stack: Stack, name: str) -> bool:
    """SIGKILL; False when the process is not there to be killed."""
    process = running(stack, name)
    if process is None:
        return False
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


def ops_url(process: psutil.Process, page: str) -> str:
    """Where a process serves `metrics`, `readyz` and `livez`: what its settings say."""
    (address,) = (value for name, value in process.environ().items() if name.endswith("_METRICS_LISTEN"))
    return f"http://{address}/{page}"


def metrics_url(process: psutil.Process) -> str:
    """Where a process serves /metrics."""
    return ops_url(process, "metrics")


def metric_families(stack: Stack, name: str) -> dict[str, Metric]:
    """What /metrics of a process says, by family."""
    process = running(stack, name)
    assert process is not None, f"{name} is not running"
    with urllib.request.urlopen(metrics_url(process), timeout=10) as answer:
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


def metric(stack: Stack, name: str, sample: str, **labels: str) -> float:
    """Sum of the samples of that name that carry these labels."""
    return sum(
        one.value
        for family in metric_families(stack, name).values()
        for one in family.samples
        if one.name == sample and labels.items() <= one.labels.items()
    )


def freeze(pid: int) -> None:
    """SIGSTOP."""
    os.kill(pid, signal.SIGSTOP)


def thaw(pid: int) -> None:
    """SIGCONT."""
    os.kill(pid, signal.SIGCONT)
