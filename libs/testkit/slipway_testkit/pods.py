"""A namespace of a cluster for the pods of sandboxes: only where one is given by the environment.

SLIPWAY_TEST_KUBECONFIG names the access, SLIPWAY_TEST_SANDBOX_IMAGE an image that the cluster's nodes have or can pull
(docs/sandbox.md says how it is made); `kubectl` is found in PATH.
"""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KUBECONFIG, _IMAGE = "SLIPWAY_TEST_KUBECONFIG", "SLIPWAY_TEST_SANDBOX_IMAGE"


def sandbox_kinds() -> list[str]:
    """The sandboxes that a suite runs over: pods only where a cluster is given."""
    return ["nsjail", "runsc", *(["kubernetes"] if os.environ.get(_KUBECONFIG) else [])]


class NoCluster(Exception):
    """No cluster is given; the message says what is missing."""


@dataclass(frozen=True)
class SandboxPods:
    """Where sandboxes' pods may run."""

    kubeconfig: Path
    namespace: str
    image: str

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What `kubectl` answers; raises CalledProcessError."""
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *arguments]
        return subprocess.run(command, input=given, check=True, capture_output=True, text=True).stdout

    def processes(self, pod: str) -> int:
        """How many processes are in a pod, beside that which counts; 0: it has no running container."""
        count = ("/usr/bin/bash", "-c", "set -- /proc/[0-9]*; echo $(($# - 1))")
        try:
            return int(self.kubectl("exec", pod, "--", *count))
        except subprocess.CalledProcessError:
            return 0

    def pods(self, *, ended: bool) -> list[dict[str, Any]]:
        """The pods that are there: those that ended too, or only those that did not."""
        found = json.loads(self.kubectl("get", "pods", "--output=json"))["items"]
        return [pod for pod in found if ended or pod["status"].get("phase") not in ("Succeeded", "Failed")]


@contextmanager
def namespace() -> Generator[SandboxPods]:
    """A new namespace that takes restricted pods only and lets none of them speak to anybody; removed at the end.

    Raises:
        NoCluster: none is given.
    """
    kubeconfig, image = os.environ.get(_KUBECONFIG), os.environ.get(_IMAGE)
    if not kubeconfig or not image:
        raise NoCluster(f"no cluster is given: set {_KUBECONFIG} and {_IMAGE}")
    if shutil.which("kubectl") is None:
        raise NoCluster("kubectl is not in PATH")
    pods = SandboxPods(Path(kubeconfig), f"slipway-sandboxes-{secrets.token_hex(4)}", image)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    made = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": pods.namespace, "labels": labels}},
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "nobody", "namespace": pods.namespace},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
        },
    ]
    try:
        pods.kubectl("create", "--filename=-", given="\n".join(f"---\n{json.dumps(each)}" for each in made))
        yield pods
    finally:
        pods.kubectl("delete", "namespace", pods.namespace, "--ignore-not-found", "--wait=false")
