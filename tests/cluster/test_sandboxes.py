"""Agents' code runs in pods of gVisor, in a namespace that the chart makes, through the API of the release."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_testing import release
from cluster_testing.cluster import NAMESPACE, RELEASE, helm, kubectl, objects, until
from cluster_testing.desk import Desk
from slipway_client import ToolResult

SANDBOXES = f"{RELEASE}-sandboxes"
WANTED = {
    "services.tools.sandboxPods.enabled": True,
    "services.tools.sandboxPods.maxPods": 6,
    "services.tools.settings.SANDBOX_WARM": 1,
    "services.tools.settings.SANDBOX_MEMORY_MIB": 256,
    "services.tools.settings.SANDBOX_CPU_REQUEST": 0.02,  # nodes may be small
    "services.tools.settings.SANDBOX_START_SECONDS": 120,
}
OPTIONS = [word for name, value in WANTED.items() for word in ("--set-json", f"{name}={json.dumps(value)}")]
CODER = """
apiVersion: slipway.dev/v1
kind: Agent
metadata: {name: coder}
spec:
  type: workflow
  description: For the tests on a cluster.
  input: {type: object, required: [question], properties: {question: {type: string}}}
  output: {type: object}
  limits: {steps: 10, tokens: 1000, cost_usd: 0.50, wall_time: 10m, tool_errors: 3, repeats: 3, on_limit: fail}
  steps:
    - id: compute
      tool:
        name: python
        arguments:
          code: |
            import json
            words = input().split()
            json.dump({"words": len(words)}, open("result.json", "w"))
          stdin: "${input.question}"
      retry: {attempts: 3, backoff: 1s, max_backoff: 10s, on: [UNAVAILABLE, DEADLINE_EXCEEDED]}
  result: {words: "${steps.compute.output.words}"}
"""
# Programs that look for a way out, and what they print when there is one.
HOSTILE = {
    "a token of the cluster": """
import os
for folder in ('/var/run/secrets', '/run/secrets'):
    for path, _, files in os.walk(folder): print('OUT', path, files)
""",
    "its environment": """
import os
for name in os.environ:
    if 'KUBERNETES' in name or 'SLIPWAY' in name or 'SERVICE_HOST' in name: print('OUT', name)
""",
    "the API server, the name service, the release and the node": """
import socket
for host, port in (('10.96.0.1', 443), ('kubernetes.default.svc', 443), ('10.96.0.10', 53), ('slipway-router', 50051),
                   ('10.243.0.1', 6443), ('10.243.0.1', 10250), ('169.254.169.254', 80), ('1.1.1.1', 443)):
    try:
        socket.create_connection((host, port), 2).close()
        print('OUT', host, port)
    except OSError: pass
""",
    "files of the pod and of the node": """
import os
for path in ('/etc/shadow', '/proc/1/environ', '/proc/self/mountinfo', '/var/lib/kubelet', '/dev/sda', '/dev/vda'):
    if os.path.exists(path): print('OUT', path)
for path in ('/usr/here', '/etc/here', '/here', '/usr/bin/python3'):
    try:
        open(path, 'a').close()
        print('OUT wrote', path)
    except OSError: pass
""",
    "more rights": """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
if os.getuid() == 0 and libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0: print('OUT mounted')
for call in (lambda: os.setuid(0), lambda: os.chroot('/'), lambda: os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0))):
    try:
        call()
        if os.getuid() == 0 and os.path.exists('/etc/shadow'): print('OUT', call)
    except OSError: pass
""",
}
# Programs that use everything up, and the code by which their call ends.
GREEDY = {
    "import time\nwhile True: time.sleep(0.1)": "TIMEOUT",
    "held = []\nwhile True: held.append(bytearray(1 << 20))": "OUT_OF_MEMORY",
    "import os\nwhile True: os.write(1, b'x' * 65536)": "OUTPUT_TOO_LARGE",
}


@pytest.fixture(scope="module")
def sandboxes(installed: str, folder: Path) -> Iterator[None]:
    """The release with sandboxes in pods; without them afterwards."""
    assert installed
    if not kubectl("get", "runtimeclass", "gvisor", "--ignore-not-found"):
        pytest.skip("the cluster has no RuntimeClass gvisor")
    release.put_release(folder, *OPTIONS)
    yield
    release.put_release(folder)
    until(
        lambda: not kubectl("get", "namespace", SANDBOXES, "--ignore-not-found"),
        seconds=120,
        what="the namespace of sandboxes is gone",
    )


def _run(desk: Desk, code: str, seconds: int = 20) -> ToolResult:
    return desk.ask(
        "alice", lambda client: client.tools.invoke("python", {"code": code, "timeout_seconds": seconds}), patience=240
    )


@pytest.mark.usefixtures("sandboxes")
def test_the_chart_gives_the_service_what_its_own_check_asks_for(folder: Path) -> None:
    said = kubectl("exec", f"deployment/{RELEASE}-tools", "--", "python", "-m", "slipway_tools.sandbox_check")
    print(said)
    quota = json.loads(kubectl("get", "resourcequota", SANDBOXES, "--namespace", SANDBOXES, "--output", "json"))
    assert quota["status"]["hard"] == {"pods": "6"}
    pods = [pod["spec"] for pod in objects("pods", namespace=SANDBOXES)]
    assert pods
    for spec in pods:
        assert spec["runtimeClassName"] == "gvisor"
        assert spec["automountServiceAccountToken"] is False
    account = f"system:serviceaccount:{NAMESPACE}:{RELEASE}-tools"
    for verb, kind, namespace, allowed in (
        ("create", "pods", SANDBOXES, True),
        ("create", "pods", NAMESPACE, False),
        ("get", "secrets", SANDBOXES, False),
        ("get", "secrets", NAMESPACE, False),
        ("create", "rolebindings", SANDBOXES, False),
        ("list", "nodes", SANDBOXES, False),
    ):
        said = kubectl("auth", "can-i", verb, kind, "--as", account, "--namespace", namespace, check=False)
        assert said.strip() == ("yes" if allowed else "no"), (verb, kind, namespace)


@pytest.mark.usefixtures("sandboxes")
def test_a_runs_code_runs_before_and_after_an_upgrade(desk: Desk, folder: Path) -> None:
    desk.promote("coder", CODER)
    first = desk.ended(desk.start("coder", f"one two {secrets.token_hex(4)}"))
    assert (first.state, first.output) == ("SUCCEEDED", {"words": 3}), first.error
    release.put_release(folder, *OPTIONS, "--set", "podAnnotations.rolled=sandboxes")
    second = desk.ended(desk.start("coder", f"one two three {secrets.token_hex(4)}"))
    assert (second.state, second.output) == ("SUCCEEDED", {"words": 4}), second.error
    assert "Succeeded" in helm("test", RELEASE)


@pytest.mark.usefixtures("sandboxes")
def test_hostile_programs_find_no_way_out(desk: Desk) -> None:
    for what, code in HOSTILE.items():
        result = _run(desk, f"{code}\nprint('LOOKED')")
        assert result.error is None, (what, result.error)
        assert "LOOKED" in result.stdout, (what, result.stderr)
        assert "OUT" not in result.stdout, (what, result.stdout)


@pytest.mark.usefixtures("sandboxes")
def test_greedy_programs_are_ended_and_their_pods_go(desk: Desk) -> None:
    for code, ended in GREEDY.items():
        result = _run(desk, code, 5)
        assert result.error is not None
        assert result.error["code"] == ended
    assert _run(desk, "print(6 * 7)").stdout == "42\n"
    until(lambda: len(objects("pods", namespace=SANDBOXES)) <= 1, seconds=120, what="only the waiting pod is left")
