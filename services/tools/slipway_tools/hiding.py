"""Takes secrets out of what comes back: some servers echo what they were sent."""

import json
from collections.abc import Iterable


def hide(text: str, secrets: Iterable[str]) -> str:
    """The text without the secrets, as they are and as JSON writes them, and without what stands after their scheme."""
    for secret in secrets:
        # The whole first: else its scheme would be left behind.
        for form in (secret, secret.rpartition(" ")[2]):
            if len(form) >= 4:
                text = text.replace(json.dumps(form)[1:-1], "[secret]").replace(form, "[secret]")
    return text
