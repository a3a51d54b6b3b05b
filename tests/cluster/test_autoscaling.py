"""Workers come and go with the runs that wait for them: KEDA, where the cluster has it."""

import json
import time
from pathlib import Path

import pytest
from cluster_testing import release
from cluster_testing.cluster import kubectl, objects, ready_pods, until
from cluster_testing.desk import Desk
from cluster_testing.runs import begin, expect_whole, workers_that_took_runs

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
        since = time.monotonic()
        runs = begin(desk, RUNS, "busy")
        started = time.monotonic() - since
        until(lambda: len(workers_that_took_runs()) == 2, seconds=90, what="a second worker has taken runs")
        print(f"{RUNS} runs were started in {started:.0f} s")
        print(f"a second worker had taken some after {time.monotonic() - since:.0f} s")
        expect_whole(desk, runs, steps=BUSY_STEPS, seconds=900)
        until(lambda: len(ready_pods("worker")) == 1, seconds=300, what="the second worker has gone")
        print(f"one worker again after {time.monotonic() - since:.0f} s")
    finally:
        release.put_release(folder)
