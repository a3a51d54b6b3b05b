"""The repository's own catalogue over the real local models, through gRPC."""

import json
import math
from decimal import Decimal

from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.money import from_money

CONTEXT = (
    "Use only this passage. Passage: Refunds are paid within 14 days of the return. "
    "Question: Within how many days are refunds paid?"
)


async def test_an_answer_is_grounded_in_the_passage_given(local):
    answer = await local.chat(task="grounded-answer", text=CONTEXT, temperature=0, max_tokens=64)
    assert "14" in answer.message.content
    assert answer.finish_reason == "stop"
    assert answer.catalogue_model == "smollm2-135m"
    assert answer.model == "SmolLM2-135M-Instruct-Q4_1"
    assert answer.attempts == 1
    assert answer.usage.input_tokens + answer.usage.cached_input_tokens > 30
    assert answer.usage.output_tokens > 5
    assert not answer.usage.estimated
    assert from_money(answer.usage.cost) > 0
    assert answer.record.event_id.startswith("aev_")


async def test_the_usage_row_holds_what_the_answer_said(local):
    answer = await local.chat(text="Say hello.", max_tokens=8, labels={"team": "support"}, request_id="req_row")
    (row,) = await local.usage("req_row")
    assert row.usage == answer.usage
    assert (row.catalogue_model, row.returned_model, row.provider) == ("smollm2-135m", answer.model, "local")
    assert (row.subject, row.outcome, row.attempts, row.labels["team"]) == ("alice", "ok", 1, "support")
    tokens = row.usage
    expected = (
        tokens.input_tokens * Decimal("0.04")
        + tokens.cached_input_tokens * Decimal("0.004")
        + tokens.output_tokens * Decimal("0.12")
    ) / 1_000_000
    assert from_money(row.usage.cost) == expected.quantize(Decimal("0.000000001"))


async def test_a_stream_gives_the_same_text_as_the_whole_answer(local):
    whole = await local.chat(text="Name three colours.", temperature=0, max_tokens=24)
    events = [event async for event in local.stream(text="Name three colours.", temperature=0, max_tokens=24)]
    assert [event.WhichOneof("event") for event in (events[0], events[-1])] == ["started", "finished"]
    assert "".join(event.content_delta for event in events[1:-1]) == whole.message.content
    assert len(events) > 6
    assert events[-1].finished.usage.output_tokens == whole.usage.output_tokens
    assert events[0].started.model == whole.model


async def test_a_response_format_is_kept(local):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    wanted = json.dumps({"type": "json_schema", "json_schema": {"name": "city", "schema": schema}})
    answer = await local.chat(text="Name a city as JSON.", response_format_json=wanted, max_tokens=64, temperature=0)
    assert isinstance(json.loads(answer.message.content)["city"], str)


async def test_paraphrases_are_nearer_than_unrelated_texts(local):
    texts = ["How do I get my money back?", "What is the refund procedure?", "The cat sat on the mat."]
    answer = await local.call("CreateEmbeddings", pb.CreateEmbeddingsRequest(inputs=texts))
    vectors = [list(embedding.values) for embedding in answer.embeddings]
    assert [len(vector) for vector in vectors] == [384] * 3
    assert all(math.isclose(sum(x * x for x in vector), 1, abs_tol=1e-4) for vector in vectors)

    def cosine(a, b):
        return sum(x * y for x, y in zip(vectors[a], vectors[b], strict=True))

    assert cosine(0, 1) > 0.5
    assert cosine(0, 2) < 0.2
    assert answer.usage.input_tokens > 10
    assert from_money(answer.usage.cost) > 0
    assert answer.catalogue_model == "minilm-l6-v2"


async def test_a_batch_gives_each_text_the_vector_it_has_alone(local):
    texts = [f"sentence number {n} about {'refunds ' * n}" for n in range(40)]
    together = await local.call("CreateEmbeddings", pb.CreateEmbeddingsRequest(inputs=texts))
    alone = await local.call("CreateEmbeddings", pb.CreateEmbeddingsRequest(inputs=[texts[37]]))
    cosine = sum(x * y for x, y in zip(together.embeddings[37].values, alone.embeddings[0].values, strict=True))
    assert cosine > 0.999


async def test_models_and_routes_are_listed_page_by_page(local):
    first = await local.call("ListModels", pb.ListModelsRequest(page_size=3))
    second = await local.call("ListModels", pb.ListModelsRequest(page_size=3, page_token=first.next_page_token))
    entries = {entry.name: entry for entry in [*first.models, *second.models]}
    assert list(entries) == ["default", "embed", "minilm-l6-v2", "smollm2-135m"]
    assert second.next_page_token == ""
    assert entries["default"].route
    assert list(entries["default"].tasks) == ["grounded-answer", "summarize"]
    assert from_money(entries["smollm2-135m"].output_price) == Decimal("0.12")
    assert entries["smollm2-135m"].health == "healthy"
