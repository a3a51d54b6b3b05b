"""Why the sandbox can't be used."""

from slipway_chassis.errors import Unavailable


class SandboxUnavailable(Unavailable):
    """This machine forbids what the sandbox needs; the message says which setting. No program is run."""

    reason = "SANDBOX_UNAVAILABLE"
