"""The browser that a person signs in with."""

import os
import sys
import webbrowser
from urllib.parse import urlsplit

import typer


def is_here() -> bool:
    """Whether there is one on this machine: not over SSH, and not without a screen."""
    if sys.platform in ("darwin", "win32"):
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) and "SSH_CONNECTION" not in os.environ


def open_page(address: str) -> None:
    """Show a web page, and its address for whoever has another browser. Raises ValueError for anything else."""
    if urlsplit(address).scheme not in ("https", "http"):
        raise ValueError(f"{address[:40]!r} is no web page")
    typer.echo(f"sign in at {address}", err=True)
    webbrowser.open(address)
