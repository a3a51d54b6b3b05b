"""Settings from the environment, one frozen class per service. Secrets have no defaults and never show in a repr."""

import json
import re
import sys
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from slipway_chassis.data_key import parse_data_keys
from slipway_chassis.environment import EnvironmentSettings, misspelt_settings
from slipway_chassis.setting_types import BusUrl, CollectorUrl, DatabaseUrl, Listen, RedisUrl, Seconds, Secret, Target
from slipway_chassis.tls import CertificateFiles, ServiceTls

S = TypeVar("S", bound=BaseSettings)


def _in_capitals(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


Migrations = Literal["apply", "check"]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_in_capitals)]


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


class CoreSettings(EnvironmentSettings):
    """What every service needs. Subclasses set ``model_config = SettingsConfigDict(env_prefix="SLIPWAY_ROUTER_")``."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    other_variables: ClassVar[frozenset[str]] = frozenset()
    """Variables with the prefix that are no settings."""
    free_variables: ClassVar[bool] = False
    """Variables with the prefix may be used by something else as well: one that is unknown is no matter."""

    grpc_listen: Listen = Field("127.0.0.1:0", description="address of the gRPC server; port 0 takes a free one")
    link_listen: Listen = Field(
        "127.0.0.1:0", description="address on which links are taken; callers are told it, so it names this machine"
    )
    metrics_listen: Listen = Field("127.0.0.1:0", description="address of /metrics, /livez and /readyz")
    database_url: DatabaseUrl = Field(description="postgresql:// URL of the service's own database")
    migrations: Migrations = Field(
        "apply", description="at the start: bring the database up to date; or only check that it is"
    )
    caller_jwks_file: Path = Field(description="public keys (JWKS) of the internal caller tokens")
    identity_target: Target = Field(description="gRPC target of slipway.identity.v1 (the gateway)")
    service_secret: Secret = Field(description="secret of the service's principal")
    policy_dir: Path = Field(description="folder of the Cedar policies")
    data_key: DataKeys = Field(description="base64 of 32 bytes, which wrap subjects' keys; several with commas")
    otlp_endpoint: CollectorUrl = Field("", description="OTLP/gRPC endpoint of the trace collector; empty: no traces")
    tls_cert_file: Path | None = Field(
        None, description="PEM of the service's certificate: with it calls between services go over mutual TLS"
    )
    tls_key_file: Path | None = Field(None, description="PEM of its key; mode 0600")
    tls_ca_file: Path | None = Field(None, description="PEM of the authorities that sign the services' certificates")
    tls_callers: Annotated[frozenset[str], NoDecode] = Field(
        frozenset(), description="names of which a caller's certificate must have one; empty: any of the authorities'"
    )
    log_level: LogLevel = "INFO"
    shutdown_grace: Seconds = Field(10, ge=0, description="seconds that calls in flight get at shutdown")

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
    def prefix(self) -> str:
        """What the names of the variables begin with."""
        return str(self.model_config.get("env_prefix", ""))

    @property
    def _tls_prefix(self) -> str:
        return f"{self.prefix}TLS_"


class ServiceSettings(CoreSettings):
    """What a service needs that also uses the cache and the bus."""

    redis_url: RedisUrl = Field(description="redis:// URL of the cache")
    bus_url: BusUrl = Field(description="redis:// or amqp:// URL of the bus")


def load_settings(settings: type[S]) -> S:
    """Settings from the environment. Wrong ones print one sentence that names the variables, and exit with 2.

    So does a service's variable whose name is nearly a setting's.
    """
    misspelt = _misspelt(settings)
    try:
        loaded = settings()
    except ValidationError as error:
        wrong = explain(settings, error)
    except SettingsError as error:
        wrong = _unreadable(settings, str(error))
    else:
        if not misspelt:
            return loaded
        wrong = ""
    sys.stderr.write(f"slipway: {'; '.join([*misspelt, *([wrong] if wrong else [])])}\n")
    sys.exit(2)


def _misspelt(settings: type[BaseSettings]) -> list[str]:
    return misspelt_settings(settings, others=settings.other_variables) if issubclass(settings, CoreSettings) else []


def _unreadable(settings: type[BaseSettings], said: str) -> str:
    # The library names the field, in quotes, and cannot read it as JSON.
    named = re.search(r'field "(\w+)"', said)
    name = named[1].upper() if named else ""
    return f"{settings.model_config.get('env_prefix', '')}{name} must be JSON"


def explain(settings: type[BaseSettings], error: ValidationError) -> str:
    """One sentence about wrong settings: variables and what is wrong with each, never their values."""
    prefix = settings.model_config.get("env_prefix", "")
    faults: list[str] = []
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        message = "is not set" if fault["type"] == "missing" else fault["msg"].removeprefix("Value error, ")
        message = message.replace("Input should", "must").replace("Value should", "must")
        if not fault["loc"]:
            # About several settings together: the message names them.
            faults.append(message)
            continue
        # What is wrong with a part of a list is said of the whole setting.
        variable = f"{prefix}{fault['loc'][0]}".upper()
        faults.append(f"{variable} {message[0].lower()}{message[1:]}")
    return "; ".join(dict.fromkeys(faults))
