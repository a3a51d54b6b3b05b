"""What providers report as used, and the classes in which it is paid: each token once. More: test_litellm."""

from decimal import Decimal

import pytest
from slipway_router.cost import Price
from slipway_router.tokens import TokenCount
from slipway_router.wire.usage import token_count

OPENAI = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 200,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
OLLAMA = {"prompt_tokens": 26, "completion_tokens": 298, "total_tokens": 324}
VLLM = {"prompt_tokens": 7, "total_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": None}
MISTRAL = {"prompt_tokens": 16, "completion_tokens": 34, "total_tokens": 50, "prompt_audio_seconds": None}
DEEPSEEK = {
    "prompt_tokens": 1000,
    "completion_tokens": 50,
    "total_tokens": 1050,
    "prompt_cache_hit_tokens": 896,
    "prompt_cache_miss_tokens": 104,
    "completion_tokens_details": {"reasoning_tokens": 30},
}
XAI = {
    "prompt_tokens": 32,
    "completion_tokens": 9,
    "total_tokens": 135,
    "prompt_tokens_details": {"text_tokens": 32, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 6},
    "completion_tokens_details": {"reasoning_tokens": 94},
}
GEMINI_COMPATIBLE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}
MOONSHOT = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110, "cached_tokens": 64}
OPENROUTER = {
    "prompt_tokens": 5000,
    "completion_tokens": 20,
    "total_tokens": 5020,
    "cost": 0.0123,
    "prompt_tokens_details": {"cached_tokens": 1000, "cache_write_tokens": 3000},
}
LITELLM_ANTHROPIC = {
    "prompt_tokens": 2150,
    "completion_tokens": 500,
    "total_tokens": 2650,
    "prompt_tokens_details": {"cached_tokens": 2000, "cache_creation_tokens": 100},
    "cache_creation_input_tokens": 100,
    "cache_read_input_tokens": 2000,
}
IMAGES = {
    "prompt_tokens": 1100,
    "completion_tokens": 10,
    "total_tokens": 1110,
    "prompt_tokens_details": {"image_tokens": 1000, "cached_tokens": 0},
}


@pytest.mark.parametrize(
    ("usage", "classes"),
    [
        pytest.param(OPENAI, TokenCount(86, 1920, 100, 200), id="openai"),
        pytest.param(OLLAMA, TokenCount(26, 0, 298), id="ollama"),
        pytest.param(VLLM, TokenCount(7, 0, 2), id="vllm"),
        pytest.param(MISTRAL, TokenCount(16, 0, 34), id="mistral"),
        pytest.param(DEEPSEEK, TokenCount(104, 896, 20, 30), id="deepseek"),
        pytest.param(XAI, TokenCount(26, 6, 9, 94), id="xai: reasoning beside the completion"),
        pytest.param(GEMINI_COMPATIBLE, TokenCount(10, 0, 5, 100), id="gemini: reasoning in the total only"),
        pytest.param(MOONSHOT, TokenCount(36, 64, 10), id="moonshot"),
        pytest.param(OPENROUTER, TokenCount(1000, 1000, 20, 0, 3000), id="openrouter"),
        pytest.param(LITELLM_ANTHROPIC, TokenCount(50, 2000, 500, 0, 100), id="litellm's form of anthropic"),
        pytest.param(IMAGES, TokenCount(100, 0, 10, 0, 0, 1000), id="images"),
        pytest.param({"prompt_tokens": 8, "total_tokens": 8}, TokenCount(8), id="embeddings"),
    ],
)
def test_openai_and_compatible_reports(usage, classes):
    assert token_count(usage) == classes


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        "10 tokens",
        {},
        {"completion_tokens": 4},
        {"prompt_tokens": -1, "completion_tokens": 4},
        {"prompt_tokens": True, "completion_tokens": 4},
        {"prompt_tokens": 10.5, "completion_tokens": 4},
        {"prompt_tokens": "10", "completion_tokens": 4},
        {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 11}},
        {"prompt_tokens": 10, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 5}},
        {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": "14"},
        {"prompt_tokens": 10**30, "completion_tokens": 4},
    ],
)
def test_a_report_that_does_not_add_up_is_none(usage):
    assert token_count(usage) is None


def test_the_classes_of_a_report_add_up_to_what_was_reported():
    for usage in (OPENAI, DEEPSEEK, OPENROUTER, LITELLM_ANTHROPIC, IMAGES):
        classes = token_count(usage)
        assert (classes.prompt, classes.completion) == (usage["prompt_tokens"], usage["completion_tokens"])


def test_each_class_has_its_own_price_and_what_has_none_is_paid_as_input():
    classes = TokenCount(input=1, cached_input=10, output=100, reasoning=1000, cache_write=10_000, image=100_000)
    price = Price(
        input=Decimal(1),
        cached_input=Decimal(2),
        output=Decimal(3),
        reasoning=Decimal(4),
        cache_write=Decimal(5),
        image=Decimal(6),
    )
    assert price.cost(classes) == Decimal(1 + 20 + 300 + 4000 + 50_000 + 600_000) / 1_000_000
    plain = Price(input=Decimal(1), cached_input=Decimal(2), output=Decimal(3), reasoning=Decimal(4))
    assert plain.cost(classes) == Decimal(1 + 20 + 300 + 4000 + 10_000 + 100_000) / 1_000_000
    # The worst case knows the dearest class.
    assert price.most(1_000_000, 0) == 6
    assert plain.most(0, 1_000_000) == 4
