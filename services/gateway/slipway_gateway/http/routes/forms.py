"""Text fields of upload forms."""

from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter, ValidationError
from slipway_chassis.errors import InvalidArgument

from slipway_gateway import strict_json
from slipway_gateway.http.resources.fields import Labels
from slipway_gateway.strict_json import JsonRejected

_labels = TypeAdapter(Labels)
MAX_READERS = 100


def single(fields: Mapping[str, Sequence[str]], name: str) -> str:
    """The value of a field that may come once; empty when it is absent."""
    values = fields.get(name, ())
    if len(values) > 1:
        raise InvalidArgument("the field stands more than once in the form", field=name)
    return values[0] if values else ""


def readers_of(fields: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The access list: one JSON list, or the field repeated."""
    values: Sequence[str] = fields.get("readers", ())
    if len(values) == 1 and values[0].lstrip().startswith("["):
        parsed = _json(values[0], "readers")
        texts = [item for item in parsed if isinstance(item, str)] if isinstance(parsed, list) else []
        if not isinstance(parsed, list) or len(texts) != len(parsed):
            raise InvalidArgument("a JSON list of `user:…`, `role:…`, `group:…`", field="readers")
        values = texts
    if len(values) > MAX_READERS:
        raise InvalidArgument(f"at most {MAX_READERS}", field="readers")
    return [value for value in values if value]


def metadata_of(fields: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The labels: a JSON object of strings."""
    text = single(fields, "metadata")
    if not text:
        return {}
    try:
        return _labels.validate_python(_json(text, "metadata"), strict=True)
    except ValidationError as error:
        raise InvalidArgument(f"a JSON object of strings: {error.errors()[0]['msg']}", field="metadata") from None


def _json(text: str, name: str) -> strict_json.JsonValue:
    try:
        return strict_json.parse(text.encode())
    except JsonRejected as error:
        raise InvalidArgument(f"this is not JSON: {error}", field=name) from None
