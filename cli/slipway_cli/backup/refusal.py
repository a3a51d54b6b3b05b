"""Why a backup is not made, or not restored."""


class BackupRefusedError(Exception):
    """A backup can't be made or restored as things are; the message is one sentence that says what to do."""
