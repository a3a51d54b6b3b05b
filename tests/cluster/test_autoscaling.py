"""Workers come and go with the runs that wait for them: KEDA, where the cluster has it."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cluster_testing import release
from cluster_testing.cluster import kubectl, objects, ready_pods, until
from cluster_testing.desk import Desk
from cluster_testing.runs import begin_at, expect_whole, workers_that_took_runs

RUNS = 500
BUSY_STEPS = 36
SCALED = {
    "concurrency": 2,
    "autoscaling.enabled": True,
    "autoscaling.mode": "postgresql",
    "autoscaling.minReplicas": 1,
    "autoscaling.maxReplicas": 2,
    "autoscaling.scaleDownSeconds": 30,
}


def _since(due: datetime) -> int:
    return round((datetime.now(UTC) - due).total_seconds())


@pytest.mark.usefixtures("agents")
def test_a_second_worker_comes_for_five_hundred_runs_and_goes_again_without_losing_one(
    desk: Desk, folder: Path
) -> None:
    if "keda.sh/v1alpha1" not in kubectl("api-versions").split():
        pytest.skip("the cluster has no KEDA")
    options = [
        word for name, value in SCALED.items() for word in ("--set-json", f"services.worker.{name}={json.dumps(value)}")
    ]
    try:
        release.put_release(folder, *options)
        until(lambda: bool(objects("horizontalpodautoscalers")), seconds=60, what="KEDA has made its HPA")
        until(lambda: len(ready_pods("worker")) == 1, seconds=120, what="one worker for nothing to do")
        due = datetime.now(UTC) + timedelta(seconds=150)
        runs = begin_at(due, RUNS, "busy")
        assert len(ready_pods("worker")) == 1
        time.sleep((due - datetime.now(UTC)).total_seconds())
        until(lambda: len(workers_that_took_runs()) == 2, seconds=90, what="a second worker has taken runs")
        print(f"a second worker has taken runs {_since(due)} s after {RUNS} were due")
        expect_whole(desk, runs, steps=BUSY_STEPS, seconds=900)
        print(f"all had ended after {_since(due)} s")
        until(lambda: len(ready_pods("worker")) == 1, seconds=300, what="the second worker has gone")
        print(f"one worker again after {_since(due)} s")
    finally:
        release.put_release(folder)
