"""Reading what a loop agent has instead of steps: instructions, a model, and what the model may call."""

from slipway_orchestrator.core.definition import Gate
from slipway_orchestrator.core.loop.agent import (
    Callee,
    Loop,
    LoopAgent,
    LoopKnowledge,
    LoopModel,
    LoopTool,
    function_name,
)
from slipway_orchestrator.definitions.fields import Fields
from slipway_orchestrator.definitions.gates import read_gate, read_retry
from slipway_orchestrator.definitions.problems import Problems
from slipway_orchestrator.definitions.source import Node
from slipway_orchestrator.definitions.steps import DEFAULT_TIMEOUT

LOOP_FIELDS = ("instructions", "prompt", "model", "tools", "knowledge", "agents", "repairs")
MAX_CALLEES = 128
"""Tools, collections and agents of one loop: what providers take."""
DEFAULT_WINDOW = 16_000
_LEAST_WINDOW = 1_000


class LoopReader:
    """Reads one loop, and keeps where things stand."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self.nodes: dict[Callee, Node] = {}
        """Where each thing that may be called stands in the text."""

    def read(self, spec: Fields) -> Loop | None:
        """The loop; None when it is too broken to be looked at further."""
        instructions = spec.text("instructions", required=True)
        model = self._model(spec)
        tools = tuple(tool for item in self._items(spec, "tools") if (tool := self._tool(item)) is not None)
        knowledge = tuple(one for item in self._items(spec, "knowledge") if (one := self._knowledge(item)) is not None)
        agents = tuple(agent for item in self._items(spec, "agents") if (agent := self._agent(item)) is not None)
        repairs = spec.whole("repairs", 0, 10)
        if instructions is None or model is None:
            return None
        prompt = spec.text("prompt")
        loop = Loop(instructions, prompt, model, tools, knowledge, agents, 2 if repairs is None else repairs)
        self._check_names(loop)
        return loop

    def _wrong(self, node: Node, message: str) -> None:
        self._problems.add(node.path, node.line, message)

    def _check_names(self, loop: Loop) -> None:
        seen: dict[str, Callee] = {}
        for callee in (*loop.tools, *loop.knowledge, *loop.agents):
            offered = function_name(callee)
            if offered in seen:
                self._wrong(self.nodes[callee], f"{offered}, the name that the model sees, stands for two things")
            seen[offered] = callee
        if len(seen) > MAX_CALLEES:
            last = self.nodes[list(seen.values())[MAX_CALLEES]]
            self._wrong(last, f"must have at most {MAX_CALLEES} tools, collections and agents together")

    def _model(self, spec: Fields) -> LoopModel | None:
        node = spec.need("model")
        if node is None:
            return None
        if isinstance(node.content, str) and node.content.strip():
            return LoopModel("", node.content, None, None, DEFAULT_WINDOW)
        fields = Fields(node, self._problems, ("task", "model", "max_tokens", "temperature", "context_tokens"))
        task, model = fields.text("task", most=100), fields.text("model", most=200)
        if task is None and model is None:
            self._wrong(node, "needs a task or a model")
        return LoopModel(
            task or "",
            model or "",
            fields.whole("max_tokens", 1, 1_000_000),
            fields.number("temperature", 0, 2),
            fields.whole("context_tokens", _LEAST_WINDOW, 10_000_000) or DEFAULT_WINDOW,
        )

    def _items(self, spec: Fields, name: str) -> list[Node]:
        node = spec.get(name)
        if node is None:
            return []
        if not isinstance(node.content, list):
            self._wrong(node, "must be a list")
            return []
        return node.content

    def _keep(self, callee: Callee, node: Node) -> None:
        if callee in self.nodes:
            self._wrong(node, "stands here twice")
        self.nodes[callee] = node

    def _tool(self, node: Node) -> LoopTool | None:
        fields = self._named(node, "name", ("approval", "retry", "timeout"))
        name = fields.text("name", required=True, most=64)
        approval = fields.get("approval")
        gate: Gate | None = None if approval is None else read_gate(approval, self._problems, ("when",))
        retry = read_retry(fields, "tool", ("tool",), self._problems)
        timeout = fields.duration("timeout", most=3600.0) or DEFAULT_TIMEOUT["tool"]
        if name is None:
            return None
        tool = LoopTool(name, gate, retry, timeout)
        self._keep(tool, node)
        return tool

    def _knowledge(self, node: Node) -> LoopKnowledge | None:
        fields = self._named(node, "collection", ("limit", "alpha"))
        collection = fields.text("collection", required=True, most=63)
        if collection is None:
            return None
        found = LoopKnowledge(collection, fields.whole("limit", 1, 50) or 5, fields.number("alpha", 0, 1))
        self._keep(found, node)
        return found

    def _agent(self, node: Node) -> LoopAgent | None:
        fields = self._named(node, "name", ("description", "version"))
        name = fields.text("name", required=True, most=63)
        if name is None:
            return None
        description = fields.text("description", most=2000) or ""
        agent = LoopAgent(name, description, fields.whole("version", 1, 1_000_000_000) or 0)
        self._keep(agent, node)
        return agent

    def _named(self, node: Node, field: str, more: tuple[str, ...]) -> Fields:
        """Fields of an item that may also be no more than its name."""
        if isinstance(node.content, str):
            node = Node({field: Node(node.content, node.path, node.line)}, node.path, node.line)
        return Fields(node, self._problems, (field, *more))
