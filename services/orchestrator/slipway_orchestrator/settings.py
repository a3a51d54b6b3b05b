"""Settings of the orchestrator's processes."""

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict
from slipway_chassis.setting_types import BusUrl, Seconds, Target
from slipway_chassis.settings import CoreSettings

from slipway_orchestrator.runs import TERMINAL_STATES


class OrchestratorSettings(CoreSettings):
    """Environment variables `SLIPWAY_ORCHESTRATOR_…`."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_ORCHESTRATOR_", frozen=True, extra="ignore")

    # Where a worker ends itself, for tests; see worker/crash.py.
    other_variables = frozenset({"CRASH_AT"})

    bus_url: BusUrl = Field(description="redis:// or amqp:// URL of the bus")
    router_target: Target = Field(description="gRPC target of slipway.router.v1")
    memory_target: Target = Field(description="gRPC target of slipway.memory.v1")
    tools_target: Target = Field(description="gRPC target of slipway.tools.v1")
    lease_seconds: Seconds = Field(30, ge=1, description="how long a worker that shows no progress keeps a run")
    sweep_seconds: Seconds = Field(5, ge=1, description="between looks at runs whose time has come")
    concurrency: int = Field(8, ge=1, le=1000, description="runs that one worker advances at a time")
    pool_size: int = Field(10, ge=2, le=200, description="database connections of the process")
    worker_pool: str = Field("", max_length=63, description="label of the runs that the worker takes; empty: none")
    tenant_concurrency: int = Field(0, ge=0, description="runs of a tenant that all workers advance at a time; 0: any")
    retention_days: dict[str, int] = Field(
        {}, description='days that finished runs are kept: {"*": 90, "*/FAILED": 365, "acme": 30}; not named: for ever'
    )

    @field_validator("retention_days")
    @classmethod
    def _retention(cls, days: dict[str, int]) -> dict[str, int]:
        for scope, number in days.items():
            tenant, slash, state = scope.partition("/")
            if not tenant or (slash and state not in TERMINAL_STATES):
                raise ValueError(
                    f"{scope!r} is neither a tenant nor tenant/STATE with one of {sorted(TERMINAL_STATES)}"
                )
            if number < 1:
                raise ValueError(f"{scope!r} must be kept for at least a day")
        return days
