"""Takes the types that the chart's objects have out of Kubernetes' OpenAPI document, for the chart's tests.

`chart-types.py SWAGGER.json VERSION` writes tests/chart/kubernetes.json: JSON Schema, one definition per type,
descriptions left out, unknown fields refused as the API server's strict validation does. The document lies in the Go
module k8s.io/kubernetes as api/openapi-spec/swagger.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

KINDS = {
    "apps/v1/Deployment",
    "autoscaling/v2/HorizontalPodAutoscaler",
    "batch/v1/Job",
    "networking.k8s.io/v1/Ingress",
    "networking.k8s.io/v1/NetworkPolicy",
    "policy/v1/PodDisruptionBudget",
    "rbac.authorization.k8s.io/v1/Role",
    "rbac.authorization.k8s.io/v1/RoleBinding",
    "v1/ConfigMap",
    "v1/Namespace",
    "v1/PersistentVolumeClaim",
    "v1/Pod",
    "v1/ResourceQuota",
    "v1/Secret",
    "v1/Service",
    "v1/ServiceAccount",
}
PREFIX = "#/definitions/"


def closed(name: str, definition: dict[str, Any]) -> dict[str, Any]:
    """A definition without descriptions, that refuses fields it does not know."""
    if name == "io.k8s.apimachinery.pkg.util.intstr.IntOrString":
        return {"type": ["string", "integer"]}
    if name == "io.k8s.apimachinery.pkg.api.resource.Quantity":
        return {"type": ["string", "number"]}
    kept = {key: definition[key] for key in ("type", "required", "format", "enum") if key in definition}
    if "properties" in definition:
        kept["properties"] = {key: field(value) for key, value in definition["properties"].items()}
        kept["additionalProperties"] = False
    return kept


def field(value: dict[str, Any]) -> dict[str, Any]:
    """A field's type without its description."""
    kept = {key: value[key] for key in ("$ref", "type", "format", "enum") if key in value}
    for key in ("items", "additionalProperties"):
        if key in value:
            kept[key] = field(value[key])
    return kept


def references(value: Any) -> set[str]:
    """Names of all definitions that are referred to."""
    if isinstance(value, dict):
        own = {value["$ref"].removeprefix(PREFIX)} if isinstance(value.get("$ref"), str) else set[str]()
        return own.union(*(references(part) for part in value.values()))
    return set[str]().union(*(references(part) for part in value)) if isinstance(value, list) else set()


def main(source: Path, version: str) -> None:
    """Write the file."""
    document = json.loads(source.read_text())
    definitions, kinds = {}, {}
    for name, definition in document["definitions"].items():
        for group in definition.get("x-kubernetes-group-version-kind", []):
            kind = "/".join(filter(None, (group["group"], group["version"], group["kind"])))
            if kind in KINDS:
                kinds[kind] = {"$ref": PREFIX + name}
    open_names = {ref["$ref"].removeprefix(PREFIX) for ref in kinds.values()}
    while open_names:
        name = open_names.pop()
        definitions[name] = closed(name, document["definitions"][name])
        open_names |= references(definitions[name]) - set(definitions)
    result = {"version": version, "kinds": kinds, "definitions": definitions}
    target = Path(__file__).parent.parent / "tests" / "chart" / "kubernetes.json"
    target.write_text(json.dumps(result, sort_keys=True, separators=(",", ":")) + "\n")
    sys.stdout.write(f"{target}: {len(kinds)} kinds, {len(definitions)} types of Kubernetes {result['version']}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
