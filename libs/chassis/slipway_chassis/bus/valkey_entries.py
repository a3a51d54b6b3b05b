"""Messages as stream entries, and the names of streams."""

from slipway_chassis.bus.message import DEAD_DELIVERIES, DEAD_REASON, Message, decode_headers, encode_headers

Fields = dict[bytes, bytes]


class MalformedEntry(ValueError):
    """A stream entry that no publisher of this bus has written."""


def stream_key(namespace: str, name: str) -> str:
    """Key of the stream of a topic (`name`) or of dead letters (``<topic>.<group>.dead``)."""
    return f"{namespace}:{name}"


def encode_entry(message: Message, *, only_group: str = "") -> Fields:
    """Fields of a new entry. `only_group`: other groups are to pass over it (a replayed dead letter)."""
    fields: Fields = {
        b"id": message.id.encode(),
        b"topic": message.topic.encode(),
        b"tenant": message.tenant.encode(),
        b"headers": encode_headers(message.headers).encode(),
        b"body": message.body,
    }
    if only_group:
        fields[b"only-group"] = only_group.encode()
    return fields


def encode_dead_entry(fields: Fields, reason: str, deliveries: int) -> Fields:
    """Fields of a dead letter: the entry's own ones, and why it is here."""
    return {**fields, DEAD_REASON.encode(): reason.encode(), DEAD_DELIVERIES.encode(): str(deliveries).encode()}


def decode_entry(fields: Fields) -> Message:
    """The message of an entry, a dead letter's reason among its headers. Raises MalformedEntry."""
    try:
        headers = decode_headers(fields[b"headers"])
        for name in (DEAD_REASON, DEAD_DELIVERIES):
            if (value := fields.get(name.encode())) is not None:
                headers[name] = value.decode()
        return Message(
            id=fields[b"id"].decode(),
            topic=fields[b"topic"].decode(),
            body=fields[b"body"],
            tenant=fields[b"tenant"].decode(),
            headers=headers,
        )
    except (KeyError, ValueError) as error:
        raise MalformedEntry("stream entry without the fields of a message") from error


def is_for(fields: Fields, group: str) -> bool:
    """Whether `group` is to handle the entry."""
    return fields.get(b"only-group", group.encode()) == group.encode()
