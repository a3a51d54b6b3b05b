"""What the image of the pods holds, as it says itself, and as it must."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from slipway_tools.sandbox import rootfs

FILE = "usr/lib/slipway/image.json"
HOW = "build it again with this version of Slipway (docs/sandbox.md)"


@dataclass(frozen=True)
class Manifest:
    """The version of what runs inside, and the runtimes and packages for programs."""

    version: str
    runtimes: tuple[str, ...]
    packages: tuple[str, ...]

    @classmethod
    def of(cls, runtimes: tuple[str, ...], packages: tuple[str, ...]) -> "Manifest":
        """What this version of the service makes, and needs."""
        return cls(hashlib.sha256(repr(rootfs.inside()).encode()).hexdigest()[:16], runtimes, packages)

    def encode(self) -> bytes:
        """As the file in the image."""
        return json.dumps(
            {"version": self.version, "runtimes": self.runtimes, "packages": self.packages}, sort_keys=True
        ).encode()

    def lacking(self, found: bytes) -> str | None:
        """What an image that says `found` lacks, as a clause; None: nothing."""
        try:
            there: dict[str, Any] = json.loads(found)
            version, runtimes, packages = there["version"], set(there["runtimes"]), set(there["packages"])
        except (ValueError, KeyError, TypeError):
            return f"the image does not say what it holds: {HOW}"
        if version != self.version:
            return f"the image was made for another version of Slipway: {HOW}"
        for setting, wanted, present in (
            ("RUNTIMES", self.runtimes, runtimes),
            ("PACKAGES", self.packages, packages),
        ):
            for name in wanted:
                if name not in present:
                    return f"{name} is not installed in the image (SLIPWAY_TOOLS_SANDBOX_{setting}): {HOW}"
        return None
