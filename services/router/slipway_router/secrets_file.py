"""The secrets file: YAML `name: value`, readable by the service's own user."""

import stat
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError


class SecretsInvalid(Exception):
    """The file cannot be used. The message never shows a value."""


def load_secrets(path: Path) -> dict[str, str]:
    """Names and values of the file at `path`; raises SecretsInvalid when it is open to all users or not of the form."""
    try:
        if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
            raise SecretsInvalid(f"{path}: every user may read it: chmod 600")
        document = YAML(typ="safe").load(path.read_text())
    except OSError as error:
        raise SecretsInvalid(f"{path}: {error.strerror}") from error
    except (YAMLError, UnicodeDecodeError):
        # The parser's message quotes the line, and with it perhaps a secret.
        raise SecretsInvalid(f"{path}: not YAML") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SecretsInvalid(f"{path}: must hold lines `name: value`")
    for name, value in document.items():
        if not isinstance(name, str) or not isinstance(value, str) or not value:
            raise SecretsInvalid(f"{path}: the value of {name} must be a non-empty text in quotes")
    return document
