"""Settings of the memory service."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict
from slipway_chassis.setting_types import Seconds, Target
from slipway_chassis.settings import ServiceSettings, read_list

from slipway_memory.vectors.url import weaviate_address

_MIB = 1024 * 1024
_PLACE = re.compile(r"[a-z0-9._:-]+:[0-9]{1,5}")


class MemorySettings(ServiceSettings):
    """`SLIPWAY_MEMORY_…` variables."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_MEMORY_", frozen=True, extra="ignore")

    router_target: Target = Field(description="gRPC target of slipway.router.v1, which embeds")
    objects_url: SecretStr = Field(
        description="where bytes of documents and files are: file:///folder, or s3://bucket as object_store.py says"
    )
    vectors_url: SecretStr = Field(
        SecretStr(""),
        description="where passages are found: empty for pgvector in the database, or weaviate://… (vectors/url.py)",
    )
    document_bytes: int = Field(64 * _MIB, ge=1, description="most bytes of a document")
    document_text: int = Field(16 * _MIB, ge=1, description="most characters of a document's text")
    parse_seconds: int = Field(60, ge=1, le=600, description="most seconds to parse a document")
    parse_memory_mib: int = Field(1024, ge=256, description="most memory to parse a document")
    parse_concurrency: int = Field(2, ge=1, le=64, description="documents parsed at a time")
    indexing_concurrency: int = Field(2, ge=1, le=64, description="documents embedded at a time")
    indexing_lease: Seconds = Field(60, ge=1, description="seconds without a sign after which a document is sent again")
    indexing_patience: Seconds = Field(3600, ge=1, description="seconds after which indexing is given up")
    embedding_timeout: Seconds = Field(
        45, gt=0, description="seconds, less than the lease, that one call of the router may take"
    )
    file_bytes: int = Field(256 * _MIB, ge=1, description="most bytes of a file")
    file_quota_bytes: int = Field(10240 * _MIB, ge=1, description="most bytes of all files of a tenant")
    session_message_characters: int = Field(100_000, ge=1, description="most characters of a session's message")
    session_messages: int = Field(10_000, ge=1, description="most messages of a session")
    session_bytes: int = Field(16 * _MIB, ge=1, description="most bytes of a session's messages")
    redis_timeout: Seconds = Field(2, gt=0, description="seconds that a call waits for the session store")
    secrets_file: Path | None = Field(
        None, description="YAML of secrets by name, mode 0600: URLs of data sources; unset: no secrets"
    )
    source_urls_dir: Path | None = Field(None, description="folder of files TENANT/NAME with URLs of data sources")
    source_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="host:port pairs, and folders of Unix sockets, where databases of data sources may be"
    )
    source_seconds: Seconds = Field(30, ge=0.1, le=300, description="most seconds of a query")
    source_rows: int = Field(10_000, ge=1, le=100_000, description="most rows of a result")
    source_bytes: int = Field(_MIB, ge=1024, le=3 * _MIB, description="most bytes of a result, as JSON")
    source_cost: float = Field(
        10_000_000, ge=0, description="most that the database's planner may expect a query to cost; 0: any"
    )
    source_queries: int = Field(
        8, ge=1, le=1000, description="queries of a tenant at a time, and connections to a database"
    )
    sweep_interval: Seconds = Field(10, ge=0.05, description="seconds between sweeps")

    @field_validator("source_hosts", mode="before")
    @classmethod
    def _read_hosts(cls, value: Any) -> Any:
        return read_list(value, of="places")

    @field_validator("source_hosts")
    @classmethod
    def _are_places(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Nothing that looks allowed and never matches."""
        for place in value:
            if not place.startswith("/") and not _PLACE.fullmatch(place):
                raise ValueError(f"{place!r} must be host:port in lower case, or the folder of a Unix socket")
        return value

    @field_validator("vectors_url")
    @classmethod
    def _names_an_index(cls, value: SecretStr) -> SecretStr:
        """A URL of another form is told before anything is written."""
        if value.get_secret_value():
            weaviate_address(value.get_secret_value())
        return value

    @field_validator("embedding_timeout")
    @classmethod
    def _fits_the_lease(cls, value: float, info: ValidationInfo) -> float:
        """A call that outlives the lease would be made again and again."""
        lease = info.data.get("indexing_lease", value)
        if value >= lease:
            raise ValueError(f"must be less than the indexing lease ({lease:g} s)")
        return value
