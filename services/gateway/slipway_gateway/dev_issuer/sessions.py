"""Sign-ins that go on: devices that wait for their user (RFC 8628), and refresh tokens (RFC 6749, 6). In memory."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from slipway_gateway.dev_issuer.grants import GrantRefused
from slipway_gateway.realm import RealmClient

DEVICE_SECONDS: Final = 600
DEVICE_INTERVAL: Final = 5
REFRESH_SECONDS: Final = 1800
MAX_ENTRIES: Final = 1000
# No vowels and no look-alikes (RFC 8628, 6.1).
_LETTERS: Final = "BCDFGHJKLMNPQRSTVWXZ"


@dataclass(slots=True)
class _Device:
    client_id: str
    user_code: str
    ends: float
    username: str = ""
    asked_at: float = float("-inf")


class DeviceCodes:
    """Devices that were given a code, and whose user signs in elsewhere. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._devices: dict[str, _Device] = {}

    def issue(self, client: RealmClient) -> tuple[str, str]:
        """A device code for the program and a user code for its user. Raises GrantRefused."""
        if not client.device_flow:
            raise GrantRefused("unauthorized_client", "this client may not use the device flow")
        now = self._clock()
        self._devices = {code: device for code, device in self._devices.items() if device.ends > now}
        if len(self._devices) >= MAX_ENTRIES:
            raise GrantRefused("temporarily_unavailable", "too many sign-ins at once", 503)
        device_code = secrets.token_urlsafe(32)
        letters = "".join(secrets.choice(_LETTERS) for _ in range(8))
        device = _Device(client.client_id, f"{letters[:4]}-{letters[4:]}", now + DEVICE_SECONDS)
        self._devices[device_code] = device
        return device_code, device.user_code

    def approve(self, user_code: str, username: str) -> bool:
        """The user has signed in with the code; False for a code that is unknown, used or too old."""
        wanted = user_code.strip().upper()
        for device in self._devices.values():
            if device.user_code == wanted and not device.username and device.ends > self._clock():
                device.username = username
                return True
        return False

    def redeem(self, client: RealmClient, device_code: str) -> str:
        """The name of the user who signed in; a second use finds nothing. Raises GrantRefused: RFC 8628, 3.5."""
        device = self._devices.get(device_code)
        if device is None or device.client_id != client.client_id:
            raise GrantRefused("invalid_grant", "the device code is unknown or used")
        now = self._clock()
        if device.ends <= now:
            del self._devices[device_code]
            raise GrantRefused("expired_token", "nobody signed in in time")
        if not device.username:
            early = now - device.asked_at < DEVICE_INTERVAL
            device.asked_at = now
            if early:
                raise GrantRefused("slow_down", f"ask every {DEVICE_INTERVAL} seconds")
            raise GrantRefused("authorization_pending", "nobody has signed in yet")
        del self._devices[device_code]
        return device.username


@dataclass(frozen=True, slots=True)
class _Session:
    client_id: str
    username: str
    ends: float


class RefreshTokens:
    """Refresh tokens: good for half an hour after their last use, or until they are revoked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def issue(self, client: RealmClient, username: str, text: str = "") -> str:
        """A refresh token; `text`: the one to prolong."""
        text = text or secrets.token_urlsafe(32)
        self._sessions[text] = _Session(client.client_id, username, self._clock() + REFRESH_SECONDS)
        self._sessions.move_to_end(text)
        while len(self._sessions) > MAX_ENTRIES:
            self._sessions.popitem(last=False)
        return text

    def user_of(self, client: RealmClient, text: str) -> str:
        """The name of the user whom a token was given to. Raises GrantRefused."""
        session = self._sessions.get(text)
        if session is None or session.ends <= self._clock() or session.client_id != client.client_id:
            raise GrantRefused("invalid_grant", "the refresh token is unknown, revoked or too old")
        return session.username

    def revoke(self, client: RealmClient, text: str) -> None:
        """Ends a session; an unknown token is none already (RFC 7009, 2.2)."""
        session = self._sessions.get(text)
        if session is not None and session.client_id == client.client_id:
            del self._sessions[text]
