"""Errors of the orchestrator.

SlipwayError
├── InvalidArgument    AgentInvalid, InputInvalid, DecisionInvalid, EventNotYet
├── NotFound           AgentNotFound, AgentVersionNotFound, RunNotFound, ApprovalNotFound
├── FailedPrecondition IllegalTransition, NotInProduction, NothingToRollBack, RunEnded, AlreadyPaused, RunNotPaused
├── Aborted            ApprovalAlreadyDecided, ArgumentsChanged, AlreadyVoted, SessionBusy
└── PermissionDenied   ReviewerIsAuthor, ProposerIsApprover, NotAnApprover, AgentMayNotDecide
"""

from slipway_chassis.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied


class AgentInvalid(InvalidArgument):
    """The definition does not hold; each violation names the path into the YAML and the line."""

    reason = "AGENT_INVALID"


class InputInvalid(InvalidArgument):
    """The run's input does not fit the agent's input schema."""

    reason = "INPUT_INVALID"


class DecisionInvalid(InvalidArgument):
    """The decision is incomplete, or does not fit this approval."""

    reason = "DECISION_INVALID"


class EventNotYet(InvalidArgument):
    """The journal has no event of that number yet: nobody can have seen it."""

    reason = "EVENT_NOT_YET"


class AgentNotFound(NotFound):
    """No such agent in the caller's tenant."""

    reason = "AGENT_NOT_FOUND"


class AgentVersionNotFound(NotFound):
    """No such version of the agent."""

    reason = "AGENT_VERSION_NOT_FOUND"


class RunNotFound(NotFound):
    """No such run in the caller's tenant."""

    reason = "RUN_NOT_FOUND"


class ApprovalNotFound(NotFound):
    """No such approval in the caller's tenant."""

    reason = "APPROVAL_NOT_FOUND"


class IllegalTransition(FailedPrecondition):
    """The version's state does not allow this."""

    reason = "ILLEGAL_TRANSITION"


class NotInProduction(FailedPrecondition):
    """No version of the agent is in production, or the one asked for was never approved."""

    reason = "AGENT_NOT_IN_PRODUCTION"


class NothingToRollBack(FailedPrecondition):
    """No earlier version was in production."""

    reason = "NOTHING_TO_ROLL_BACK"


class RunEnded(FailedPrecondition):
    """The run is over."""

    reason = "RUN_ENDED"


class AlreadyPaused(FailedPrecondition):
    """The run is paused already."""

    reason = "RUN_ALREADY_PAUSED"


class RunNotPaused(FailedPrecondition):
    """Only a paused run can be resumed."""

    reason = "RUN_NOT_PAUSED"


class ApprovalAlreadyDecided(Aborted):
    """Somebody decided first, it ran out, or its run ended."""

    reason = "APPROVAL_ALREADY_DECIDED"


class ArgumentsChanged(Aborted):
    """The digest is not that of what is to be approved now: look again."""

    reason = "ARGUMENTS_CHANGED"


class AlreadyVoted(Aborted):
    """One person is one vote."""

    reason = "ALREADY_VOTED"


class SessionBusy(Aborted):
    """A run on the session is not finished, and the agent's sessions take one at a time."""

    reason = "SESSION_BUSY"


class ReviewerIsAuthor(PermissionDenied):
    """Four eyes: author and submitter of a version may not review it."""

    reason = "REVIEWER_IS_AUTHOR"


class ProposerIsApprover(PermissionDenied):
    """Four eyes: whose proposal it is may not decide on it."""

    reason = "PROPOSER_IS_APPROVER"


class NotAnApprover(PermissionDenied):
    """The caller is not among the approvers of the definition."""

    reason = "NOT_AN_APPROVER"


class AgentMayNotDecide(PermissionDenied):
    """An agent acting for a user decides nothing that a person must decide."""

    reason = "AGENT_MAY_NOT_DECIDE"
