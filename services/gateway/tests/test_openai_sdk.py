"""What users of the OpenAI SDK see, over a server that speaks the router's contract."""

import base64
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from slipway.memory.v1.memory_pb2 import GetSessionResponse
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SlipwayError,
    Unavailable,
)

MESSAGES: Any = [{"role": "user", "content": "Say hello."}]


@pytest.fixture
def sdk(gateway: Any, issuer: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=issuer.token("alice"), max_retries=0) as client:
        yield client


def usage(cost_nanos: int = 250_000) -> pb.Usage:
    message = pb.Usage(input_tokens=7, cached_input_tokens=3, output_tokens=5, reasoning_tokens=2)
    message.cost.currency_code = "USD"
    message.cost.nanos = cost_nanos
    return message


def answer(text: str | None = "Hello.", calls: Any = ()) -> Callable[[Any], Any]:
    def reply(call: Any) -> pb.CreateChatCompletionResponse:
        message = pb.ChatMessage(role="assistant", tool_calls=calls)
        if text is not None:
            message.content = text
        response = pb.CreateChatCompletionResponse(
            message=message,
            finish_reason="tool_calls" if calls else "stop",
            model="smollm2-135m-instruct",
            catalogue_model="smollm2",
            usage=usage(),
            attempts=2,
            request_id=call.request.chat.request_id,
        )
        response.create_time.seconds = 1_800_000_000
        return response

    return reply


def started(call: Any) -> pb.StreamChatCompletionResponse:
    return pb.StreamChatCompletionResponse(
        started=pb.StreamStarted(
            model="smollm2-135m-instruct",
            catalogue_model="smollm2",
            attempts=2,
            request_id=call.request.chat.request_id,
        )
    )


def text(piece: str) -> pb.StreamChatCompletionResponse:
    return pb.StreamChatCompletionResponse(content_delta=piece)


def finished(reason: str = "stop") -> pb.StreamChatCompletionResponse:
    return pb.StreamChatCompletionResponse(finished=pb.StreamFinished(finish_reason=reason, usage=usage()))


def streaming(*events: Any, error: SlipwayError | None = None) -> Callable[[Any], Iterator[Any]]:
    def run(call: Any) -> Iterator[Any]:
        yield started(call)
        yield from events
        if error is not None:
            raise error

    return run


def raising(error: SlipwayError) -> Callable[[Any], Any]:
    def refuse(call: Any) -> Any:
        raise error

    return refuse


def with_reason(kind: type[SlipwayError], reason: str, **details: Any) -> SlipwayError:
    return type(reason, (kind,), {"reason": reason})("no", **details)


def test_a_completion_is_what_the_sdk_expects(sdk: openai.OpenAI, services: Any) -> None:
    services.on("CreateChatCompletion", answer())
    raw = sdk.chat.completions.with_raw_response.create(model="smollm2", messages=MESSAGES)
    completion = raw.parse()
    assert completion.object == "chat.completion"
    assert completion.choices[0].message.content == "Hello."
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "smollm2-135m-instruct"
    assert completion.created == 1_800_000_000
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (10, 7)
    assert completion.usage.total_tokens == 17
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.cached_tokens == 3
    assert completion.usage.completion_tokens_details is not None
    assert completion.usage.completion_tokens_details.reasoning_tokens == 2
    assert raw.headers["x-slipway-model"] == "smollm2"
    assert raw.headers["x-slipway-cost-usd"] == "0.00025"
    assert raw.headers["x-slipway-attempts"] == "2"
    assert raw.headers["x-slipway-request-id"] == services.last("CreateChatCompletion").request.chat.request_id
    assert completion.id.endswith(raw.headers["x-slipway-request-id"])


def test_every_parameter_reaches_the_router(sdk: openai.OpenAI, services: Any) -> None:
    services.on("CreateChatCompletion", answer())
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    sdk.chat.completions.create(
        model="",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "ann"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
            },
            {"role": "tool", "content": "3", "tool_call_id": "c1"},
        ],
        max_completion_tokens=11,
        temperature=0,
        top_p=0.5,
        stop="END",
        seed=42,
        tools=[tool],
        tool_choice="auto",
        response_format={"type": "json_object"},
        presence_penalty=0.1,
        user="end-user",
        metadata={"team": "support"},
        extra_body={
            "slipway": {
                "task": "chat",
                "regions": ["eu"],
                "max_cost_usd": 0.01,
                "session_id": "a conversation",
                "quality": "standard",
                "max_latency_ms": 1500,
                "data_classes": ["personal"],
                "capabilities": ["images"],
            }
        },
    )
    call = services.last("CreateChatCompletion")
    chat = call.request.chat
    assert call.caller.subject == "alice"
    assert call.seconds_left > 60
    assert (chat.model, chat.task, list(chat.regions), chat.regions_demanded) == ("", "chat", ["eu"], True)
    assert (chat.max_tokens, chat.top_p, chat.seed, list(chat.stop)) == (11, 0.5, 42, ["END"])
    assert chat.HasField("temperature")
    assert chat.temperature == 0
    assert (chat.max_cost.units, chat.max_cost.nanos) == (0, 10_000_000)
    assert chat.session_id == "a conversation"
    assert (chat.quality, chat.max_latency.ToMilliseconds()) == ("standard", 1500)
    assert (list(chat.data_classes), list(chat.capabilities)) == (["personal"], ["images"])
    assert chat.labels == {"team": "support"}
    assert json.loads(chat.extra_json) == {"presence_penalty": 0.1}
    assert json.loads(chat.tools_json) == [tool]
    assert json.loads(chat.tool_choice_json) == "auto"
    assert json.loads(chat.response_format_json) == {"type": "json_object"}
    assert [message.role for message in chat.messages] == ["system", "user", "assistant", "tool"]
    assert json.loads(chat.messages[1].content_parts_json) == [{"type": "text", "text": "hi"}]
    assert not chat.messages[2].HasField("content")
    assert chat.messages[2].tool_calls[0].arguments_json == '{"a":1}'
    assert chat.messages[3].tool_call_id == "c1"


def test_tool_calls_come_back(sdk: openai.OpenAI, services: Any) -> None:
    calls = [pb.ToolCall(id="c1", name="f", arguments_json='{"a": 1}')]
    services.on("CreateChatCompletion", answer(None, calls))
    choice = sdk.chat.completions.create(model="m", messages=MESSAGES).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].model_dump()["function"] == {"name": "f", "arguments": '{"a": 1}'}


def test_a_stream_is_assembled_by_the_sdk(sdk: openai.OpenAI, services: Any) -> None:
    tool = pb.StreamChatCompletionResponse(tool_call=pb.ToolCall(id="c1", name="f", arguments_json="{}"))
    services.on("StreamChatCompletion", streaming(text("Hel"), text("lo"), tool, finished("tool_calls")))
    raw = sdk.chat.completions.with_raw_response.create(
        model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    assert raw.headers["x-slipway-attempts"] == "2"
    assert raw.headers["x-slipway-model"] == "smollm2"
    assert "x-slipway-cost-usd" not in raw.headers
    chunks = list(raw.parse())
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
    calls = [
        chunk.choices[0].delta.tool_calls for chunk in chunks if chunk.choices and chunk.choices[0].delta.tool_calls
    ]
    assert calls[0] is not None
    assert calls[0][0].index == 0
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "tool_calls"
    last = chunks[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 17
    assert last.usage.model_dump()["cost_usd"] == 0.00025
    assert all(chunk.usage is None for chunk in chunks[:-1])


def raw_stream(gateway: Any, token: str, **body: Any) -> str:
    request = {"model": "m", "messages": MESSAGES, "stream": True, **body}
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=request, headers=headers, timeout=30).text


def test_usage_is_hidden_unless_it_is_asked_for(gateway: Any, issuer: Any, services: Any) -> None:
    services.on("StreamChatCompletion", streaming(text("x"), finished()))
    received = raw_stream(gateway, issuer.token("alice"))
    assert "usage" not in received
    assert received.endswith("data: [DONE]\n\n")


def test_a_stream_that_fails_in_the_middle_raises_in_the_sdk(
    sdk: openai.OpenAI, services: Any, gateway: Any, issuer: Any
) -> None:
    broken = with_reason(Unavailable, "PROVIDER_FAILED")
    services.on("StreamChatCompletion", streaming(text("Hel"), error=broken))
    chunks = sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    got: list[str] = []
    with pytest.raises(openai.APIError) as caught:
        got.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "".join(got) == "Hel"
    assert caught.value.code == "provider_failed"
    received = raw_stream(gateway, issuer.token("alice"))
    assert "[DONE]" not in received
    assert json.loads(received.split("data: ")[-1])["error"]["type"] == "server_error"


def test_a_stream_without_a_finish_reason_is_an_error(sdk: openai.OpenAI, services: Any) -> None:
    """To the SDK alone it would be a success."""
    services.on("StreamChatCompletion", streaming(text("half an ans")))
    with pytest.raises(openai.APIError) as caught:
        list(sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert caught.value.code == "provider_stream_incomplete"


def test_a_failure_before_the_first_delta_is_a_status(sdk: openai.OpenAI, services: Any) -> None:
    services.on(
        "StreamChatCompletion", raising(with_reason(ResourceExhausted, "PROVIDERS_COOLING_DOWN", retry_after=7))
    )
    with pytest.raises(openai.RateLimitError) as caught:
        sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    assert caught.value.response.headers["retry-after"] == "7"


def test_a_client_that_goes_away_cancels_the_model_call(sdk: openai.OpenAI, services: Any) -> None:
    calls: list[Any] = []

    def endless(call: Any) -> Iterator[Any]:
        calls.append(call)
        yield started(call)
        while not call.cancelled.wait(0.01):
            yield text("x")

    services.on("StreamChatCompletion", endless)
    stream = sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    for _ in stream:
        break
    stream.close()
    assert calls[0].cancelled.wait(10)


def test_a_client_that_hangs_up_cancels_a_whole_answer_too(gateway: Any, issuer: Any, services: Any) -> None:
    import threading

    calls: list[Any] = []
    seen = threading.Event()

    def slow(call: Any) -> Any:
        calls.append(call)
        seen.set()
        call.cancelled.wait(30)
        return answer()(call)

    services.on("CreateChatCompletion", slow)
    request = {"model": "m", "messages": MESSAGES}
    headers = {"Authorization": f"Bearer {issuer.token('alice')}"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{gateway.url}/v1/chat/completions", json=request, headers=headers, timeout=1)
    assert seen.is_set()
    assert calls[0].cancelled.wait(10)


@pytest.mark.parametrize(
    ("error", "raised", "status", "should_retry", "param"),
    [
        (with_reason(InvalidArgument, "MODEL_KIND", field="chat.model"), openai.BadRequestError, 400, None, "model"),
        (
            with_reason(InvalidArgument, "REGIONS_INVALID", field="chat.regions[0]"),
            openai.UnprocessableEntityError,
            422,
            None,
            "slipway.regions[0]",
        ),
        (
            with_reason(InvalidArgument, "TOOLS_INVALID", field="chat.tools_json[1].function"),
            openai.BadRequestError,
            400,
            None,
            "tools[1].function",
        ),
        (with_reason(PermissionDenied, "POLICY_DENIED"), openai.PermissionDeniedError, 403, None, None),
        (with_reason(ResourceExhausted, "BUDGET_EXHAUSTED"), openai.APIStatusError, 402, None, None),
        (with_reason(ResourceExhausted, "RATE_LIMITED", retry_after=2), openai.RateLimitError, 429, "true", None),
        (with_reason(Unavailable, "PROVIDER_REFUSED_CREDENTIALS"), openai.InternalServerError, 502, "false", None),
        (with_reason(Unavailable, "STORE_UNAVAILABLE", retry_after=1), openai.InternalServerError, 503, "true", None),
        (with_reason(DeadlineExceeded, "DEADLINE_EXCEEDED"), openai.InternalServerError, 504, "false", None),
    ],
)
def test_errors_raise_the_sdks_own_classes(
    sdk: openai.OpenAI,
    services: Any,
    error: SlipwayError,
    raised: type[Exception],
    status: int,
    should_retry: str | None,
    param: str | None,
) -> None:
    services.on("CreateChatCompletion", raising(error))
    with pytest.raises(raised) as caught:
        sdk.chat.completions.create(model="m", messages=MESSAGES)
    response = caught.value.response  # type: ignore[attr-defined]
    assert response.status_code == status
    assert response.headers.get("x-should-retry") == should_retry
    body = response.json()
    assert body["code"] == error.reason
    assert body["error"]["code"] == error.reason.lower()
    assert body["error"]["param"] == body.get("field") == param
    assert body["error"]["message"] == "no"


def test_a_bad_token_is_the_sdks_authentication_error(gateway: Any) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "token_invalid"


def test_the_sdk_does_not_repeat_what_may_have_been_bought(gateway: Any, issuer: Any, services: Any) -> None:
    services.on("CreateChatCompletion", raising(with_reason(DeadlineExceeded, "DEADLINE_EXCEEDED")))
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=issuer.token("alice"), max_retries=3)
    with client, pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="m", messages=MESSAGES)
    assert services.asked("CreateChatCompletion") == 1


@pytest.mark.parametrize(
    ("body", "param", "status"),
    [
        ({"messages": []}, "messages", 400),
        ({"messages": [{"role": "user"}]}, "messages[0]", 400),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]", 400),
        ({"messages": [{"role": "alien", "content": "x"}]}, "messages[0].role", 400),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", 400),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content", 400),
        ({"temperature": 3}, "temperature", 400),
        ({"n": 2}, "n", 400),
        ({"slipway": {"region": ["eu"]}}, "slipway.region", 400),
        ({"slipway": {"quality": "best"}}, "slipway.quality", 400),
        ({"slipway": {"max_latency_ms": 0}}, "slipway.max_latency_ms", 400),
        ({"slipway": {"capabilities": ["flying"]}}, "slipway.capabilities[0]", 400),
        ({"slipway": {"data_classes": "personal"}}, "slipway.data_classes", 400),
        ({"slipway": {"regions": None}}, "slipway.regions", 422),
        ({"slipway": {"regions": "eu"}}, "slipway.regions", 422),
        ({"metadata": {"a": 1}}, "metadata.a", 400),
        ({"max_tokens": 0}, "max_tokens", 400),
        ({"stop": ["a"] * 5}, "stop", 400),
    ],
)
def test_a_wrong_parameter_is_named_as_openai_names_it(
    alice: Any, services: Any, body: dict[str, Any], param: str, status: int
) -> None:
    answer_ = alice.post("/v1/chat/completions", json={"model": "m", "messages": MESSAGES} | body)
    assert answer_.status_code == status, answer_.text
    problem = answer_.json()
    assert problem["error"]["param"].startswith(param)
    assert not any("str" in violation["field"] for violation in problem["violations"]), "a name of pydantic's"
    assert services.asked("CreateChatCompletion") == 0


def test_the_model_auto_leaves_the_choice_to_the_task(sdk: openai.OpenAI, services: Any) -> None:
    services.on("CreateChatCompletion", answer())
    sdk.chat.completions.create(model="auto", messages=MESSAGES, extra_body={"slipway": {"task": "summarize"}})
    chat = services.last("CreateChatCompletion").request.chat
    assert (chat.model, chat.task) == ("", "summarize")


def test_a_session_that_is_not_the_callers_is_refused_before_anything_is_bought(alice: Any, services: Any) -> None:
    session_id = "ses_01k0000000000000000000000a"
    services.on("GetSession", raising(with_reason(NotFound, "SESSION_NOT_FOUND")))
    refused = alice.post("/v1/chat/completions", json={"messages": MESSAGES, "slipway": {"session_id": session_id}})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "session_not_found")
    assert services.asked("CreateChatCompletion") == 0
    services.on("GetSession", lambda call: GetSessionResponse())
    services.on("CreateChatCompletion", answer())
    taken = alice.post("/v1/chat/completions", json={"messages": MESSAGES, "slipway": {"session_id": session_id}})
    assert taken.status_code == 200
    assert services.last("GetSession").request.session_id == session_id
    assert services.last("CreateChatCompletion").request.chat.session_id == session_id


def test_the_answer_says_how_its_model_was_chosen(alice: Any, services: Any) -> None:
    def reply(call: Any) -> pb.CreateChatCompletionResponse:
        response = answer()(call)
        response.routing.MergeFrom(pb.Routing(route="short", task="summarize", task_proposed=True))
        return response

    services.on("CreateChatCompletion", reply)
    headers = alice.post("/v1/chat/completions", json={"messages": MESSAGES}).headers
    names = ("x-slipway-route", "x-slipway-task", "x-slipway-task-source")
    assert [headers[name] for name in names] == ["short", "summarize", "classified"]


def test_a_route_is_explained_over_http(alice: Any, services: Any) -> None:
    response = pb.ExplainRouteResponse(route="short", policy="cheapest", task="summarize", task_source="stated")
    tried = response.candidates.add(model="a", eligible=True, reason="healthy", score=-0.5, quality="economy")
    tried.latency.FromMilliseconds(250)
    response.candidates.add(model="b", reason="b is in us", hurdle="region", quality="premium")
    services.on("ExplainRoute", lambda call: response)
    explained = alice.post("/v1/models/explain", json={"slipway": {"task": "summarize", "quality": "economy"}})
    assert explained.status_code == 200, explained.text
    body = explained.json()
    assert (body["route"], body["policy"], body["task_source"]) == ("short", "cheapest", "stated")
    first, second = body["candidates"]
    assert (first["score"], first["latency_ms"], first["hurdle"]) == (-0.5, 250, None)
    assert (second["eligible"], second["hurdle"], second["score"]) == (False, "region", None)
    asked = services.last("ExplainRoute").request.chat
    assert (asked.task, asked.quality, list(asked.messages)) == ("summarize", "economy", [])


def test_the_routing_of_a_call_is_told(alice: Any, services: Any) -> None:
    response = pb.GetRouteDecisionResponse(outcome="ok")
    response.decision.candidates.add(model="a", eligible=True, score=2)
    response.attempts.add(model="a", outcome="PROVIDER_UNAVAILABLE", status=503, latency_ms=12, hedge=True)
    services.on("GetRouteDecision", lambda call: response)
    body = alice.get("/v1/usage/req_1/routing").json()
    assert services.last("GetRouteDecision").request.request_id == "req_1"
    assert body["attempts"] == [
        {"model": "a", "outcome": "PROVIDER_UNAVAILABLE", "status": 503, "latency_ms": 12, "hedge": True}
    ]
    assert (body["decision"]["candidates"][0]["score"], body["outcome"]) == (2, "ok")


def test_routes_are_compared_over_http(alice: Any, services: Any) -> None:
    def run(call: Any) -> Iterator[pb.CompareRoutesResponse]:
        one = pb.ComparedCall(text_similarity=0.5, same_tool_calls=True)
        one.recorded.MergeFrom(pb.CallFigures(request_id="req_1", outcome="ok", latency_ms=10, usage=usage()))
        one.replayed.MergeFrom(pb.CallFigures(request_id="req_2", outcome="ok", latency_ms=20, usage=usage()))
        yield pb.CompareRoutesResponse(call=one)
        yield pb.CompareRoutesResponse(summary=pb.ComparisonSummary(mean_text_similarity=0.5))

    services.on("CompareRoutes", run)
    body = alice.post("/v1/models/compare", json={"against": "b", "route": "a", "limit": 5, "max_cost_usd": 0.5}).json()
    assert [call["replayed"]["latency_ms"] for call in body["calls"]] == [20]
    assert body["mean_text_similarity"] == 0.5
    asked = services.last("CompareRoutes").request
    assert (asked.against, asked.route, asked.limit, asked.max_cost.nanos) == ("b", "a", 5, 500_000_000)
    services.on("CompareRoutes", lambda call: iter(()))
    assert alice.post("/v1/models/compare", json={"against": "b"}).json()["code"] == "COMPARISON_INCOMPLETE"


def test_an_empty_list_of_regions_is_a_demand(alice: Any, services: Any) -> None:
    services.on("CreateChatCompletion", answer())
    alice.post("/v1/chat/completions", json={"messages": MESSAGES, "slipway": {"regions": []}})
    chat = services.last("CreateChatCompletion").request.chat
    assert (list(chat.regions), chat.regions_demanded) == ([], True)
    alice.post("/v1/chat/completions", json={"messages": MESSAGES})
    assert not services.last("CreateChatCompletion").request.chat.regions_demanded


def test_embeddings_come_as_the_sdk_decodes_them(sdk: openai.OpenAI, services: Any, alice: Any) -> None:
    vectors = [[0.25, -1.5, 3.0], [1.0, 0.0, 0.5]]
    services.on(
        "CreateEmbeddings",
        lambda call: pb.CreateEmbeddingsResponse(
            embeddings=[pb.Embedding(values=values) for values in vectors],
            model="minilm",
            catalogue_model="all-minilm",
            usage=usage(),
            request_id="req_1",
        ),
    )
    result = sdk.embeddings.create(model="all-minilm", input=["a", "b"])
    assert [item.embedding for item in result.data] == vectors
    assert list(services.last("CreateEmbeddings").request.inputs) == ["a", "b"]
    coded = alice.post("/v1/embeddings", json={"input": "a", "encoding_format": "base64"}).json()
    assert struct.unpack("<3f", base64.b64decode(coded["data"][0]["embedding"])) == (0.25, -1.5, 3.0)
    plain = alice.post("/v1/embeddings", json={"input": "a"})
    assert plain.json()["data"][1]["embedding"] == vectors[1]
    assert plain.headers["x-slipway-model"] == "all-minilm"


@pytest.mark.parametrize("body", [{"input": []}, {"input": ""}, {"input": [1, 2]}, {"input": "a", "dimensions": 5}, {}])
def test_embeddings_that_cannot_be_made_as_asked_are_400(alice: Any, body: dict[str, Any]) -> None:
    answer_ = alice.post("/v1/embeddings", json=body)
    assert answer_.status_code == 400
    assert answer_.json()["error"]["param"] == ("dimensions" if "dimensions" in body else "input")


def test_the_catalogue_is_listed_whole(sdk: openai.OpenAI, services: Any) -> None:
    def page(call: Any) -> Any:
        if not call.request.page_token:
            return pb.ListModelsResponse(
                models=[pb.Model(name="a/b", provider="local", kind="chat")], next_page_token="2"
            )
        return pb.ListModelsResponse(models=[pb.Model(name="route", kind="chat", route=True, candidates=["a/b"])])

    services.on("ListModels", page)
    listed = list(sdk.models.list())
    assert [model.id for model in listed] == ["a/b", "route"]
    # A route has candidates and no price; a model has a price.
    extras = [model.model_dump()["slipway"] for model in listed]
    assert ["input_price_usd_per_million" in extra for extra in extras] == [True, False]
    assert extras[1]["candidates"] == ["a/b"]
    assert sdk.models.retrieve("a/b").owned_by == "local"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("nothing")
