"""Files: inputs and outputs of runs."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Header, Path, Request, Response
from slipway.memory.v1 import memory_pb2 as pb
from slipway_chassis.errors import InvalidArgument, NotFound

from slipway_gateway.http.api import api_router
from slipway_gateway.http.attachments import content_disposition
from slipway_gateway.http.calls import TRANSFER_SECONDS, first_of
from slipway_gateway.http.multipart import Upload
from slipway_gateway.http.resources.files import File, file_resource
from slipway_gateway.http.route import CallsDep, GatewayDep, IdempotencyKey
from slipway_gateway.http.routes.forms import readers_of, single
from slipway_gateway.http.sse import ClosingStream

router = api_router("files")

FileId = Annotated[str, Path(min_length=1, max_length=64)]
MAX_TTL_SECONDS = 365 * 86_400

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Text fields first, the file last.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "readers": {"type": "string", "description": "JSON list of `user:…`, `role:…`, `group:…`."},
                        "ttl_seconds": {"type": "string", "description": "Seconds to live; absent: 30 days."},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}


@router.post("/files", status_code=201, openapi_extra=_FORM, summary="Upload a file")
async def upload_file(request: Request, calls: CallsDep, gateway: GatewayDep, request_id: IdempotencyKey) -> File:
    """Its id can be given to runs and tools."""
    upload = Upload(request, fields=("readers", "ttl_seconds"), max_bytes=gateway.limits.max_upload_bytes)
    head = await upload.head()
    description = pb.FileDescription(
        filename=head.filename,
        content_type=head.content_type,
        readers=readers_of(head.fields),
        request_id=request_id,
    )
    ttl = single(head.fields, "ttl_seconds")
    if ttl:
        if not ttl.isascii() or not ttl.isdigit() or not 60 <= int(ttl[:12]) <= MAX_TTL_SECONDS:
            raise InvalidArgument(f"60 to {MAX_TTL_SECONDS} seconds", field="ttl_seconds")
        description.ttl.FromTimedelta(timedelta(seconds=int(ttl)))

    async def parts() -> AsyncGenerator[pb.UploadFileRequest]:
        size = 0
        yield pb.UploadFileRequest(description=description)
        async for part in upload.parts():
            size += len(part)
            yield pb.UploadFileRequest(data=part)
        yield pb.UploadFileRequest(end=pb.UploadEnd(size_bytes=size))

    answer: pb.UploadFileResponse = await calls.upload(calls.peers.files.UploadFile, parts())
    return file_resource(answer.file)


@router.get("/files/{file_id}", summary="Get a file's description")
async def get_file(file_id: FileId, calls: CallsDep) -> File:
    """Name, size, digest, access list."""
    answer: pb.GetFileResponse = await calls.invoke(calls.peers.files.GetFile, pb.GetFileRequest(file_id=file_id))
    return file_resource(answer.file)


@router.get(
    "/files/{file_id}/content",
    response_class=ClosingStream,
    responses={
        200: {
            "description": "The bytes, as an attachment.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
        304: {"description": "`If-None-Match` has the file's ETag."},
    },
    summary="Download a file",
)
async def download_file(file_id: FileId, calls: CallsDep, if_none_match: Annotated[str, Header()] = "") -> Response:
    """The bytes, always as an attachment."""
    stream = calls.stream(
        calls.peers.files.DownloadFile, pb.DownloadFileRequest(file_id=file_id), timeout=TRANSFER_SECONDS
    )
    first: pb.DownloadFileResponse | None = await first_of(stream)
    if first is None or not first.HasField("file"):
        await stream.aclose()
        raise NotFound(f"there is no file {file_id}")

    async def content() -> AsyncGenerator[bytes]:
        async with aclosing(stream):
            async for message in stream:
                yield message.data

    described = first.file
    etag = f'"{described.digest}"'
    if etag in if_none_match or if_none_match.strip() == "*":
        await stream.aclose()
        return Response(status_code=304, headers={"etag": etag})
    return ClosingStream(
        content(),
        media_type=described.content_type or "application/octet-stream",
        headers={
            "content-length": str(described.size_bytes),
            "content-disposition": content_disposition(described.filename),
            "etag": etag,
        },
    )


@router.delete("/files/{file_id}", status_code=204, summary="Delete a file")
async def delete_file(file_id: FileId, calls: CallsDep) -> None:
    """Removes the file."""
    await calls.invoke(calls.peers.files.DeleteFile, pb.DeleteFileRequest(file_id=file_id))
