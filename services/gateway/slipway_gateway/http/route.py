"""The route class of the API: authenticate, limit, read strict JSON, then call the handler."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, cast

from fastapi import Depends, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from slipway_chassis.errors import SlipwayError

from slipway_gateway import strict_json
from slipway_gateway.http.calls import Calls
from slipway_gateway.http.gateway import Gateway
from slipway_gateway.http.problems import problem_response
from slipway_gateway.http.rejections import JsonMalformed, MediaTypeUnsupported, invalid_request
from slipway_gateway.principal import Principal
from slipway_gateway.rate_limits import RateLimited, RateLimiter, RateState
from slipway_gateway.strict_json import JsonRejected, JsonValue

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_PRINCIPAL: Final = "slipway_principal"


class StrictRequest(Request):
    """A request whose JSON was read by `strict_json`."""

    parsed: JsonValue = None

    async def json(self) -> JsonValue:
        """The body, already parsed."""
        return self.parsed


class ApiRoute(APIRoute):
    """A route for verified callers.

    The caller is known before anything of the body is read, so that a stranger can make the gateway parse nothing and
    learns nothing about what is wrong with a request.
    """

    def get_route_handler(self) -> Handler:
        """Wraps FastAPI's handler."""
        handle = super().get_route_handler()
        takes_json = self.body_field is not None

        async def admitted(request: Request) -> Response:
            admission = await admit(request, gateway_of(request))
            if admission.refusal is not None:
                return admission.refusal
            setattr(request.state, _PRINCIPAL, admission.principal)
            strict = StrictRequest(request.scope, request.receive)
            try:
                if takes_json:
                    await read_json(strict)
                else:
                    _check_coding(request)
                response = await handle(strict)
            except RequestValidationError as error:
                return problem_response(invalid_request(error), request.url.path, admission.headers)
            except SlipwayError as error:
                return problem_response(error, request.url.path, admission.headers)
            response.headers.update(admission.headers)
            return response

        return admitted


@dataclass(frozen=True, slots=True)
class Admission:
    """The caller, and headers of whatever is answered; `refusal` when the caller sends more than its rate allows."""

    principal: Principal
    headers: Mapping[str, str]
    refusal: Response | None = None


async def admit(request: Request, gateway: Gateway) -> Admission:
    """Authenticates the caller and counts the request. Raises what Authenticator.authenticate raises."""
    principal = await gateway.authenticator.authenticate(request.headers.getlist("authorization"))
    state = await gateway.limiter.take(principal)
    headers = _rate_headers(gateway.limiter, state)
    if state is None or state.allowed:
        return Admission(principal, headers)
    error = RateLimited("too many requests", retry_after=state.retry_after)
    return Admission(principal, headers, problem_response(error, request.url.path, headers))


async def read_json(request: StrictRequest) -> None:
    """Reads the body into `request.parsed`. Raises MediaTypeUnsupported, JsonMalformed and what reading raises."""
    _check_coding(request)
    content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise MediaTypeUnsupported("send the body as application/json", field="Content-Type")
    body = await request.body()
    if not body:
        return
    try:
        request.parsed = strict_json.parse(body)
    except JsonRejected as error:
        raise JsonMalformed(f"the body is not acceptable JSON: {error}") from None


def _check_coding(request: Request) -> None:
    """RFC 9110, 8.4: a body in a coding that is not understood must not be read as if it had none."""
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise MediaTypeUnsupported("send the body as it is, without a content coding", field="Content-Encoding")


def _rate_headers(limiter: RateLimiter, state: RateState | None) -> dict[str, str]:
    """RateLimit header fields (draft-ietf-httpapi-ratelimit-headers); absent in the limiter's degraded mode."""
    if state is None:
        return {}
    window = round(limiter.policy.burst * 60 / limiter.policy.per_minute)
    return {
        "ratelimit-policy": f'"requests";q={limiter.policy.burst};w={max(1, window)}',
        "ratelimit": f'"requests";r={state.remaining};t={round(state.reset)}',
    }


def gateway_of(request: Request) -> Gateway:
    """The running gateway."""
    return cast(Gateway, request.app.state.gateway)


async def _idempotency_key(
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="The same key with the same request answers as the first time; with another request it is 422.",
            min_length=1,
            max_length=255,
            pattern=r"^[\x21-\x7e]+$",
        ),
    ] = None,
) -> str:
    return key or ""


# Declares the scheme in the OpenAPI document; ApiRoute has done the work by then.
BEARER: Final = Depends(
    HTTPBearer(auto_error=False, scheme_name="bearer", description="OIDC access token or API key `sk-slip-…`")
)


# FastAPI runs a dependency that is no coroutine in a thread, which costs more than all of these do.
async def _gateway(request: Request) -> Gateway:
    return gateway_of(request)


async def _principal(request: Request) -> Principal:
    return cast(Principal, getattr(request.state, _PRINCIPAL))


async def _calls(request: Request) -> Calls:
    gateway = gateway_of(request)
    return Calls(gateway.peers, gateway.tokens, await _principal(request))


GatewayDep = Annotated[Gateway, Depends(_gateway)]
PrincipalDep = Annotated[Principal, Depends(_principal)]
CallsDep = Annotated[Calls, Depends(_calls)]
IdempotencyKey = Annotated[str, Depends(_idempotency_key)]
