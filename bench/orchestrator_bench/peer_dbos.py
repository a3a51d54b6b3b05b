"""DBOS: workflows of durable steps, all started at once. Usage: peer_dbos.py DATABASE_URL RUNS STEPS; prints steps/s.

Runs in the peers' own virtual environment.
"""

import sys
import time

from dbos import DBOS

_url, _runs, _steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
DBOS(
    config={
        "name": "bench",
        "system_database_url": _url,
        "log_level": "ERROR",
        "run_admin_server": False,
    }
)


@DBOS.step()
def step(value: int) -> int:
    """One durable step without outside effect."""
    return value


@DBOS.workflow()
def workflow(steps: int) -> int:
    """So many steps, one after the other."""
    for value in range(steps):
        step(value)
    return steps


DBOS.launch()
workflow(5)
_began = time.perf_counter()
_handles = [DBOS.start_workflow(workflow, _steps) for _ in range(_runs)]
if not all(handle.get_result() == _steps for handle in _handles):
    raise SystemExit("a workflow returned something else")
print(_runs * _steps / (time.perf_counter() - _began))
DBOS.destroy()
