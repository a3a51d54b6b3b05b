"""Files of runs."""

from datetime import datetime

from slipway.memory.v1 import memory_pb2 as pb

from slipway_gateway.http.resources.fields import Resource, time_of


class File(Resource):
    """Bytes with an owner."""

    file_id: str
    filename: str
    content_type: str
    size_bytes: int
    digest: str
    owner: str
    readers: list[str]
    create_time: datetime | None
    expire_time: datetime | None


def file_resource(message: pb.File) -> File:
    """Converts a file's description."""
    return File(
        file_id=message.file_id,
        filename=message.filename,
        content_type=message.content_type,
        size_bytes=message.size_bytes,
        digest=message.digest,
        owner=message.owner,
        readers=list(message.readers),
        create_time=time_of(message, "create_time"),
        expire_time=time_of(message, "expire_time"),
    )
