"""The chart's folder, the variants that are rendered, and how values are merged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

CHART = Path(__file__).parents[3] / "k8s" / "chart"
Object = dict[str, Any]
Helm = Callable[[str, Object], str]

REQUIRED = {
    "publicUrl": "https://slipway.example.com",
    "oidc": {"issuer": "https://keycloak.example.com/realms/slipway"},
    "directory": {"url": "keycloak+https://keycloak.example.com/realms/slipway?client_id=slipway-gateway"},
}
PROMETHEUS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
VARIANTS: dict[str, Object] = {
    "minimal": {},
    "full": {
        "image": {"registry": "registry.example.com:5000", "tag": "1.2.3", "pullSecrets": ["pull"]},
        "otlpEndpoint": "http://collector.monitoring:4317",
        "oidc": {"caSecret": "issuer-ca"},
        "priorityClassName": "platform",
        "nodeSelector": {"pool": "agents"},
        "tolerations": [{"key": "agents", "operator": "Exists"}],
        "podAnnotations": {"example.com/team": "platform"},
        "podLabels": {"team": "platform"},
        "config": {"realm": True},
        "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "slipway-tls"},
        "monitoring": {
            "serviceMonitor": {"enabled": True},
            "rules": {"enabled": True},
            "dashboards": {"enabled": True},
        },
        "networkPolicy": {
            "metricsFrom": PROMETHEUS,
            "httpFrom": PROMETHEUS,
            "egress": {"vectors": {"ports": [8080, 50061]}, "sources": {"ports": [5432, 6432]}},
        },
        "services": {
            "gateway": {
                "autoscaling": {"inFlight": 50},
                "settings": {"RATE_PER_MINUTE": 100},
                "extraContainers": [
                    {
                        "name": "proxy",
                        "image": "proxy:1",
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "readOnlyRootFilesystem": True,
                            "runAsNonRoot": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}},
                    }
                ],
                "extraVolumes": [{"name": "more", "emptyDir": {}}],
            },
            "memory": {
                "objects": {"volume": True},
                "sourceHosts": ["db.example.com:5432", "warehouse:6432"],
                "secretsFile": True,
            },
            "tools": {
                "secretsFile": True,
                "seccompLocalhostProfile": "slipway/nsjail.json",
                "runtimeClassName": "gvisor",
            },
            "audit": {
                "heads": {"accessModes": ["ReadWriteMany"]},
                "autoscaling": {"enabled": True, "minReplicas": 2},
                "replicas": 2,
            },
            "localModels": {"enabled": True, "autoscaling": {"enabled": True}},
        },
    },
    "keda-prometheus": {
        "services": {"worker": {"autoscaling": {"mode": "prometheus", "prometheusUrl": "http://prometheus:9090"}}}
    },
    "keda-postgresql": {"services": {"worker": {"pool": "gpu", "autoscaling": {"mode": "postgresql"}}}},
    "external-metric": {"services": {"worker": {"autoscaling": {"mode": "external"}}}},
    "external-secrets": {"externalSecrets": {"enabled": True, "storeRef": {"name": "vault"}}},
    "tls-provided": {"tls": {"enabled": True, "secrets": {"router": "of-the-router"}}},
    "tls-cert-manager": {
        "tls": {
            "enabled": True,
            "restrictCallers": False,
            "certManager": {"enabled": True, "issuerRef": {"name": "internal", "kind": "ClusterIssuer"}},
        }
    },
    "sandbox-pods": {
        "image": {"registry": "registry.example.com", "tag": "1.2.3"},
        "services": {"tools": {"sandboxPods": {"enabled": True, "maxPods": 40}}},
    },
    "no-autoscaling": {
        "migrations": {"job": False},
        "networkPolicy": {"enabled": False},
        "topologySpread": {"enabled": False},
        "services": {
            name: {"autoscaling": {"enabled": False}}
            for name in ("gateway", "router", "orchestrator", "worker", "memory", "tools")
        },
    },
}


def merged(base: Object, over: Object) -> Object:
    """`base` with what `over` says of it."""
    out = dict(base)
    for key, value in over.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


class Refused(Exception):
    """Helm ended with a reason, which is the message."""
