"""A person at a browser: fills in the pages of an identity provider until there is nothing left to fill in."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin

import httpx


@dataclass
class _Form:
    action: str = ""
    fields: dict[str, str] = field(default_factory=dict)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[_Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(_Form(attributes.get("action", "")))
        elif tag in ("input", "button") and self.forms and attributes.get("name"):
            self.forms[-1].fields[attributes["name"]] = attributes.get("value", "")


def sign_in(address: str, username: str, password: str) -> httpx.Response:
    """Opens an address and signs in; answers with the last page."""
    with httpx.Client(follow_redirects=True, timeout=60, trust_env=False) as browser:

        def keep_on_loopback(_: httpx.Response) -> None:
            # Browsers hold loopback to be as good as https; the client's cookie jar does not.
            for cookie in browser.cookies.jar:
                cookie.secure = False

        browser.event_hooks = {"response": [keep_on_loopback]}
        page = browser.get(address)
        for _ in range(4):
            parser = _Forms()
            parser.feed(page.text)
            form = next((one for one in parser.forms if one.fields.keys() & {"username", "accept"}), None)
            if form is None:
                return page
            fields = {name: value for name, value in form.fields.items() if name not in ("cancel", "rememberMe")}
            if "username" in fields:
                fields |= {"username": username, "password": password}
            page = browser.post(urljoin(str(page.url), form.action) if form.action else page.url, data=fields)
        raise AssertionError(f"there is still something to fill in:\n{page.text}")
