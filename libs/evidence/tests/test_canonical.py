import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from slipway_evidence.canonical import CanonicalError, dump, parse, parse_canonical

numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_the_canonical_form_is_that_of_the_reference_implementation(value: object) -> None:
    assert dump(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@given(values)
def test_what_was_written_canonically_reads_back_as_canonical(value: object) -> None:
    data = dump(value)
    assert dump(parse_canonical(data)) == data


def test_member_names_are_sorted_by_utf16_code_units() -> None:
    assert dump({"\ufb33": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ufb33":1}'.encode()


@pytest.mark.parametrize(
    "data",
    [
        b' {"a":1}',
        b'{"a":1}\n',
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":1.0}',
        b'{"a":-0}',
        b'{"a":1e2}',
        b'{"a":"\\u0041"}',
        b'{"a":"\\/"}',
        b'{"a":"\\ud800"}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e999}',
        b'{"a":9007199254740993}',
        b'{"a":' + b"9" * 6000 + b"}",
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
        b"",
        b"{",
        b"[" * 200_000,
        b"[" * 100 + b"]" * 100,
    ],
)
def test_anything_but_the_canonical_form_is_refused(data: bytes) -> None:
    with pytest.raises(CanonicalError):
        parse_canonical(data)


def test_the_error_names_the_byte_that_departs() -> None:
    with pytest.raises(CanonicalError, match="byte 5 departs"):
        parse_canonical(b'{"a": 1}')
    with pytest.raises(CanonicalError, match="byte 6 is not UTF-8"):
        parse('{"ä":"'.encode()[:6] + b"\xff")
