"""Upgrades and rollbacks of a release that is in use: nothing is lost, and its users notice nothing."""

import json
from pathlib import Path

import pytest
from cluster_testing import release
from cluster_testing.cluster import RELEASE, CommandFailed, helm, kubectl, ready_pods
from cluster_testing.desk import Desk
from cluster_testing.inside import caller
from cluster_testing.release import COMPONENTS
from cluster_testing.runs import begin, expect_whole

RUNS = 200


@pytest.mark.usefixtures("agents")
def test_a_rolling_upgrade_with_two_hundred_runs_in_flight_loses_none_and_refuses_nobody_for_good(
    desk: Desk, folder: Path
) -> None:
    before = set(ready_pods("worker") + ready_pods("gateway"))
    with caller(desk, "lasting", RUNS) as told:
        release.put_release(folder, "--set", "podAnnotations.rolled=once")
    assert not before & set(ready_pods("worker") + ready_pods("gateway"))
    print(f"{len(told.runs)} runs, answers {told.answers}")
    assert len(told.runs) >= RUNS
    assert told.answers["ok"] > RUNS
    assert set(told.answers) <= {"ok", "503"}, told.failures
    expect_whole(desk, told.runs, seconds=600)


@pytest.mark.usefixtures("agents")
def test_a_rollback_in_mid_run_loses_nothing(desk: Desk) -> None:
    runs = begin(desk, 24)
    helm("rollback", RELEASE, "--wait", "--timeout", "10m")
    expect_whole(desk, runs)


def test_an_upgrade_whose_migration_fails_changes_no_pod(installed: str, folder: Path) -> None:
    assert installed
    before = {name: ready_pods(name) for name in COMPONENTS}
    secret = json.loads(kubectl("get", "secret", "slipway-router", "--output", "json"))["data"]["database-url"]
    broken = json.dumps({"stringData": {"database-url": "postgresql://nobody:wrong@postgres:5432/slipway_router"}})
    kubectl("patch", "secret", "slipway-router", "--patch", broken)
    try:
        with pytest.raises(CommandFailed, match="pre-upgrade hooks failed"):
            release.put_release(folder, "--set", "podAnnotations.rolled=twice", "--set", "migrations.backoffLimit=0")
    finally:
        kubectl("patch", "secret", "slipway-router", "--patch", json.dumps({"data": {"database-url": secret}}))
    assert {name: ready_pods(name) for name in COMPONENTS} == before


REFUSED = {
    "services.audit.heads.size=512Mi": "volumes do not shrink",
    "services.audit.heads.storageClassName=other": "the cluster has no such StorageClass",
    "services.audit.heads.accessModes={ReadWriteMany}": "which cannot be changed",
    "services.memory.objects.volume=false": "the release keeps its originals on the volume",
    "priorityClassName=gold": "the cluster has no such PriorityClass",
    "services.tools.runtimeClassName=kata": "the cluster has no such RuntimeClass",
    "secrets.router=nowhere": "there is no Secret nowhere (secrets.router)",
    "tls.secrets.audit=slipway-audit": "the Secret slipway-audit (tls.secrets.audit) has no tls.crt, tls.key, ca.crt",
    "config.catalogueConfigMap=ours": "there is no such ConfigMap",
    "externalSecrets.enabled=true,externalSecrets.storeRef.name=vault": "install External Secrets",
    "services.tools.resources.requests.memory=2Gi": "is more than limits.memory (1Gi)",
}


def test_an_upgrade_to_what_the_cluster_does_not_take_is_refused_before_anything_changes(
    installed: str, folder: Path
) -> None:
    assert installed
    before = helm("history", RELEASE, "--output", "json")
    apis = kubectl("api-versions").split()
    for values, sentence in REFUSED.items():
        if "install External Secrets" in sentence and "external-secrets.io/v1" in apis:
            continue
        with pytest.raises(CommandFailed) as refused:
            release.put_release(folder, "--set", values)
        assert sentence in str(refused.value), values
        assert values.partition("=")[0] in str(refused.value)
    assert helm("history", RELEASE, "--output", "json") == before
