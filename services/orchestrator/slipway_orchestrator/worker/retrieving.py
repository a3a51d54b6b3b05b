"""The retrieve step: passages of a collection."""

import time

from pydantic import JsonValue
from slipway.memory.v1 import memory_pb2
from slipway_chassis.channel import invoke

from slipway_orchestrator.core.definition import Retrieve
from slipway_orchestrator.core.events import StepCompleted
from slipway_orchestrator.peers import Peers
from slipway_orchestrator.worker.attempt import Attempt, record_of


async def retrieve(peers: Peers, call: Retrieve, attempt: Attempt) -> StepCompleted:
    """Search; what is found is the output. Raises SlipwayError."""
    value = attempt.input
    metadata = value.get("metadata")
    request = memory_pb2.SearchCollectionRequest(
        collection=call.collection,
        query=str(value["query"]),
        limit=call.limit,
        metadata={k: str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {},
        regions=attempt.regions or (),
        regions_demanded=attempt.regions is not None,
        effect=attempt.effect,
    )
    if call.alpha is not None:
        request.alpha = call.alpha
    step = attempt.perform.step
    began = time.monotonic()
    response: memory_pb2.SearchCollectionResponse = await invoke(
        peers.knowledge.SearchCollection, request, token=attempt.token, timeout=attempt.timeout
    )
    return StepCompleted(
        attempt.perform.at.key,
        step.type,
        {"passages": [_passage(passage) for passage in response.passages]},
        attempt=attempt.perform.attempt,
        duration_ms=round((time.monotonic() - began) * 1000),
        records=record_of(response.record),
        tainted=True,  # whoever wrote the documents wrote what the run goes on with
    )


def _passage(passage: memory_pb2.Passage) -> JsonValue:
    return {
        "passage_id": passage.passage_id,
        "document": passage.document,
        "title": passage.title,
        "headings": list[JsonValue](passage.headings),
        "page": passage.page or None,
        "text": passage.text,
        "score": round(passage.score, 6),
        "start_offset": passage.start_offset,
        "end_offset": passage.end_offset,
        "document_digest": passage.document_digest,
    }
