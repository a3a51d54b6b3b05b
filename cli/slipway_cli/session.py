"""Which gateway, and as whom: from options, environment, the running stack, or the last `slipway login`."""

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipway_cli.login_file import Login, LoginFile
from slipway_cli.oidc import ProviderUnreachableError, SignInFailedError
from slipway_cli.supervisor.data_dir import StackState, read_state

if TYPE_CHECKING:
    from slipway_client import Client

DataDirOption = Annotated[
    Path, typer.Option("--data-dir", envvar="SLIPWAY_DATA_DIR", help="Data directory of the stack on this machine.")
]
AsOption = Annotated[
    str | None, typer.Option("--as", envvar="SLIPWAY_AS", help="User of the development realm to act as.")
]
UrlOption = Annotated[str | None, typer.Option("--url", envvar="SLIPWAY_URL", help="Address of the gateway.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DEFAULT_DATA_DIR = Path(".slipway")


class NotSignedInError(Exception):
    """Nobody is signed in, or no stack is running; the message says what to do."""


@dataclass(frozen=True)
class _Token:
    text: str
    ends: float


class DevelopmentSignIn:
    """Access tokens from the development issuer, renewed before they end."""

    def __init__(self, issuer: str, user: str, password: str | None = None) -> None:
        self._issuer = issuer
        self._user = user
        # In the development realm that ships with Slipway everybody's password is the user name.
        self._password = user if password is None else password
        self._token: _Token | None = None

    def __call__(self) -> str:
        """A token that is good for at least another 30 seconds.

        Raises NotSignedInError when the user is refused, ConnectionFailedError when the issuer does not answer.
        """
        if self._token is None or self._token.ends < time.monotonic() + 30:
            self._token = self._sign_in()
        return self._token.text

    def _sign_in(self) -> _Token:
        import httpx
        from slipway_client import ConnectionFailedError

        form = {
            "grant_type": "password",
            "client_id": "slipway-cli",
            "username": self._user,
            "password": self._password,
            "scope": "openid",
        }
        try:
            answer = httpx.post(f"{self._issuer}/protocol/openid-connect/token", data=form, trust_env=False, timeout=10)
        except httpx.TransportError as error:
            raise ConnectionFailedError(f"the development issuer at {self._issuer} does not answer: {error}") from error
        if answer.status_code >= 500:
            raise ConnectionFailedError(f"the development issuer at {self._issuer} failed: HTTP {answer.status_code}")
        if answer.status_code != 200:
            raise NotSignedInError(f"the development issuer refused {self._user!r}: wrong user or password")
        body = answer.json()
        return _Token(body["access_token"], time.monotonic() + body["expires_in"])


def stack(data_dir: Path) -> StackState:
    """The running stack. Raises NotSignedInError when there is none."""
    state = read_state(data_dir)
    if state is None:
        raise NotSignedInError(
            f"no stack is running with its data in {data_dir}: start one with `slipway up`, name its folder with "
            "--data-dir, or name a gateway with --url (and a token in SLIPWAY_TOKEN)"
        )
    return state


def remember(data_dir: Path, user: str, password: str | None) -> None:
    """Keeps who is signed in at the development issuer, for later commands."""
    LoginFile(data_dir).save_development_user(user, password)


def token_source(data_dir: Path, user: str | None, gateway: str | None = None) -> str | Callable[[], str]:
    """A token, or what makes tokens: of `user`, else SLIPWAY_TOKEN, else of who signed in last.

    `gateway` is the one that will get them: a sign-in for one gateway is not shown to another.
    """
    if user is None and (token := os.environ.get("SLIPWAY_TOKEN")):
        return token
    password = None
    if user is None:
        kept = LoginFile(data_dir)
        if (login := kept.login()) is not None:
            return _RememberedSignIn(kept, login, gateway)
        known = kept.development_user()
        if known is None:
            raise NotSignedInError("nobody is signed in: use --as USER, `slipway login`, or SLIPWAY_TOKEN")
        user, password = known
    return DevelopmentSignIn(stack(data_dir).issuer, user, password)


def gateway_of(data_dir: Path, url: str | None) -> str:
    """The gateway that is meant: `url`, else that of the last sign-in at a provider, else of the running stack."""
    if url:
        return url
    login = LoginFile(data_dir).login() if not os.environ.get("SLIPWAY_TOKEN") else None
    return login.gateway if login is not None else stack(data_dir).url


def connect(data_dir: Path = DEFAULT_DATA_DIR, user: str | None = None, url: str | None = None) -> "Client":
    """A client of the gateway at `url`, or else of the last sign-in, or of the running stack."""
    from slipway_client import Client

    gateway = gateway_of(data_dir, url) if user is None else url or stack(data_dir).url
    return Client(gateway, token_source(data_dir, user, gateway))


@contextmanager
def sign_in_errors() -> Generator[None]:
    """Says in the command line's own terms what went wrong at an identity provider."""
    from slipway_client import ConnectionFailedError

    try:
        yield
    except SignInFailedError as error:
        raise NotSignedInError(str(error)) from None
    except ProviderUnreachableError as error:
        raise ConnectionFailedError(str(error)) from error


class _RememberedSignIn:
    """Access tokens of the last sign-in at a provider, renewed before they end."""

    def __init__(self, kept: LoginFile, login: Login, gateway: str | None) -> None:
        if gateway is not None and gateway.rstrip("/") != login.gateway.rstrip("/"):
            raise NotSignedInError(
                f"the sign-in is for {login.gateway}, not for {gateway}: `slipway login --url {gateway}`, "
                "or SLIPWAY_TOKEN"
            )
        self._kept = kept

    def __call__(self) -> str:
        """As DevelopmentSignIn."""
        with sign_in_errors():
            return self._kept.access_token()
