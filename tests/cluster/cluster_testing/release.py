"""The release under test: servers beside it, its secrets, its values."""

import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from slipway_cli.supervisor.data_dir import Secrets
from slipway_cli.supervisor.postgres import PostgresServer, prepare
from slipway_testkit.certificates import CertificateAuthority

from cluster_testing.cluster import CHART, NAMESPACE, RELEASE, forwarded, helm, kubectl

ISSUER_PORT = 8091
COMPONENTS = ("gateway", "router", "orchestrator", "worker", "memory", "tools", "audit")
_ROOT = CHART.parents[1]
_MANIFEST = Path(__file__).parents[1] / "servers.yaml"
_SMALL = {"requests": {"cpu": "20m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
_CLOSED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}


def values() -> dict[str, Any]:
    """Small, of fixed sizes, with the development issuer beside each gateway."""
    prefix, tag = os.environ["PREFIX"].rstrip("/"), os.environ["TAG"]
    host, _, path = prefix.partition("/")
    registry, repository = (host, path) if path and ("." in host or ":" in host) else ("", prefix)
    sizes = {"gateway": 2, "router": 2, "orchestrator": 2, "worker": 1, "memory": 2, "tools": 1, "audit": 1}
    services: dict[str, Any] = {
        name: {"replicas": count, "autoscaling": {"enabled": False}, "resources": _SMALL}
        for name, count in sizes.items()
    }
    services["worker"]["settings"] = {"LEASE_SECONDS": 10, "SWEEP_SECONDS": 2}
    services["memory"]["objects"] = {"volume": True, "accessModes": ["ReadWriteOnce"], "size": "1Gi"}
    services["localModels"] = {"enabled": True, "resources": _SMALL}
    services["gateway"]["extraContainers"] = [
        {
            "name": "issuer",
            "image": f"{prefix}/gateway:{tag}",
            "command": ["python", "-m", "slipway_gateway.dev_issuer"],
            "env": [
                {"name": "SLIPWAY_DEV_ISSUER_LISTEN", "value": f"127.0.0.1:{ISSUER_PORT}"},
                {"name": "SLIPWAY_DEV_ISSUER_REALM_FILE", "value": "/etc/slipway/realm/slipway-realm.json"},
                {"name": "SLIPWAY_DEV_ISSUER_KEY_DIR", "value": "/etc/slipway/issuer"},
            ],
            "securityContext": _CLOSED,
            "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
            "volumeMounts": [
                {"name": "realm", "mountPath": "/etc/slipway/realm", "readOnly": True},
                {"name": "issuer", "mountPath": "/etc/slipway/issuer", "readOnly": True},
            ],
        }
    ]
    services["gateway"]["extraVolumes"] = [{"name": "issuer", "secret": {"secretName": "issuer", "defaultMode": 0o400}}]
    return {
        "image": {"registry": registry, "repository": repository, "tag": tag},
        "publicUrl": "http://127.0.0.1:8080",
        "oidc": {"issuer": f"http://127.0.0.1:{ISSUER_PORT}/realms/slipway", "clients": ["slipway-cli", "slipway-ci"]},
        "directory": {"url": "realm-file:///etc/slipway/realm/slipway-realm.json"},
        "config": {"realm": True},
        "tls": {"enabled": True},
        "drain": {"preStopSeconds": 5, "graceSeconds": 10, "handOverSeconds": 15},
        "services": services,
    }


def servers() -> str:
    """PostgreSQL and Valkey in the namespace; answers with their password."""
    password = secrets.token_hex(16)
    manifest = _MANIFEST.read_text().replace("IMAGE", os.environ["SLIPWAY_CLUSTER_SERVERS"])
    kubectl("apply", "--filename", "-", stdin=manifest.replace("PASSWORD", password))
    for name in ("postgres", "valkey"):
        kubectl("rollout", "status", f"deployment/{name}", "--timeout=180s")
    return password


async def databases(password: str, service_password: str) -> None:
    """A database and a role for each service."""
    with forwarded("deployment/postgres", 5432) as port:
        admin = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
        names = ("gateway", "router", "orchestrator", "memory", "tools", "audit")
        databases = dict.fromkeys(names, service_password)
        made = Secrets(
            postgres=password, valkey="", local_models="", ledger="", databases=databases, services={}, data_keys={}
        )
        await prepare(PostgresServer("127.0.0.1", port, admin), made)


def make_secrets(folder: Path, password: str, service_password: str) -> None:
    """The Secrets of docs/kubernetes.md, and the key of the development issuer."""
    redis = f"redis://:{password}@valkey.{NAMESPACE}.svc:6379/0"
    database = f"postgresql://slipway_{{service}}:{service_password}@postgres.{NAMESPACE}.svc:5432/slipway_{{service}}"
    command = [
        sys.executable, str(_ROOT / "scripts" / "chart-secrets.py"), "--keys", str(folder / "keys"),
        "--redis-url", redis, "--bus-url", redis, "--database-url", database,
    ]  # fmt: skip
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kubectl("apply", "--filename", "-", stdin=made)
    from slipway_gateway.dev_issuer.keys import open_key

    open_key(folder / "issuer")
    key = {"issuer.pem": (folder / "issuer" / "issuer.pem").read_text()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "issuer"}, "stringData": key}
    kubectl("apply", "--filename", "-", stdin=yaml.safe_dump(secret))


def make_certificates(folder: Path) -> None:
    """The Secrets of mutual TLS between the services, as cert-manager would make them."""
    authority = CertificateAuthority("cluster test")
    for component in COMPONENTS:
        service = f"{RELEASE}-gateway-grpc" if component == "gateway" else f"{RELEASE}-{component}"
        files = authority.issue(folder / component, f"{service}.{NAMESPACE}.svc.cluster.local")
        paths = {"tls.crt": files.certificate, "tls.key": files.key, "ca.crt": files.authority}
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"slipway-{component}-tls"},
            "stringData": {name: path.read_text() for name, path in paths.items()},
        }
        kubectl("apply", "--filename", "-", stdin=yaml.safe_dump(secret))


def put_release(folder: Path, *options: str) -> str:
    """Install or upgrade, and wait until every pod is ready."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values()))
    wait = ["--wait", "--timeout", "10m"]
    return helm("upgrade", "--install", RELEASE, str(CHART), "--values", str(file), *wait, *options)
