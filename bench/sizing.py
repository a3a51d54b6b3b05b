"""What each process of a stack takes for a unit of work: processor time, memory, connections. One JSON line a figure.

    .venv/bin/python bench/sizing.py [--requests 300] [--runs 40]

Processor time is what a process and its children have used, less what they use when idle; it hardly depends on what
else the machine is doing, so it is a measure for sizing, and requests a second on a busy machine are not. Models answer
at once (a stand-in on this machine), embeddings are the local model's. Memory is the proportional set size. The whole
takes three minutes on two quiet cores.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
from ruamel.yaml import YAML
from slipway_cli.supervisor.data_dir import SERVICES, DataDir
from slipway_client import Client
from slipway_testkit.provider import Exchange, Provider, running
from slipway_testkit.stack import Stack

CONFIG = Path(__file__).parents[1] / "k8s"
AT_ONCE = 8
SETTLE = 4.0  # seconds in which outboxes are emptied and audit has what there was
AGENT = """
apiVersion: slipway.dev/v1
kind: Agent
metadata: {name: sizing}
spec:
  type: workflow
  description: A typical run - retrieves, asks a model, computes in the sandbox, asks again.
  input: {type: object, required: [question], properties: {question: {type: string}}}
  output: {type: object}
  limits: {steps: 20, tokens: 20000, cost_usd: 1, wall_time: 1h, tool_errors: 3, repeats: 3, on_limit: fail}
  steps:
    - {id: question, set: "${input.question}"}
    - {id: policy, retrieve: {collection: sizing, query: "${input.question}", limit: 4}}
    - {id: draft, model: {model: stand-in, prompt: "Answer.", context: "${steps.policy.output.passages}"}}
    - {id: check, tool: {name: python, arguments: {code: "print(6 * 7)"}}}
    - {id: answer, model: {model: stand-in, prompt: "Shorten: ${steps.draft.output.text}"}}
  result: {reply: "${steps.answer.output.text}"}
"""
TEXT = "The office opens at eight and closes at six; refunds above a hundred dollars need a second person. " * 100


def figure(name: str, value: float, unit: str, **more: Any) -> None:
    """Prints a figure."""
    print(json.dumps({"bench": "sizing", "figure": name, "value": round(value, 3), "unit": unit, **more}), flush=True)


async def answer(exchange: Exchange) -> None:
    """A chat completion of 40 tokens, at once; a stream has ten deltas, as runs ask for."""
    message = {"role": "assistant", "content": "The office opens at eight."}
    usage = {"prompt_tokens": 200, "completion_tokens": 40, "total_tokens": 240}
    if exchange.body.get("stream"):
        await exchange.open_stream()
        for _ in range(10):
            await exchange.delta(content="The office opens. ")
        await exchange.delta(finish="stop")
        await exchange.event({"model": "scripted-1", "choices": [], "usage": usage})
        await exchange.raw(b"data: [DONE]\n\n")
        return
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    await exchange.json(
        {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    )


def configuration(folder: Path, port: int) -> Path:
    """The checkout's configuration, with a model that answers at once."""
    shutil.copytree(CONFIG, folder, ignore=shutil.ignore_patterns("chart"))
    file = folder / "catalogue" / "models.yaml"
    yaml = YAML()
    catalogue = yaml.load(file)
    catalogue["providers"]["stand-in"] = {
        "type": "openai",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "regions": ["eu"],
    }
    catalogue["models"]["stand-in"] = {
        "provider": "stand-in",
        "upstream": "answer",
        "kind": "chat",
        "context_window": 100_000,
        "max_output_tokens": 1000,
        "price": {"input": "1", "output": "2"},
    }
    yaml.dump(catalogue, file)
    return folder


def used(process: psutil.Process) -> float:
    """Processor seconds of a process, of its children, and of those that have ended."""
    try:
        times = process.cpu_times()
        children = process.children()
    except psutil.NoSuchProcess:
        return 0  # ended in between: its parent has its time by now
    own = times.user + times.system + times.children_user + times.children_system
    return own + sum(used(child) for child in children)


class Meter:
    """Processor time of the processes of a stack."""

    def __init__(self, stack: Stack) -> None:
        self._processes = {record.name: psutil.Process(record.pid) for record in stack.state.processes}
        self._idle: dict[str, float] = {}

    def learn_idle(self, seconds: float) -> None:
        """What they use a second when there is nothing to do."""
        before = self._look()
        time.sleep(seconds)
        self._idle = {name: (after - before[name]) / seconds for name, after in self._look().items()}

    def measure(self, what: str, units: int, work: Callable[[], None]) -> None:
        """Prints what a unit of the work takes of each process, in milliseconds."""
        before, began = self._look(), time.monotonic()
        work()
        time.sleep(SETTLE)
        seconds = time.monotonic() - began
        spent: defaultdict[str, float] = defaultdict(float)
        for name, after in self._look().items():
            # Workers share the work.
            role = "worker" if name.startswith("worker-") else name
            spent[role] += after - before[name] - self._idle[name] * seconds
        for name, cost in sorted(spent.items(), key=lambda item: -item[1]):
            if cost > 0:
                figure(what, 1000 * cost / units, "ms of processor time a unit", process=name)

    def memory(self) -> None:
        """Prints the memory of each process with its children."""
        for name, process in self._processes.items():
            family = [process, *process.children(recursive=True)]
            pss = sum(one.memory_full_info().pss for one in family if one.is_running())
            figure("memory", pss / 2**20, "MiB", process=name)

    def _look(self) -> dict[str, float]:
        return {name: used(process) for name, process in self._processes.items()}


async def ask(stack: Stack, statement: str) -> dict[str, int]:
    """What PostgreSQL says of each service: rows of a role's or database's name and a number."""
    secrets = DataDir(stack.data_dir).secrets()
    connection = await asyncpg.connect(stack.state.postgres, user="postgres", password=secrets.postgres)
    try:
        return {str(row[0]): int(row[1]) for row in await connection.fetch(statement)}
    finally:
        await connection.close()


def sizes(stack: Stack) -> dict[str, int]:
    """Bytes of each database."""
    return asyncio.run(ask(stack, "SELECT datname, pg_database_size(oid) FROM pg_database"))


def connections(stack: Stack) -> None:
    """Prints how many connections each service has to PostgreSQL now."""
    found = asyncio.run(ask(stack, "SELECT usename, count(*) FROM pg_stat_activity GROUP BY usename"))
    for service in SERVICES:
        figure("connections", found.get(f"slipway_{service}", 0), "connections to PostgreSQL", process=service)


def chat(stack: Stack, key: str, requests: int) -> None:
    """Chat completions, several at once."""
    body = {"model": "stand-in", "messages": [{"role": "user", "content": "When does the office open?"}]}
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as web:

        def one(_: int) -> None:
            web.post("/v1/chat/completions", json=body).raise_for_status()

        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(one, range(requests)))


def runs(alice: Client, number: int) -> None:
    """Typical runs, all started at once, to their ends."""
    started = [alice.runs.start("sizing", {"question": "When does the office open?"}).run_id for _ in range(number)]
    for run_id in started:
        while not (run := alice.runs.get(run_id)).ended:
            time.sleep(0.5)
        assert run.state == "SUCCEEDED", run.error


def documents(alice: Client, folder: Path, number: int) -> None:
    """Documents of 10 kB, until they are searchable."""
    for place in range(number):
        file = folder / f"{place}.txt"
        file.write_text(f"Number {place}. {TEXT}")
        alice.knowledge.put_document("sizing", file.name, file)
    for place in range(number):
        while alice.knowledge.get_document("sizing", f"{place}.txt").state == "INDEXING":
            time.sleep(0.5)


def searches(alice: Client, number: int) -> None:
    """Hybrid searches."""
    for place in range(number):
        alice.knowledge.search("sizing", f"when does the office number {place} open?")


def prepare(stack: Stack) -> str:
    """The agent in production, and an API key."""
    with stack.as_user("alice") as alice, stack.as_user("bob") as bob:
        version = alice.agents.put("sizing", AGENT).version
        alice.agents.submit("sizing", version)
        bob.agents.approve("sizing", version)
        bob.agents.promote("sizing", version)
    with stack.as_user("dave") as dave:
        key = dave.api_keys.create("sizing", ["developer"], expires_in_seconds=86_400).key
    assert key is not None
    return key


def main() -> None:
    """Runs the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--runs", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running(Provider({"answer": answer})) as provider:
        folder = Path(name)
        config = configuration(folder / "config", provider.port)
        stack = Stack(folder / "data", ["--config", str(config), "--workers", "1"])
        stack.wait_for(r"ready\s+slipway", 600)
        try:
            with stack.as_user("alice") as alice:
                alice.knowledge.put_collection("sizing")
                documents(alice, folder, 2)
                key = prepare(stack)
                # Once each, so that nothing is measured cold.
                chat(stack, key, 20)
                runs(alice, 2)
                meter = Meter(stack)
                meter.learn_idle(10)
                meter.measure("chat completion", arguments.requests, lambda: chat(stack, key, arguments.requests))
                before = sizes(stack)
                meter.measure("run", arguments.runs, lambda: runs(alice, arguments.runs))
                for database, size in sizes(stack).items():
                    if grown := size - before[database]:
                        figure("disk", grown / arguments.runs / 1000, "kB a run", process=database)
                meter.measure("document of 10 kB", 10, lambda: documents(alice, folder, 10))
                meter.measure("search", 50, lambda: searches(alice, 50))
                meter.memory()
                connections(stack)
        finally:
            stack.stop()


if __name__ == "__main__":
    main()
