"""A client in a pod of the cluster, whose way to the gateway is that of everybody there: the Service."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import environ
from pathlib import Path

import yaml

from cluster_testing.cluster import NAMESPACE, RELEASE, kubectl
from cluster_testing.desk import Desk

_SCRIPT = (Path(__file__).parent / "caller.py").read_text()
_CLOSED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


@dataclass
class Told:
    """What the caller told when it ended."""

    runs: list[str] = field(default_factory=list[str])
    answers: dict[str, int] = field(default_factory=dict[str, int])
    failures: list[str] = field(default_factory=list[str])


@contextmanager
def caller(desk: Desk, agent: str, runs: int) -> Iterator[Told]:
    """A caller that has started so many runs and goes on asking until the block ends; then its sums are there."""
    key = desk.ask("alice", lambda client: client.api_keys.create("caller", ["developer", "operator"]))
    image = f"{environ['PREFIX'].rstrip('/')}/cli:{environ['TAG']}"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "caller"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {"name": "caller", "image": image, "command": ["sleep", "infinity"], "securityContext": _CLOSED}
            ],
        },
    }
    kubectl("apply", "--filename", "-", stdin=yaml.safe_dump(pod))
    kubectl("wait", "pod/caller", "--for=condition=Ready", "--timeout=120s")
    command = [environ["KUBECTL"], "--namespace", NAMESPACE, "exec", "--stdin", "caller", "--"]
    program = ["python", "-c", _SCRIPT, f"http://{RELEASE}-gateway", agent, str(runs)]
    told = Told()
    with subprocess.Popen([*command, *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{key.key}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "started\n"
            yield told
            out, _ = process.communicate(timeout=120)
            sums = json.loads(out)
            told.runs, told.answers, told.failures = sums["runs"], sums["answers"], sums["failures"]
        finally:
            process.kill()
            kubectl("delete", "pod", "caller", "--grace-period=0", "--force")
