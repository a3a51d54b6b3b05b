"""Errors of the tools service that several of its modules raise."""

from slipway_chassis.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted


class QueueFull(ResourceExhausted):
    """Too many calls run and wait already; try again after the time given."""

    reason = "TOOL_QUEUE_FULL"


class ToolNotFound(NotFound):
    """The tenant has no tool of that name."""

    reason = "TOOL_NOT_FOUND"


class InvalidTool(InvalidArgument):
    """The declaration of a tool is wrong; the violations say where."""

    reason = "INVALID_TOOL"


class InvalidToolArguments(InvalidArgument):
    """The arguments do not fit the tool's schema; the violations are JSON pointers into them."""

    reason = "INVALID_TOOL_ARGUMENTS"


class RegionNotAllowed(InvalidArgument):
    """The tool acts in a region that was not demanded, or declares none."""

    reason = "REGION_NOT_ALLOWED"


class ApprovalMismatch(FailedPrecondition):
    """The approval is for other arguments than those sent."""

    reason = "APPROVAL_MISMATCH"


class ApprovalRequired(FailedPrecondition):
    """Policy permits the call with somebody's approval only; the metadata names the policies."""

    reason = "APPROVAL_REQUIRED"


class ToolQuarantined(FailedPrecondition):
    """The MCP tool is not what was approved, or its server is another: it can be called once it is approved anew."""

    reason = "TOOL_QUARANTINED"
