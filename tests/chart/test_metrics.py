"""Dashboards, alerts and scalers name only metrics and labels that the code has."""

import importlib
import json
import pkgutil
import re
from typing import Any

import prometheus_client
import promql_parser
import pytest
import yaml
from chart_testing.variants import CHART, REQUIRED, VARIANTS, Helm, merged
from slipway_chassis.telemetry import registry

PACKAGES = [f"slipway_{name}" for name in ("chassis", "gateway", "router", "orchestrator", "memory", "tools", "audit")]
# Added by whoever scrapes, or by Prometheus itself.
ADDED = {"namespace", "pod", "le", "job", "instance"}
NAME = re.compile(r"\bslipway_[a-z_]+")
GROUPED = re.compile(r"(?:by|without) \(([^)]*)\)")
SELECTED = re.compile(r"[{,]\s*([a-z_]+)\s*(?:=|!=|=~|!~)\s*\"")


@pytest.fixture(scope="module")
def metrics() -> dict[str, set[str]]:
    """Series that the services export, with their labels."""
    for package in PACKAGES:
        root = importlib.import_module(package)
        for module in pkgutil.walk_packages(root.__path__, f"{package}."):
            if not module.name.endswith("__main__") and re.search(
                r"metric|measure|guard|outbox|service|readiness|"
                r"link|consum|bus|checkpoint|sequencer|rate",
                module.name,
            ):
                importlib.import_module(module.name)
    found: dict[str, set[str]] = {}
    for collector in list(registry._collector_to_names):
        if not isinstance(collector, prometheus_client.metrics.MetricWrapperBase):
            continue
        labels = set(collector._labelnames)
        for name in registry._collector_to_names[collector]:
            found[name] = labels
    return found


def expressions(helm: Helm) -> list[str]:
    rules = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    found = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    for file in sorted((CHART / "files" / "dashboards").glob("*.json")):
        dashboard: Any = json.loads(file.read_text())
        found += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        found += [variable["query"] for variable in dashboard["templating"]["list"] if "(" in variable["query"]]
    for variant in ("keda-prometheus", "external-metric"):
        for document in yaml.safe_load_all(helm("template", merged(REQUIRED, VARIANTS[variant]))):
            if document and document["kind"] == "ScaledObject":
                found += [trigger["metadata"]["query"] for trigger in document["spec"]["triggers"]]
    return found


def test_every_metric_and_label_that_is_asked_for_exists(helm: Helm, metrics: dict[str, set[str]]) -> None:
    asked = expressions(helm)
    assert len(asked) > 30
    for expression in asked:
        names = NAME.findall(expression)
        assert names, expression
        labels = ADDED.union(*(metrics.get(name, set()) for name in names))
        for name in names:
            assert name in metrics, f"{name} in {expression}"
        used = {label.strip() for group in GROUPED.findall(expression) for label in group.split(",")}
        used |= set(SELECTED.findall(expression))
        assert used <= labels, expression


def test_every_expression_is_promql(helm: Helm) -> None:
    for expression in expressions(helm):
        if not expression.startswith("label_values("):  # Grafana's own, which asks for the values of a variable
            promql_parser.parse(expression.replace("$__rate_interval", "5m"))
    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse("sum by (pod (slipway_runs_claimable)")
