"""Takes the types of the chart's custom resources out of their projects' definitions, for the chart's tests.

`chart-crds.py` downloads the Go modules of SOURCES (needs Go) and writes tests/chart/data/crds.json: JSON Schema, one
per kind, descriptions left out, unknown fields refused as the API server's strict validation does. Rules in CEL
(`x-kubernetes-validations`) are left out: only the API server evaluates them. All four projects are licensed under
Apache-2.0, and the file names them with their versions.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

# Go module, version, and the file in it of one definition.
SOURCES = (
    ("github.com/kedacore/keda/v2", "v2.18.1", "config/crd/bases/keda.sh_scaledobjects.yaml"),
    ("github.com/kedacore/keda/v2", "v2.18.1", "config/crd/bases/keda.sh_triggerauthentications.yaml"),
    (
        "github.com/external-secrets/external-secrets",
        "v0.20.4",
        "config/crds/bases/external-secrets.io_externalsecrets.yaml",
    ),
    (
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
    (
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    ("github.com/cert-manager/cert-manager", "v1.19.1", "deploy/crds/cert-manager.io_certificates.yaml"),
)
TARGET = Path(__file__).parent.parent / "tests" / "chart" / "data" / "crds.json"
# Of a structural schema (Kubernetes' subset of OpenAPI): what JSON Schema has under the same name and meaning.
KEPT = (
    "type",
    "required",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
)


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema as JSON Schema without descriptions, that refuses fields it does not know."""
    kept = {key: schema[key] for key in KEPT if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        kept["type"] = ["string", "integer"]
    if "properties" in schema:
        kept["properties"] = {name: closed(value) for name, value in schema["properties"].items()}
        kept["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            kept[key] = closed(schema[key])
    if schema.get("nullable"):
        return {"anyOf": [kept, {"type": "null"}]}
    return kept


def module_folder(module: str, version: str) -> Path:
    """Where Go keeps the module; it is downloaded when it is not there."""
    command = ["go", "mod", "download", "-json", f"{module}@{version}"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)  # noqa: S603
    told = json.loads(done.stdout)
    if "Error" in told:
        raise SystemExit(f"{module}@{version}: {told['Error']}")
    return Path(told["Dir"])


def kinds(definition: dict[str, Any]) -> dict[str, Any]:
    """The schemas of the served versions, by `group/version/kind`; metadata is Kubernetes' own type."""
    spec, found = definition["spec"], {}
    for version in spec["versions"]:
        if version["served"]:
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
            found[f"{spec['group']}/{version['name']}/{spec['names']['kind']}"] = schema
    return found


def main() -> None:
    """Write the file."""
    result: dict[str, Any] = {"sources": [], "kinds": {}}
    for module, version, file in SOURCES:
        source = f"{module}@{version}/{file} (Apache-2.0)"
        result["sources"].append(source)
        result["kinds"] |= kinds(yaml.safe_load((module_folder(module, version) / file).read_text()))
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(result, sort_keys=True, separators=(",", ":")) + "\n")
    sys.stdout.write(f"{TARGET}: {', '.join(result['kinds'])}\n")


if __name__ == "__main__":
    main()
