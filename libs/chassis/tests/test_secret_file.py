"""The file of secrets: read again when it changes, refused as a whole when it is wrong."""

import os
from pathlib import Path

import pytest
import structlog
from slipway_chassis.secret_file import InvalidSecrets, SecretFile, SecretUnavailable, load


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)
    return path


def test_a_changed_file_is_taken_up_and_an_invalid_one_leaves_the_old_in_force(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", "key: one")
    secrets = SecretFile(path)
    assert secrets.resolve("key", tenant="acme", host="a.example").get_secret_value() == "one"
    write(path, "key: two-longer")
    assert secrets.resolve("key", tenant="acme", host="a.example").get_secret_value() == "two-longer"
    with structlog.testing.capture_logs() as logs:
        write(path, "key: [hidden-value")
        assert secrets.resolve("key", tenant="acme", host="a.example").get_secret_value() == "two-longer"
        os.unlink(path)
        assert secrets.resolve("key", tenant="acme", host="a.example").get_secret_value() == "two-longer"
    assert [log["event"] for log in logs] == ["secrets.refused", "secrets.refused"]
    assert "line 1" in logs[0]["error"]
    assert "hidden-value" not in str(logs)


def test_a_secret_serves_its_tenants_and_hosts_only(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", "key:\n  value: v\n  tenants: [acme]\n  hosts: [a.example]\n")
    secrets = SecretFile(path)
    assert secrets.resolve("key", tenant="acme", host="a.example").get_secret_value() == "v"
    for tenant, host in (("globex", "a.example"), ("acme", "b.example")):
        with pytest.raises(SecretUnavailable):
            secrets.resolve("key", tenant=tenant, host=host)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a", "mapping"),
        ("key: 5", "quote numbers"),
        ("key: ''", "printable"),
        ('key: "a\\nb"', "printable"),
        ("key: {value: v, tenant: acme}", "unknown field tenant"),
        ("key: {value: v, hosts: []}", "not empty"),
        ("key: {value: v, hosts: a.example}", "lists"),
        ("key: {tenants: [acme]}", "printable"),
        ("a: b: c", "line 1"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidSecrets, match=says):
        load(write(tmp_path / "s.yaml", text))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(InvalidSecrets, match="chmod 600"):
        load(write(tmp_path / "s.yaml", "key: v", mode))


def test_a_missing_file_is_refused_and_an_empty_one_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidSecrets, match="No such file"):
        load(tmp_path / "none.yaml")
    assert load(write(tmp_path / "s.yaml", "")) == {}
