"""Settings of the tools service."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict
from slipway_chassis.environment import EnvironmentSettings
from slipway_chassis.setting_types import BusUrl, Seconds, Target
from slipway_chassis.settings import CoreSettings, read_list

from slipway_tools.address import AllowList
from slipway_tools.sandbox.choice import SandboxChoice
from slipway_tools.sandbox.kubernetes.settings import PodSettings
from slipway_tools.sandbox.limits import MIB, Limits
from slipway_tools.sandbox.pool import PoolSize
from slipway_tools.sandbox.program import Runtime
from slipway_tools.sandbox.sessions import SessionLimits


class SandboxSettings(EnvironmentSettings):
    """Settings of the sandbox, as the service and the check of the machine use them."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_TOOLS_", frozen=True, extra="ignore")

    state_dir: Path = Field(description="folder of the sandbox's Python; made if missing")
    sandbox: str = Field(
        "nsjail",
        pattern=r"^(nsjail|runsc(:.+)?|kubernetes)$",
        description="`nsjail`, `runsc`, `runsc:` and its path, or `kubernetes`",
    )
    sandbox_namespace: str | None = Field(
        None, pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", description="kubernetes: where the pods are"
    )
    sandbox_image: str | None = Field(None, min_length=1, description="kubernetes: image of the pods, with its tag")
    sandbox_runtime_class: str = Field("gvisor", min_length=1, description="kubernetes: RuntimeClass of the pods")
    sandbox_kubeconfig: Path | None = Field(
        None, description="kubernetes: whose access; unset: this pod's service account"
    )
    sandbox_cpu_request: float = Field(
        0.1, ge=0.01, le=64, description="kubernetes: processors reserved for each pod, waiting ones too"
    )
    sandbox_start_seconds: Seconds = Field(
        60, ge=5, le=600, description="kubernetes: how long a pod may take until it can run a program"
    )
    sandbox_runtimes: Annotated[tuple[Runtime, ...], NoDecode] = Field(
        ("python", "shell"), description="`python`, `shell`, `node`: which programs may be run"
    )
    sandbox_packages: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="packages of the service's environment that Python programs may import"
    )
    sandbox_downgrade: bool = Field(
        True, description="run code also where no control group bounds memory of a sandbox as a whole"
    )
    sandbox_slots: int = Field(4, ge=1, le=64, description="programs at a time")
    sandbox_queue: int = Field(1024, ge=0, le=10_000, description="programs that may wait")
    sandbox_warm: int = Field(4, ge=0, le=64, description="sandboxes that wait for a program")
    sandbox_tenant_calls: int = Field(1024, ge=1, le=10_000, description="programs of a tenant that run and wait")
    sandbox_sessions: int = Field(64, ge=0, le=1024, description="sessions at a time")
    sandbox_tenant_sessions: int = Field(32, ge=0, le=1024, description="sessions of a tenant at a time")
    sandbox_session_idle_seconds: Seconds = Field(900, ge=1, le=86_400, description="a session ends when unused for it")
    sandbox_session_max_seconds: Seconds = Field(14_400, ge=1, le=604_800, description="longest life of a session")
    sandbox_memory_mib: int = Field(512, ge=128, le=65536, description="memory of a program, its files included")
    sandbox_workspace_mib: int = Field(64, ge=1, le=4096, description="files of a program")
    sandbox_file_mib: int | None = Field(None, ge=1, le=4096, description="one file; unset: as the workspace")
    sandbox_inodes: int = Field(4096, ge=64, le=1_000_000, description="number of files and folders of a program")
    sandbox_open_files: int = Field(256, ge=32, le=65_536, description="open files of each process")
    sandbox_output_mib: int = Field(8, ge=1, le=64, description="what a program may print")
    sandbox_collect_mib: int = Field(16, ge=1, le=512, description="files that a call brings out, together")
    sandbox_processes: int = Field(32, ge=1, le=1024, description="processes and threads of a program")
    sandbox_cpus: float = Field(1.0, ge=0.1, le=64, description="processors that a program may use")
    sandbox_max_seconds: Seconds = Field(300, ge=1, le=3600, description="longest time that a call may ask for")

    @property
    def limits(self) -> Limits:
        """The sandbox's limits."""
        return Limits(
            memory=self.sandbox_memory_mib * MIB,
            workspace=self.sandbox_workspace_mib * MIB,
            file_size=(self.sandbox_file_mib or self.sandbox_workspace_mib) * MIB,
            inodes=self.sandbox_inodes,
            open_files=self.sandbox_open_files,
            processes=self.sandbox_processes,
            cpus=self.sandbox_cpus,
            max_seconds=self.sandbox_max_seconds,
            flood=self.sandbox_output_mib * MIB,
            collect=self.sandbox_collect_mib * MIB,
        )

    @property
    def choice(self) -> SandboxChoice:
        """The sandboxes to open."""
        sessions = SessionLimits(
            self.sandbox_sessions,
            self.sandbox_tenant_sessions,
            self.sandbox_session_idle_seconds,
            self.sandbox_session_max_seconds,
        )
        size = PoolSize(self.sandbox_slots, self.sandbox_queue, self.sandbox_warm, self.sandbox_tenant_calls, sessions)
        return SandboxChoice(
            self.sandbox,
            self.state_dir,
            self.limits,
            size,
            self.sandbox_runtimes,
            self.sandbox_packages,
            self.sandbox_downgrade,
            self._pods,
        )

    @property
    def _pods(self) -> PodSettings | None:
        if self.sandbox != "kubernetes" or self.sandbox_namespace is None or self.sandbox_image is None:
            return None
        return PodSettings(
            self.sandbox_namespace,
            self.sandbox_image,
            self.sandbox_runtime_class,
            self.sandbox_kubeconfig,
            self.sandbox_cpu_request,
            self.sandbox_start_seconds,
            self.sandbox_session_max_seconds,
        )

    @model_validator(mode="after")
    def _pods_are_named(self) -> Self:
        if self.sandbox == "kubernetes":
            for name, value in (("NAMESPACE", self.sandbox_namespace), ("IMAGE", self.sandbox_image)):
                if value is None:
                    raise ValueError(f"SLIPWAY_TOOLS_SANDBOX=kubernetes needs SLIPWAY_TOOLS_SANDBOX_{name}")
        return self

    @field_validator("sandbox_runtimes", "sandbox_packages", mode="before")
    @classmethod
    def _read_names(cls, value: Any) -> Any:
        return read_list(value)


class ToolsSettings(SandboxSettings, CoreSettings):
    """`SLIPWAY_TOOLS_…` variables."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_TOOLS_", frozen=True, extra="ignore")

    bus_url: BusUrl = Field(description="redis:// or amqp:// URL of the bus")
    memory_target: Target = Field(description="gRPC target of slipway.memory.v1, where files of calls come from")
    secrets_file: Path | None = Field(None, description="YAML of secrets by name, mode 0600; unset: no secrets")
    http_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="host:port pairs that HTTP tools may call whatever the address, also without TLS"
    )
    egress_file: Path | None = Field(None, description="YAML of what programs may reach, by tool; unset: nothing")
    http_calls: int = Field(64, ge=1, le=1000, description="calls of HTTP and MCP tools at a time")
    http_queue: int = Field(256, ge=0, le=10_000, description="calls of HTTP and MCP tools that may wait")
    regions: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="regions this service runs in: those of the builtin tools"
    )

    @field_validator("http_allow", "regions", mode="before")
    @classmethod
    def _read_lists(cls, value: Any) -> Any:
        return read_list(value)

    @field_validator("http_allow")
    @classmethod
    def _is_allow_list(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AllowList.parse(value)
        return value
