"""What of sandboxes in pods needs no cluster: settings, access, orphans, the image, frames, the filter of calls."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.kubernetes import access, frames, pod
from slipway_tools.sandbox.kubernetes.image import Manifest
from slipway_tools.settings import SandboxSettings

KUBECONFIG = """
current-context: here
contexts: [{{name: here, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:6443"}}}}]
users: [{{name: u, user: {user}}}]
"""


def kubeconfig(folder: Path, user: str) -> Path:
    file = folder / "config"
    file.write_text(KUBECONFIG.format(user=user))
    return file


@pytest.mark.parametrize("missing", ["NAMESPACE", "IMAGE"])
def test_pods_without_a_namespace_or_an_image_are_refused_by_the_settings_name(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"SANDBOX": "kubernetes", "STATE_DIR": "/nowhere", "SANDBOX_NAMESPACE": "n", "SANDBOX_IMAGE": "i:1"}
    for name, value in given.items():
        if name != f"SANDBOX_{missing}":
            monkeypatch.setenv(f"SLIPWAY_TOOLS_{name}", value)
    with pytest.raises(ValueError, match=f"kubernetes needs SLIPWAY_TOOLS_SANDBOX_{missing}"):
        SandboxSettings()  # pyright: ignore[reportCallIssue]


def test_a_token_file_is_read_for_every_request(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one\n")
    found = access.of_kubeconfig(kubeconfig(tmp_path, "{tokenFile: token}"))
    assert found.headers() == {"Authorization": "Bearer one"}
    (tmp_path / "token").write_text("two\n")
    assert found.headers() == {"Authorization": "Bearer two"}


@pytest.mark.parametrize("user", ["{exec: {command: aws}}", "{username: a, password: b}", "[]"])
def test_a_way_to_sign_in_that_is_not_known_is_refused(user: str, tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="SLIPWAY_TOOLS_SANDBOX_KUBECONFIG"):
        access.of_kubeconfig(kubeconfig(tmp_path, user))


def test_outside_of_a_pod_there_is_no_account(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="SLIPWAY_TOOLS_SANDBOX_KUBECONFIG"):
        access.of_service_account(tmp_path, {})


@pytest.mark.parametrize(
    ("owner", "instance", "phase", "orphan"),
    [
        (pod.owner(), pod.instance(), "Running", False),
        (pod.owner(), pod.instance(), "Succeeded", False),  # it is about to be deleted by us
        (pod.owner(), f"{os.getpid()}-1", "Running", True),  # the number was an earlier process's
        (pod.owner(), "999999999-5", "Pending", True),
        (pod.owner(), "", "Running", True),
        ("another", "1-5", "Running", False),
        ("another", "1-5", "Failed", True),
    ],
    # Not by their values: the tests have the same names in every process that collects them.
    ids=[
        "ours",
        "ours and done",
        "of our number",
        "of a process that is gone",
        "of nobody",
        "another's",
        "left by another",
    ],
)
def test_only_pods_that_nobody_will_use_are_orphans(owner: str, instance: str, phase: str, orphan: bool) -> None:
    found: dict[str, Any] = {
        "metadata": {"labels": {pod.OWNER: owner, pod.INSTANCE: instance}},
        "status": {"phase": phase},
    }
    assert pod.is_orphan(found) is orphan


def test_an_image_says_what_it_lacks() -> None:
    made = Manifest.of(("python", "shell"), ("numpy",))
    assert Manifest.of(("python",), ()).lacking(made.encode()) is None
    assert "pandas is not installed" in str(Manifest.of(("python",), ("pandas",)).lacking(made.encode()))
    assert "node is not installed" in str(Manifest.of(("node",), ()).lacking(made.encode()))
    assert "another version" in str(made.lacking(Manifest("other", (), ()).encode()))
    for wrong in (b"", b"[]", b'{"version": 1}'):
        assert "does not say what it holds" in str(made.lacking(wrong))


def test_frames_are_taken_as_they_come_and_none_is_longer_than_may_be() -> None:
    whole = b"".join(frames.frames(b"c", bytes(100_000))) + frames.frame(b"p", connection=7)
    taken = frames.Frames()
    found = [each for at in range(0, len(whole), 1000) for each in taken.add(whole[at : at + 1000])]
    assert [(kind, number, len(content)) for kind, number, content in found] == [
        (b"c", 0, 65536),
        (b"c", 0, 34464),
        (b"p", 7, 0),
    ]
    with pytest.raises(ValueError, match="beyond its bounds"):
        list(taken.add(frames.HEAD.pack(b"o", 0, 65537)))


def test_the_filter_keeps_programs_from_the_first_process_and_from_namespaces_and_lets_them_work() -> None:
    code = """
import os, resource, signal, ctypes
from slipway_tools.sandbox import confine
confine.filter_calls()
def tried(what):
    try: what(); return "done"
    except PermissionError: return "refused"
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0: raise OSError(ctypes.get_errno(), name)
child = os.fork()
if child == 0:
    signal.pause()
print(*[tried(what) for what in (
    lambda: os.kill(1, 0), lambda: resource.prlimit(1, resource.RLIMIT_NOFILE), lambda: os.pidfd_open(1),
    lambda: call("unshare", 0x10000000), lambda: call("ptrace", 16, child, 0, 0), lambda: os.chroot("/"),
    lambda: call("mount", None, b"/", None, 4096, None), lambda: call("syscall", 56, 0x10000011, 0, 0, 0, 0),
)])
print(*[tried(what) for what in (
    lambda: resource.prlimit(child, resource.RLIMIT_NOFILE), lambda: os.kill(child, 9), lambda: os.waitpid(child, 0),
    lambda: os.system("true"), lambda: __import__("threading").Thread(target=int).start(),
)])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    lines = ended.stdout.splitlines()
    assert lines == ["refused " * 7 + "refused", "done " * 4 + "done"], ended
