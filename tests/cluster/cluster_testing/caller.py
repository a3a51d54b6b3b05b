"""Runs in a pod: asks the gateway's Service until there is a file /tmp/stop, then prints what came of it.

`caller.py GATEWAY AGENT RUNS`, with an API key as KEY. Starts that many runs and says `started` when they are; then
lists, reads and starts runs from four threads. Prints a line of JSON: `runs`, the ids of all that were started,
`answers`, how many requests came to what, and `failures`, the first sentences.
"""

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from slipway_client import Client, SlipwayError, UnavailableError

T = TypeVar("T")
THREADS = 4
PAUSE = 0.1  # seconds between a thread's requests


class Caller:
    """One user of the gateway, who repeats what a 503 refused."""

    def __init__(self, gateway: str, key: str, agent: str) -> None:
        self.client = Client(gateway, lambda: key)
        self.agent = agent
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.runs: list[str] = []
        self.stopped = threading.Event()

    def ask(self, question: Callable[[], T]) -> T | None:
        """The answer; None when it was counted as something else."""
        try:
            answer = question()
        except UnavailableError as error:
            self.answers[str(error.status)] += 1
            return None
        except SlipwayError as error:
            self.answers[type(error).__name__] += 1
            self.failures.append(str(error))
            return None
        self.answers["ok"] += 1
        return answer

    def start(self, name: str) -> None:
        """Start a run: the same one however often a 503 has it asked for again."""
        failures = len(self.failures)
        while len(self.failures) == failures:
            run = self.ask(lambda: self.client.runs.start(self.agent, {"question": name}, idempotency_key=name))
            if run is not None:
                self.runs.append(run.run_id)
                return
            time.sleep(1)

    def go_on(self, thread: int) -> None:
        """What users do all day."""
        turn = 0
        while not self.stopped.wait(PAUSE):
            turn += 1
            if turn % 40 == 0:
                self.start(f"{thread}-{turn}-{time.time_ns()}")
            elif turn % 2:
                run_id = self.runs[(turn * 7 + thread) % len(self.runs)]
                self.ask(lambda run_id=run_id: self.client.runs.get(run_id))
            else:
                self.ask(lambda: next(iter(self.client.runs.list()), None))


def main() -> None:
    """See above."""
    gateway, agent, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    caller = Caller(gateway, os.environ["KEY"], agent)
    for n in range(count):
        caller.start(f"first-{n}-{time.time_ns()}")
    sys.stdout.write("started\n" if not caller.failures else f"{caller.failures[0]}\n")
    sys.stdout.flush()
    threads = [threading.Thread(target=caller.go_on, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    while not Path("/tmp/stop").exists():
        time.sleep(0.5)
    caller.stopped.set()
    for thread in threads:
        thread.join()
    told = {"runs": caller.runs, "answers": caller.answers, "failures": caller.failures[:20]}
    sys.stdout.write(json.dumps(told) + "\n")


main()
