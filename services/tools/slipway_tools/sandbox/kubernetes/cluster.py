"""The few requests to the cluster's API that sandboxes need, and the reasons why it refuses them."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake
from websockets.typing import Subprotocol

from slipway_tools.sandbox.kubernetes.access import Access

_SECONDS = 15.0
_NOT_FOUND = 404
_PROTOCOL = Subprotocol("v5.channel.k8s.io")
_LONGEST_MESSAGE = 1 << 20


class ApiError(Exception):
    """The API refused a request, or could not be asked (`status` 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Cluster:
    """Requests about the pods of one namespace."""

    def __init__(self, access: Access, namespace: str) -> None:
        self.namespace = namespace
        self.server = access.server
        self._access = access
        self._http = httpx.AsyncClient(
            base_url=access.server,
            verify=access.tls,
            trust_env=False,
            timeout=_SECONDS,
            limits=httpx.Limits(max_connections=None),
        )
        self._pods = f"/api/v1/namespaces/{namespace}/pods"

    async def create(self, pod: dict[str, Any], *, only_try: bool = False) -> dict[str, Any]:
        """Create a pod; `only_try`: have it checked by everything that may refuse it. Raises ApiError."""
        return await self.request("POST", self._pods, pod, dryRun="All" if only_try else None)

    async def delete(self, name: str, *, grace: int = 1) -> None:
        """Have a pod ended; one that is not there is ended. Raises ApiError."""
        try:
            await self.request("DELETE", f"{self._pods}/{name}", {"gracePeriodSeconds": grace})
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise

    async def pods(self, selector: str) -> list[dict[str, Any]]:
        """The pods with these labels; raises ApiError."""
        return (await self.request("GET", self._pods, labelSelector=selector))["items"]

    async def pod(self, name: str) -> dict[str, Any] | None:
        """A pod, or None; raises ApiError."""
        try:
            return await self.request("GET", f"{self._pods}/{name}")
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    async def may(self, verb: str, resource: str) -> bool:
        """True if we have this right in the namespace; `resource` with its part (`pods/exec`). Raises ApiError."""
        kind, _, part = resource.partition("/")
        attributes = {"namespace": self.namespace, "verb": verb, "resource": kind, "subresource": part}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = await self.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    async def changes(self, name: str) -> AsyncGenerator[dict[str, Any] | None]:
        """A pod as it is, and each time it changes, until it is gone (None); raises ApiError."""
        while True:
            query = {"watch": "true", "fieldSelector": f"metadata.name={name}", "timeoutSeconds": "300"}
            pod = await self.pod(name)
            yield pod
            if pod is None:
                return
            query["resourceVersion"] = pod["metadata"]["resourceVersion"]
            try:
                request = self._http.build_request(
                    "GET", self._pods, params=query, headers=self._access.headers(), timeout=httpx.Timeout(15, read=310)
                )
                answer = await self._http.send(request, stream=True)
                try:
                    async for line in answer.aiter_lines():
                        event = json.loads(line)
                        if event["type"] == "DELETED":
                            yield None
                            return
                        if event["type"] not in ("ADDED", "MODIFIED"):
                            break  # too old, or refused: looking again tells
                        yield event["object"]
                finally:
                    await answer.aclose()
            except httpx.TransportError as error:
                raise ApiError(0, _unreachable(self.server, error)) from error

    @asynccontextmanager
    async def execute(self, name: str, container: str, command: list[str]) -> AsyncGenerator[ClientConnection]:
        """Start a command in a pod; the connection carries messages of one byte, the channel (0 standard input, 1 and
        2 output and error, 3 how it ended), and data. Raises ApiError.
        """
        query = httpx.QueryParams(
            [
                *(("command", part) for part in command),
                ("container", container),
                *((stream, "true") for stream in ("stdin", "stdout", "stderr")),
            ]
        )
        url = f"{self.server.replace('http', 'ws', 1)}{self._pods}/{name}/exec?{query}"
        try:
            connection = await connect(
                url,
                ssl=self._access.tls,
                subprotocols=[_PROTOCOL],
                additional_headers=self._access.headers(),
                compression=None,
                proxy=None,
                max_size=_LONGEST_MESSAGE,
                ping_interval=None,  # the agent is asked itself
                close_timeout=1,
            )
        except (OSError, TimeoutError, InvalidHandshake) as error:
            raise ApiError(0, f"no command can be started in the pod {name}: {error}") from error
        try:
            yield connection
        finally:
            await connection.close()

    async def request(self, method: str, path: str, body: Any = None, **query: str | None) -> dict[str, Any]:
        """Any request; raises ApiError."""
        given = {name: value for name, value in query.items() if value is not None}
        try:
            answer = await self._http.request(method, path, json=body, params=given, headers=self._access.headers())
        except httpx.HTTPError as error:
            raise ApiError(0, _unreachable(self.server, error)) from error
        if answer.is_success:
            return answer.json()
        raise ApiError(answer.status_code, _message(answer))

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"


def _unreachable(server: str, error: httpx.HTTPError) -> str:
    return f"the cluster's API at {server} can't be reached: {error or type(error).__name__}"
