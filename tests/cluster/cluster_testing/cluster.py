"""kubectl and helm on the cluster of KUBECONFIG."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHART = Path(__file__).parents[3] / "k8s" / "chart"
NAMESPACE = os.environ.get("SLIPWAY_CLUSTER_NAMESPACE", "slipway-cluster-test")
RELEASE = "slipway"
KEPT = os.environ.get("KEEP") == "1"  # the namespace stays, and tests go on with it
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


class CommandFailed(AssertionError):
    """kubectl or helm ended with a reason, which is the message."""


def _run(program: str, *arguments: str, stdin: str = "", timeout: float = 600, check: bool = True) -> str:
    ended = subprocess.run(
        [os.environ[program], "--namespace", NAMESPACE, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if ended.returncode and check:
        raise CommandFailed(f"{program.lower()} {' '.join(arguments)}: {ended.stdout}{ended.stderr}")
    return ended.stdout


def kubectl(*arguments: str, stdin: str = "", timeout: float = 600, check: bool = True) -> str:
    """What kubectl says. Raises CommandFailed, unless `check` is off."""
    return _run("KUBECTL", *arguments, stdin=stdin, timeout=timeout, check=check)


def helm(*arguments: str, timeout: float = 1200) -> str:
    """What helm says. Raises CommandFailed."""
    return _run("HELM", *arguments, timeout=timeout)


def objects(kind: str, selector: str = "", namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    """Objects of a kind."""
    found = kubectl("get", kind, "--namespace", namespace, "--selector", selector, "--output", "json")
    return json.loads(found)["items"]


def ready_pods(component: str) -> list[str]:
    """Names of the ready pods of a service that are not about to end."""
    found: list[str] = []
    for pod in objects("pods", f"app.kubernetes.io/name=slipway,app.kubernetes.io/component={component}"):
        conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
        if conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]:
            found.append(pod["metadata"]["name"])
    return sorted(found)


def until(holds: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Looks every second. AssertionError after `seconds`."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, f"not within {seconds:g} s: {what}"
        time.sleep(1)


@contextmanager
def forwarded(target: str, port: int) -> Iterator[int]:
    """A local port that leads to `port` of a pod, deployment or service, until the pod ends."""
    command = [os.environ["KUBECTL"], "--namespace", NAMESPACE, "port-forward", target, f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = _FORWARDING.match(line)
            if match is None:
                raise CommandFailed(f"kubectl port-forward {target} {port}: {line}")
            yield int(match[1])
        finally:
            process.terminate()
