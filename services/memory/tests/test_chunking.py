"""Chunks are exact slices that respect structure and fit the model's window."""

from __future__ import annotations

import functools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slipway_memory.parsing.blocks import Block, BlockKind, bullet_list, code, heading, paragraph, table
from slipway_memory.parsing.chunking import (
    MAX_CHARACTERS,
    MAX_TOKENS,
    OVERLAP_TOKENS,
    TARGET_TOKENS,
    Chunk,
    Chunker,
    normalised_text,
)
from slipway_memory.parsing.markdown import parse_markdown
from slipway_memory.parsing.plain import parse_text
from slipway_memory.parsing.tokens import token_counter

count = functools.cache(token_counter)()

# Words as they come: prose, numbers, other scripts, and the kinds that tokenizers blow up.
WORDS = st.one_of(
    st.sampled_from(["the", "refund", "customer", "within", "delivery", "Äpfel", "naïve", "12,50", "€", "e-mail"]),
    st.text(min_size=1, max_size=12),
    st.text(alphabet="漢字かなカナ한국어ไทย🙂e\u0301", min_size=1, max_size=60),
    st.text(alphabet="abcdef0123456789+/=", min_size=80, max_size=700),
    st.sampled_from(["End. ", 'Said "so." ', "x\x85y", "a\u200bb", "|", " | ", "A: b"]),
)
TEXTS = st.lists(WORDS, min_size=1, max_size=160).map(" ".join)
BLOCKS = st.lists(
    st.one_of(
        st.builds(heading, st.integers(1, 4), TEXTS),
        st.builds(paragraph, TEXTS),
        st.builds(bullet_list, st.lists(TEXTS.map("- {}".format), min_size=1, max_size=6)),
        st.builds(code, st.lists(TEXTS, min_size=1, max_size=12).map("\n".join)),
        st.builds(
            functools.partial(table, has_header=True),
            st.lists(st.lists(TEXTS, min_size=1, max_size=3), min_size=1, max_size=8),
        ),
    ),
    max_size=12,
).map(lambda blocks: [block for block in blocks if block])


def chunks_of(blocks: list[Block]) -> list[Chunk]:
    return list(Chunker(count).chunks(blocks))


@settings(max_examples=150, deadline=None, print_blob=True)
@given(BLOCKS)
def test_a_chunk_is_the_slice_that_its_offsets_say_and_fits_the_window(blocks):
    text = normalised_text(blocks)
    chunks = chunks_of(blocks)
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.text.strip()
        assert len(chunk.text) <= MAX_CHARACTERS
        embedded = f"{chunk.context}\n{chunk.text}" if chunk.context else chunk.text
        assert count(embedded) <= MAX_TOKENS
    assert [chunk.start for chunk in chunks] == sorted(chunk.start for chunk in chunks)


@settings(max_examples=150, deadline=None, print_blob=True)
@given(BLOCKS)
def test_no_text_of_a_body_is_lost(blocks):
    text = normalised_text(blocks)
    covered = bytearray(len(text))
    for chunk in chunks_of(blocks):
        covered[chunk.start : chunk.end] = b"\x01" * (chunk.end - chunk.start)
    offset = 0
    for block in blocks:
        if block.kind is not BlockKind.HEADING:
            missing = [text[i] for i in range(offset, offset + len(block.text)) if not covered[i]]
            assert not "".join(missing).strip()
        offset += len(block.text) + 2


@settings(max_examples=100, deadline=None, print_blob=True)
@given(st.text(max_size=3000))
def test_any_markdown_is_cut_into_slices(text):
    blocks = list(parse_markdown(text).blocks)
    whole = normalised_text(blocks)
    assert all(whole[chunk.start : chunk.end] == chunk.text for chunk in chunks_of(blocks))


def sentences(number: int, start: int = 0) -> str:
    return " ".join(
        f"Sentence number {n} speaks of the returned goods and of their delivery." for n in range(start, number)
    )


def test_chunks_of_a_long_section_aim_at_the_target_and_repeat_the_end_of_the_one_before():
    blocks = list(parse_text(sentences(60)).blocks)
    first, second, *_ = chunks = chunks_of(blocks)
    assert all(TARGET_TOKENS * 0.75 <= count(chunk.text) <= TARGET_TOKENS for chunk in chunks[:-1])
    assert first.start < second.start < first.end
    repeated = normalised_text(blocks)[second.start : first.end]
    assert 0 < count(repeated) <= OVERLAP_TOKENS
    assert repeated.startswith("Sentence number")


def test_nothing_is_repeated_from_one_section_in_the_next():
    blocks = list(parse_markdown(f"# A\n{sentences(20)}\n\n# B\n{sentences(40, 20)}").blocks)
    chunks = chunks_of(blocks)
    last_of_a = max(chunk.end for chunk in chunks if chunk.headings == ("A",))
    assert all(chunk.start > last_of_a for chunk in chunks if chunk.headings == ("B",))


def test_a_paragraph_that_fits_is_not_torn_to_fill_a_chunk():
    paragraphs = [sentences(8), sentences(16, 8), sentences(24, 16)]
    chunks = chunks_of(list(parse_text("\n\n".join(paragraphs)).blocks))
    for one in paragraphs:
        assert any(one in chunk.text for chunk in chunks)


def test_headings_are_those_above_a_chunk_and_a_bare_heading_is_found_by_itself():
    blocks = list(parse_markdown("# Book\n## One\ntext one\n### Deep\ndeep text\n## Two\ntext two\n# Appendix").blocks)
    found = {chunk.text: chunk.headings for chunk in chunks_of(blocks)}
    assert found == {
        "text one": ("Book", "One"),
        "deep text": ("Book", "One", "Deep"),
        "text two": ("Book", "Two"),
        "Appendix": (),
    }


def test_a_code_block_that_fits_the_window_is_whole_and_a_long_one_is_cut_between_lines():
    short = "\n".join(f"def function_{n}(): return {n}" for n in range(24))
    long = "\n".join(f"    value_{n} = compute(value_{n - 1})" for n in range(200))
    assert TARGET_TOKENS < count(short) <= MAX_TOKENS - 1
    chunks = chunks_of(list(parse_markdown(f"# C\nintro\n\n```py\n{short}\n```\n\n```py\n{long}\n```").blocks))
    assert any(chunk.text.endswith(short) for chunk in chunks)
    cut = [chunk for chunk in chunks if "value_" in chunk.text]
    assert len(cut) > 5
    assert all(
        re.fullmatch(r"value_\d+ = compute\(value_-?\d+\)", line.strip()) for c in cut for line in c.text.split("\n")
    )


def test_every_row_of_a_long_table_carries_its_header():
    rows = "\n".join(f"| Plan {n} | {n} EUR | {n} days |" for n in range(80))
    chunks = chunks_of(list(parse_markdown(f"# T\n| Name | Price | Notice |\n|---|---|---|\n{rows}").blocks))
    assert len(chunks) > 4
    for chunk in chunks:
        for line in chunk.text.split("\n"):
            assert re.fullmatch(r"Name: Plan (\d+) \| Price: \1 EUR \| Notice: \1 days", line)
    assert sum(chunk.text.count("Name:") for chunk in chunks) == 80


def test_a_chunk_lies_on_one_page():
    blocks = [paragraph("On page one.", page=1), paragraph("On page two.", page=2), paragraph("Also two.", page=2)]
    assert [(chunk.page, chunk.text) for chunk in chunks_of(blocks)] == [
        (1, "On page one."),
        (2, "On page two.\n\nAlso two."),
    ]


@pytest.mark.parametrize("length", [1, 50])
def test_long_headings_leave_room_for_the_text(length):
    path = "\n".join(f"{'#' * level} {sentences(length)[:290]}" for level in range(1, 6))
    for chunk in chunks_of(list(parse_markdown(f"{path}\n{sentences(30)}").blocks)):
        assert count(f"{chunk.context}\n{chunk.text}") <= MAX_TOKENS
        assert count(chunk.text) > 100
