"""Settings of the router."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict
from slipway_chassis.setting_types import Seconds
from slipway_chassis.settings import ServiceSettings


class RouterSettings(ServiceSettings):
    """`SLIPWAY_ROUTER_*`."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_ROUTER_", frozen=True, extra="ignore")

    # The catalogue may name any (`env:NAME`) for keys of providers.
    free_variables = True

    catalogue_file: Path = Field(description="YAML file of providers, models and routes; taken up when it changes")
    secrets_file: Path | None = Field(None, description="YAML file of secrets that the catalogue refers to; mode 0600")
    local_models_url: str = Field("", description="base URL that `setting:local_models_url` in the catalogue means")
    orphan_seconds: Seconds = Field(
        15, ge=1, le=600, description="seconds without a sign of life after which a replica is taken for dead"
    )
    litellm_python: Path | None = Field(
        None, description="interpreter of an environment with litellm, for providers of the types anthropic and gemini"
    )
    redis_timeout: Seconds = Field(0.25, gt=0, le=10, description="seconds that a call waits for Redis at most")
