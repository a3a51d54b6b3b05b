"""What a check found."""

import re
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `subject` is its name, `text` what was found, `remedy` what to do about it.

    No text holds a password.
    """

    level: Level
    subject: str
    text: str
    remedy: str = ""

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        return f"{self.subject}: {self.text}" + (f": {self.remedy}" if self.remedy else "")


def least(version: str, minimum: tuple[int, ...]) -> bool:
    """Is `version` (`3.10.8`, `15.4 (Debian …)`, `1.36.0-rc.1`) at least the minimum? No number is not."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = tuple(int(part) for part in found[0].split(".")) if found else ()
    return numbers >= minimum


def dotted(version: tuple[int, ...]) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))
