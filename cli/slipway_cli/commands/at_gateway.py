"""What all commands that talk to a gateway have in common."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from slipway_cli import session
from slipway_cli.output import exit_codes
from slipway_cli.session import DEFAULT_DATA_DIR, AsOption, DataDirOption, UrlOption

if TYPE_CHECKING:
    from slipway_client import Client

P = ParamSpec("P")


def at_gateway(command: "Callable[Concatenate[Client, P], None]") -> Callable[..., None]:
    """Makes a command of a function whose first parameter is a client.

    It has the function's other parameters as its own and the options that tell which gateway is meant, and as whom;
    what goes wrong in it is a sentence and an exit code.
    """

    def where(user: AsOption = None, url: UrlOption = None, data_dir: DataDirOption = DEFAULT_DATA_DIR) -> None:
        """Only its parameters are wanted."""

    @wraps(command)
    def connected(*, user: str | None, url: str | None, data_dir: Path, **own: object) -> None:
        with exit_codes(), session.connect(data_dir, user, url) as client:
            command(client, **own)  # pyright: ignore[reportCallIssue] # checked against the signature below

    _, *own = inspect.signature(command).parameters.values()
    parameters = [*own, *inspect.signature(where).parameters.values()]
    # Typer reads both; the client's annotation would be resolved in vain, it is imported for type checkers alone.
    connected.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]
    connected.__annotations__ = {one.name: one.annotation for one in parameters}
    return connected
