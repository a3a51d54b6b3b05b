"""Locks what each image installs: `requirements.txt` beside its Dockerfile, a part of the root's lock.

`service_locks.py` writes the locks anew (needs the package index), `--check` tells without one whether they still
are what the packages declare, with the versions and hashes of the root's lock; exit status 1. `--own NAME` prints the
folders of the workspace's packages that the image of that name holds.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
ROOT_LOCK = ROOT / "requirements.txt"
_COMPILE = (
    *(".venv/bin/uv", "pip", "compile", "--quiet", "--generate-hashes"),
    *("--no-annotate", "--no-emit-index-url", "--no-header", "--python-version", "3.11"),
    *("--constraints", str(ROOT_LOCK)),
)


@dataclass(frozen=True)
class Image:
    """An image of one package of the workspace, with some of its optional dependencies."""

    folder: str
    extras: tuple[str, ...] = ()
    lock: str = "requirements.txt"


IMAGES = {
    "gateway": Image("services/gateway"),
    "router": Image("services/router"),
    "orchestrator": Image("services/orchestrator"),
    "memory": Image("services/memory"),
    "tools": Image("services/tools"),
    "audit": Image("services/audit"),
    "cli": Image("cli"),
    "local-models": Image("services/router", ("local-models",), "requirements-local-models.txt"),
}


def normal(requirement: str) -> str:
    """The name in a requirement, as indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~ ;]", requirement.strip())[0]).lower()


def workspace() -> dict[str, Path]:
    """The folders of the workspace's packages by name."""
    files = [file for pattern in ("*", "*/*") for file in ROOT.glob(f"{pattern}/pyproject.toml")]
    return {tomllib.loads(file.read_text())["project"]["name"]: file.parent for file in files}


def declared(image: Image) -> tuple[list[str], list[str]]:
    """What an image needs: folders of the workspace, and requirements of others, of all packages together."""
    packages = workspace()
    folders: list[str] = []
    others: set[str] = set()
    waiting = [(ROOT / image.folder, image.extras)]
    while waiting:
        folder, extras = waiting.pop(0)
        place = str(folder.relative_to(ROOT))
        if place in folders:
            continue
        folders.append(place)
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        optional = project.get("optional-dependencies", {})
        for requirement in [*project.get("dependencies", []), *(one for extra in extras for one in optional[extra])]:
            if requirement in packages:
                waiting.append((packages[requirement], ()))
            else:
                others.add(requirement)
    return folders, sorted(others)


def entries(lock: Path) -> dict[str, str]:
    """The locked packages by name: version and hashes, without comments."""
    text = "\n".join(line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#"))
    found = re.split(r"\n(?=[a-z0-9])", text.strip(), flags=re.IGNORECASE)
    return {normal(entry): " ".join(entry.replace("\\\n", " ").split()) for entry in found if entry}


def needed(requirements: Iterable[str]) -> set[str]:
    """Names of all that these requirements bring with them on Python 3.11, by what is installed here."""
    waiting = [Requirement(one) for one in requirements]
    seen: set[tuple[str, str]] = set()
    while waiting:
        one = waiting.pop()
        for extra in ("", *one.extras):
            if (normal(one.name), extra) in seen:
                continue
            seen.add((normal(one.name), extra))
            try:
                brought = map(Requirement, requires(one.name) or ())
            except PackageNotFoundError:
                raise SystemExit(f"{one.name} is not installed: run `make setup-dev`") from None
            here = {"extra": extra, "python_version": "3.11", "python_full_version": "3.11.0"}
            waiting += [more for more in brought if more.marker is None or more.marker.evaluate(here)]
    return {name for name, _ in seen}


def write(image: Image) -> None:
    """Lock what an image needs; what stands in its lock already is not asked for anew."""
    _, others = declared(image)
    lock = ROOT / image.folder / image.lock
    subprocess.run(  # noqa: S603 - the project's own uv
        [*_COMPILE, "-", "-o", str(lock)], input="\n".join(others), text=True, cwd=ROOT, check=True
    )


def faults(name: str, image: Image) -> list[str]:
    """What is wrong with an image's lock, in sentences."""
    lock = ROOT / image.folder / image.lock
    where = f"{image.folder}/{image.lock}"
    if not lock.exists():
        return [f"{where} is missing: run `make lock-images`"]
    mine, root = entries(lock), entries(ROOT_LOCK)
    needs = needed(declared(image)[1])
    wrong = [
        f"{where} lacks {one}, which the image {name} needs: run `make lock-images`"
        for one in sorted(needs - mine.keys())
    ]
    wrong += [
        f"{where} has {one}, which the image {name} does not need: run `make lock-images`"
        for one in sorted(mine.keys() - needs)
    ]
    wrong += [f"{where} has {one}, which requirements.txt has not" for one in sorted(mine.keys() - root.keys())]
    wrong += [
        f"{where} locks another {one} than requirements.txt: run `make lock-images`"
        for one in sorted(mine.keys() & root.keys())
        if mine[one] != root[one]
    ]
    return wrong


def main(arguments: list[str]) -> int:
    """Write, check, or tell the folders of an image."""
    match arguments:
        case []:
            for image in IMAGES.values():
                write(image)
            return 0
        case ["--check"]:
            wrong = [fault for name, image in IMAGES.items() for fault in faults(name, image)]
            print("\n".join(wrong))
            return 1 if wrong else 0
        case ["--own", name] if name in IMAGES:
            print("\n".join(declared(IMAGES[name])[0]))
            return 0
        case _:
            print("usage: service_locks.py [--check | --own IMAGE]", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
