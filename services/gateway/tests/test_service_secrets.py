"""Secrets of services: several at a time while one is rotated."""

import json
import os
from pathlib import Path

import pytest
from slipway_gateway.services import ServiceSecrets, ServiceSecretWrong

OLD, NEW = "the-old-secret-of-audit", "the-new-secret-of-audit"


def write(file: Path, content: object) -> None:
    """Replaces the file, as mounted secrets are."""
    new = file.with_suffix(".new")
    new.write_text(content if isinstance(content, str) else json.dumps(content))
    os.replace(new, file)


def test_a_rotated_secret_is_taken_up_from_the_file_while_both_are_good(tmp_path: Path) -> None:
    file = tmp_path / "secrets.json"
    write(file, {"audit": OLD})
    secrets = ServiceSecrets(file=file)
    secrets.check("audit", OLD)
    with pytest.raises(ServiceSecretWrong):
        secrets.check("audit", NEW)
    write(file, {"audit": [NEW, OLD]})
    secrets.check("audit", NEW)
    secrets.check("audit", OLD)
    with pytest.raises(ServiceSecretWrong):
        secrets.check("router", NEW)
    write(file, {"audit": NEW})
    secrets.check("audit", NEW)
    with pytest.raises(ServiceSecretWrong):
        secrets.check("audit", OLD)


@pytest.mark.parametrize("content", ["{", "[]", {"audit": "short"}, {"audit": []}, {"audit": [NEW, 7]}])
def test_a_file_that_cannot_be_used_leaves_the_secrets_as_they_were(tmp_path: Path, content: object) -> None:
    file = tmp_path / "secrets.json"
    write(file, {"audit": OLD})
    secrets = ServiceSecrets(file=file)
    write(file, content)
    secrets.check("audit", OLD)
    with pytest.raises(ValueError, match=r".") as refused:
        ServiceSecrets(file=file)
    assert NEW not in str(refused.value)
