"""What a browser shows: the sign-in of a code flow, and that of a device."""

import html
from typing import Final

from starlette.responses import HTMLResponse, Response

_HEADERS: Final = {
    "cache-control": "no-store",
    "pragma": "no-cache",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
}
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Slipway development sign-in</title></head>
<body style="font-family: sans-serif; margin: 4rem auto; max-width: 22rem">
<h1>Development sign-in</h1>
<p>{message}</p>
{form}</body></html>
"""
_FORM: Final = """<form method="post">
{first}<p><label>User name<br><input name="username" autofocus autocomplete="username"></label></p>
<p><label>Password<br><input name="password" type="password" autocomplete="current-password"></label></p>
<p><button>Sign in</button></p>
</form>
"""
_CODE: Final = """<p><label>Code that the device shows<br><input name="user_code" value="{code}"></label></p>
"""


def sign_in_page(message: str, status: int = 200) -> Response:
    """User name and password."""
    return _page(message, _FORM.format(first=""), status)


def device_page(message: str, code: str, status: int = 200) -> Response:
    """The device's code, user name and password."""
    return _page(message, _FORM.format(first=_CODE.format(code=html.escape(code, quote=True))), status)


def told_page(message: str) -> Response:
    """A sentence."""
    return _page(message, "", 200)


def _page(message: str, form: str, status: int) -> Response:
    return HTMLResponse(_PAGE.format(message=html.escape(message), form=form), status, headers=_HEADERS)
