"""HTTP under the client: tokens, problems, pages."""

import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

from slipway_client.errors import ConnectionFailedError, api_error

M = TypeVar("M", bound=BaseModel)


class Transport:
    """Sends requests to one gateway as one caller.

    `token` is asked before each request, so that a short-lived access token can be renewed behind it.
    """

    def __init__(self, base_url: str, token: Callable[[], str], timeout: float) -> None:
        self._token = token
        self._client = httpx.Client(base_url=base_url, timeout=timeout)

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
        """One request; answers with the body's JSON. Raises ApiError or ConnectionFailedError.

        A POST carries an Idempotency-Key, a new one unless it is given: send the same again after a broken connection.
        """
        sent = {"Authorization": f"Bearer {self._token()}", **(headers or {})}
        if method == "POST":
            sent["Idempotency-Key"] = idempotency_key or str(uuid.uuid4())
        try:
            response = self._client.request(
                method,
                path,
                json=json,
                content=content,
                params={k: v for k, v in (params or {}).items() if v is not None},
                files=files,
                data=data,
                headers=sent,
                timeout=timeout if timeout is not None else httpx.USE_CLIENT_DEFAULT,
            )
        except httpx.TransportError as error:
            raise ConnectionFailedError(f"{method} {self._client.base_url}{path.lstrip('/')}: {error}") from error
        _raise_for_problem(response)
        return response.json() if response.content else None

    @contextmanager
    def stream(
        self, path: str, *, headers: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Generator[httpx.Response]:
        """A GET whose body is read piece by piece."""
        sent = {"Authorization": f"Bearer {self._token()}", **(headers or {})}
        try:
            with self._client.stream("GET", path, headers=sent, timeout=timeout) as response:
                if response.status_code >= 400:
                    response.read()
                _raise_for_problem(response)
                yield response
        except httpx.TransportError as error:
            raise ConnectionFailedError(f"GET {self._client.base_url}{path.lstrip('/')}: {error}") from error

    def pages(self, path: str, items: str, model: type[M], params: Mapping[str, Any] | None = None) -> Iterator[M]:
        """All items of a listing, page after page."""
        query = dict(params or {})
        while True:
            answer = self.call("GET", path, params=query)
            for item in answer[items]:
                yield model.model_validate(item)
            if not answer.get("next_page_token"):
                return
            query["page_token"] = answer["next_page_token"]


def _raise_for_problem(response: httpx.Response) -> None:
    if response.status_code < 400:
        return
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": response.reason_phrase, "detail": response.text[:500]}
    wait = response.headers.get("retry-after")
    raise api_error(response.status_code, problem, float(wait) if wait and wait.isdigit() else None)
