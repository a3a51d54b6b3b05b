"""The routes that carry the load, served without FastAPI's layers.

FastAPI finds a route among sixty, passes a request through seven middlewares and resolves dependencies: 0.8 ms of
processor time, for which a chat completion needs a tenth. Here the same steps (admission, strict JSON, the model, the
endpoint) are called one after the other. FastAPI has the same routes, for the OpenAPI document.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from slipway_chassis.errors import SlipwayError
from starlette.types import ASGIApp, Receive, Scope, Send

from slipway_gateway.http.calls import Calls
from slipway_gateway.http.gateway import Gateway
from slipway_gateway.http.problems import problem_response
from slipway_gateway.http.rejections import invalid_request
from slipway_gateway.http.route import StrictRequest, admit, read_json
from slipway_gateway.strict_json import JsonValue


@dataclass(frozen=True, slots=True)
class DirectRoute:
    """A POST route: the model of its body and its endpoint. `path` is what metrics and spans call it."""

    path: str
    model: type[BaseModel]
    endpoint: Callable[[Any, Request, Calls], Awaitable[Response]]


class Direct:
    """ASGI application: serves its own routes by itself and leaves all else to the application behind."""

    def __init__(self, app: ASGIApp, gateway: Gateway, *routes: DirectRoute) -> None:
        self._app = app
        self._gateway = gateway
        self._routes: Mapping[str, DirectRoute] = {route.path: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        route = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        response = await self._respond(route, StrictRequest(scope, receive))
        await response(scope, receive, send)

    async def _respond(self, route: DirectRoute, request: StrictRequest) -> Response:
        path = route.path
        try:
            admission = await admit(request, self._gateway)
        except SlipwayError as error:
            return problem_response(error, path)
        if admission.refusal is not None:
            return admission.refusal
        try:
            await read_json(request)
            body = _validated(route.model, request.parsed)
            calls = Calls(self._gateway.peers, self._gateway.tokens, admission.principal)
            response = await route.endpoint(body, request, calls)
        except RequestValidationError as error:
            return problem_response(invalid_request(error), path, admission.headers)
        except SlipwayError as error:
            return problem_response(error, path, admission.headers)
        response.raw_headers.extend((name.encode(), value.encode()) for name, value in admission.headers.items())
        return response


def _validated(model: type[BaseModel], body: JsonValue) -> BaseModel:
    """The body as its model; what is wrong with it in the form that FastAPI gives it."""
    if body is None:
        raise RequestValidationError([{"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}])
    try:
        return model.model_validate(body)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(found, body=body) from None
