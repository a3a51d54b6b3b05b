"""Settings of the tools service."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from slipway_chassis.settings import CoreSettings

from slipway_tools.address import AllowList
from slipway_tools.sandbox.limits import MIB, Limits


class SandboxSettings(BaseSettings):
    """Settings of the sandbox, as the service and the check of the machine use them."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_TOOLS_", frozen=True, extra="ignore")

    state_dir: Path = Field(description="folder of the sandbox's Python; made if missing")
    sandbox_slots: int = Field(4, ge=1, le=64, description="programs at a time")
    sandbox_queue: int = Field(32, ge=0, le=10_000, description="programs that may wait")
    sandbox_memory_mib: int = Field(512, ge=128, le=65536, description="memory of a program, its files included")
    sandbox_workspace_mib: int = Field(64, ge=1, le=4096, description="files of a program")
    sandbox_processes: int = Field(32, ge=1, le=1024, description="processes and threads of a program")
    sandbox_cpus: float = Field(1.0, ge=0.1, le=64, description="processors that a program may use")
    sandbox_max_seconds: float = Field(300, ge=1, le=3600, description="longest time that a call may ask for")

    @property
    def limits(self) -> Limits:
        """The sandbox's limits."""
        return Limits(
            memory=self.sandbox_memory_mib * MIB,
            workspace=self.sandbox_workspace_mib * MIB,
            processes=self.sandbox_processes,
            cpus=self.sandbox_cpus,
            max_seconds=self.sandbox_max_seconds,
        )


class ToolsSettings(SandboxSettings, CoreSettings):
    """`SLIPWAY_TOOLS_…` variables."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_TOOLS_", frozen=True, extra="ignore")

    bus_url: SecretStr = Field(description="redis:// or amqp:// URL of the bus")
    memory_target: str = Field(description="gRPC target of slipway.memory.v1, where files of calls come from")
    secrets_file: Path | None = Field(None, description="YAML of secrets by name, mode 0600; unset: no secrets")
    http_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="host:port pairs that HTTP tools may call whatever the address, also without TLS"
    )
    http_calls: int = Field(64, ge=1, le=1000, description="calls of HTTP tools at a time")
    http_queue: int = Field(256, ge=0, le=10_000, description="calls of HTTP tools that may wait")
    regions: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="regions this service runs in: those of the builtin tools"
    )

    @field_validator("http_allow", "regions", mode="before")
    @classmethod
    def _read_list(cls, value: Any) -> Any:
        """Lists are written as JSON or with commas."""
        if not isinstance(value, str):
            return value
        if value.strip().startswith("["):
            try:
                return json.loads(value)
            except ValueError as error:
                raise ValueError("must be a JSON list, or names with commas") from error
        return [part.strip() for part in value.split(",") if part.strip()]

    @field_validator("http_allow")
    @classmethod
    def _is_allow_list(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AllowList.parse(value)
        return value
