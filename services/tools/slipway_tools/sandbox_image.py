"""Makes the content of the image that sandboxes' pods run: `python -m slipway_tools.sandbox_image FOLDER`.

The folder, which must be empty, gets the interpreter that runs this, its library, and what the settings
SLIPWAY_TOOLS_SANDBOX_RUNTIMES and SLIPWAY_TOOLS_SANDBOX_PACKAGES declare: the same that a sandbox of this machine has.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from slipway_chassis.settings import load_settings, read_list

from slipway_tools.sandbox import runtimes
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.kubernetes import image
from slipway_tools.sandbox.program import Runtime
from slipway_tools.sandbox.rootfs import Image


class ImageSettings(BaseSettings):
    """What the image holds."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_TOOLS_", frozen=True, extra="ignore")

    sandbox_runtimes: Annotated[tuple[Runtime, ...], NoDecode] = Field(("python", "shell"))
    sandbox_packages: Annotated[tuple[str, ...], NoDecode] = Field(())

    @field_validator("sandbox_runtimes", "sandbox_packages", mode="before")
    @classmethod
    def _read_names(cls, value: Any) -> Any:
        return read_list(value)


def make(folder: Path, settings: ImageSettings) -> None:
    """Put the content into `folder`; raises SandboxUnavailable, OSError."""
    content = Image(folder, runtimes.programs(settings.sandbox_runtimes), settings.sandbox_packages)
    content.export(folder)
    manifest = image.Manifest.of(settings.sandbox_runtimes, settings.sandbox_packages)
    (folder / image.FILE).write_bytes(manifest.encode())
    (folder / image.FILE).chmod(0o644)


def main() -> None:
    """Make it and exit."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m slipway_tools.sandbox_image FOLDER")
    try:
        make(Path(sys.argv[1]), load_settings(ImageSettings))
    except (SandboxUnavailable, OSError) as error:
        sys.exit(f"slipway: {error}")


if __name__ == "__main__":
    main()
