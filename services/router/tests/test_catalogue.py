"""The catalogue file: what is accepted, what is refused and where, and how a change is taken up."""

import asyncio
import json

import pytest
from slipway.router.v1 import router_pb2 as pb
from slipway_router.catalogue_file import CatalogueInvalid, load
from slipway_router.catalogue_resolve import References
from slipway_router.chat import ChatRequest, Message
from slipway_router.secrets_file import SecretsInvalid, load_secrets
from slipway_router.wire.body import chat_body

VALID = """\
version: 1
regions: [eu, us]
providers:
  local:
    type: openai
    base_url: setting:local_models_url
    api_key: secret:local
    regions: [eu]
models:
  small:
    provider: local
    upstream: small-1
    kind: chat
    context_window: 4096
    max_output_tokens: 1024
    price: {input: "0.04", output: "0.12"}
  embedder:
    provider: local
    upstream: e-1
    kind: embedding
    context_window: 256
    price: {input: "0.002"}
routes:
  default:
    tasks: [answer]
    candidates: [small]
"""


def read(tmp_path, text):
    file = tmp_path / "models.yaml"
    file.write_text(text)
    return load(file, References(settings={"local_models_url": "http://127.0.0.1:9/v1"}, secrets={"local": "s3cret"}))


def test_a_valid_file_resolves_settings_secrets_and_defaults(tmp_path):
    catalogue = read(tmp_path, VALID)
    model = catalogue.models["small"]
    assert model.provider.base_url == "http://127.0.0.1:9/v1"
    assert model.provider.api_key == "s3cret"
    assert "s3cret" not in repr(catalogue)
    assert model.price.cached_input == model.price.input
    assert model.price.reasoning == model.price.output
    assert model.regions == {"eu"}
    assert catalogue.route_for_task("answer") is catalogue.routes["default"]


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("regions: [eu]", "regions: [mars]", "8:5", "mars is not among"),
        (
            "provider: local\n    upstream: small-1",
            "provider: cloud\n    upstream: small-1",
            "11:5",
            "no provider cloud",
        ),
        ("candidates: [small]", "candidates: [big]", "26:18", "no model big"),
        ("candidates: [small]", "candidates: [small, small]", "26:25", "named twice"),
        ("candidates: [small]", "candidates: [small, embedder]", "26:25", "of kind embedding"),
        ("candidates: [small]", "candidates: []", "26:5", "at least 1"),
        ('input: "0.04"', "input: 0.04", "16:13", "string"),
        ('input: "0.04"', 'input: "-1"', "16:13", "pattern"),
        ("kind: chat", "kind: chant", "13:5", "'chat' or 'embedding'"),
        ("max_output_tokens: 1024", "max_output_tokens: 9999", "15:5", "at most its context window"),
        ("secret:local", "secret:other", "7:5", "no secret other"),
        ("secret:local", "sk-plain-key", "7:5", "pattern"),
        ("setting:local_models_url", "setting:path", "6:5", "no setting path"),
        ("setting:local_models_url", "file:///etc/passwd", "6:5", "http"),
        ("  default:", "  small:", "24:3", "same name"),
        ("    tasks: [answer]", "    tasks: [answer]\n    retrys: 3", "26:5", "Extra inputs"),
        ("    tasks: [answer]", "    tasks: [answer]\n    tasks: [b]", "26:5", "duplicate key"),
        ("version: 1", "version: 2", "1:1", "1"),
        ("regions: [eu, us]", "regions: [eu, us", "3:10", "expected"),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_column(tmp_path, old, new, place, words):
    assert VALID.count(old) >= 1
    with pytest.raises(CatalogueInvalid) as caught:
        read(tmp_path, VALID.replace(old, new, 1))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'models.yaml'}:{place}:"), message
    assert words in message
    assert "sk-plain-key" not in message


@pytest.mark.parametrize("parameter", ["max_tokens", "max_completion_tokens"])
def test_the_output_limit_goes_by_the_name_that_the_model_wants(tmp_path, parameter):
    text = VALID.replace("kind: chat", f"kind: chat\n    max_tokens_parameter: {parameter}")
    request = ChatRequest(messages=(Message("user", "hi"),), max_tokens=5000)
    body = chat_body(read(tmp_path, text).models["small"], request, stream=False)
    assert body == {"model": "small-1", "messages": [{"role": "user", "content": "hi"}], parameter: 1024}


def test_two_routes_cannot_serve_one_task(tmp_path):
    with pytest.raises(CatalogueInvalid, match="route default serves answer already"):
        read(tmp_path, VALID + "  other:\n    tasks: [answer]\n    candidates: [small]\n")


def test_secrets_that_every_user_may_read_are_refused(tmp_path):
    file = tmp_path / "secrets.yaml"
    file.write_text("local: s3cret\n")
    file.chmod(0o644)
    with pytest.raises(SecretsInvalid, match="chmod 600"):
        load_secrets(file)


@pytest.mark.parametrize("text", ["[s3cret]", "local: [s3cret]", "local: 12\nx: {", "local: ''"])
def test_wrong_secrets_are_refused_without_showing_one(tmp_path, text):
    file = tmp_path / "secrets.yaml"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(SecretsInvalid) as caught:
        load_secrets(file)
    assert "s3cret" not in str(caught.value)


async def ok(exchange):
    choice = {"index": 0, "message": {"content": "fine"}, "finish_reason": "stop"}
    await exchange.json({"model": "s", "choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})


async def test_a_changed_catalogue_is_taken_up_and_a_broken_one_is_not(scripted, connect_to, eventually):
    provider = scripted({"ok": ok}, {"first": ["ok"]})
    router, file = provider.router, provider.router.catalogue
    client = connect_to(router)

    async def names():
        return {entry.name for entry in (await client.call("ListModels", pb.ListModelsRequest())).models}

    assert await names() == {"first", "first.0"}
    document = json.loads(file.read_text())
    document["routes"]["second"] = document["routes"].pop("first") | {"tasks": []}
    new = file.with_suffix(".new")
    new.write_text(json.dumps(document))
    new.replace(file)

    async def taken_up():
        return await names() == {"second", "first.0"}

    await eventually(taken_up)
    assert (await client.chat("second")).message.content == "fine"

    file.write_text("version: 1\nregions: [eu]\nproviders: {}\nmodels: {}\nroutes:\n  x: {candidates: [ghost]}\n")
    refused = await asyncio.to_thread(router.process.wait_for, "catalogue.refused", 10)
    assert ":6:" in refused["error"]
    assert "no model ghost" in refused["error"]
    assert await names() == {"second", "first.0"}


def test_a_router_does_not_start_without_a_valid_catalogue(start_router):
    router = start_router("version: 1\nregions: [eu]\nproviders: {}\nmodels: {a: {}}\n", ready=False)
    assert router.process.exit_code() == 2
    assert "models.yaml:4:" in router.process.output()


def test_a_missing_setting_is_named(start_router):
    router = start_router("", ready=False, data_key="not base64!")
    assert router.process.exit_code() == 2
    assert "SLIPWAY_ROUTER_DATA_KEY" in router.process.output()
