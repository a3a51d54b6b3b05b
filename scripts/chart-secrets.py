"""Makes the Secrets that the Helm chart refers to, as YAML for `kubectl apply -f -`.

    scripts/chart-secrets.py --keys DIR --redis-url … --bus-url … --database-url \\
        'postgresql://slipway_{service}:PASSWORD@postgres.databases:5432/slipway_{service}'

Keys and generated secrets are kept in DIR (0700), and used again when it is run again: keep DIR in a safe place,
evidence and encrypted personal data depend on it. What is printed is as secret as DIR.
"""

import argparse
import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

SERVICES = ("gateway", "router", "orchestrator", "memory", "tools", "audit")
REDIS = {"gateway", "router", "memory"}


class Kept:
    """Generated secrets by name, in a private file of the folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = folder / "secrets.json"
        self._values: dict[str, str] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def get(self, name: str, make: Callable[[], str]) -> str:
        """The value, made at the first use."""
        if name not in self._values:
            self._values[name] = make()
            new = self._file.with_suffix(".new")
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(self._values, file, indent=1)
            new.rename(self._file)
        return self._values[name]


def _data_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def _make_keys(folder: Path) -> None:
    for service in ("gateway", "audit"):
        command = [sys.executable, "-m", f"slipway_{service}.keys", "init", str(folder / service)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own modules


def contents(arguments: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Data of all Secrets, by the chart's name of each."""
    folder: Path = arguments.keys
    kept = Kept(folder)
    _make_keys(folder)
    service_secrets = {
        service: kept.get(f"service/{service}", lambda: secrets.token_urlsafe(32))
        for service in SERVICES
        if service != "gateway"
    }
    found: dict[str, dict[str, str]] = {}
    for service in SERVICES:
        data = {
            "database-url": arguments.database_url.replace("{service}", service),
            "bus-url": arguments.bus_url,
            "data-key": kept.get(f"data-key/{service}", _data_key),
        }
        if service in REDIS:
            data["redis-url"] = arguments.redis_url
        if service != "gateway":
            data["service-secret"] = service_secrets[service]
        found[service] = data
    local_models = kept.get("local-models", lambda: secrets.token_urlsafe(32))
    providers = yaml.safe_load(arguments.providers.read_text()) if arguments.providers else {}
    found["router"]["secrets.yaml"] = yaml.safe_dump({"local_models": local_models, **providers})
    found["gateway"]["signing.pem"] = (folder / "gateway" / "signing.pem").read_text()
    found["gateway"]["service-secrets.json"] = json.dumps(service_secrets)
    if arguments.directory_secret_file:
        found["gateway"]["directory-secret"] = arguments.directory_secret_file.read_text().strip()
    if arguments.objects_url:
        found["memory"]["objects-url"] = arguments.objects_url
    if arguments.vectors_url:
        found["memory"]["vectors-url"] = arguments.vectors_url
    if arguments.source_secrets:
        found["memory"]["secrets.yaml"] = arguments.source_secrets.read_text()
    if arguments.tool_secrets:
        found["tools"]["secrets.yaml"] = arguments.tool_secrets.read_text()
    found["audit"]["log.key"] = (folder / "audit" / "log.key").read_text()
    found["caller-keys"] = {"jwks.json": (folder / "gateway" / "jwks.json").read_text()}
    found["local-models"] = {"api-key": local_models}
    return found


def main() -> None:
    """Print the Secrets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=Path, required=True, help="folder of the keys, made at the first use")
    parser.add_argument("--database-url", required=True, help="with {service} where the six databases differ")
    parser.add_argument("--redis-url", required=True)
    parser.add_argument("--bus-url", required=True, help="amqp://… or redis://…")
    parser.add_argument("--objects-url", help="s3://…, for memory")
    parser.add_argument("--vectors-url", help="weaviate://…, for memory; left out: pgvector")
    parser.add_argument("--directory-secret-file", type=Path, help="secret of the directory's client in Keycloak")
    parser.add_argument("--providers", type=Path, help="YAML of the router's secrets by name")
    parser.add_argument("--source-secrets", type=Path, help="YAML of the URLs of memory's data sources by name")
    parser.add_argument("--tool-secrets", type=Path, help="YAML of the tools' secrets by name")
    arguments = parser.parse_args()
    if "{service}" not in arguments.database_url:
        parser.error("--database-url must hold {service}: each service has a database of its own")
    documents = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"slipway-{name}"}, "stringData": data}
        for name, data in contents(arguments).items()
    ]
    yaml.safe_dump_all(documents, sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main()
