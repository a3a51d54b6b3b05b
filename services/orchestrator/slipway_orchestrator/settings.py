"""Settings of the orchestrator's processes."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict
from slipway_chassis.settings import CoreSettings


class OrchestratorSettings(CoreSettings):
    """Environment variables `SLIPWAY_ORCHESTRATOR_…`."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_ORCHESTRATOR_", frozen=True, extra="ignore")

    bus_url: SecretStr = Field(description="redis:// or amqp:// URL of the bus")
    router_target: str = Field(description="gRPC target of slipway.router.v1")
    memory_target: str = Field(description="gRPC target of slipway.memory.v1")
    tools_target: str = Field(description="gRPC target of slipway.tools.v1")
    lease_seconds: float = Field(30, ge=1, description="how long a worker that shows no progress keeps a run")
    sweep_seconds: float = Field(5, ge=1, description="between looks at runs whose time has come")
    concurrency: int = Field(8, ge=1, le=1000, description="runs that one worker advances at a time")
    pool_size: int = Field(10, ge=2, le=200, description="database connections of the process")
    worker_pool: str = Field("", max_length=63, description="label of the runs that the worker takes; empty: none")
    tenant_concurrency: int = Field(0, ge=0, description="runs of a tenant that all workers advance at a time; 0: any")
