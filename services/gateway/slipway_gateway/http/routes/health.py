"""Health, the API reference, and a page of links."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel

from slipway_gateway.http import reference
from slipway_gateway.http.route import GatewayDep

router = APIRouter(tags=["health"])

_INDEX = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Slipway</title></head>
<body>
<h1>Slipway</h1>
<ul>
<li><a href="/docs">API reference</a></li>
<li><a href="/openapi.json">OpenAPI document</a></li>
<li><a href="/readyz">Readiness</a></li>
</ul>
</body>
</html>
"""


class Health(BaseModel):
    """Whether the gateway is up, what it waits for, and what is away without which it does less."""

    status: str
    missing: dict[str, str] = {}
    degraded: dict[str, str] = {}


@router.get("/livez", summary="Is the process alive")
@router.head("/livez", include_in_schema=False)
async def livez() -> Health:
    """Depends on nothing else: a gateway that waits for others must not be restarted for it."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Health, "description": "Names what is missing."}}, summary="Ready?")
@router.head("/readyz", include_in_schema=False)
async def readyz(request: Request, gateway: GatewayDep) -> JSONResponse:
    """Ready to take requests, or what is missing.

    Other services and servers without which a part of the API answers 503 are in `degraded`, as found within the last
    seconds; they leave the gateway ready.
    """
    del request
    if gateway.stopping.is_set():
        return JSONResponse(Health(status="not ready", missing={"service": "stopping"}).model_dump(), 503)
    missing, degraded = await gateway.readiness.missing_now(), gateway.readiness.degraded
    status = "not ready" if missing else "degraded" if degraded else "ok"
    return JSONResponse(Health(status=status, missing=missing, degraded=degraded).model_dump(), 503 if missing else 200)


@router.get("/docs", include_in_schema=False)
@router.head("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The API reference."""
    return HTMLResponse(
        reference.render(request.app.openapi()), headers={"content-security-policy": reference.SECURITY_POLICY}
    )


@router.get("/", include_in_schema=False)
@router.head("/", include_in_schema=False)
async def index() -> HTMLResponse:
    """Links for whoever opens the address in a browser."""
    return HTMLResponse(_INDEX)
