"""Counts tokens as all-MiniLM-L6-v2 does (WordPiece of bert-base-uncased)."""

from __future__ import annotations

from importlib.resources import as_file, files

from slipway_memory.parsing.chunking import CountTokens


def token_counter() -> CountTokens:
    """Returns a function from text to its number of tokens, marks at start and end not counted."""
    from tokenizers import BertWordPieceTokenizer

    with as_file(files("slipway_memory") / "data" / "minilm-vocab.txt") as vocabulary:
        tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return count
