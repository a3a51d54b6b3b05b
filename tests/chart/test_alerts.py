"""Each alert of the chart fires when it must, with the text that it must have, and is silent when all is well."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_testing.variants import CHART, Object

CASES = Path(__file__).parent / "data" / "alerts.test.yaml"
RUNBOOK = CHART.parents[1] / "docs" / "alerts.md"


@pytest.fixture(scope="module")
def rules(rendered: dict[str, list[Object]]) -> Object:
    """The groups of the PrometheusRule."""
    (found,) = (document for document in rendered["full"] if document["kind"] == "PrometheusRule")
    return found["spec"]


@pytest.fixture(scope="module")
def folder(rules: Object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rules and cases, side by side."""
    made = tmp_path_factory.mktemp("alerts")
    (made / "rules.yaml").write_text(yaml.safe_dump(rules))
    shutil.copy(CASES, made)
    return made


@pytest.fixture
def promtool(installed_program: Callable[[str], Path], folder: Path) -> Callable[..., str]:
    """Runs promtool beside the rules; what it said if it was not content."""
    program = installed_program("promtool")

    def run(*arguments: str) -> str:
        ended = subprocess.run(
            [program, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
        return "" if ended.returncode == 0 else ended.stdout + ended.stderr

    return run


def test_alerts_fire_when_they_must_and_else_not(promtool: Callable[..., str]) -> None:
    assert not promtool("check", "rules", "--lint-fatal", "rules.yaml")
    assert not promtool("test", "rules", CASES.name)


def test_a_changed_rule_fails_its_cases(promtool: Callable[..., str], folder: Path, rules: Object) -> None:
    """What the test above is worth: a threshold moved away, a label lost, a moment instead of five minutes ago."""
    text = yaml.safe_dump(rules)
    for there, instead in (
        ("> 50", "> 5000"),
        ("(namespace, pod, dependency)", "(namespace, dependency)"),
        (" offset 5m", ""),
    ):
        assert text.count(there) == 1
        text = text.replace(there, instead)
    (folder / "changed.yaml").write_text(text)
    (folder / "changed.test.yaml").write_text(CASES.read_text().replace("[rules.yaml]", "[changed.yaml]"))
    failed = re.findall(r"alertname: (\w+)", promtool("test", "rules", "changed.test.yaml"))
    assert set(failed) == {"SlipwayRunsWait", "SlipwayDependencyDown", "SlipwayAuditBehind"}


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(rules: Object) -> None:
    cases: Any = yaml.safe_load(CASES.read_text())
    expected = [
        (case["alertname"], bool(case["exp_alerts"])) for test in cases["tests"] for case in test["alert_rule_test"]
    ]
    names = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert set(expected) == {(name, fires) for name in names for fires in (True, False)}


def test_every_alert_has_a_runbook(rules: Object) -> None:
    sections = re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"
            assert rule["alert"] in sections
            assert rule["labels"]["severity"] in {"warning", "critical"}
    assert sorted(sections) == sorted({rule["alert"] for group in rules["groups"] for rule in group["rules"]})
