"""A loop's conversation: what the model is sent, put together from the journal and kept within the model's window.

Sizes are estimates: a token is taken for three characters, which overstates most text (English has about four), and
each message costs a few tokens of its own. A conversation that has grown past `COMPACT` of the window is summarised;
the results of one turn are cut so that they fill at most `RESULTS` of it. So a turn's request stays within the window
whatever tools answer.
"""

import json
from dataclasses import dataclass, field

from pydantic import JsonValue

from slipway_orchestrator.core.state import Phase, StepState

CHARACTERS = 3
"""Characters of a token."""
_MESSAGE = 8
"""Tokens that a message costs beside its text."""
COMPACT = 0.7
RESULTS = 0.3
_FEWEST = 500
"""Characters of a result that are always told."""
_MOST = 40_000

Message = dict[str, JsonValue]
"""`role`, `content`, and `tool_calls` (`id`, `name`, `arguments`) or `tool_call_id`."""


@dataclass(slots=True)
class Conversation:
    """Messages after the instructions. Grows at its end; `compact` takes from its beginning."""

    window: int
    """Tokens."""
    system: str = ""
    prompt: list[Message] = field(default_factory=list[Message])
    """History of the session, and what is asked: kept through every compaction."""
    summary: str = ""
    turns: list[Message] = field(default_factory=list[Message])
    first: int = 0
    """Position in `turns` of the first message that the summary does not cover."""
    size: int = 0
    """Estimated tokens of all that is sent."""
    boundaries: list[int] = field(default_factory=list[int])
    """Positions in `turns` at which a turn begins."""

    def begin(self, system: str, history: list[Message], prompt: str) -> None:
        """The instructions, what was said before, and what is asked."""
        self.system = system
        kept: list[Message] = []
        room = int(self.window * RESULTS)
        for message in reversed(history):
            room -= tokens(message)
            if room < 0:
                break
            kept.append(message)
        self.prompt = [*reversed(kept), {"role": "user", "content": prompt}]
        self.size = _of_text(system) + sum(map(tokens, self.prompt))

    def turn(self, message: Message) -> None:
        """The model took a turn."""
        self.boundaries.append(len(self.turns))
        self.add(message)

    def add(self, message: Message) -> None:
        """One more message."""
        self.turns.append(message)
        self.size += tokens(message)

    def sent(self) -> "Sent":
        """What the model is sent now."""
        return Sent(self, len(self.turns), self.first, self.summary)

    def cut(self) -> int | None:
        """Where the part ends that ought to be summarised; None when the conversation fits, or nothing can be done."""
        if self.size <= self.window * COMPACT:
            return None
        room, cut = int(self.window * RESULTS), None
        for position in reversed(self.boundaries):
            if position <= self.first:
                break
            if cut is not None and sum(map(tokens, self.turns[position:])) > room:
                break
            cut = position
        return cut

    def compact(self, through: int, summary: str) -> None:
        """The messages before position `through` are summed up."""
        gone = sum(map(tokens, self.turns[self.first : through]))
        self.size += _of_text(summary) - _of_text(self.summary) - gone
        self.first, self.summary = through, summary

    def result_characters(self, results: int) -> int:
        """How much of each of so many results is told."""
        room = int(self.window * RESULTS) * CHARACTERS // max(results, 1)
        return max(_FEWEST, min(room, _MOST))


@dataclass(frozen=True, slots=True)
class Sent:
    """A conversation as it was at one moment."""

    conversation: Conversation = field(repr=False, compare=False)
    end: int
    first: int
    summary: str = field(repr=False)

    def messages(self) -> list[Message]:
        """Instructions, what was asked, the summary, and the turns since."""
        said = self.conversation
        start: list[Message] = [{"role": "system", "content": said.system}] if said.system else []
        told: list[Message] = []
        if self.summary:
            told = [{"role": "user", "content": f"Summary of what you did and learned so far:\n\n{self.summary}"}]
        return [*start, *said.prompt, *told, *said.turns[self.first : self.end]]

    def until(self, position: int) -> str:
        """What was said before a position and is in no summary yet, as text, the summary so far first."""
        lines = [f"Summary so far:\n{self.summary}"] if self.summary else []
        return "\n\n".join([*lines, *(_line(item) for item in self.conversation.turns[self.first : position])])


def tokens(message: Message) -> int:
    """Estimated tokens of a message."""
    calls = message.get("tool_calls")
    return _MESSAGE + _of_text(str(message.get("content") or "")) + (_of_text(json.dumps(calls)) if calls else 0)


def result_text(known: StepState, most: int) -> str:
    """What the model is told of a call's result, at most so many characters of it."""
    if known.phase is Phase.CONTINUED or known.phase is Phase.FAILED:
        code, message = known.error or ("FAILED", "the call failed")
        parts = [f"Error {code}: {message}", known.stderr or "", known.stdout or ""]
    else:
        output = known.output
        text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
        parts = ["" if output is None and known.stdout else text, known.stdout or "", known.stderr or ""]
    whole = "\n".join(part for part in parts if part)
    if len(whole) <= most:
        return whole
    half = most // 2
    return f"{whole[:half]}\n[… {len(whole) - 2 * half} characters left out …]\n{whole[-half:]}"


def _of_text(text: str) -> int:
    return -(-len(text) // CHARACTERS)


def _line(message: Message) -> str:
    calls = message.get("tool_calls")
    called = ""
    if isinstance(calls, list):
        called = " ".join(f"[calls {call['name']}({call['arguments']})]" for call in calls if isinstance(call, dict))
    return f"{message['role']}: {message.get('content') or ''} {called}".strip()
