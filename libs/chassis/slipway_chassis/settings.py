"""Settings from the environment, one frozen class per service. Secrets have no defaults and never show in a repr."""

import json
import sys
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from slipway_chassis.data_key import parse_data_keys
from slipway_chassis.tls import CertificateFiles, ServiceTls

S = TypeVar("S", bound=BaseSettings)
Migrations = Literal["apply", "check"]


def read_list(value: Any, *, of: str = "names") -> Any:
    """A setting's list, written as JSON or with commas. Raises ValueError that says so; ``of`` is what it holds."""
    if not isinstance(value, str):
        return value
    if value.strip().startswith("["):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"must be a JSON list, or {of} with commas") from error
    return [part.strip() for part in value.split(",") if part.strip()]


def _are_data_keys(value: SecretStr) -> SecretStr:
    try:
        parse_data_keys(value.get_secret_value())
    except ValueError as error:
        raise ValueError("must be base64 of 32 bytes") from error
    return value


DataKeys = Annotated[SecretStr, AfterValidator(_are_data_keys)]


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
    data_key: DataKeys = Field(description="base64 of 32 bytes, which wrap subjects' keys; several with commas")
    otlp_endpoint: str = Field("", description="OTLP/gRPC endpoint of the trace collector; empty: no traces")
    tls_cert_file: Path | None = Field(
        None, description="PEM of the service's certificate: with it calls between services go over mutual TLS"
    )
    tls_key_file: Path | None = Field(None, description="PEM of its key; mode 0600")
    tls_ca_file: Path | None = Field(None, description="PEM of the authorities that sign the services' certificates")
    tls_callers: Annotated[frozenset[str], NoDecode] = Field(
        frozenset(), description="names of which a caller's certificate must have one; empty: any of the authorities'"
    )
    log_level: str = "INFO"
    shutdown_grace: float = Field(10, ge=0, description="seconds that calls in flight get at shutdown")

    @field_validator("tls_callers", mode="before")
    @classmethod
    def _read_callers(cls, value: Any) -> Any:
        return read_list(value)

    @model_validator(mode="after")
    def _tls_is_whole(self) -> "CoreSettings":
        files = {"CERT_FILE": self.tls_cert_file, "KEY_FILE": self.tls_key_file, "CA_FILE": self.tls_ca_file}
        missing = [name for name, file in files.items() if file is None]
        if missing and (len(missing) < len(files) or self.tls_callers):
            raise ValueError(
                f"{self._tls_prefix}{missing[0]} is not set: TLS between services needs CERT_FILE, KEY_FILE and CA_FILE"
            )
        # Files that cannot be used are told before anything is started.
        _ = self.tls
        return self

    @cached_property
    def tls(self) -> ServiceTls | None:
        """TLS between services, or None: then they talk without. Raises TlsInvalid."""
        if self.tls_cert_file is None or self.tls_key_file is None or self.tls_ca_file is None:
            return None
        return ServiceTls(CertificateFiles(self._tls_prefix, self.tls_cert_file, self.tls_key_file, self.tls_ca_file))

    @property
    def _tls_prefix(self) -> str:
        return f"{self.model_config.get('env_prefix', '')}TLS_"


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
        if not fault["loc"]:
            # About several settings together: the message names them.
            faults.append(message)
            continue
        faults.append(f"{variable} {message[0].lower()}{message[1:]}")
    return "; ".join(faults)
