"""Which processes make up the stack, and the settings that each is given."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slipway_cli.supervisor import postgres, valkey
from slipway_cli.supervisor.child import run_once
from slipway_cli.supervisor.data_dir import DataDir, Secrets, write_private
from slipway_cli.supervisor.ports import LOOPBACK, free_ports
from slipway_cli.supervisor.probes import http_ok
from slipway_cli.supervisor.refusal import StartRefusedError
from slipway_cli.supervisor.servers_file import RealServers, without_user
from slipway_cli.supervisor.spec import ProcessSpec

_SERVICES = ("gateway", "router", "orchestrator", "memory", "tools", "audit")
# Where this machine is, for agents that demand regions: as the catalogue says of the local models.
_REGIONS = ["eu"]
# Where scripts/setup.sh puts litellm, which needs an environment of its own.
_LITELLM_PYTHON = Path(sys.prefix).with_name(".venv-litellm") / "bin" / "python"
# Which peers each service calls.
_USES_REDIS = frozenset({"gateway", "memory", "router"})
_PEERS = {
    "gateway": ("router", "orchestrator", "memory", "tools", "audit"),
    "orchestrator": ("router", "memory", "tools"),
    "memory": ("router",),
    "tools": ("memory",),
}


@dataclass(frozen=True)
class Tour:
    """A script that is run against the ready stack."""

    script: Path
    ledger_port: int


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    port: int
    workers: int
    config: Path
    servers: RealServers
    # host:port of private addresses that declared HTTP tools may call; all others must be public.
    allow_http: tuple[str, ...] = ()
    # The tour to take once the stack is ready, and the port of the ledger that it posts to.
    tour: Tour | None = None


@dataclass(frozen=True)
class Plan:
    """The stack as it will run."""

    processes: tuple[ProcessSpec, ...]
    url: str
    issuer: str
    postgres: str
    redis: str


async def make_plan(directory: DataDir, options: Options) -> Plan:
    """Prepares keys, secrets and databases' folder, and answers with the processes to run.

    Raises StartRefusedError when something that is needed is missing.
    """
    secrets = directory.secrets()
    env = dict(os.environ)
    await _make_keys(directory, env)
    return await _Planner(directory, options, secrets, env).plan()


async def _make_keys(directory: DataDir, env: Mapping[str, str]) -> None:
    log = directory.logs / "keys.log"
    for module in ("slipway_gateway.keys", "slipway_audit.keys"):
        folder = directory.keys / module.split(".")[0].removeprefix("slipway_")
        if await run_once([sys.executable, "-m", module, "init", folder], env=env, log=log) != 0:
            raise StartRefusedError(f"the signing keys could not be made: see {log} for the reason")


class _Planner:
    def __init__(self, directory: DataDir, options: Options, secrets: Secrets, env: Mapping[str, str]) -> None:
        self._directory = directory
        self._options = options
        self._secrets = secrets
        self._env = env
        names = ["postgres", "valkey", "issuer", "local-models"]
        for name in (*_SERVICES, *(f"worker-{n}" for n in range(1, options.workers + 1))):
            names += [f"{name}/grpc", f"{name}/metrics"]
        self._port = dict(zip(names, free_ports(len(names)), strict=True))
        self._postgres = options.servers.postgres_server or postgres.embedded(self._port["postgres"], secrets)
        self._redis = options.servers.redis or valkey.url(self._port["valkey"], secrets)
        self._bus = options.servers.bus or self._redis
        self._identity = options.servers.identity
        self._issuer = (
            self._identity.issuer if self._identity else f"http://{LOOPBACK}:{self._port['issuer']}/realms/slipway"
        )

    async def plan(self) -> Plan:
        """Everything, in no order: each process names what it needs."""
        processes: list[ProcessSpec] = []
        if self._options.servers.postgres is None:
            await postgres.initialise(self._directory, self._secrets, self._env)
            processes.append(postgres.process(self._directory, self._postgres, self._secrets, self._env))
        else:
            await postgres.prepare(self._postgres, self._secrets)
        if self._options.servers.redis is None:
            processes.append(valkey.process(self._directory, self._port["valkey"], self._secrets, self._env))
        servers = tuple(process.name for process in processes)
        processes.append(self._local_models())
        if self._identity is None:
            processes += [self._dev_issuer(), self._gateway((*servers, "issuer"))]
        else:
            processes.append(self._gateway(servers))
        processes += [self._service(name, servers) for name in ("audit", "memory", "tools")]
        processes += [self._router((*servers, "local-models"))]
        processes += [self._service("orchestrator", servers, arguments=("api",))]
        # Workers migrate nothing: the orchestrator's database is ready when its API is.
        processes += [self._worker(number) for number in range(1, self._options.workers + 1)]
        url = f"http://{LOOPBACK}:{self._options.port}"
        return Plan(tuple(processes), url, self._issuer, self._postgres.address, without_user(self._redis))

    def _listen(self, key: str) -> str:
        return f"{LOOPBACK}:{self._port[key]}"

    def _settings(self, service: str, process: str) -> dict[str, str]:
        """The settings that every service has, and the addresses of its peers."""
        values = {
            "GRPC_LISTEN": self._listen(f"{process}/grpc"),
            "METRICS_LISTEN": self._listen(f"{process}/metrics"),
            "DATABASE_URL": self._postgres.database_url(service, self._secrets),
            "BUS_URL": self._bus,
            "CALLER_JWKS_FILE": str(self._directory.keys / "gateway" / "jwks.json"),
            "IDENTITY_TARGET": self._listen("gateway/grpc"),
            "SERVICE_SECRET": self._secrets.services[service],
            "POLICY_DIR": str(self._options.config / "policies"),
            "DATA_KEY": self._secrets.data_keys[service],
        }
        if service in _USES_REDIS:
            values["REDIS_URL"] = self._redis
        for peer in _PEERS.get(service, ()):
            values[f"{peer.upper()}_TARGET"] = self._listen(f"{peer}/grpc")
        return {f"SLIPWAY_{service.upper()}_{name}": value for name, value in values.items()}

    def _service(
        self,
        service: str,
        after: tuple[str, ...],
        *,
        process: str | None = None,
        arguments: tuple[str, ...] = (),
        extra: Mapping[str, str] | None = None,
        detail: str = "",
    ) -> ProcessSpec:
        name = process or service
        own = {
            "memory": self._stores(),
            "tools": {
                "SECRETS_FILE": str(
                    self._secrets_file(
                        "tools",
                        # Of the example, and good for nothing but its ledger on this machine.
                        ledger_authorization={"value": f"Bearer {self._secrets.ledger}", "hosts": [LOOPBACK]},
                    )
                ),
                "REGIONS": json.dumps(_REGIONS),
                "HTTP_ALLOW": json.dumps(self._options.allow_http),
                "STATE_DIR": str(self._folder("tools")),
            },
            "audit": {
                "SIGNING_KEY_FILE": str(self._directory.keys / "audit" / "log.key"),
                "HEADS_DIR": str(self._folder("audit-heads")),
            },
            # One machine: a dead worker's runs are taken over soon.
            "orchestrator": {"LEASE_SECONDS": "6"},
        }.get(service, {})
        settings = {f"SLIPWAY_{service.upper()}_{key}": value for key, value in {**own, **(extra or {})}.items()}
        return ProcessSpec(
            name=name,
            argv=(sys.executable, "-m", f"slipway_{service}.main", *arguments),
            # A setting that the user gives in the environment goes before the supervisor's.
            env={**self._settings(service, name), **settings, **self._env},
            ready=http_ok(f"http://{self._listen(f'{name}/metrics')}/readyz"),
            after=after,
            detail=detail or f"gRPC {self._listen(f'{name}/grpc')}",
        )

    def _gateway(self, after: tuple[str, ...]) -> ProcessSpec:
        service_secrets = self._directory.keys / "service-secrets.json"
        write_private(service_secrets, json.dumps(self._secrets.services))
        return self._service(
            "gateway",
            after,
            extra={
                "HTTP_LISTEN": f"{LOOPBACK}:{self._options.port}",
                **self._sign_in(),
                "SIGNING_KEY_FILE": str(self._directory.keys / "gateway" / "signing.pem"),
                "SERVICE_SECRETS_FILE": str(service_secrets),
            },
            detail=f"HTTP http://{LOOPBACK}:{self._options.port}",
        )

    def _sign_in(self) -> dict[str, str]:
        """Whose tokens the gateway takes, and where it looks people up."""
        identity = self._identity
        settings = {
            "OIDC_ISSUER": self._issuer,
            "OIDC_AUDIENCE": json.dumps(identity.audience if identity else ["slipway"]),
            "OIDC_AZP": json.dumps(identity.clients if identity else ["slipway-cli", "slipway-ci"]),
            "DIRECTORY_URL": identity.directory_url if identity else f"realm-file://{self._realm()}",
        }
        if identity:
            secret = self._directory.keys / "directory-secret"
            write_private(secret, identity.client_secret)
            settings["DIRECTORY_SECRET_FILE"] = str(secret)
            settings |= {f"OIDC_{name.upper()}_CLAIM": claim for name, claim in identity.claims.items()}
            if identity.ca_file:
                settings["OIDC_CA_FILE"] = str(Path(identity.ca_file).absolute())
        return settings

    def _stores(self) -> dict[str, str]:
        """Where memory keeps originals and files, and where its passages."""
        servers = self._options.servers
        settings = {"OBJECTS_URL": servers.objects or f"file://{self._folder('objects')}"}
        if servers.vectors:
            settings["VECTORS_URL"] = servers.vectors
        return settings

    def _router(self, after: tuple[str, ...]) -> ProcessSpec:
        return self._service(
            "router",
            after,
            extra={
                "CATALOGUE_FILE": str(self._options.config / "catalogue" / "models.yaml"),
                "SECRETS_FILE": str(self._secrets_file("router", local_models=self._secrets.local_models)),
                "LOCAL_MODELS_URL": f"http://{self._listen('local-models')}/v1",
                **({"LITELLM_PYTHON": str(_LITELLM_PYTHON)} if _LITELLM_PYTHON.exists() else {}),
            },
        )

    def _worker(self, number: int) -> ProcessSpec:
        return self._service("orchestrator", ("orchestrator",), process=f"worker-{number}", arguments=("worker",))

    def _local_models(self) -> ProcessSpec:
        return ProcessSpec(
            name="local-models",
            argv=(sys.executable, "-m", "slipway_router.local_models"),
            env={
                "SLIPWAY_LOCAL_MODELS_LISTEN": self._listen("local-models"),
                "SLIPWAY_LOCAL_MODELS_API_KEY": self._secrets.local_models,
                # Its threads wait for each other by spinning: with a core for each they are fast, with less very slow.
                "SLIPWAY_LOCAL_MODELS_THREADS": str(max(1, (os.cpu_count() or 2) // 2)),
                **self._env,
            },
            ready=http_ok(f"http://{self._listen('local-models')}/health"),
            detail="SmolLM2-135M and all-MiniLM-L6-v2",
        )

    def _dev_issuer(self) -> ProcessSpec:
        return ProcessSpec(
            name="issuer",
            argv=(sys.executable, "-m", "slipway_gateway.dev_issuer"),
            env={
                "SLIPWAY_DEV_ISSUER_LISTEN": self._listen("issuer"),
                "SLIPWAY_DEV_ISSUER_REALM_FILE": str(self._realm()),
                "SLIPWAY_DEV_ISSUER_KEY_DIR": str(self._directory.keys / "issuer"),
                **self._env,
            },
            ready=http_ok(f"{self._issuer}/.well-known/openid-configuration"),
            detail=f"development sign-in, {self._issuer}",
        )

    def _realm(self) -> Path:
        return self._options.config / "realm" / "slipway-realm.json"

    def _folder(self, name: str) -> Path:
        folder = self._directory.path / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _secrets_file(self, service: str, **generated: object) -> Path:
        """The user's secrets for providers or tools (`secret:NAME`), made empty at first use, never overwritten."""
        file = self._directory.path / f"{service}-secrets.yaml"
        if not file.exists():
            lines = [
                f"# Secrets that definitions name as secret:NAME, for the service {service}. One `NAME: value` a line."
            ]
            lines += [f"{name}: {json.dumps(value)}" for name, value in generated.items()]
            write_private(file, "\n".join(lines) + "\n")
        return file
