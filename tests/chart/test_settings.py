"""What the chart sets in pods are settings that the services have: any other does nothing, or is refused."""

import re

import pytest
from chart_testing.variants import VARIANTS, Object
from slipway_audit.settings import AuditSettings
from slipway_gateway.settings import GatewaySettings
from slipway_memory.settings import MemorySettings
from slipway_orchestrator.settings import OrchestratorSettings
from slipway_router.settings import RouterSettings
from slipway_tools.settings import ToolsSettings

SETTINGS = {
    "AUDIT": AuditSettings,
    "GATEWAY": GatewaySettings,
    "MEMORY": MemorySettings,
    "ORCHESTRATOR": OrchestratorSettings,
    "ROUTER": RouterSettings,
    "TOOLS": ToolsSettings,
}
NAME = re.compile(rf"SLIPWAY_({'|'.join(SETTINGS)})_(\w+)")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variable_is_a_setting_of_its_service(rendered: dict[str, list[Object]], variant: str) -> None:
    seen: set[str] = set()
    for found in rendered[variant]:
        if found["kind"] not in {"Deployment", "Job"}:
            continue
        for entry in found["spec"]["template"]["spec"]["containers"][0]["env"]:
            if match := NAME.fullmatch(entry["name"]):
                service, setting = match.groups()
                assert setting.lower() in SETTINGS[service].model_fields, entry["name"]
                seen.add(service)
    assert seen == set(SETTINGS)
