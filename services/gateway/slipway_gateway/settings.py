"""Settings of the gateway, from SLIPWAY_GATEWAY_* variables."""

import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, SecretStr, StringConstraints, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict
from slipway_chassis.setting_types import Listen, Seconds, Target
from slipway_chassis.settings import ServiceSettings
from slipway_chassis.tls import CertificateFiles, Certificates

from slipway_gateway.oidc.discovery import is_trustworthy
from slipway_gateway.services import ServiceSecrets

_HTTP_TLS: Final = "SLIPWAY_GATEWAY_HTTP_TLS_"
Nonempty = Annotated[str, StringConstraints(min_length=1)]


class GatewaySettings(ServiceSettings):
    """Addresses, the identity provider, keys, limits. Lists are JSON, e.g. `["slipway-cli"]`."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_GATEWAY_", frozen=True, extra="ignore")

    # The gateway is slipway.identity.v1: it asks nobody for a token.
    identity_target: str = ""
    service_secret: SecretStr = SecretStr("")

    http_listen: Listen = Field("127.0.0.1:8080", description="address of the HTTP API")
    http_tls_cert_file: Path | None = Field(None, description="PEM of the HTTP API's certificate: with it https")
    http_tls_key_file: Path | None = Field(None, description="PEM of its key; mode 0600")
    allowed_hosts: frozenset[Nonempty] = Field(
        frozenset({"localhost", "127.0.0.1", "[::1]"}), description='hosts that requests may name; `["*"]`: any'
    )

    public_url: str = Field("", pattern=r"^(https?://[^/?#\s]+/?)?$", description="address that clients know; for MCP")

    oidc_issuer: Nonempty = Field(description="exact `iss` of access tokens")
    oidc_jwks_url: str = Field("", description="where the issuer's keys are; empty: by its discovery document")
    oidc_ca_file: Path | None = Field(None, description="PEM of the authority behind the provider's certificate")
    oidc_audience: Annotated[frozenset[Nonempty], NoDecode] = Field(
        frozenset({"slipway"}), min_length=1, description="what `aud` must contain; a JSON list: one of these"
    )
    oidc_azp: frozenset[Nonempty] = Field(min_length=1, description="clients whose tokens are accepted")
    oidc_subject_claim: Nonempty = Field("sub", description="claim that names the caller for ever")
    oidc_tenant_claim: Nonempty = "tenant"
    oidc_roles_claim: Nonempty = "realm_access.roles"
    oidc_groups_claim: Nonempty = "groups"
    oidc_client_claim: Nonempty = Field("azp", description="claim that names the client; Okta: cid")
    directory_url: Nonempty = Field(
        description="where subjects are looked up: realm-file:///path, keycloak+https://host/realms/REALM?client_id=…"
    )
    directory_secret: SecretStr = Field(SecretStr(""), description="secret of the directory's client")
    directory_secret_file: Path | None = Field(None, description="the same in a file")

    signing_key_file: Path = Field(description="PEM of the key that signs internal tokens")
    service_secrets: SecretStr = Field(SecretStr(""), description="JSON object: service to secret, or several")
    service_secrets_file: Path | None = Field(None, description="the same in a file")
    grant_lifetime: int = Field(30 * 86_400, ge=60, le=30 * 86_400, description="seconds that a run grant lives")
    api_key_roles: frozenset[Nonempty] = Field(
        frozenset({"developer", "operator", "auditor"}), description="roles that API keys may have"
    )

    router_target: Target
    orchestrator_target: Target
    memory_target: Target
    tools_target: Target
    audit_target: Target

    rate_per_minute: int = Field(3000, ge=1, description="requests a minute of one caller")
    rate_burst: int = Field(600, ge=1, description="requests that a caller may send at once")
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="largest JSON body")
    max_upload_bytes: int = Field(64 * 1024 * 1024, ge=1024, description="largest file")
    max_wait: Seconds = Field(60, ge=1, le=600, description="longest `Prefer: wait` in seconds")
    max_stream: Seconds = Field(3600, ge=10, description="longest event stream in seconds")
    heartbeat: Seconds = Field(15, ge=0.1, le=60, description="longest silence of an event stream in seconds")

    @field_validator("oidc_audience", mode="before")
    @classmethod
    def _one_or_a_list(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return json.loads(value) if value.startswith("[") else [value]

    @field_validator("oidc_issuer", "oidc_jwks_url")
    @classmethod
    def _is_https(cls, value: str) -> str:
        if value and not is_trustworthy(value):
            raise ValueError(
                "must be an https URL: whoever stands between could hand out keys of their own (plain http is for "
                "loopback addresses only)"
            )
        return value

    @field_validator("service_secrets_file", "directory_secret_file", "oidc_ca_file")
    @classmethod
    def _is_a_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError("names no file")
        return value

    @model_validator(mode="after")
    def _one_source_of_secrets(self) -> "GatewaySettings":
        if bool(self.service_secrets.get_secret_value()) == (self.service_secrets_file is not None):
            raise ValueError("set either SLIPWAY_GATEWAY_SERVICE_SECRETS or SLIPWAY_GATEWAY_SERVICE_SECRETS_FILE")
        return self

    @model_validator(mode="after")
    def _http_tls_is_whole(self) -> "GatewaySettings":
        if (self.http_tls_cert_file is None) != (self.http_tls_key_file is None):
            missing = "CERT" if self.http_tls_cert_file is None else "KEY"
            raise ValueError(f"{_HTTP_TLS}{missing}_FILE is not set: https needs certificate and key")
        # Files that cannot be used are told before anything is started.
        _ = self.http_tls
        return self

    @cached_property
    def http_tls(self) -> Certificates | None:
        """The certificate of the HTTP API, or None: then it has no TLS. Raises TlsInvalid."""
        if self.http_tls_cert_file is None or self.http_tls_key_file is None:
            return None
        return Certificates("http", CertificateFiles(_HTTP_TLS, self.http_tls_cert_file, self.http_tls_key_file))

    def read_directory_secret(self) -> str:
        """The secret of the directory's client. Raises ValueError with a sentence."""
        secret = self.directory_secret.get_secret_value()
        if self.directory_secret_file is not None:
            secret = self.directory_secret_file.read_text().strip()
        if not secret:
            raise ValueError("set SLIPWAY_GATEWAY_DIRECTORY_SECRET or SLIPWAY_GATEWAY_DIRECTORY_SECRET_FILE")
        return secret

    def read_service_secrets(self) -> ServiceSecrets:
        """The services' secrets. Raises ValueError with a sentence."""
        return ServiceSecrets(self.service_secrets.get_secret_value(), file=self.service_secrets_file)
