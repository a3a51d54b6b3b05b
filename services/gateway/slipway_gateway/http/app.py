"""Puts the HTTP application together."""

from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from slipway_chassis.errors import Internal, InvalidArgument, SlipwayError
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp

from slipway_gateway.http.direct import Direct, DirectRoute
from slipway_gateway.http.gateway import Gateway
from slipway_gateway.http.guard import Guard
from slipway_gateway.http.mcp.endpoint import METADATA_PATH, PATH, McpEndpoint, ResourceMetadata
from slipway_gateway.http.mcp_oauth import CALLBACK_PATH, CLIENT_PATH, Callback, ClientMetadata
from slipway_gateway.http.openai.requests import ChatCompletionRequest
from slipway_gateway.http.problems import Problem, problem_response
from slipway_gateway.http.rejections import MethodNotAllowed, RouteNotFound, invalid_request
from slipway_gateway.http.routes import (
    agents,
    approvals,
    audit,
    budgets,
    chat,
    collections,
    documents,
    embeddings,
    files,
    health,
    identity,
    mcp_logins,
    mcp_servers,
    models,
    run_events,
    runs,
    schedules,
    sessions,
    sources,
    steering,
    suspension,
    tools,
    usage,
)

_AREAS = (
    identity, chat, embeddings, models, agents, suspension, schedules, runs, steering, run_events, approvals, sessions,
    collections, documents, files, sources, tools, mcp_servers, mcp_logins, usage, budgets, audit, health,
)  # fmt: skip


def create_app(gateway: Gateway) -> ASGIApp:
    """The ASGI application of a gateway."""
    app = FastAPI(
        title="Slipway",
        version="0.1.0",
        summary="Takes AI agents from prototype to production.",
        redirect_slashes=False,
        # FastAPI's own pages load their scripts from a third party's servers.
        docs_url=None,
        redoc_url=None,
        strict_content_type=False,
    )
    app.state.gateway = gateway
    for area in _AREAS:
        app.include_router(area.router)
    app.router.routes.append(Route(PATH, McpEndpoint(gateway), include_in_schema=False))
    for path in (METADATA_PATH, METADATA_PATH + PATH):
        app.router.routes.append(Route(path, ResourceMetadata(gateway), methods=["GET"], include_in_schema=False))
    app.router.routes.append(Route(CALLBACK_PATH, Callback(), methods=["GET"], include_in_schema=False))
    app.router.routes.append(Route(CLIENT_PATH, ClientMetadata(gateway), methods=["GET"], include_in_schema=False))
    app.add_exception_handler(SlipwayError, _on_slipway_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_bug)
    app.openapi = lambda: _openapi(app)
    direct = Direct(
        app, gateway, DirectRoute("/v1/chat/completions", ChatCompletionRequest, chat.create_chat_completion)
    )
    return Guard(direct, allowed_hosts=gateway.allowed_hosts, max_body_bytes=gateway.limits.max_body_bytes)


async def _on_slipway_error(request: Request, error: Exception) -> Response:
    return problem_response(cast(SlipwayError, error), request.url.path)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    return problem_response(invalid_request(cast(RequestValidationError, error)), request.url.path)


async def _on_bug(request: Request, error: Exception) -> Response:
    """The answer only: Starlette raises the error again after it, and Guard logs it."""
    del error
    return problem_response(Internal("unexpected error"), request.url.path, {"connection": "close"})


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What Starlette raises by itself: no such route, no such method."""
    raised = cast(HTTPException, error)
    known: SlipwayError
    if raised.status_code == 404:
        known = RouteNotFound("there is nothing at this path")
    elif raised.status_code == 405:
        known = MethodNotAllowed(f"this path has no {request.method}")
    else:
        known = InvalidArgument(str(raised.detail))
    return problem_response(known, request.url.path, raised.headers)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the problem's schema that all routes refer to."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            routes=app.routes,
            separate_input_output_schemas=False,
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs", {}))
        schemas["Problem"] = problem
        for path in document["paths"].values():
            for operation in path.values():
                # FastAPI documents its own form of a validation error wherever a route has none for 422.
                operation.get("responses", {}).pop("default", None)
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        app.openapi_schema = document
    return app.openapi_schema
