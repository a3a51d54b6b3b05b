"""Helm, and the chart rendered by it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

# Test folders are no packages here: the tests' own modules are found beside this file.
sys.path.insert(0, str(Path(__file__).parent))

from chart_testing.variants import CHART, REQUIRED, VARIANTS, Helm, Object, Refused, merged


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory, installed_program: Callable[[str], Path]) -> Helm:
    """Runs helm on the chart: `helm(command, values)`; raises Refused. Rendered for a release `agents`."""
    binary, folder = installed_program("helm"), tmp_path_factory.mktemp("helm")
    (folder / "home").mkdir()
    environment = {"HOME": str(folder / "home"), "PATH": "/usr/bin:/bin"}

    def run(command: str, values: Object) -> str:
        file = folder / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        name = ["agents"] if command == "template" else []
        arguments = [binary, command, *name, CHART, "--namespace", "team", "--kube-version", "1.34.2", "--values", file]
        ended = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60, check=False)
        if ended.returncode != 0:
            raise Refused(ended.stderr + ended.stdout)
        return ended.stdout

    return run


@pytest.fixture(scope="session")
def rendered(helm: Helm) -> dict[str, list[Object]]:
    """The objects of all variants."""
    return {
        name: [found for found in yaml.safe_load_all(helm("template", merged(REQUIRED, values))) if found]
        for name, values in VARIANTS.items()
    }
