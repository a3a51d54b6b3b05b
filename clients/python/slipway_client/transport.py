"""HTTP under the client: addresses, tokens, problems, pages."""

import ipaddress
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from slipway_client.errors import ConnectionFailedError, UnexpectedAnswerError, api_error

M = TypeVar("M", bound=BaseModel)

_CONNECT_SECONDS = 10.0


def route(*segments: object) -> str:
    """The path of a route; what stands in a segment cannot lead out of it."""
    return "/v1/" + "/".join(quote(str(segment), safe="") for segment in segments)


def read(model: type[M], value: object) -> M:
    """An answer as a model. Raises UnexpectedAnswerError when it has another shape."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UnexpectedAnswerError(f"the answer is no {model.__name__}: {error}") from error


class Transport:
    """Sends requests to one gateway as one caller.

    `token` is asked before each request, so that a short-lived access token can be renewed behind it.
    """

    def __init__(self, base_url: str, token: Callable[[], str], timeout: float) -> None:
        self._token = token
        self._timeout = timeout
        # Proxies of the environment have no say on the way to this machine.
        self._client = httpx.Client(base_url=base_url, trust_env=not _is_loopback(httpx.URL(base_url).host))

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        files: Any = None,
        data: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """One request; answers with the body's JSON. Raises what `errors` names.

        A POST carries an Idempotency-Key, a new one unless it is given: send the same again after a broken connection.
        """
        sent = self._headers(headers)
        if method == "POST":
            sent["Idempotency-Key"] = idempotency_key or str(uuid.uuid4())
        with self._failures(method, path):
            response = self._client.request(
                method,
                path,
                json=json,
                content=content,
                params={k: v for k, v in (params or {}).items() if v is not None},
                files=files,
                data=data,
                headers=sent,
                timeout=_limits(timeout or self._timeout),
            )
        _raise_for_problem(response)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise UnexpectedAnswerError(
                f"{method} {response.url} answered with {response.headers.get('content-type', 'no type')}, not JSON: "
                "is this the address of a Slipway gateway?"
            ) from error

    @contextmanager
    def stream(
        self, path: str, *, timeout: float, headers: Mapping[str, str] | None = None
    ) -> Generator[httpx.Response]:
        """A GET whose body is read piece by piece; `timeout` is the longest silence in it, in seconds."""
        with (
            self._failures("GET", path),
            self._client.stream("GET", path, headers=self._headers(headers), timeout=_limits(timeout)) as response,
        ):
            if response.status_code >= 300:
                response.read()
            _raise_for_problem(response)
            yield response

    def pages(self, path: str, items: str, model: type[M], params: Mapping[str, Any] | None = None) -> Iterator[M]:
        """All items of a listing, page after page."""
        query = dict(params or {})
        while True:
            answer = self.call("GET", path, params=query)
            for item in listed(answer, items):
                yield read(model, item)
            if not answer.get("next_page_token"):
                return
            query["page_token"] = answer["next_page_token"]

    def _headers(self, headers: Mapping[str, str] | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token()}", **(headers or {})}

    @contextmanager
    def _failures(self, method: str, path: str) -> Generator[None]:
        try:
            yield
        except httpx.TransportError as error:
            # Some of them (a time-out in reading) have no words of their own.
            reason = str(error) or type(error).__name__
            raise ConnectionFailedError(f"{method} {self._client.base_url}{path.lstrip('/')}: {reason}") from error


def listed(answer: Any, items: str) -> list[Any]:
    """The list that an answer holds. Raises UnexpectedAnswerError when it holds none."""
    found = answer.get(items) if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise UnexpectedAnswerError(f"the answer holds no list of {items}")
    return found


def _limits(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _raise_for_problem(response: httpx.Response) -> None:
    if response.status_code < 300:
        return
    if response.status_code < 400:
        where = response.headers.get("location", "elsewhere")
        raise UnexpectedAnswerError(f"{response.url} points to {where}: name that address instead")
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": response.reason_phrase, "detail": response.text[:500]}
    wait = response.headers.get("retry-after")
    raise api_error(response.status_code, problem, float(wait) if wait and wait.isdigit() else None)
