"""The policy bundle on disk: ``slipway.cedarschema`` and ``*.cedar``, read, parsed once and validated as one set."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import cedarpy

SCHEMA_FILE = "slipway.cedarschema"

# A token that ends a policy is a semicolon outside of strings and comments.
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|;', re.DOTALL)
_GENERATED_ID = re.compile(r"policy(\d+)")

Stamp = tuple[tuple[str, int, int, int], ...]


class InvalidPolicies(ValueError):
    """The bundle is refused; the message names file, line and what is wrong."""


@dataclass(frozen=True)
class Statement:
    """One policy: where it stands and its text."""

    file: str
    line: int
    text: str

    @property
    def place(self) -> str:
        """``file:line`` of its first word."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Bundle:
    """A valid set of policies, parsed; ``digest`` is ``sha256:<hex>`` over names and contents of all files."""

    digest: str
    policies: cedarpy.PolicySet
    schema: cedarpy.Schema
    statements: tuple[Statement, ...]

    def place_of(self, policy_id: str) -> str:
        """Where the policy stands to which Cedar gave this id."""
        found = _GENERATED_ID.fullmatch(policy_id)
        return self.statements[int(found[1])].place if found else policy_id


def stamp(directory: Path) -> Stamp:
    """Names, times, sizes and inodes of the bundle's files: what tells that one has changed."""
    entries = ((path.name, path.stat()) for path in _files(directory))
    return tuple((name, info.st_mtime_ns, info.st_size, info.st_ino) for name, info in entries)


def load(directory: Path) -> Bundle:
    """Read and validate the bundle. Raises InvalidPolicies, or OSError if a file cannot be read."""
    texts = {path.name: path.read_text() for path in _files(directory)}
    if SCHEMA_FILE not in texts:
        raise InvalidPolicies(f"{directory}: {SCHEMA_FILE} is missing")
    schema_text = texts[SCHEMA_FILE]
    try:
        schema = cedarpy.Schema.from_str(schema_text)
    except ValueError as error:
        raise InvalidPolicies(f"{SCHEMA_FILE}: {error}") from error
    statements = tuple(s for name, text in texts.items() if name != SCHEMA_FILE for s in split(name, text))
    if not statements:
        raise InvalidPolicies(f"{directory}: no policies; an empty set would deny everything")
    for statement in statements:
        try:
            cedarpy.PolicySet.from_str(statement.text)
        except ValueError as error:
            raise InvalidPolicies(f"{statement.place}: {error}") from error
    joined = "\n".join(statement.text for statement in statements)
    policies = cedarpy.PolicySet.from_str(joined)
    bundle = Bundle(_digest(texts), policies, schema, statements)
    checked = cedarpy.validate_policies(joined, schema)
    if not checked.validation_passed:
        faults = [f"{bundle.place_of(fault.policy_id)}: {fault.error}" for fault in checked.errors]
        raise InvalidPolicies("; ".join(faults))
    return bundle


def split(name: str, text: str) -> list[Statement]:
    """The policies of one file, each with the line of its first word."""
    statements: list[Statement] = []
    begin = 0
    for token in _TOKEN.finditer(text):
        if token[0] == ";":
            statements.append(_statement(name, text, begin, token.end()))
            begin = token.end()
    rest = re.sub(r"//[^\n]*", "", text[begin:])
    if rest.strip():
        # Not closed by a semicolon: kept, so that the parser refuses it.
        statements.append(_statement(name, text, begin, len(text)))
    return statements


def _statement(name: str, text: str, begin: int, end: int) -> Statement:
    body = text[begin:end]
    blank = re.match(r"(?:\s|//[^\n]*(?:\n|$))*", body)
    skipped = blank.end() if blank else 0
    return Statement(name, text.count("\n", 0, begin + skipped) + 1, body[skipped:])


def _files(directory: Path) -> list[Path]:
    found = [path for path in directory.iterdir() if path.suffix == ".cedar" or path.name == SCHEMA_FILE]
    return sorted(found, key=lambda path: path.name)


def _digest(texts: dict[str, str]) -> str:
    state = hashlib.sha256()
    for name, text in texts.items():
        content = text.encode()
        state.update(f"{name}\0{len(content)}\0".encode())
        state.update(content)
    return "sha256:" + state.hexdigest()
