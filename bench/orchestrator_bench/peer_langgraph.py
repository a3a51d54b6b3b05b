"""LangGraph with the Postgres saver, durability "sync": every super-step is committed before the next one begins.

Each run has a thread, a connection and a saver of its own: a shared saver locks around every statement. The graph is
one node that loops, which is quicker than a chain of as many nodes. Usage: peer_langgraph.py DATABASE_URL RUNS STEPS;
prints steps/s. Runs in the peers' own virtual environment.
"""

import sys
import threading
import time
from typing import TypedDict

import psycopg
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row

_url, _runs, _steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


class State(TypedDict):
    """What the graph keeps."""

    value: int


def graph(saver: PostgresSaver):
    """So many super-steps, one after the other."""
    builder = StateGraph(State)
    builder.add_node("step", lambda state: {"value": state["value"] + 1})
    builder.add_edge(START, "step")
    builder.add_conditional_edges("step", lambda state: "step" if state["value"] < _steps else END)
    return builder.compile(checkpointer=saver)


_connections = [psycopg.connect(_url, autocommit=True, prepare_threshold=0, row_factory=dict_row) for _ in range(_runs)]
PostgresSaver(_connections[0]).setup()
_graphs = [graph(PostgresSaver(connection)) for connection in _connections]
_done: list[int] = []


def run(number: int, name: str) -> None:
    """One run to its end."""
    config = {"configurable": {"thread_id": f"{name}{number}"}, "recursion_limit": _steps + 10}
    _done.append(_graphs[number].invoke({"value": 0}, config, durability="sync")["value"])


run(0, "warm")
_done.clear()
_threads = [threading.Thread(target=run, args=(number, "run")) for number in range(_runs)]
_began = time.perf_counter()
for _thread in _threads:
    _thread.start()
for _thread in _threads:
    _thread.join()
if _done != [_steps] * _runs:
    raise SystemExit("a run ended early")
print(_runs * _steps / (time.perf_counter() - _began))
