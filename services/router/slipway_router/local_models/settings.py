"""Settings of the local model process."""

import ipaddress

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class LocalModelsSettings(BaseSettings):
    """`SLIPWAY_LOCAL_MODELS_*`: address, threads and an optional key."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_LOCAL_MODELS_", frozen=True)

    listen: str = "127.0.0.1:0"
    """Address to serve on; port 0 asks the kernel for one."""
    threads: int = Field(default=2, ge=1, le=64)
    """Threads of one generation or one embedding batch."""
    api_key: SecretStr | None = None
    """Bearer key that callers must send; required on any address but loopback."""

    @property
    def host(self) -> str:
        """Host part of `listen`."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Port part of `listen`."""
        return int(self.listen.rpartition(":")[2])

    @model_validator(mode="after")
    def _safe_address(self) -> "LocalModelsSettings":
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError("SLIPWAY_LOCAL_MODELS_LISTEN must be host:port")
        try:
            loopback = ipaddress.ip_address(self.host).is_loopback
        except ValueError as error:
            raise ValueError("SLIPWAY_LOCAL_MODELS_LISTEN must start with an IP address") from error
        if not loopback and self.api_key is None:
            raise ValueError(
                "SLIPWAY_LOCAL_MODELS_API_KEY is required when SLIPWAY_LOCAL_MODELS_LISTEN is not loopback"
            )
        return self
