"""A release that is taken away: restored from a backup, or gone but for what docs/kubernetes.md says.

It comes last by its name.
"""

import base64
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cluster_testing import release
from cluster_testing.cluster import KEPT, RELEASE, helm, kubectl, objects, until
from cluster_testing.desk import Desk
from cluster_testing.runs import begin, expect_whole
from slipway_evidence.note import VerifierKey
from slipway_evidence.verify import verify

SERVICES = ("orchestrator", "tools", "router", "memory", "gateway", "audit")
KINDS = "deployments,replicasets,services,horizontalpodautoscalers,jobs,serviceaccounts,configmaps,networkpolicies"
_FOLDER = "/data/backup"
_LOGIN = ("-h", "127.0.0.1", "-U", "postgres")


def _at_postgres(program: str, *arguments: str) -> str:
    found = json.loads(kubectl("get", "secret", "slipway-router", "--output", "json"))["data"]["redis-url"]
    password = urlsplit(base64.b64decode(found).decode()).password  # of both servers of this test
    command = ("env", f"PGPASSWORD={password}", program, *_LOGIN, *arguments)
    return kubectl("exec", "deployment/postgres", "--container=postgres", "--", *command)


def _evidence_holds(desk: Desk, run_id: str) -> bool:
    bundle = desk.ask("carol", lambda client: client.audit.evidence(run_id))
    key = VerifierKey.parse(desk.ask("carol", lambda client: client.audit.checkpoint()).verifier_key)
    return verify(bundle, key).ok


@pytest.mark.usefixtures("agents")
def test_a_release_that_is_restored_from_a_backup_goes_on_with_its_runs_and_its_evidence(
    desk: Desk, folder: Path
) -> None:
    (before,) = begin(desk, 1)
    expect_whole(desk, [before])
    until(lambda: _evidence_holds(desk, before), seconds=60, what="the evidence is complete")
    runs = begin(desk, 12, "lasting")
    # As the guide says: audit's pods stand still meanwhile, and its database comes last.
    kubectl("scale", f"deployment/{RELEASE}-audit", "--replicas=0")
    kubectl("rollout", "status", f"deployment/{RELEASE}-audit", "--timeout=120s")
    kubectl("exec", "deployment/postgres", "--container=postgres", "--", "mkdir", "-p", _FOLDER)
    for service in SERVICES:
        name = f"slipway_{service}"
        _at_postgres("pg_dump", "--format=custom", f"--file={_FOLDER}/{name}.dump", name)
    kubectl("scale", f"deployment/{RELEASE}-audit", "--replicas=1")
    desk.close()
    helm("uninstall", RELEASE, "--wait")
    for service in SERVICES:
        name = f"slipway_{service}"
        _at_postgres("psql", "--set=ON_ERROR_STOP=1", f"--command=DROP DATABASE {name} WITH (FORCE)")
        _at_postgres("psql", "--set=ON_ERROR_STOP=1", f"--command=CREATE DATABASE {name} OWNER {name}")
        _at_postgres("pg_restore", f"--dbname={name}", f"{_FOLDER}/{name}.dump")
    kubectl("delete", f"persistentvolumeclaim/{RELEASE}-audit")
    kubectl("rollout", "restart", "deployment/valkey")
    release.put_release(folder, "--set", "migrations.afterRestore=true")
    expect_whole(desk, runs, seconds=600)
    until(lambda: _evidence_holds(desk, before), seconds=120, what="evidence of before the backup")
    until(lambda: _evidence_holds(desk, runs[0]), seconds=120, what="evidence of a run that went over the restore")
    origin = desk.ask("carol", lambda client: client.audit.checkpoint()).note.splitlines()[0]
    assert origin.endswith("/2"), origin


@pytest.mark.skipif(KEPT, reason="KEEP=1: the release is to stay")
def test_helm_uninstall_leaves_claims_and_what_users_made(installed: str) -> None:
    assert installed
    claims = {claim["metadata"]["name"] for claim in objects("persistentvolumeclaims")}
    made = {secret["metadata"]["name"] for secret in objects("secrets", "owner!=helm")}
    helm("uninstall", RELEASE, "--wait")
    ours = f"app.kubernetes.io/instance={RELEASE}"
    assert not [(found["kind"], found["metadata"]["name"]) for found in objects(KINDS, ours)]
    assert {claim["metadata"]["name"] for claim in objects("persistentvolumeclaims")} == claims
    assert {secret["metadata"]["name"] for secret in objects("secrets", "owner!=helm")} == made
    # As the guide says: the pod of `helm test`, and the claims.
    kubectl("delete", "pods,jobs,persistentvolumeclaims", "--selector", ours)
    assert not objects("pods,persistentvolumeclaims", ours)
