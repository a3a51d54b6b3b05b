"""all-MiniLM-L6-v2 on onnxruntime: mean pooling over the attention mask, then unit length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slipway_router.local_models.artifacts import embedding_tokenizer, embedding_weights

EMBEDDING_MODEL_ID = "all-MiniLM-L6-v2-int8"
DIMENSIONS = 384
MAX_TOKENS = 256
"""Longest input in word pieces; what lies beyond is cut off, as the model was trained. Callers chunk before."""
BATCH = 16
"""Texts in one pass; padding to the longest of a sorted batch wastes little, and memory stays bounded."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors in the order of the inputs, shape (n, 384), and the word pieces that were read."""

    vectors: npt.NDArray[np.float32]
    tokens: int
    truncated: int


class EmbeddingModel:
    """The loaded embedding model: about 100 MiB, 4 ms for a query on two threads."""

    def __init__(self, threads: int) -> None:
        """Load weights and tokenizer; raises ArtifactMissing."""
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Without this the pool spins for a while after each batch, waiting for the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The arena keeps the largest batch's memory for ever.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(
            str(embedding_weights()), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {node.name for node in self._session.get_inputs()}
        self._tokenizer: Any = Tokenizer.from_file(str(embedding_tokenizer()))
        self._tokenizer.enable_truncation(max_length=MAX_TOKENS)
        self._tokenizer.no_padding()

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Embed `texts`, any number of them; vectors have unit length, so a dot product is the cosine."""
        encodings = self._tokenizer.encode_batch(list(texts))
        order = sorted(range(len(texts)), key=lambda index: len(encodings[index].ids))
        vectors = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            vectors[batch] = self._forward([encodings[index].ids for index in batch])
        return Embedded(
            vectors=vectors,
            tokens=sum(len(encoding.ids) for encoding in encodings),
            truncated=sum(1 for encoding in encodings if encoding.overflowing),
        )

    def _forward(self, rows: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        width = max(len(row) for row in rows)
        ids = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        feeds = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros_like(ids)
        hidden: npt.NDArray[np.float32] = self._session.run(None, feeds)[0]
        weights = mask[..., None].astype(np.float32)
        pooled = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        return (pooled / np.linalg.norm(pooled, axis=1, keepdims=True)).astype(np.float32)
