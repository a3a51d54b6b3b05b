"""A release on a real cluster: installed, used, scaled, and shot at, with nothing lost."""

import random
import time
from pathlib import Path

import pytest
from cluster_testing.cluster import RELEASE, helm, kubectl, objects, ready_pods, until
from cluster_testing.desk import DESK, Desk
from cluster_testing.release import COMPONENTS
from cluster_testing.runs import begin, expect_whole, workers_that_took_runs
from slipway_evidence.note import VerifierKey
from slipway_evidence.verify import verify

POLICY = b"# Hotels\n\nA hotel may cost up to 140 euros a night. In Paris the limit is 190 euros.\n"


def test_the_release_is_installed_into_a_namespace_that_takes_restricted_pods_only(installed: str) -> None:
    assert f"helm test {RELEASE}" in installed
    for component in COMPONENTS:
        assert ready_pods(component)
    said = helm("test", RELEASE, "--logs")
    assert "Succeeded" in said
    assert "all services behind it answer" in said


def test_the_tour_runs_and_its_evidence_holds(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "travel.md"
    file.write_bytes(POLICY)
    desk.ask("alice", lambda client: client.knowledge.put_collection("travel", description="Travel policy"))
    desk.ask("alice", lambda client: client.knowledge.put_document("travel", file.name, file))
    until(
        lambda: desk.ask("alice", lambda client: client.knowledge.get_document("travel", file.name)).state == "READY",
        seconds=120,
        what="the document is indexed",
    )
    desk.promote("travel-desk", DESK)
    run = desk.ended(desk.start("travel-desk", "How much may a hotel in Paris cost?"))
    assert run.state == "SUCCEEDED", run.error
    assert run.output["citations"]

    def holds() -> bool:
        bundle = desk.ask("carol", lambda client: client.audit.evidence(run.run_id))
        key = VerifierKey.parse(desk.ask("carol", lambda client: client.audit.checkpoint()).verifier_key)
        return verify(bundle, key).ok

    until(holds, seconds=60, what="the evidence is complete and verified")


@pytest.mark.usefixtures("agents")
def test_workers_are_scaled_from_one_to_three_and_back_during_runs(desk: Desk) -> None:
    runs = begin(desk, 24)
    kubectl("scale", f"deployment/{RELEASE}-worker", "--replicas=3")
    until(lambda: len(ready_pods("worker")) == 3, seconds=120, what="three workers are ready")

    def all_take_runs() -> bool:
        runs.extend(begin(desk, 4))
        return len(workers_that_took_runs()) == 3

    until(all_take_runs, seconds=90, what="all three have taken runs")
    kubectl("scale", f"deployment/{RELEASE}-worker", "--replicas=1")
    expect_whole(desk, runs)


@pytest.mark.usefixtures("agents")
def test_pods_that_are_deleted_at_random_lose_nothing(desk: Desk) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    runs = begin(desk, 24)
    for _ in range(8):
        component = chance.choice(COMPONENTS)
        pods = ready_pods(component)
        if pods:
            # Half of them at once, as when a node dies.
            force = ["--grace-period=0", "--force"] if chance.random() < 0.5 else []
            kubectl("delete", "pod", chance.choice(pods), "--wait=false", *force)
        time.sleep(4)
    expect_whole(desk, runs)
    for component in COMPONENTS:
        until(lambda component=component: bool(ready_pods(component)), seconds=180, what=f"{component} is ready again")


@pytest.mark.usefixtures("agents")
def test_a_node_that_is_drained_loses_nothing(desk: Desk) -> None:
    nodes = [node["metadata"]["name"] for node in objects("nodes")]
    if len(nodes) < 2:
        pytest.skip("one node only: there is none to drain to")
    where = next(pod["spec"]["nodeName"] for pod in objects("pods", "app.kubernetes.io/component=worker"))
    runs = begin(desk, 12)
    try:
        kubectl(
            "drain",
            where,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--timeout=300s",
            "--pod-selector=app.kubernetes.io/name=slipway,app.kubernetes.io/component notin (memory,audit)",
        )
        expect_whole(desk, runs)
    finally:
        kubectl("uncordon", where)
