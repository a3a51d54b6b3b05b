"""Random workflows of which everything is known beforehand: what they book, and what they come to.

The generator predicts, the stack performs. A program is a tree of steps: values, bookings, branches, parallel steps,
maps, waits, child runs, and steps that fail and are passed over.
"""

import json
import random
from dataclasses import dataclass, field
from typing import Any

from slipway_client import Client

from fault_testing.ledger import Ledger

CHILD = "fault-child"
_DEPTH = 3

_CHILD_DEFINITION: dict[str, Any] = {
    "apiVersion": "slipway.dev/v1",
    "kind": "Agent",
    "metadata": {"name": CHILD},
    "spec": {
        "type": "workflow",
        "description": "Books what it is told.",
        "input": {
            "type": "object",
            "required": ["reference", "amount"],
            "properties": {"reference": {"type": "string"}, "amount": {"type": "integer"}},
        },
        "output": {"type": "integer"},
        "limits": {"steps": 10, "tokens": 0, "cost_usd": 0, "wall_time": "1h", "tool_errors": 100, "repeats": 100},
        "steps": [
            {
                "id": "book",
                "tool": {
                    "name": "fault.book",
                    "arguments": {"reference": "${input.reference}", "amount": "${input.amount}"},
                },
                "retry": {
                    "attempts": 60,
                    "backoff": "200ms",
                    "max_backoff": "2s",
                    "on": ["UNAVAILABLE", "DEADLINE_EXCEEDED"],
                },
            }
        ],
        "result": "${input.amount}",
    },
}


@dataclass
class Program:
    """A workflow, its input, and what it must come to."""

    name: str
    definition: dict[str, Any]
    input: dict[str, Any]
    bookings: dict[str, int] = field(default_factory=dict[str, int])
    """Amount by reference: each is booked once."""
    output: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def text(self) -> str:
        """The definition as it is registered (JSON is YAML)."""
        return json.dumps(self.definition)


class Generator:
    """Programs that follow from a seed."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._seed = seed

    def program(self, number: int) -> Program:
        """A new program."""
        name = f"fault-program-{number}"
        start = self._draw.randrange(1000)
        given = {"reference": f"p{self._seed}-{number}", "start": start}
        program = Program(name, {}, given)
        writer = _Writer(self._draw, program)
        steps = writer.sequence(_DEPTH, self._draw.randint(2, 4), {}, 1, "", "")
        output = dict(writer.top)
        program.output = output
        program.definition = {
            "apiVersion": "slipway.dev/v1",
            "kind": "Agent",
            "metadata": {"name": name},
            "spec": {
                "type": "workflow",
                "description": "A random program.",
                "input": {
                    "type": "object",
                    "required": ["reference", "start"],
                    "properties": {"reference": {"type": "string"}, "start": {"type": "integer"}},
                },
                "output": {"type": "object"},
                "limits": {
                    "steps": 1000,
                    "tokens": 0,
                    "cost_usd": 0,
                    "wall_time": "1h",
                    "tool_errors": 1000,
                    "repeats": 1000,
                },
                "steps": steps,
                "result": {step_id: f"${{steps.{step_id}.output}}" for step_id in output},
            },
        }
        return program


class _Writer:
    """Writes the steps of one program and runs them in its head."""

    def __init__(self, draw: random.Random, program: Program) -> None:
        self._draw = draw
        self._program = program
        self._ids = 0
        self.top: dict[str, Any] = {}

    def _id(self) -> str:
        self._ids += 1
        return f"s{self._ids}"

    def sequence(
        self, depth: int, length: int, known: dict[str, int], times: int, suffix: str, index: str, *, live: bool = True
    ) -> list[dict[str, Any]]:
        """Steps one after the other. `times`: how many items of maps run them; `index`: expression of the item's
        number; `live`: whether they run at all."""
        seen = dict(known)
        return [self._step(depth, seen, times, suffix, index, live) for _ in range(length)]

    def _step(
        self, depth: int, seen: dict[str, int], times: int, suffix: str, index: str, live: bool
    ) -> dict[str, Any]:
        kinds = ["set", "book", "book", "fails", "wait", "child"]
        if depth > 0:
            kinds += ["branch", "parallel", "map"] if times == 1 else ["branch", "parallel"]
        kind = self._draw.choice(kinds)
        return getattr(self, f"_{kind}")(depth, seen, times, suffix, index, live)

    def _value(self, seen: dict[str, int]) -> tuple[str, int]:
        """An expression over what ran before, and its value."""
        plus = self._draw.randrange(100)
        name = self._draw.choice(["", *seen])
        if not name:
            return f"input.start + {plus}", self._program.input["start"] + plus
        return f"steps.{name}.output + {plus}", seen[name] + plus

    def _note(self, step_id: str, value: Any, times: int, live: bool) -> None:
        if times == 1:
            self.top[step_id] = value if live else None

    def _set(
        self, _depth: int, seen: dict[str, int], times: int, _suffix: str, _index: str, live: bool
    ) -> dict[str, Any]:
        step_id, (source, value) = self._id(), self._value(seen)
        seen[step_id] = value
        self._note(step_id, value, times, live)
        return {"id": step_id, "set": f"${{{source}}}"}

    def _book(
        self, _depth: int, seen: dict[str, int], times: int, suffix: str, index: str, live: bool
    ) -> dict[str, Any]:
        step_id, (source, value) = self._id(), self._value(seen)
        reference = self._reference(step_id, value, times, live)
        self._note(step_id, {"booking_id": f"B-{reference}", "amount": value}, times, live)
        return {
            "id": step_id,
            "tool": {
                "name": "fault.book",
                "arguments": {"reference": f"${{input.reference}}-{step_id}{suffix}", "amount": f"${{{source}}}"},
            },
            "retry": {
                "attempts": 60,
                "backoff": "200ms",
                "max_backoff": "2s",
                "on": ["UNAVAILABLE", "DEADLINE_EXCEEDED"],
            },
        }

    def _reference(self, step_id: str, value: int, times: int, live: bool) -> str:
        base = f"{self._program.input['reference']}-{step_id}"
        if live:
            for item in range(times):
                self._program.bookings[base if times == 1 else f"{base}-{item}"] = value
        return base

    def _fails(
        self, _depth: int, _seen: dict[str, int], times: int, _suffix: str, _index: str, live: bool
    ) -> dict[str, Any]:
        step_id = self._id()
        self._note(step_id, None, times, live)
        return {"id": step_id, "set": "${1 / (input.start - input.start)}", "on_error": "continue"}

    def _wait(
        self, _depth: int, _seen: dict[str, int], times: int, _suffix: str, _index: str, live: bool
    ) -> dict[str, Any]:
        step_id = self._id()
        self._note(step_id, None, times, live)
        return {"id": step_id, "wait": {"for": f"{self._draw.randint(1, 300)}ms"}}

    def _child(
        self, _depth: int, seen: dict[str, int], times: int, suffix: str, _index: str, live: bool
    ) -> dict[str, Any]:
        step_id, (source, value) = self._id(), self._value(seen)
        self._reference(step_id, value, times, live)
        self._note(step_id, value, times, live)
        return {
            "id": step_id,
            "agent": {
                "name": CHILD,
                "input": {"reference": f"${{input.reference}}-{step_id}{suffix}", "amount": f"${{{source}}}"},
            },
        }

    def _branch(
        self, depth: int, seen: dict[str, int], times: int, suffix: str, index: str, live: bool
    ) -> dict[str, Any]:
        step_id, (source, value) = self._id(), self._value(seen)
        taken = value % 2 == 0
        arms = [
            self.sequence(depth - 1, self._draw.randint(1, 2), seen, times, suffix, index, live=live and taken),
            self.sequence(depth - 1, self._draw.randint(1, 2), seen, times, suffix, index, live=live and not taken),
        ]
        return {
            "id": step_id,
            "branch": [{"when": f"({source}) % 2 == 0", "steps": arms[0]}, {"else": True, "steps": arms[1]}],
        }

    def _parallel(
        self, depth: int, seen: dict[str, int], times: int, suffix: str, index: str, live: bool
    ) -> dict[str, Any]:
        # Each child sees what ran before, and not its siblings.
        children = [
            self._step(depth - 1, dict(seen), times, suffix, index, live) for _ in range(self._draw.randint(2, 3))
        ]
        return {"id": self._id(), "parallel": children}

    def _map(
        self, depth: int, seen: dict[str, int], times: int, _suffix: str, _index: str, live: bool
    ) -> dict[str, Any]:
        step_id, items = self._id(), self._draw.randint(2, 4)
        steps = self.sequence(depth - 1, self._draw.randint(1, 2), seen, items, "-${index}", "index", live=live)
        return {
            "id": step_id,
            "map": {
                "over": list(range(items)),
                "as": "item",
                "concurrency": self._draw.randint(1, 3),
                "steps": steps,
            },
        }


def declare_child(alice: Client, bob: Client) -> None:
    """The agent that programs begin as a child run."""
    promote(alice, bob, CHILD, json.dumps(_CHILD_DEFINITION))


def promote(alice: Client, bob: Client, name: str, text: str) -> None:
    """Bring a definition to production."""
    version = alice.agents.put(name, text).version
    alice.agents.submit(name, version)
    bob.agents.approve(name, version)
    bob.agents.promote(name, version)


def check_program(client: Client, ledger: Ledger, run_id: str, program: Program) -> None:
    """What must hold of a program's run, whatever happened on the way: nothing lost, nothing twice, no gap."""
    run = client.runs.get(run_id)
    assert run.state == "SUCCEEDED", f"{run_id} of {program.name}: {run.state}, {run.error}\n{program.text}"
    assert run.output == program.output, f"{run_id} of {program.name}\n{program.text}"
    booked = ledger.booked(f"{program.input['reference']}-")
    assert booked == sorted(program.bookings.items()), f"{run_id} of {program.name}\n{program.text}"
    events = list(client.runs.events(run_id))
    assert [event.seq for event in events] == list(range(1, len(events) + 1)), f"the journal of {run_id} has a gap"
    ended = [(event.step_id, event.kind) for event in events if event.kind in ("step.completed", "step.failed")]
    assert len(ended) == len(set(ended)), f"{run_id}: a step ended twice"
