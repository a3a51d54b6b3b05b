"""Why a stack does not start."""


class StartRefusedError(Exception):
    """The stack cannot start as things are; the message is one sentence that says what to do."""
