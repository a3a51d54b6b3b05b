"""Ids, canonical JSON, money and page tokens."""

import json
from decimal import Decimal
from typing import Any

import pytest
import rfc8785
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.ids import is_id, new_id
from slipway_chassis.jcs import NotCanonical, canonical_json, digest
from slipway_chassis.money import from_money, to_money
from slipway_chassis.paging import InvalidPageToken, decode_token, encode_token, page_size


def test_ids_name_their_kind_are_unique_and_sort_by_time() -> None:
    ids = [new_id("run") for _ in range(1000)]
    assert all(is_id("run", text) for text in ids)
    assert len(set(ids)) == 1000
    assert [text[:14] for text in ids] == sorted(text[:14] for text in ids)
    assert is_id("api_key", new_id("api_key"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "run",
        "run_",
        "run_01h2xcejqtf2nbrexx3vqjhp4",
        "run_01h2xcejqtf2nbrexx3vqjhp411",
        "run_81h2xcejqtf2nbrexx3vqjhp41",
        "run_01H2XCEJQTF2NBREXX3VQJHP41",
        "run_01h2xcejqtf2nbrexx3vqjhpi1",
        "run_01h2xcejqtf2nbrexx3vqjhp41\n",
        "agent_01h2xcejqtf2nbrexx3vqjhp41",
        "01h2xcejqtf2nbrexx3vqjhp41",
    ],
)
def test_what_is_no_id_of_the_kind_is_told(text: str) -> None:
    assert is_id("run", "run_01h2xcejqtf2nbrexx3vqjhp41")
    assert not is_id("run", text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)  # fmt: skip


@given(_JSON)
def test_canonical_json_is_what_the_reference_writes(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


def test_canonical_json_follows_rfc_8785() -> None:
    # RFC 8785, 3.2.2 and 3.2.3.
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '\u20ac$\u000f\nA\'B"\\"/',
        "literals": [None, True, False],
    }
    assert (
        canonical_json(value)
        == (
            '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
            '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\"/"}'
        ).encode()
    )
    order = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert list(json.loads(canonical_json(order)).values()) == [2, 4, 6, 7, 1, 5, 3]
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert digest({}) == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53 + 1, "\ud800", {1, 2}, {1: 2}, b"x"], ids=repr)
def test_what_has_no_canonical_json_is_refused(value: Any) -> None:
    with pytest.raises(NotCanonical):
        canonical_json({"value": value})


def test_endless_nesting_is_refused() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(NotCanonical):
        canonical_json(value)


@given(st.integers(-(10**15), 10**15))
def test_money_is_exact_to_a_billionth(nanos: int) -> None:
    amount = Decimal(nanos).scaleb(-9)
    money = to_money(amount)
    assert from_money(money) == amount
    assert money.currency_code == "USD"
    assert money.units * money.nanos >= 0
    assert abs(money.nanos) < 10**9


def test_money_rounds_half_to_even() -> None:
    assert to_money(Decimal("0.0000000005")).nanos == 0
    assert to_money(Decimal("0.0000000015")).nanos == 2
    assert to_money(Decimal("-1.9999999999")) == Money(currency_code="USD", units=-2)


@pytest.mark.parametrize(
    "money",
    [
        Money(currency_code="EUR", units=1),
        Money(currency_code="USD", units=1, nanos=-1),
        Money(currency_code="USD", nanos=1_000_000_000),
    ],
    ids=str,
)
def test_other_currencies_and_contradictory_money_are_refused(money: Money) -> None:
    with pytest.raises(InvalidArgument) as refused:
        from_money(money, field="budget.limit")
    assert refused.value.field is not None
    assert refused.value.field.startswith("budget.limit.")


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_amount_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        to_money(Decimal(amount))


@given(st.lists(st.text() | st.integers()))
def test_page_tokens_carry_their_fields(fields: list[str | int]) -> None:
    token = encode_token("acme", "ListRuns", *fields)
    assert decode_token("acme", "ListRuns", token) == tuple(fields)
    assert token.isascii()


def test_the_empty_page_token_is_the_first_page() -> None:
    assert decode_token("acme", "ListRuns", "", (str,)) is None


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_damaged_page_tokens_are_refused(text: str) -> None:
    if text:
        with pytest.raises(InvalidPageToken) as refused:
            decode_token("acme", "ListRuns", text)
        assert refused.value.field == "page_token"


def test_page_tokens_of_others_are_refused() -> None:
    token = encode_token("acme", "ListRuns", "x", 1)
    for tenant, method, kinds in (
        ("globex", "ListRuns", None),
        ("acme", "ListAgents", None),
        ("acme", "ListRuns", (str,)),
        ("acme", "ListRuns", (str, str)),
    ):
        with pytest.raises(InvalidPageToken):
            decode_token(tenant, method, token, kinds)
    assert decode_token("acme", "ListRuns", token, (str, int)) == ("x", 1)


def test_page_sizes_have_a_default_and_a_maximum() -> None:
    assert [page_size(n, 50, 200) for n in (0, 1, 200, 10_000)] == [50, 1, 200, 200]
    with pytest.raises(InvalidArgument):
        page_size(-1, 50, 200)
