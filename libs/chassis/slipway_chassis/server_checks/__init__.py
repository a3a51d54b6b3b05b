"""Is the server that a URL names there, and fit for it? Asked once at the start; nothing is written.

A check returns what is doubtful, as sentences, and raises `ServerRefuses` or `ServerAway`. Sentences follow the name of
the setting, hold the remedy, and never a password.
"""


class ServerRefuses(Exception):
    """What is wrong stays wrong, however long one waits: another server, password, version, certificate, permission."""


class ServerAway(Exception):
    """It does not answer now. It may come: whoever can work without it starts, and readiness names it."""
