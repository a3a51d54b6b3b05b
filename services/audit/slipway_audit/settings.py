"""Settings of the audit service."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict
from slipway_chassis.setting_types import BusUrl
from slipway_chassis.settings import CoreSettings


class AuditSettings(CoreSettings):
    """Environment variables `SLIPWAY_AUDIT_…`."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_AUDIT_", frozen=True, extra="ignore")

    bus_url: BusUrl = Field(description="redis:// or amqp:// URL of the bus")
    signing_key_file: Path = Field(description="the log's signing key, made by `python -m slipway_audit.keys init DIR`")
    heads_dir: Path = Field(description="folder where every signed head is written, to be held by somebody else")
