"""Makes the routers of the API: one shape, one security scheme, problems documented."""

from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query

from slipway_gateway.http.problems import MEDIA_TYPE
from slipway_gateway.http.route import BEARER, ApiRoute

_STATUSES: Final = (400, 401, 402, 403, 404, 405, 408, 409, 413, 414, 415, 421, 422, 429, 431, 500, 501, 502, 503, 504)


def _problem(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {status: _problem(status) for status in _STATUSES}


def api_router(tag: str) -> APIRouter:
    """A router under /v1 whose routes want a verified caller."""
    return APIRouter(
        prefix="/v1",
        route_class=ApiRoute,
        dependencies=[BEARER],
        responses=PROBLEMS,
        tags=[tag],
        strict_content_type=False,
    )


PageSizeQuery = Annotated[int, Query(ge=0, le=1000, description="Most items; 0: the service's own default.")]
PageTokenQuery = Annotated[str, Query(max_length=2000, description="`next_page_token` of the page before.")]
