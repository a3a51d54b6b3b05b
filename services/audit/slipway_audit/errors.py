"""What can go wrong in the audit log."""

from slipway_chassis.errors import FailedPrecondition, Internal, InvalidArgument, NotFound, ResourceExhausted


class InvalidEvent(InvalidArgument):
    """A message does not hold an audit event that the log may take."""

    reason = "INVALID_AUDIT_EVENT"


class EventConflict(InvalidArgument):
    """The log has another event under the same id."""

    reason = "AUDIT_EVENT_CONFLICT"


class RunNotFound(NotFound):
    """The tenant's log knows nothing of the run."""

    reason = "RUN_NOT_FOUND"


class LeafNotFound(NotFound):
    """The tenant's log has no such leaf."""

    reason = "AUDIT_EVENT_NOT_FOUND"


class TreeSizeInvalid(InvalidArgument):
    """A tree of that size cannot be proved: it is empty, or larger than the newest checkpoint's."""

    reason = "TREE_SIZE_INVALID"


class LogEmpty(NotFound):
    """The tenant's log has no leaf yet, so there is no checkpoint."""

    reason = "AUDIT_LOG_EMPTY"


class EvidenceTooLarge(ResourceExhausted):
    """The run's evidence is beyond the bundle format's limits."""

    reason = "EVIDENCE_TOO_LARGE"


class LogInconsistent(Internal):
    """The log does not continue a head that was signed before: it was altered. Nothing is signed."""

    reason = "AUDIT_LOG_INCONSISTENT"


class LogRolledBack(FailedPrecondition):
    """The log is behind a head that was signed before: it was restored from a backup. Nothing is signed."""

    reason = "AUDIT_LOG_ROLLED_BACK"
