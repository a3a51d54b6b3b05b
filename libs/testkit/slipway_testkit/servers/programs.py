"""Where the programs are that `make servers` installs: linked in the checkout's .servers/, or on PATH."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from slipway_testkit.servers.process import ServerUnavailable

_LINKED = Path(__file__).parents[4] / ".servers"
_JAVA_VERSION = re.compile(r'^JAVA_VERSION="?(\d+)', re.MULTILINE)


def program(name: str) -> Path:
    """The program of that name; raises ServerUnavailable when there is none."""
    linked = _LINKED / "bin" / name
    if os.access(linked, os.X_OK):
        return linked
    if found := shutil.which(name):
        return Path(found)
    raise ServerUnavailable(f"{name} is not installed: run `make servers`")


def keycloak_home() -> Path:
    """Keycloak's folder; raises ServerUnavailable when there is none."""
    home = _LINKED / "keycloak"
    if not os.access(home / "bin" / "kc.sh", os.X_OK):
        raise ServerUnavailable("Keycloak is not installed: run `make servers`")
    return home.resolve()


def java_home(*, at_least: int = 21) -> Path:
    """The home of a JDK of that version or later; raises ServerUnavailable when there is none."""
    for home in _java_homes():
        try:
            version = _JAVA_VERSION.search((home / "release").read_text())
        except OSError:
            continue
        if version and int(version[1]) >= at_least and os.access(home / "bin" / "java", os.X_OK):
            return home.resolve()
    raise ServerUnavailable(f"no JDK {at_least} or later in JAVA_HOME, /usr/lib/jvm and PATH: install one")


def _java_homes() -> Iterator[Path]:
    if configured := os.environ.get("JAVA_HOME"):
        yield Path(configured)
    yield _LINKED / "java"
    yield from sorted(Path("/usr/lib/jvm").glob("*"))
    if found := shutil.which("java"):
        yield Path(found).resolve().parents[1]
