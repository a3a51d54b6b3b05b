"""The route class of the API: authenticate, limit, read strict JSON, then call the handler."""

from collections.abc import Callable, Coroutine
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
            gateway = gateway_of(request)
            principal = await gateway.authenticator.authenticate(request.headers.getlist("authorization"))
            state = await gateway.limiter.take(principal)
            headers = _rate_headers(gateway.limiter, state)
            if state is not None and not state.allowed:
                error = RateLimited("too many requests", retry_after=state.retry_after)
                return problem_response(error, request.url.path, headers)
            setattr(request.state, _PRINCIPAL, principal)
            strict = StrictRequest(request.scope, request.receive)
            try:
                _check_coding(request)
                if takes_json:
                    await _read_json(strict)
                response = await handle(strict)
            except RequestValidationError as error:
                return problem_response(invalid_request(error), request.url.path, headers)
            except SlipwayError as error:
                return problem_response(error, request.url.path, headers)
            response.headers.update(headers)
            return response

        return admitted


def _check_coding(request: Request) -> None:
    """RFC 9110, 8.4: a body in a coding that is not understood must not be read as if it had none."""
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise MediaTypeUnsupported("send the body as it is, without a content coding", field="Content-Encoding")


async def _read_json(request: StrictRequest) -> None:
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


def principal_of(request: Request) -> Principal:
    """The verified caller of an ApiRoute's request."""
    return cast(Principal, getattr(request.state, _PRINCIPAL))


def calls_of(request: Request) -> Calls:
    """Calls in the name of the request's caller."""
    gateway = gateway_of(request)
    return Calls(gateway.peers, gateway.tokens, principal_of(request))


def _idempotency_key(
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

GatewayDep = Annotated[Gateway, Depends(gateway_of)]
PrincipalDep = Annotated[Principal, Depends(principal_of)]
CallsDep = Annotated[Calls, Depends(calls_of)]
IdempotencyKey = Annotated[str, Depends(_idempotency_key)]
