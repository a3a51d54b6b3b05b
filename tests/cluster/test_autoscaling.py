"""Pods come and go with the work: by KEDA on the runs that wait, where the cluster has it, or by plain HPAs on CPU."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cluster_testing import release
from cluster_testing.cluster import kubectl, objects, ready_pods, until
from cluster_testing.desk import Desk
from cluster_testing.runs import begin, begin_at, expect_whole, workers_that_took_runs

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
# Half of a tenth of a processor: a busy worker uses more, an idle one less.
ON_CPU = {
    "resources.requests.cpu": "100m",
    "autoscaling.enabled": True,
    "autoscaling.minReplicas": 1,
    "autoscaling.maxReplicas": 2,
    "autoscaling.cpuPercent": 50,
    "autoscaling.scaleDownSeconds": 30,
}


def _options(values: dict[str, object], prefix: str) -> list[str]:
    return [word for name, value in values.items() for word in ("--set-json", f"{prefix}.{name}={json.dumps(value)}")]


def _since(due: datetime) -> int:
    return round((datetime.now(UTC) - due).total_seconds())


@pytest.mark.usefixtures("agents")
def test_a_second_worker_comes_for_five_hundred_runs_and_goes_again_without_losing_one(
    desk: Desk, folder: Path
) -> None:
    if "keda.sh/v1alpha1" not in kubectl("api-versions").split():
        pytest.skip("the cluster has no KEDA")
    try:
        release.put_release(folder, *_options(SCALED, "services.worker"))
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


@pytest.mark.usefixtures("agents")
def test_without_keda_a_busy_processor_brings_a_second_worker_and_an_idle_one_takes_it_away(
    desk: Desk, folder: Path
) -> None:
    if "metrics.k8s.io/v1beta1" not in kubectl("api-versions").split():
        pytest.skip("the cluster has no metrics-server")
    try:
        release.put_release(folder, *_options(ON_CPU, "services.worker"))
        until(lambda: len(ready_pods("worker")) == 1, seconds=300, what="one worker for nothing to do")
        began, runs = datetime.now(UTC), list[str]()

        def grown() -> bool:
            runs.extend(begin(desk, 20, "busy"))
            return len(ready_pods("worker")) == 2

        until(grown, seconds=300, what="a second worker is ready")
        print(f"a second worker is ready {_since(began)} s after the first of {len(runs)} runs")
        expect_whole(desk, runs, steps=BUSY_STEPS, seconds=900)
        ended = datetime.now(UTC)
        until(lambda: len(ready_pods("worker")) == 1, seconds=420, what="the second worker has gone")
        print(f"one worker again {_since(ended)} s after the last run was looked at")
    finally:
        release.put_release(folder)
