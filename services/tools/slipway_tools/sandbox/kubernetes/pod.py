"""The pod of a sandbox: what it may be and have, in one place."""

import os
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway_tools.sandbox import rootfs
from slipway_tools.sandbox.limits import MIB, Limits

CONTAINER = "sandbox"
MANAGER = "slipway-tools"
OWNER, INSTANCE = "slipway.dev/owner", "slipway.dev/instance"
OURS = f"app.kubernetes.io/managed-by={MANAGER}"
USER = 1000
OVERHEAD = 128 * MIB  # gVisor's kernel, the agent, the runner: within the pod's limit


@dataclass(frozen=True)
class PodShape:
    """What all sandboxes' pods have in common. `cpu_request` processors are reserved for each, waiting ones too;
    `wait` is how long (seconds) one waits for its agent, `lifetime` how long it may be there at all.
    """

    image: str
    runtime_class: str
    limits: Limits
    cpu_request: float
    wait: float
    lifetime: float

    def manifest(self, name: str) -> dict[str, Any]:
        """The pod as it is created."""
        memory = str(self.limits.memory + OVERHEAD)
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {
                    "app.kubernetes.io/name": "slipway-sandbox",
                    "app.kubernetes.io/managed-by": MANAGER,
                    OWNER: owner(),
                    INSTANCE: instance(),
                },
            },
            "spec": {
                "runtimeClassName": self.runtime_class,
                "restartPolicy": "Never",
                "activeDeadlineSeconds": int(self.lifetime),
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "hostNetwork": False,
                "hostPID": False,
                "hostIPC": False,
                "dnsPolicy": "None",  # nothing in it may ask anybody for anything
                "dnsConfig": {"nameservers": ["127.0.0.1"]},
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": USER,
                    "runAsGroup": USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": CONTAINER,
                        "image": self.image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": [*AGENT, "wait", str(self.wait)],
                        "workingDir": "/",
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "resources": {
                            "limits": {"cpu": str(self.limits.cpus), "memory": memory},
                            "requests": {"cpu": str(min(self.cpu_request, self.limits.cpus)), "memory": memory},
                        },
                        # gVisor does not hold what a memory volume is limited to: the agent mounts the program's
                        # folder, with its bounds of bytes and names, in here.
                        "volumeMounts": [{"name": "work", "mountPath": "/work"}],
                    }
                ],
                "volumes": [
                    {"name": "work", "emptyDir": {"medium": "Memory", "sizeLimit": str(self.limits.workspace)}}
                ],
            },
        }


AGENT = [rootfs.INTERPRETER, "-I", "-S", "-X", "utf8", f"{rootfs.INSIDE_HOME}/sandbox/agent.pyc"]


def new_name() -> str:
    """A name that no other pod has."""
    return f"sandbox-{secrets.token_hex(8)}"


def owner() -> str:
    """This machine's or pod's name, as a label's value: what a process that is started again here owns."""
    return _label(socket.gethostname())


def instance() -> str:
    """This process, as a label's value: no other process of this owner has it, earlier and later ones included."""
    return f"{os.getpid()}-{_start_time(os.getpid())}"


def is_orphan(pod: dict[str, Any]) -> bool:
    """True for a pod that nobody will use any more: it ended, or its process, which ran here, is gone."""
    labels = pod["metadata"].get("labels", {})
    if pod["status"].get("phase") in ("Succeeded", "Failed"):
        return labels.get(OWNER) != owner() or labels.get(INSTANCE) != instance()
    if labels.get(OWNER) != owner():
        return False
    pid, _, started = labels.get(INSTANCE, "").partition("-")
    return not pid.isdigit() or str(_start_time(int(pid))) != started


def _start_time(pid: int) -> int:
    """In clock ticks since the machine's start; 0: there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:63].strip("-_.") or "unnamed"
