"""A client in a pod of the cluster, whose way to the gateway is that of everybody there: the Service."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import environ
from pathlib import Path
from typing import Any

import yaml

from cluster_testing.cluster import RELEASE, kubectl, until
from cluster_testing.desk import Desk

_SCRIPT = (Path(__file__).parent / "caller.py").read_text()
_CLOSED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


@dataclass
class Told:
    """What the caller told when it ended."""

    runs: list[str] = field(default_factory=list[str])
    answers: dict[str, int] = field(default_factory=dict[str, int])
    failures: list[str] = field(default_factory=list[str])


def _pod(key: str, *arguments: str) -> dict[str, Any]:
    container = {
        "name": "caller",
        "image": f"{environ['PREFIX'].rstrip('/')}/cli:{environ['TAG']}",
        "command": ["python", "-c", _SCRIPT, *arguments],
        "env": [{"name": "KEY", "value": key}],
        "securityContext": _CLOSED,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "caller"}, "spec": spec}


@contextmanager
def caller(desk: Desk, agent: str, runs: int) -> Iterator[Told]:
    """A caller that has started so many runs and goes on asking until the block ends; then its sums are there."""
    key = desk.ask("alice", lambda client: client.api_keys.create("caller", ["developer", "operator"])).key
    assert key is not None
    pod = _pod(key, f"http://{RELEASE}-gateway", agent, str(runs))
    kubectl("apply", "--filename", "-", stdin=yaml.safe_dump(pod))
    try:
        kubectl("wait", "pod/caller", "--for=condition=Ready", "--timeout=120s")
        until(lambda: bool(kubectl("logs", "caller")), seconds=180, what=f"{runs} runs are started")
        assert kubectl("logs", "caller").splitlines()[0] == "started"
        told = Told()
        yield told
        kubectl("exec", "caller", "--", "touch", "/tmp/stop")
        kubectl("wait", "pod/caller", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s")
        sums = json.loads(kubectl("logs", "caller").splitlines()[1])
        told.runs, told.answers, told.failures = sums["runs"], sums["answers"], sums["failures"]
    finally:
        kubectl("delete", "pod", "caller", "--grace-period=0", "--force")
