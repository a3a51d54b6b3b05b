"""`slipway doctor` on certificates of services."""

from datetime import timedelta
from pathlib import Path

import pytest
from slipway_cli.checks.certificates import check_certificates
from slipway_testkit.certificates import CertificateAuthority, Issued

authority, stranger = CertificateAuthority(), CertificateAuthority("stranger")


async def test_each_certificate_that_settings_name_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def issue(name: str, *, days: int = 1, trust: bytes = b"") -> Issued:
        return authority.issue(tmp_path / name, "127.0.0.1", ends=timedelta(days=days), trust=trust)

    settings = issue("router", days=4).settings("SLIPWAY_ROUTER_")
    late = authority.issue(tmp_path / "audit", "127.0.0.1", begins=timedelta(days=-9), ends=timedelta(hours=30))
    settings |= late.settings("SLIPWAY_AUDIT_")
    settings |= issue("tools", trust=stranger.pem).settings("SLIPWAY_TOOLS_")
    http = issue("http").settings("SLIPWAY_GATEWAY_HTTP_")
    del http["SLIPWAY_GATEWAY_HTTP_TLS_CA_FILE"]
    settings |= http
    memory = issue("memory").settings("SLIPWAY_MEMORY_")
    del memory["SLIPWAY_MEMORY_TLS_KEY_FILE"]
    settings |= memory
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    found = {finding.sentence: finding.level for finding in await check_certificates(settings)}
    assert sorted(found.values()) == ["fail", "fail", "ok", "ok", "warn"]
    said = "\n".join(found)
    assert "tls: the certificate of router is good until " in said
    assert "tls: the certificate of gateway http is good until " in said
    assert "for 1.2 days: put a new one into SLIPWAY_AUDIT_TLS_CERT_FILE" in said
    assert "SLIPWAY_TOOLS_TLS_CERT_FILE: no service with the authorities of SLIPWAY_TOOLS_TLS_CA_FILE accepts" in said
    assert "tls: SLIPWAY_MEMORY_TLS_KEY_FILE is not set" in said


async def test_without_such_settings_there_is_nothing_to_say() -> None:
    assert await check_certificates({"SLIPWAY_ROUTER_GRPC_LISTEN": "127.0.0.1:0"}) == []
