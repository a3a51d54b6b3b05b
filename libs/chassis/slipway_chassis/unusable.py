"""What ends a process at its start, with exit code 2 and a sentence."""


class SettingUnusable(ValueError):
    """A setting cannot work, however long one waits. The message names it and the remedy, and shows no secret."""
