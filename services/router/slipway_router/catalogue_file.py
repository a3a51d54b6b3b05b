"""Reading a catalogue file: YAML with places, checked whole, references resolved.

Format: see `k8s/catalogue/models.yaml`, which is the default and explains each field.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from slipway_router.catalogue import Catalogue
from slipway_router.catalogue_resolve import References, Wrong, resolve
from slipway_router.catalogue_spec import FileSpec

MAX_BYTES = 4 * 1024 * 1024


class CatalogueInvalid(Exception):
    """The file cannot be used; the message starts with `file:line:column:`."""


def load(path: Path, refers_to: References) -> Catalogue:
    """Read and check the file at `path`. Raises CatalogueInvalid with file, line and column."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CatalogueInvalid(f"{path}:1:1: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise CatalogueInvalid(f"{path}:1:1: larger than {MAX_BYTES} bytes")
    document = _parse(path, raw)
    try:
        spec = FileSpec.model_validate(document)
        return resolve(spec, f"sha256:{hashlib.sha256(raw).hexdigest()}", refers_to)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _placed(path, document, first["loc"], first["msg"]) from error
    except Wrong as error:
        raise _placed(path, document, error.path, str(error)) from error


def _parse(path: Path, raw: bytes) -> Any:
    try:
        return YAML(typ="rt").load(raw.decode())
    except UnicodeDecodeError as error:
        raise CatalogueInvalid(f"{path}:1:1: not UTF-8") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise CatalogueInvalid(f"{path}:{line}:{column}: {error.problem}") from error
    except YAMLError as error:
        raise CatalogueInvalid(f"{path}:1:1: {str(error).splitlines()[0]}") from error


def _placed(path: Path, document: Any, location: Sequence[str | int], message: str) -> CatalogueInvalid:
    line, column = 0, 0
    node = document
    for key in location:
        place = _place(node, key)
        if place is None:
            break
        line, column = place
        node = node[key]
    where = ".".join(str(part) for part in location if part != "[key]") or "the file"
    return CatalogueInvalid(f"{path}:{line + 1}:{column + 1}: {where}: {message}")


def _place(node: Any, key: str | int) -> tuple[int, int] | None:
    try:
        if isinstance(node, dict) and key in node:
            return node.lc.key(key)  # pyright: ignore[reportAttributeAccessIssue] - ruamel's CommentedMap
        if isinstance(node, list) and isinstance(key, int) and key < len(node):
            return node.lc.item(key)  # pyright: ignore[reportAttributeAccessIssue] - ruamel's CommentedSeq
    except (AttributeError, KeyError):
        return None
    return None
