"""Settings of the development issuer, from SLIPWAY_DEV_ISSUER_* variables."""

import ipaddress
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class DevIssuerSettings(BaseSettings):
    """Where it listens, whom it knows, where it keeps its key."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_DEV_ISSUER_", frozen=True, extra="ignore")

    listen: str = Field("127.0.0.1:8081", description="loopback address and port")
    realm_file: Path = Field(description="Keycloak realm export")
    key_dir: Path = Field(description="folder of the signing key; it is made at the first start")
    log_level: str = "INFO"

    @field_validator("listen")
    @classmethod
    def _is_loopback(cls, value: str) -> str:
        host, separator, port = value.rpartition(":")
        if not separator or not port.isdigit():
            raise ValueError("must be address:port")
        try:
            loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
        except ValueError:
            # Names are not resolved: what a name means can change while the process runs.
            loopback = host == "localhost"
        if not loopback:
            raise ValueError(
                f"must be a loopback address, not {host or 'all interfaces'}: the development issuer signs in anybody "
                "whose password stands in the realm file; use Keycloak or another OIDC provider to be reached from "
                "elsewhere"
            )
        return value
