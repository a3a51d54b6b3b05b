"""Health, the API reference, and a page of links."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel

from slipway_gateway.http import reference
from slipway_gateway.http.gateway import Gateway
from slipway_gateway.http.route import GatewayDep

router = APIRouter(tags=["health"])
CHECK_SECONDS = 3.0

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
    """Whether the gateway is up, and what it waits for."""

    status: str
    missing: dict[str, str] = {}


@router.get("/livez", summary="Is the process alive")
async def livez() -> Health:
    """Depends on nothing else: a gateway that waits for others must not be restarted for it."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Health, "description": "Names what is missing."}}, summary="Ready?")
async def readyz(request: Request, gateway: GatewayDep) -> JSONResponse:
    """Ready to take requests, or what is missing."""
    del request
    if gateway.stopping.is_set():
        return JSONResponse(Health(status="not ready", missing={"service": "stopping"}).model_dump(), 503)
    names = list(gateway.readiness)
    answers = await asyncio.gather(*(_check(gateway, name) for name in names))
    missing = {name: answer for name, answer in zip(names, answers, strict=True) if answer}
    health = Health(status="not ready" if missing else "ok", missing=missing)
    return JSONResponse(health.model_dump(), 503 if missing else 200)


async def _check(gateway: Gateway, name: str) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await gateway.readiness[name]()
    except TimeoutError:
        return f"no answer in {CHECK_SECONDS:g} s"
    except Exception as error:  # noqa: BLE001 - any failure means that it is missing
        # Only the type: what an error says may name addresses.
        return type(error).__name__
    return ""


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The API reference."""
    return HTMLResponse(
        reference.render(request.app.openapi()), headers={"content-security-policy": reference.SECURITY_POLICY}
    )


@router.get("/", include_in_schema=False)
async def index() -> HTMLResponse:
    """Links for whoever opens the address in a browser."""
    return HTMLResponse(_INDEX)
