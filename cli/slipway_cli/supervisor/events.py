"""What the supervisor tells: one line an event."""

import time

from rich.console import Console
from rich.markup import escape

_STYLE = {"start": "cyan", "ready": "green", "stop": "cyan", "exit": "red", "restart": "yellow", "note": "dim"}


class Events:
    """Prints events to the terminal, coloured where it is one."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def tell(self, kind: str, who: str, text: str) -> None:
        """Prints one event; `kind` is one of start, ready, stop, exit, restart, note."""
        style = _STYLE[kind]
        self._console.print(
            f"[dim]{time.strftime('%H:%M:%S')}[/] [{style}]{kind:<7}[/] [bold]{escape(who):<16}[/] {escape(text)}",
            highlight=False,
            soft_wrap=True,
        )
