"""Why a call cannot be routed, and what providers did wrong.

Refusals are raised before anything is sent; a ProviderFailure comes from an attempt and says what follows from it.

ProviderFailure
├── ProviderUnavailable        connection failed, 5xx, 404, 408, 409, 425
├── ProviderTimeout            no first token, or no answer, in time
├── ProviderRateLimited        429
├── ProviderAuth               401, 402, 403: the platform's own account is at fault, never the caller's key
├── ProviderProtocol           an answer that is not the wire format
├── StreamTruncated            a stream that ended without a finish reason
├── BadOutput                  an answer that is not the JSON that was asked for
│   └── MalformedToolCall      a tool call that does not fit its schema, or of a tool that was not offered
├── ProviderContextTooLong     the model's window is too small: a larger one may do
├── ContentFiltered            the provider's content policy stopped it: another model only if the route says so
└── ProviderRejected           400, 413, 422 and other 4xx: the request is wrong wherever it is sent
"""

from slipway_chassis.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SlipwayError,
    Unavailable,
)

from slipway_router.tokens import TokenCount


class RegionsInvalid(InvalidArgument):
    """Regions are demanded, but none is named or one is not in the catalogue."""

    reason = "REGIONS_INVALID"


class NoModelInRegion(FailedPrecondition):
    """No model that applies stays within the regions demanded."""

    reason = "NO_MODEL_IN_REGION"


class DataClassesInvalid(InvalidArgument):
    """A data class is demanded that is not in the catalogue."""

    reason = "DATA_CLASSES_INVALID"


class NoModelForData(FailedPrecondition):
    """No model that applies is declared for the classes of data demanded."""

    reason = "NO_MODEL_FOR_DATA_CLASS"


class QualityMissing(FailedPrecondition):
    """No model that applies is of the quality demanded."""

    reason = "NO_MODEL_OF_QUALITY"


class LatencyGoalMissed(FailedPrecondition):
    """Every model that applies is known to be slower than `max_latency`."""

    reason = "MAX_LATENCY_EXCEEDED"


class UnknownModel(NotFound):
    """No model or route of that name."""

    reason = "MODEL_UNKNOWN"


class UnknownTask(InvalidArgument):
    """No route serves the task."""

    reason = "TASK_UNKNOWN"


class WrongModelKind(InvalidArgument):
    """A chat was asked of an embedding model, or the other way round."""

    reason = "MODEL_KIND_WRONG"


class ContextTooLong(InvalidArgument):
    """The conversation does not fit the context window of any model that applies."""

    reason = "CONTEXT_TOO_LONG"


class CapabilityMissing(FailedPrecondition):
    """No model that applies can do what the request needs (tools, response_format, images)."""

    reason = "CAPABILITY_MISSING"


class CostCeilingTooLow(FailedPrecondition):
    """The dearest outcome of the call would cost more than `max_cost`."""

    reason = "MAX_COST_EXCEEDED"


class ModelsCoolingDown(ResourceExhausted):
    """Every model that applies is cooling down after failures; `retry_after` says until when."""

    reason = "MODELS_COOLING_DOWN"


class ProviderFailure(SlipwayError):
    """An attempt failed."""

    retryable = True
    """True when the next candidate may succeed."""
    unhealthy = True
    """True when it counts against the model's health."""
    status: int | None = None
    """HTTP status of the provider, if it came from one."""
    usage: TokenCount | None = None
    """What the provider reported as used all the same."""


class ProviderUnavailable(ProviderFailure, Unavailable):
    """The provider cannot be reached, or failed."""

    reason = "PROVIDER_UNAVAILABLE"


class ProviderTimeout(ProviderFailure, DeadlineExceeded):
    """The provider did not answer in time."""

    reason = "PROVIDER_TIMEOUT"


class ProviderRateLimited(ProviderFailure, ResourceExhausted):
    """The provider refuses more requests for now."""

    reason = "PROVIDER_RATE_LIMITED"


class ProviderAuth(ProviderFailure, Unavailable):
    """The provider refuses the platform's own credentials."""

    reason = "PROVIDER_AUTH"


class ProviderProtocol(ProviderFailure, Unavailable):
    """The provider's answer is not in the wire format."""

    reason = "PROVIDER_PROTOCOL"


class StreamTruncated(ProviderFailure, Unavailable):
    """The provider's stream ended without a finish reason."""

    reason = "PROVIDER_STREAM_TRUNCATED"


class BadOutput(ProviderFailure, Unavailable):
    """The model's answer is not the JSON that was asked for, or does not fit its schema."""

    reason = "PROVIDER_OUTPUT_INVALID"
    unhealthy = False


class MalformedToolCall(BadOutput):
    """The model asked for a tool in a way that cannot be carried out."""

    reason = "PROVIDER_TOOL_CALL_MALFORMED"


class ProviderContextTooLong(ProviderFailure, InvalidArgument):
    """The provider finds the conversation too long for the model; a model with a larger window may take it."""

    reason = "CONTEXT_TOO_LONG"
    unhealthy = False


class ContentFiltered(ProviderFailure, InvalidArgument):
    """The provider's content policy refuses the request or stopped the answer."""

    reason = "PROVIDER_CONTENT_FILTERED"
    retryable = False
    unhealthy = False


class ProviderRejected(ProviderFailure, InvalidArgument):
    """The provider finds the request wrong; another one would as well."""

    reason = "PROVIDER_REJECTED"
    retryable = False
    unhealthy = False
