"""Certificates that cannot be used are told at the start, by the setting, with the remedy."""

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict
from slipway_chassis import telemetry
from slipway_chassis.settings import CoreSettings, explain, load_settings
from slipway_testkit.certificates import SERVER_ONLY, CertificateAuthority, Issued

PREFIX = "SLIPWAY_SMALL_"
authority = CertificateAuthority()
stranger = CertificateAuthority("stranger")
DAY = timedelta(days=1)


class Settings(CoreSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch, signing: Any, data_key: str) -> Callable[..., None]:
    """Sets what every service needs, and what is named."""

    def prepare(settings: dict[str, str]) -> None:
        needed = {
            "DATABASE_URL": "postgresql://127.0.0.1/none",
            "CALLER_JWKS_FILE": str(signing.jwks_file),
            "IDENTITY_TARGET": "127.0.0.1:1",
            "SERVICE_SECRET": "s3cret",
            "POLICY_DIR": "/nowhere",
            "DATA_KEY": data_key,
        }
        for name, value in {**{PREFIX + name: value for name, value in needed.items()}, **settings}.items():
            monkeypatch.setenv(name, value)

    return prepare


def _readable(issued: Issued) -> None:
    issued.key.chmod(0o644)


def _gone(issued: Issued) -> None:
    issued.certificate.unlink()


def _another_key(issued: Issued) -> None:
    other = authority.issue(issued.key.parent / "other", "127.0.0.1")
    os.replace(other.key, issued.key)


def _no_pem(issued: Issued) -> None:
    issued.authority.write_text("none")


def _no_certificate(issued: Issued) -> None:
    issued.certificate.write_text("none")


@pytest.mark.parametrize(
    ("options", "spoil", "sentence"),
    [
        ({"begins": -2 * DAY, "ends": -DAY}, None, r"TLS_CERT_FILE: the certificate ended on \d{4}.* put a new one"),
        ({"begins": DAY, "ends": 2 * DAY}, None, r"TLS_CERT_FILE: the certificate begins on .* set the clock right"),
        ({}, _readable, r"TLS_KEY_FILE: .*tls\.key can be read by others: chmod 600 it"),
        ({}, _gone, r"TLS_CERT_FILE: .*tls\.crt cannot be read: No such file"),
        (
            {},
            _another_key,
            r"TLS_KEY_FILE: .*tls\.key is not the key of the certificate in SLIPWAY_SMALL_TLS_CERT",
        ),
        ({}, _no_pem, r"TLS_CA_FILE: .*ca\.crt holds no certificate in PEM"),
        ({}, _no_certificate, r"TLS_CERT_FILE: .*tls\.crt holds no certificate in PEM"),
        ({"password": "secret"}, None, r"TLS_KEY_FILE: .*tls\.key holds no key in PEM without a password"),
        ({"trust": stranger.pem}, None, r"TLS_CERT_FILE: no service with the authorities of .*TLS_CA_FILE accepts"),
        ({"uses": SERVER_ONLY}, None, r"TLS_CERT_FILE: .*purpose.*as server and as client"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_start_with_a_sentence(
    set_up: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    spoil: Callable[[Issued], None] | None,
    sentence: str,
) -> None:
    issued = authority.issue(tmp_path, "127.0.0.1", **options)
    if spoil is not None:
        spoil(issued)
    set_up(issued.settings(PREFIX))
    with pytest.raises(SystemExit) as ended:
        load_settings(Settings)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("slipway: SLIPWAY_SMALL_")
    assert re.search(sentence, said), said


@pytest.mark.parametrize(
    "left_out", ["SLIPWAY_SMALL_TLS_CERT_FILE", "SLIPWAY_SMALL_TLS_KEY_FILE", "SLIPWAY_SMALL_TLS_CA_FILE"]
)
def test_one_of_the_three_files_alone_is_no_plain_text_by_mistake(
    set_up: Callable[..., None], tmp_path: Path, left_out: str
) -> None:
    settings = authority.issue(tmp_path, "127.0.0.1").settings(PREFIX)
    del settings[left_out]
    set_up(settings)
    with pytest.raises(ValidationError) as wrong:
        Settings()  # pyright: ignore[reportCallIssue]
    assert explain(Settings, wrong.value).startswith(f"{left_out} is not set: TLS between services needs")


def test_names_of_callers_are_nothing_without_certificates(set_up: Callable[..., None]) -> None:
    set_up({f"{PREFIX}TLS_CALLERS": "gateway.example"})
    with pytest.raises(ValidationError, match="TLS_CERT_FILE is not set"):
        Settings()  # pyright: ignore[reportCallIssue]


def test_names_of_callers_are_read_with_commas_and_as_json(set_up: Callable[..., None], tmp_path: Path) -> None:
    files = authority.issue(tmp_path, "127.0.0.1").settings(PREFIX)
    for text in ("a.example, spiffe://b/c", '["a.example", "spiffe://b/c"]'):
        set_up({**files, f"{PREFIX}TLS_CALLERS": text})
        settings = Settings()  # pyright: ignore[reportCallIssue]
        assert settings.tls_callers == {"a.example", "spiffe://b/c"}
        assert settings.tls is not None


def test_metrics_tell_how_long_the_certificate_lives(set_up: Callable[..., None], tmp_path: Path) -> None:
    set_up(authority.issue(tmp_path, "127.0.0.1", begins=-DAY, ends=3 * DAY).settings(PREFIX))
    assert Settings().tls is not None  # pyright: ignore[reportCallIssue]
    left = telemetry.registry.get_sample_value("slipway_tls_certificate_seconds_left", {"use": "services"})
    whole = telemetry.registry.get_sample_value("slipway_tls_certificate_lifetime_seconds", {"use": "services"})
    assert left is not None
    assert 3 * 86_400 - 60 < left <= 3 * 86_400
    assert whole == 4 * 86_400
