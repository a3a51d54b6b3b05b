"""How passages are laid out in Weaviate: the collection, its objects, tenants and filters."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence

import weaviate
from weaviate.classes.config import Configure, DataType, Property, StopwordsPreset, Tokenization, VectorDistances
from weaviate.classes.query import Filter
from weaviate.collections.classes.filters import FilterReturn

_OBJECTS = uuid.UUID("5f0c8a52-4d2f-5d0f-9a43-6f1a6a1b7c11")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
_MARKER = re.compile(r"Passages of Slipway installation (\w+),")
_EVERYONE = "*"

_PROPERTIES = [
    # For words.
    {"name": "text", "tokenization": "word", "searchable": True, "filterable": False},
    {"name": "context", "tokenization": "word", "searchable": True, "filterable": False},
    # For filters, compared as they are.
    {"name": "collection_id", "tokenization": "field", "searchable": False, "filterable": True},
    {"name": "version_id", "tokenization": "field", "searchable": False, "filterable": True},
    {"name": "readers", "tokenization": "field", "searchable": False, "filterable": True, "array": True},
    {"name": "labels", "tokenization": "field", "searchable": False, "filterable": True, "array": True},
]
#: Of text, context: headings count as much as the text below them.
WORDS = ["text", "context"]
#: To be raised whenever the layout changes: collections of an older one are built anew and take the old ones' place.
LAYOUT = 1


async def create_collection(client: weaviate.WeaviateAsyncClient, name: str, installation: str, layout: int) -> None:
    """Creates a collection of this layout."""
    await client.collections.create(
        name,
        description=f"Passages of Slipway installation {installation}, layout {layout}",
        vector_config=Configure.Vectors.self_provided(
            vector_index_config=Configure.VectorIndex.hnsw(
                distance_metric=VectorDistances.COSINE,
                ef_construction=128,
                quantizer=Configure.VectorIndex.Quantizer.none(),
            )
        ),
        multi_tenancy_config=Configure.multi_tenancy(
            enabled=True, auto_tenant_creation=True, auto_tenant_activation=True
        ),
        inverted_index_config=Configure.inverted_index(stopwords_preset=StopwordsPreset.EN),
        properties=[
            *(
                Property(
                    name=str(one["name"]),
                    data_type=DataType.TEXT_ARRAY if one.get("array") else DataType.TEXT,
                    tokenization=Tokenization(str(one["tokenization"])),
                    index_searchable=bool(one["searchable"]),
                    index_filterable=bool(one["filterable"]),
                )
                for one in _PROPERTIES
            ),
            Property(name="ordinal", data_type=DataType.INT, index_filterable=False),
        ],
    )


async def owner(client: weaviate.WeaviateAsyncClient, name: str) -> str | None:
    """The installation that made a collection; empty for one that none made, None when it is not there.

    A collection that none made may be Weaviate's guess from an object that came after its collection had gone.
    """
    if not await client.collections.exists(name):
        return None
    config = await client.collections.use(name).config.get(simple=True)
    found = _MARKER.match(config.description or "")
    return found[1] if found else ""


def object_id(version_id: str, ordinal: int) -> uuid.UUID:
    """The same for the same chunk whoever stores it: a redelivered ingestion replaces objects by themselves."""
    return uuid.uuid5(_OBJECTS, f"{version_id}.{ordinal}")


def tenant_name(tenant: str) -> str:
    """The Weaviate tenant of a Slipway tenant. Its names may have letters, digits, `-` and `_` alone."""
    if _TENANT.fullmatch(tenant) and not tenant.startswith("x-"):
        return tenant
    return "x-" + hashlib.sha256(tenant.encode()).hexdigest()[:48]


def stored_readers(readers: Sequence[str]) -> list[str]:
    """An access list as objects carry it; nobody named means everyone."""
    return list(readers) or [_EVERYONE]


def stored_labels(metadata: Mapping[str, str]) -> list[str]:
    """Labels as objects carry them: digests, which neither length nor spaces of a value can confuse."""
    return [hashlib.sha256(json.dumps([key, value]).encode()).hexdigest()[:32] for key, value in metadata.items()]


def visible(collection_id: str, readers: Sequence[str], metadata: Mapping[str, str]) -> FilterReturn:
    """What a caller may see, applied before anything is ranked."""
    allowed = Filter.by_property("collection_id").equal(collection_id) & Filter.by_property("readers").contains_any(
        [*readers, _EVERYONE]
    )
    return allowed & Filter.by_property("labels").contains_all(stored_labels(metadata)) if metadata else allowed
