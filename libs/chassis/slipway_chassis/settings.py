"""Settings from the environment, one frozen class per service. Secrets have no defaults and never show in a repr."""

import base64
import binascii
import sys
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

S = TypeVar("S", bound=BaseSettings)
Migrations = Literal["apply", "check"]


class CoreSettings(BaseSettings):
    """What every service needs. Subclasses set ``model_config = SettingsConfigDict(env_prefix="SLIPWAY_ROUTER_")``."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    grpc_listen: str = Field("127.0.0.1:0", description="address of the gRPC server; port 0 takes a free one")
    link_listen: str = Field(
        "127.0.0.1:0", description="address on which links are taken; callers are told it, so it names this machine"
    )
    metrics_listen: str = Field("127.0.0.1:0", description="address of /metrics, /livez and /readyz")
    database_url: SecretStr = Field(description="postgresql:// URL of the service's own database")
    migrations: Migrations = Field(
        "apply", description="at the start: bring the database up to date; or only check that it is"
    )
    caller_jwks_file: Path = Field(description="public keys (JWKS) of the internal caller tokens")
    identity_target: str = Field(description="gRPC target of slipway.identity.v1 (the gateway)")
    service_secret: SecretStr = Field(description="secret of the service's principal")
    policy_dir: Path = Field(description="folder of the Cedar policies")
    data_key: SecretStr = Field(description="base64 of the 32 bytes that wrap the subjects' keys")
    otlp_endpoint: str = Field("", description="OTLP/gRPC endpoint of the trace collector; empty: no traces")
    log_level: str = "INFO"
    shutdown_grace: float = Field(10, ge=0, description="seconds that calls in flight get at shutdown")

    @field_validator("data_key")
    @classmethod
    def _is_32_bytes(cls, value: SecretStr) -> SecretStr:
        try:
            size = len(base64.b64decode(value.get_secret_value(), validate=True))
        except binascii.Error as error:
            raise ValueError("must be base64 of 32 bytes") from error
        if size != 32:
            raise ValueError("must be base64 of 32 bytes")
        return value


class ServiceSettings(CoreSettings):
    """What a service needs that also uses the cache and the bus."""

    redis_url: SecretStr = Field(description="redis:// URL of the cache")
    bus_url: SecretStr = Field(description="redis:// or amqp:// URL of the bus")


def load_settings(settings: type[S]) -> S:
    """Settings from the environment. Wrong ones print one sentence that names the variables, and exit with 2."""
    try:
        return settings()
    except ValidationError as error:
        sys.stderr.write(f"slipway: {explain(settings, error)}\n")
        sys.exit(2)


def explain(settings: type[BaseSettings], error: ValidationError) -> str:
    """One sentence about wrong settings: variables and what is wrong with each, never their values."""
    prefix = settings.model_config.get("env_prefix", "")
    faults: list[str] = []
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        variable = (prefix + "_".join(str(part) for part in fault["loc"])).upper()
        message = "is not set" if fault["type"] == "missing" else fault["msg"].removeprefix("Value error, ")
        faults.append(f"{variable} {message[0].lower()}{message[1:]}")
    return "; ".join(faults)
