"""Tests beside each other: who takes which file, and that a test alone is alone."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from slipway_testkit.parallel import next_file, workers

GB = 1 << 30
KEYCLOAK = "services/gateway/tests/test_keycloak.py"


@pytest.mark.parametrize(("cpus", "memory", "expected"), [(2, 24, 3), (2, 7, 2), (1, 1, 1), (16, 64, 17), (16, 32, 10)])
def test_there_is_one_worker_more_than_processors_if_memory_is_enough(cpus: int, memory: int, expected: int) -> None:
    assert workers(cpus, memory * GB) == expected


@pytest.mark.parametrize(
    ("waiting", "own", "others", "expected"),
    [
        (["b/1", "b/2", "a/1"], "a", set[str](), "a/1"),
        (["b/1", "b/2", "a/1"], None, set[str](), "b/1"),
        (["b/1", "b/2", "a/1"], None, {"b"}, "a/1"),
        (["b/1", "cli/tests/1"], None, set[str](), "cli/tests/1"),
        (["c/1", "b/1", "b/2"], "a", {"c", "b"}, "b/2"),
        (["services/gateway/tests/1", KEYCLOAK], "services/tools/keycloak", {"b"}, KEYCLOAK),
        (["services/gateway/tests/1", KEYCLOAK], "b", {"services/tools/keycloak"}, "services/gateway/tests/1"),
        (["tests/hostile/1", "tests/e2e/1", "b/1"], "a", {"tests/e2e"}, "b/1"),
        (["tests/hostile/1", "b/1"], "b", {"tests/e2e"}, "b/1"),
        (["tests/hostile/1", "b/1"], "b", {"a"}, "tests/hostile/1"),
        (["tests/hostile/1"], "a", {"tests/e2e"}, "tests/hostile/1"),
    ],
    ids=[
        "its own folder",
        "the first",
        "one that nobody is in",
        "sandboxes first",
        "the last of the one with most",
        "Keycloak where it was started",
        "and not elsewhere",
        "no test alone before the sandboxes'",
        "nor beside them",
        "a test alone after them",
        "rest",
    ],
)
def test_a_worker_stays_in_its_folder_and_then_helps(
    waiting: list[str], own: str | None, others: set[str], expected: str
) -> None:
    assert next_file(waiting, own, others) == expected


TESTS = """
import json, os, threading, time
import pytest

def note(kind):
    begun = time.monotonic()
    threading.Event().wait(0.05)
    with open({log!r}, "a") as log:
        log.write(json.dumps([kind, os.getpid(), begun, time.monotonic()]) + "\\n")

@pytest.fixture
def slow():
    note("setup")

@pytest.mark.parametrize("n", range(6))
def test_shared(n):
    note({kind!r})

@pytest.mark.alone
@pytest.mark.parametrize("n", range(3))
def test_alone(slow, n):
    note("alone")

def test_fails_once(tmp_path_factory):
    mark = tmp_path_factory.getbasetemp() / "failed"
    again = mark.exists()
    mark.touch()
    assert again
"""


def test_a_test_alone_meets_none_with_sandboxes_and_the_summary_counts_all_of_them(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for folder, kind in (("tests", "shared"), ("cli", "shared"), ("libs", "elsewhere")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"test_{folder}.py").write_text(TESTS.format(log=str(log), kind=kind))
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")
    plugins = ["-p", "xdist", "-p", "pytest_rerunfailures", "-p", "slipway_testkit.parallel"]
    options = ["-n", "3", "--reruns", "1", "--basetemp", str(tmp_path / "temporary")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", *plugins, *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"=+ 30 passed, [1-3] rerun in ", done.stdout.splitlines()[-1]), done.stdout
    notes = [json.loads(line) for line in log.read_text().splitlines()]
    assert len({pid for _, pid, *_ in notes}) == 3
    assert len([kind for kind, *_ in notes if kind == "alone"]) == 9
    for kind, pid, begun, ended in notes:
        for beside, other, from_, to in notes:
            free = kind in ("shared", "elsewhere") or beside == "elsewhere"
            assert free or other == pid or to <= begun or from_ >= ended
