"""Reading steps, and the steps within them."""

import re

from slipway_orchestrator.core.definition import MAX_ITEMS, Arm, Branch, Call, Map, Parallel, Step
from slipway_orchestrator.definitions.calls import read_call
from slipway_orchestrator.definitions.fields import Fields
from slipway_orchestrator.definitions.gates import read_retry
from slipway_orchestrator.definitions.problems import Problems
from slipway_orchestrator.definitions.source import Node
from slipway_orchestrator.expressions.template import has_expressions

STEP_ID = re.compile(r"[a-z][a-z0-9_]{0,62}")
MAX_STEPS = 5000
"""Of one definition, wherever they stand."""
MAX_NESTING = 10
"""Steps that stand in one another."""
MAX_SIDE_BY_SIDE = 100
"""Steps of one `parallel`, arms of one `branch`, items of a map at the same time."""
_LEAVES = ("retrieve", "model", "tool", "set", "approval", "agent", "wait")
_CONTAINERS = ("parallel", "map", "branch")
_TYPES = (*_LEAVES, *_CONTAINERS)
_RETRIED = ("retrieve", "model", "tool", "agent")
_TIMED = ("retrieve", "model", "tool")
_COMMON = ("id", "when", "retry", "on_error", "timeout")
_KEYWORDS = frozenset({"fail", "continue", "escalate"})
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_TAKEN = frozenset({"input", "steps", "index", "true", "false", "null", "in"})

DEFAULT_TIMEOUT = {"retrieve": 60.0, "model": 300.0, "tool": 330.0}
"""Seconds of one attempt; tools bound themselves at 5 minutes."""


class StepReader:
    """Reads the steps of one definition: their ids are unique in it."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self.nodes: dict[str, Node] = {}
        """Where each step stands in the text, by its id."""
        self._count = 0
        self._unnamed = dict.fromkeys(_CONTAINERS, 0)

    def sequence(self, node: Node, depth: int = 1) -> tuple[Step, ...]:
        """Steps one after the other."""
        if not isinstance(node.content, list) or not node.content:
            self._wrong(node, "must be a list of at least one step")
            return ()
        if depth > MAX_NESTING:
            self._wrong(node, f"steps may stand at most {MAX_NESTING} deep in one another")
            return ()
        self._count += len(node.content)
        if self._count > MAX_STEPS:
            self._wrong(node, f"must have at most {MAX_STEPS} steps in all")
            return ()
        read = [self._step(item, depth) for item in node.content]
        steps = tuple(step for step in read if step is not None)
        self._check_handlers(steps)
        return steps

    def _wrong(self, node: Node, message: str) -> None:
        self._problems.add(node.path, node.line, message)

    def _step(self, node: Node, depth: int) -> Step | None:
        if not isinstance(node.content, dict):
            self._wrong(node, "must be a mapping with id and one of " + ", ".join(_TYPES))
            return None
        fields = Fields(node, self._problems, (*_COMMON, *_TYPES))
        types = [name for name in _TYPES if name in node.content]
        if "tool" in types and "approval" in types:
            types.remove("approval")
        if len(types) != 1:
            self._wrong(node, "must have exactly one of " + ", ".join(_TYPES))
            return None
        (kind,) = types
        step_id = self._id(fields, node, kind)
        content = node.content[kind]
        call = self._container(kind, content, depth) if kind in _CONTAINERS else None
        if kind in _LEAVES:
            call = read_call(kind, fields, content, self._problems)
        retry = read_retry(fields, kind, _RETRIED, self._problems)
        on_error = self._on_error(fields, kind)
        timeout = fields.duration("timeout", most=3600.0)
        when = fields.text("when", most=4096)
        found = fields.get("timeout")
        if found is not None and kind not in _TIMED and timeout is not None:
            self._wrong(found, f"a {kind} step has no attempts that could take too long")
        if step_id is None or call is None:
            return None
        named = fields.get("id") is not None
        return Step(step_id, call, when, retry, on_error, timeout or DEFAULT_TIMEOUT.get(kind, 10.0), named)

    def _id(self, fields: Fields, node: Node, kind: str) -> str | None:
        if kind in _CONTAINERS and fields.get("id") is None:
            self._unnamed[kind] += 1
            step_id = f"{kind}_{self._unnamed[kind]}"
        else:
            given = fields.text("id", required=True)
            if given is None:
                return None
            if not STEP_ID.fullmatch(given) or given in _KEYWORDS:
                wrong = "must be lower-case letters, digits and _, beginning with a letter"
                self._wrong(node.at("id"), f"{wrong}; fail, continue and escalate are taken")
                return None
            step_id = given
        if step_id in self.nodes:
            self._wrong(node.at("id"), f"{step_id} is the id of {self.nodes[step_id].path} already")
            return None
        self.nodes[step_id] = node
        return step_id

    def _container(self, kind: str, node: Node, depth: int) -> Call | None:
        match kind:
            case "parallel":
                steps = self.sequence(node, depth + 1)
                if len(steps) > MAX_SIDE_BY_SIDE:
                    self._wrong(node, f"must have at most {MAX_SIDE_BY_SIDE} steps; use map for more")
                for step in steps:
                    if step.handler is not None:
                        at = self.nodes[step.step_id].at("on_error")
                        self._wrong(at, "there is no later step in a parallel step to go on at")
                return Parallel(steps) if steps else None
            case "map":
                return self._map(node, depth)
            case _:
                return self._branch(node, depth)

    def _map(self, node: Node, depth: int) -> Call | None:
        fields = Fields(node, self._problems, ("over", "as", "concurrency", "step", "steps"))
        over, name = fields.need("over"), fields.text("as", most=63) or "item"
        if not _NAME.fullmatch(name) or name in _TAKEN:
            self._wrong(node.at("as"), f"must be a name of lower-case letters, digits and _, not {name}")
        concurrency = fields.whole("concurrency", 1, MAX_SIDE_BY_SIDE) or 10
        one, several = fields.get("step"), fields.get("steps")
        if (one is None) == (several is None):
            self._wrong(node, "must have exactly one of step, steps")
            return None
        if several is None and one is not None:
            several = Node([one], one.path, one.line)
        steps = () if several is None else self.sequence(several, depth + 1)
        if over is None or not steps:
            return None
        if not isinstance(over.content, list) and not (isinstance(over.content, str) and has_expressions(over.content)):
            self._wrong(over, "must be a list, or a template that gives one, such as ${steps.list.output.items}")
        if isinstance(over.content, list) and len(over.content) > MAX_ITEMS:
            self._wrong(over, f"must have at most {MAX_ITEMS} items")
        return Map(over.plain(), name, concurrency, steps)

    def _branch(self, node: Node, depth: int) -> Call | None:
        if not isinstance(node.content, list) or not 0 < len(node.content) <= MAX_SIDE_BY_SIDE:
            self._wrong(node, f"must be a list of 1 to {MAX_SIDE_BY_SIDE} arms with when (or else: true) and steps")
            return None
        arms: list[Arm] = []
        for position, item in enumerate(node.content):
            fields = Fields(item, self._problems, ("when", "else", "steps"))
            when, otherwise = fields.text("when", most=4096), fields.get("else")
            if (fields.get("when") is None) == (otherwise is None):
                self._wrong(item, "must have exactly one of when, else")
            if otherwise is not None and (otherwise.content is not True or position + 1 < len(node.content)):
                self._wrong(otherwise, "must be true, and in the last arm")
            within = fields.need("steps")
            steps = () if within is None else self.sequence(within, depth + 1)
            arms.append(Arm(when, steps))
        return Branch(tuple(arms)) if all(arm.steps for arm in arms) else None

    def _on_error(self, fields: Fields, kind: str) -> str:
        text = fields.text("on_error", most=63) or "fail"
        if text == "escalate" and kind not in _RETRIED:
            found = fields.node.at("on_error")
            self._wrong(found, f"a {kind} step has no attempt that a person could ask for again; use fail or continue")
            return "fail"
        return text

    def _check_handlers(self, steps: tuple[Step, ...]) -> None:
        """A step that fails can go on later in its sequence only: never in a circle, never in the middle of others."""
        order = {step.step_id: position for position, step in enumerate(steps)}
        for position, step in enumerate(steps):
            handler = step.handler
            if handler is None or order.get(handler, -1) > position:
                continue
            at = self.nodes[step.step_id].at("on_error")
            if handler in order:
                self._wrong(at, f"step {handler} does not come later: that would be a cycle")
            else:
                self._wrong(
                    at, f"must be fail, continue, escalate or a later step beside it; there is no step {handler}"
                )
