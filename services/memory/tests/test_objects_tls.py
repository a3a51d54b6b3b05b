"""An object store behind a certificate of an authority of one's own."""

from pathlib import Path

import pytest
from slipway_memory.errors import ObjectStoreUnavailable
from slipway_memory.objects import open_objects
from slipway_testkit.certificates import CertificateAuthority
from slipway_testkit.plugin import required_or_skipped
from slipway_testkit.servers.versitygw import versitygw


@pytest.mark.servers
async def test_a_bucket_is_reached_over_tls_with_the_authority_that_ssl_cert_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = CertificateAuthority().issue(tmp_path, "127.0.0.1")
    with required_or_skipped(versitygw(issued)) as server:
        url = server.url(server.create_bucket())
        assert "https://" in url
        monkeypatch.setenv("SSL_CERT_FILE", str(issued.authority))
        await (await open_objects(url)).check()
        stranger = CertificateAuthority("stranger").issue(tmp_path / "other", "127.0.0.1").authority
        monkeypatch.setenv("SSL_CERT_FILE", str(stranger))
        with pytest.raises(ObjectStoreUnavailable):
            await (await open_objects(url)).check()
