"""Third-party packages for programs in the sandbox: declared by name, copied from this service's own environment."""

import re
import shutil
from importlib import metadata
from pathlib import Path

from slipway_tools.sandbox.errors import SandboxUnavailable

_LEFT_OUT = shutil.ignore_patterns("__pycache__", "tests", "*.a", "*.pyi")
_EXTRA = re.compile(r"\bextra\s*==")
_REQUIRED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def versions(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Name and version of the distributions `names` and of all that they need, by name.

    Raises:
        SandboxUnavailable: one of them is not installed.
    """
    return sorted((name, distribution.version) for name, distribution in _closure(names).items())


def copy(names: tuple[str, ...], site: Path) -> None:
    """Copy the distributions and all that they need into the folder `site`; raises SandboxUnavailable."""
    for distribution in _closure(names).values():
        tops = {Path(str(file)).parts[0] for file in distribution.files or () if ".." not in Path(str(file)).parts}
        for top in sorted(tops - {"__pycache__"}):
            source = Path(str(distribution.locate_file(top)))
            if source.is_dir():
                shutil.copytree(source, site / top, ignore=_LEFT_OUT, dirs_exist_ok=True)
            elif source.is_file():
                shutil.copyfile(source, site / top)


def _closure(names: tuple[str, ...]) -> dict[str, metadata.Distribution]:
    found: dict[str, metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise SandboxUnavailable(
                f"the package {name} is not installed where the tools service runs: `pip install {name}` there,"
                " or take it out of SLIPWAY_TOOLS_SANDBOX_PACKAGES"
            ) from None
        found[name] = distribution
        for line in distribution.requires or ():
            requirement, _, marker = line.partition(";")
            match = _REQUIRED.match(requirement.strip())
            if match and not _EXTRA.search(marker) and _applies(marker):
                waiting.append(match[0])
    return found


def _applies(marker: str) -> bool:
    """False for what another platform needs: those packages are not here, and nobody here imports them."""
    return not re.search(r"sys_platform\s*==\s*[\"'](?!linux)|python_version\s*<|win32|emscripten", marker)
