"""Knowledge: documents of a collection."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import Path, Request, Response
from slipway.memory.v1 import memory_pb2 as pb

from slipway_gateway.http.api import PageSizeQuery, PageTokenQuery, api_router
from slipway_gateway.http.multipart import Upload
from slipway_gateway.http.resources.knowledge import Document, DocumentPage, document_resource
from slipway_gateway.http.route import CallsDep, GatewayDep, IdempotencyKey
from slipway_gateway.http.routes.collections import CollectionName
from slipway_gateway.http.routes.forms import metadata_of, readers_of, single

router = api_router("knowledge")

DocumentId = Annotated[str, Path(min_length=1, max_length=200)]

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
                        "title": {"type": "string", "description": "Absent: from the content."},
                        "readers": {
                            "type": "string",
                            "description": "JSON list of `user:…`, `role:…`, `group:…`; absent: all readers.",
                        },
                        "metadata": {"type": "string", "description": "JSON object of strings, at most 16."},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}


@router.put(
    "/collections/{collection}/documents/{document}",
    status_code=201,
    openapi_extra=_FORM,
    responses={200: {"model": Document, "description": "The document existed: this is its new content."}},
    summary="Put a document",
)
async def put_document(
    collection: CollectionName,
    document: DocumentId,
    request: Request,
    calls: CallsDep,
    gateway: GatewayDep,
    request_id: IdempotencyKey,
    response: Response,
) -> Document:
    """The document is parsed before the answer and indexed after it: it is searchable when its state is READY.

    What cannot be read (no text, encrypted, too large, wrong encoding) is refused here and changes nothing.
    """
    upload = Upload(request, fields=("title", "readers", "metadata"), max_bytes=gateway.limits.max_upload_bytes)
    head = await upload.head()
    description = pb.DocumentDescription(
        collection=collection,
        document=document,
        filename=head.filename,
        content_type=head.content_type,
        title=single(head.fields, "title"),
        readers=readers_of(head.fields),
        metadata=metadata_of(head.fields),
        request_id=request_id,
    )

    async def parts() -> AsyncGenerator[pb.PutDocumentRequest]:
        size = 0
        yield pb.PutDocumentRequest(description=description)
        async for part in upload.parts():
            size += len(part)
            yield pb.PutDocumentRequest(data=part)
        yield pb.PutDocumentRequest(end=pb.UploadEnd(size_bytes=size))

    answer: pb.PutDocumentResponse = await calls.upload(calls.peers.knowledge.PutDocument, parts())
    response.status_code = 201 if answer.created else 200
    return document_resource(answer.document)


@router.get("/collections/{collection}/documents", summary="List documents")
async def list_documents(
    collection: CollectionName, calls: CallsDep, page_size: PageSizeQuery = 0, page_token: PageTokenQuery = ""
) -> DocumentPage:
    """Documents that the caller may read, by id."""
    answer: pb.ListDocumentsResponse = await calls.invoke(
        calls.peers.knowledge.ListDocuments,
        pb.ListDocumentsRequest(collection=collection, page_size=page_size, page_token=page_token),
    )
    return DocumentPage(
        documents=[document_resource(item) for item in answer.documents],
        next_page_token=answer.next_page_token or None,
    )


@router.get("/collections/{collection}/documents/{document}", summary="Get a document")
async def get_document(collection: CollectionName, document: DocumentId, calls: CallsDep) -> Document:
    """One document, and how far its indexing is."""
    answer: pb.GetDocumentResponse = await calls.invoke(
        calls.peers.knowledge.GetDocument, pb.GetDocumentRequest(collection=collection, document=document)
    )
    return document_resource(answer.document)


@router.delete("/collections/{collection}/documents/{document}", status_code=204, summary="Delete a document")
async def delete_document(
    collection: CollectionName, document: DocumentId, calls: CallsDep, request_id: IdempotencyKey
) -> None:
    """Removes the document and its chunks."""
    await calls.invoke(
        calls.peers.knowledge.DeleteDocument,
        pb.DeleteDocumentRequest(collection=collection, document=document, request_id=request_id),
    )
