"""KnowledgeService over the domain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from slipway.memory.v1 import memory_pb2 as pb
from slipway.memory.v1 import memory_pb2_grpc
from slipway_chassis.caller import current_caller
from slipway_chassis.errors import SlipwayError

from slipway_memory import convert, metrics
from slipway_memory.collections import Collections
from slipway_memory.documents import DocumentPut, Documents
from slipway_memory.errors import DocumentTooLarge
from slipway_memory.search import Search
from slipway_memory.upload_stream import data_parts, document_opening, refused_in_words
from slipway_memory.uploads import spooled

Context = grpc.aio.ServicerContext[Any, Any]


class KnowledgeServicer(memory_pb2_grpc.KnowledgeServiceServicer):
    """Converts and calls."""

    def __init__(self, collections: Collections, documents: Documents, search: Search, *, document_bytes: int) -> None:
        self._collections = collections
        self._documents = documents
        self._search = search
        self._document_bytes = document_bytes

    async def PutCollection(self, request: pb.PutCollectionRequest, context: Context) -> pb.PutCollectionResponse:
        """See proto."""
        put = await self._collections.put(
            current_caller(),
            name=request.collection,
            description=request.description,
            embedding_model=request.embedding_model,
            regions=request.regions,
            request_id=request.request_id,
        )
        return pb.PutCollectionResponse(collection=convert.collection_message(put.collection), created=put.created)

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Context) -> pb.GetCollectionResponse:
        """See proto."""
        collection = await self._collections.get(current_caller(), request.collection)
        return pb.GetCollectionResponse(collection=convert.collection_message(collection))

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Context) -> pb.ListCollectionsResponse:
        """See proto."""
        page, token = await self._collections.list(current_caller(), size=request.page_size, token=request.page_token)
        return pb.ListCollectionsResponse(collections=map(convert.collection_message, page), next_page_token=token)

    async def PutDocument(
        self, request_iterator: AsyncIterator[pb.PutDocumentRequest], context: Context
    ) -> pb.PutDocumentResponse:
        """See proto."""
        try:
            async with refused_in_words(request_iterator):
                put = await self._put(request_iterator)
        except SlipwayError as error:
            metrics.PUT_DOCUMENTS.labels(error.reason).inc()
            raise
        metrics.PUT_DOCUMENTS.labels("accepted").inc()
        return pb.PutDocumentResponse(document=convert.document_message(put.document), created=put.created)

    async def _put(self, stream: AsyncIterator[pb.PutDocumentRequest]) -> DocumentPut:
        caller = current_caller()
        description = convert.document_description(await document_opening(stream))
        permit = await self._documents.permit_put(caller, description)
        async with spooled(data_parts(stream), limit=self._document_bytes, too_large=self._too_large) as upload:
            return await self._documents.put(caller, permit, upload)

    def _too_large(self) -> DocumentTooLarge:
        return DocumentTooLarge(
            f"a document has at most {self._document_bytes} bytes; split it",
            field="data",
            metadata={"limit_bytes": str(self._document_bytes)},
        )

    async def GetDocument(self, request: pb.GetDocumentRequest, context: Context) -> pb.GetDocumentResponse:
        """See proto."""
        document = await self._documents.get(current_caller(), request.collection, request.document)
        return pb.GetDocumentResponse(document=convert.document_message(document))

    async def ListDocuments(self, request: pb.ListDocumentsRequest, context: Context) -> pb.ListDocumentsResponse:
        """See proto."""
        page, token = await self._documents.list(
            current_caller(), request.collection, size=request.page_size, token=request.page_token
        )
        return pb.ListDocumentsResponse(documents=map(convert.document_message, page), next_page_token=token)

    async def DeleteDocument(self, request: pb.DeleteDocumentRequest, context: Context) -> pb.DeleteDocumentResponse:
        """See proto."""
        await self._documents.delete(current_caller(), request.collection, request.document, request.request_id)
        return pb.DeleteDocumentResponse()

    async def SearchCollection(
        self, request: pb.SearchCollectionRequest, context: Context
    ) -> pb.SearchCollectionResponse:
        """See proto."""
        result = await self._search.search(current_caller(), convert.search_query(request), convert.run_effect(request))
        return convert.search_response(result)
