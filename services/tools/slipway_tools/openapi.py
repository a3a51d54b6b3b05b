"""Operations of an OpenAPI document (3.0 or 3.1) as HTTP tools. Nothing outside of the document is fetched."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from slipway_tools import jsontext
from slipway_tools.declare import declare
from slipway_tools.errors import InvalidTool
from slipway_tools.openapi_schema import Components
from slipway_tools.tool import Declaration, HttpCall

_DOCUMENT_LIMIT = 1 << 20
_OPERATIONS_LIMIT = 200
_PREFIX = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_METHODS = ("get", "post", "put", "patch", "delete")
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Import:
    """What to import, and how the tools are called. `operations` empty: all; `base_url` empty: the first server."""

    document_json: str
    prefix: str
    operations: Sequence[str]
    base_url: str
    headers: Mapping[str, str]
    regions: Sequence[str]
    timeout: float
    trusted_output: bool


@dataclass
class _Operation:
    """An operation while its parameters are put in their places."""

    path: str
    properties: dict[str, Any]
    required: list[str]
    query: list[str]
    headers: dict[str, str]
    body: str = ""


def declarations(wanted: Import) -> list[Declaration]:
    """The tools that an import declares, in the document's order.

    Raises:
        InvalidTool: no such document, or an operation that no tool can express; the message names it.
        InvalidJson: not JSON.
    """
    parsed = jsontext.parse(wanted.document_json, field="document", limit=_DOCUMENT_LIMIT)
    document = _object(parsed, "document")
    if not str(document.get("openapi", "")).startswith("3."):
        raise InvalidTool("must be an OpenAPI document of version 3.0 or 3.1", field="document")
    if not _PREFIX.fullmatch(wanted.prefix):
        raise InvalidTool("must be 1 to 32 of a-z, 0-9, `_`, `-`", field="prefix")
    try:
        found = _all(wanted, document)
    except RecursionError as error:
        raise InvalidTool("is nested too deeply", field="document") from error
    if not 0 < len(found) <= _OPERATIONS_LIMIT:
        raise InvalidTool(f"must have 1 to {_OPERATIONS_LIMIT} operations to import", field="document")
    return list(found.values())


def _all(wanted: Import, document: dict[str, Any]) -> dict[str, Declaration]:
    components = Components(document)
    base = _base(document, wanted.base_url)
    found: dict[str, Declaration] = {}
    unknown = set(wanted.operations)
    for path, source in _object(document.get("paths"), "document.paths").items():
        item = components.resolved(source)
        for method in _METHODS:
            if method not in item:
                continue
            where = f"document.paths[{path}].{method}"
            operation = _object(item[method], where)
            identifier = str(operation.get("operationId") or f"{method}{path}")
            unknown.discard(identifier)
            if wanted.operations and identifier not in wanted.operations:
                continue
            name = _name(wanted.prefix, identifier)
            if name in found:
                raise InvalidTool(f"two operations would be {name}", field="document")
            shared = item.get("parameters", [])
            found[name] = _declaration(wanted, components, base, name, where, (path, method, operation, shared))
    if unknown:
        raise InvalidTool(f"the document has no operation {sorted(unknown)[0][:64]}", field="operations")
    return found


def _declaration(
    wanted: Import,
    components: Components,
    base: str,
    name: str,
    where: str,
    found: tuple[str, str, dict[str, Any], Any],
) -> Declaration:
    path, method, operation, shared = found
    made = _Operation(path, {}, [], [], {})
    parameters: dict[tuple[str, str], dict[str, Any]] = {}
    for source in (shared, operation.get("parameters", [])):
        for parameter in _list(source, f"{where}.parameters"):
            known = components.resolved(parameter)
            parameters[str(known.get("in")), str(known.get("name"))] = known
    for parameter in parameters.values():
        _place(made, components, parameter, where)
    if "requestBody" in operation:
        _place_body(made, components, operation["requestBody"], where)
    input_schema = {
        "type": "object",
        "properties": made.properties,
        "required": made.required,
        "additionalProperties": False,
    }
    try:
        return declare(
            name=name,
            description=_description(operation),
            input_schema_json=json.dumps(components.closed(input_schema)),
            output_schema_json=_output(components, operation),
            idempotent=method in ("get", "put", "delete"),
            regions=wanted.regions,
            side_effect=None,
            trusted_output=wanted.trusted_output,
            http=HttpCall(
                method=method.upper(),
                url=base + made.path,
                headers=dict(wanted.headers),
                timeout=wanted.timeout,
                query_arguments=tuple(made.query),
                header_arguments=made.headers,
                body_argument=made.body,
            ),
        )
    except InvalidTool as error:
        raise InvalidTool(f"{method.upper()} {path}: {error.message}", violations=error.violations) from error


def _place(made: _Operation, components: Components, parameter: dict[str, Any], where: str) -> None:
    name, place = str(parameter.get("name")), parameter.get("in")
    if place == "cookie" or (place == "header" and name.lower() in ("accept", "content-type", "authorization")):
        return  # OpenAPI 3.1, 4.8.12.1: such header parameters are ignored; cookies carry credentials
    argument = name if place == "query" else _argument(name)
    if argument in made.properties:
        raise InvalidTool(f"has two parameters {name}", field=where)
    if "schema" not in parameter:
        raise InvalidTool(f"parameter {name} has no schema", field=where)
    schema = components.converted(parameter["schema"])
    if text := parameter.get("description"):
        schema = {"description": str(text)[:1000], **schema} if isinstance(schema, dict) else schema
    made.properties[argument] = schema
    if parameter.get("required") or place == "path":
        made.required.append(argument)
    if place == "path":
        made.path = made.path.replace(f"{{{name}}}", f"{{{argument}}}")
    elif place == "query":
        made.query.append(argument)
    elif place == "header":
        made.headers[argument] = name
    else:
        raise InvalidTool(f"parameter {name} is in no known place", field=where)


def _place_body(made: _Operation, components: Components, source: Any, where: str) -> None:
    body = components.resolved(source)
    media = _object(body.get("content"), f"{where}.requestBody.content")
    json_types = [kind for kind in media if kind.partition(";")[0].strip() in ("application/json", "*/*")]
    if not json_types:
        raise InvalidTool("takes a body that is not JSON", field=where)
    made.body = "body" if "body" not in made.properties else "request_body"
    made.properties[made.body] = components.converted(_object(media[json_types[0]], where).get("schema", {}))
    if body.get("required"):
        made.required.append(made.body)


def _output(components: Components, operation: dict[str, Any]) -> str:
    """The schema of the first successful JSON answer; empty when none is declared."""
    responses = _object(operation.get("responses", {}), "document.responses")
    for status in sorted(responses):
        if status.startswith("2"):
            media = _object(components.resolved(responses[status]).get("content", {}), "document.responses")
            for kind, content in media.items():
                if kind.partition(";")[0].strip() == "application/json" and "schema" in _object(content, kind):
                    schema = components.closed(components.converted(content["schema"]))
                    return json.dumps(schema) if isinstance(schema, dict) else ""
            return ""
    return ""


def _base(document: dict[str, Any], given: str) -> str:
    if given:
        return given.rstrip("/")
    servers = _list(document.get("servers", []), "document.servers")
    url = str(_object(servers[0], "document.servers[0]").get("url", "")) if servers else ""
    if not url.startswith(("http://", "https://")) or "{" in url:
        raise InvalidTool("is needed: the document names no whole address of a server", field="base_url")
    return url.rstrip("/")


def _name(prefix: str, identifier: str) -> str:
    """`listOrders` becomes `prefix.list_orders`."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", identifier).lower()
    return f"{prefix}.{re.sub(r'[^a-z0-9]+', '_', words).strip('_')}"[:64]


def _argument(name: str) -> str:
    return name if _ARGUMENT.fullmatch(name) else re.sub(r"[^A-Za-z0-9_]", "_", name).lstrip("0123456789") or "_"


def _description(operation: dict[str, Any]) -> str:
    parts = [str(operation[key]).strip() for key in ("summary", "description") if operation.get(key)]
    return "\n\n".join(dict.fromkeys(parts))[:4096]


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidTool("must be an object", field=where)
    return cast("dict[str, Any]", value)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidTool("must be a list", field=where)
    return cast("list[Any]", value)
