"""Reading files that a command is given."""

from pathlib import Path
from typing import Any

from slipway_cli.output import USAGE, fail


def read_mapping(file: Path, holds: str) -> dict[str, Any]:
    """The mapping in a YAML (or JSON) file; ends the command when there is none. `holds` says what should be in it."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe").load(file)
    except (UnicodeDecodeError, YAMLError) as error:
        fail(f"{file} is no YAML: {error}", USAGE)
    if not isinstance(content, dict):
        fail(f"{file} must hold a mapping: {holds}", USAGE)
    return content
