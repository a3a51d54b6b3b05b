"""Who signed in, in a file that only this user reads; commands beside each other renew its token one by one."""

import fcntl
import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from slipway_cli import oidc
from slipway_cli.oidc import Provider, Tokens
from slipway_cli.supervisor.data_dir import write_private

NAME: Final = "login.json"
_FRESH_SECONDS: Final = 30


@dataclass(frozen=True)
class Login:
    """A sign-in at an OpenID provider, for one gateway."""

    gateway: str
    provider: Provider
    tokens: Tokens


class LoginFile:
    """The file of one data directory. It holds a development user, a Login, or nothing."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._file = data_dir / NAME

    def development_user(self) -> tuple[str, str | None] | None:
        """Name and password of the development user who signed in last."""
        content = self._content()
        return (str(content["user"]), content["password"]) if "user" in content else None

    def login(self) -> Login | None:
        """The sign-in at a provider."""
        content = self._content()
        if "provider" not in content:
            return None
        return Login(content["gateway"], Provider(**content["provider"]), Tokens(**content["tokens"]))

    def save_development_user(self, user: str, password: str | None) -> None:
        """Keeps who signed in at the development issuer."""
        write_private(self._file, json.dumps({"user": user, "password": password}))

    def save(self, login: Login) -> None:
        """Keeps a sign-in."""
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._file, json.dumps(asdict(login)))

    def forget(self) -> None:
        """Nobody is signed in any more."""
        self._file.unlink(missing_ok=True)

    def access_token(self) -> str:
        """A token of the sign-in that is good for half a minute, renewed if need be.

        Raises SignInFailedError when the session has ended, ProviderUnreachableError.
        """
        login = self.login()
        if login is not None and _is_fresh(login.tokens):
            return login.tokens.access
        # A provider may take a refresh token once only: the next command finds what this one got.
        with self._alone():
            login = self.login()
            if login is None:
                raise oidc.SignInFailedError("nobody is signed in any more: `slipway login`")
            if _is_fresh(login.tokens):
                return login.tokens.access
            if not login.tokens.refresh:
                raise oidc.SignInFailedError("the sign-in has ended: `slipway login`")
            try:
                fresh = oidc.refresh(login.provider, login.tokens.refresh)
            except oidc.SignInFailedError as error:
                raise oidc.SignInFailedError(f"{error}: `slipway login`") from None
            self.save(Login(login.gateway, login.provider, fresh))
            return fresh.access

    def _content(self) -> dict[str, Any]:
        try:
            content = json.loads(self._file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return content if isinstance(content, dict) else {}

    @contextmanager
    def _alone(self) -> Generator[None]:
        with (self._data_dir / f"{NAME}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _is_fresh(tokens: Tokens) -> bool:
    return tokens.ends > time.time() + _FRESH_SECONDS
