"""Values that do not fit the cluster: all of it is said, with the remedy, before anything is written."""

import base64
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_testing.api_server import ApiServer, serving
from chart_testing.variants import CHART, REQUIRED, Object, Refused, merged

KEYS = {
    "caller-keys": ["jwks.json"],
    "gateway": [
        *("database-url", "redis-url", "bus-url", "data-key"),
        *("signing.pem", "service-secrets.json", "directory-secret"),
    ],
    "router": ["database-url", "redis-url", "bus-url", "data-key", "service-secret", "secrets.yaml"],
    "orchestrator": ["database-url", "bus-url", "data-key", "service-secret"],
    "memory": ["database-url", "redis-url", "bus-url", "data-key", "service-secret", "objects-url"],
    "tools": ["database-url", "bus-url", "data-key", "service-secret"],
    "audit": ["database-url", "bus-url", "data-key", "service-secret", "log.key"],
}
Render = Callable[[Object], str]
OF_THE_RELEASE = {"meta.helm.sh/release-name": "agents", "meta.helm.sh/release-namespace": "team"}


def put_secret(cluster: ApiServer, name: str, keys: list[str]) -> None:
    cluster.put("Secret", name, data={key: base64.b64encode(b"content").decode() for key in keys})


def claim(cluster: ApiServer, component: str, size: str, class_name: str, mode: str) -> None:
    spec = {"accessModes": [mode], "storageClassName": class_name, "resources": {"requests": {"storage": size}}}
    cluster.put("PersistentVolumeClaim", f"agents-slipway-{component}", spec=spec)


def deployed(cluster: ApiServer, component: str, **settings: Any) -> None:
    env = [
        {"name": name, "value": value} if value else {"name": name, "valueFrom": {}} for name, value in settings.items()
    ]
    spec = {"template": {"spec": {"containers": [{"name": component, "env": env}]}}}
    cluster.put("Deployment", f"agents-slipway-{component}", spec=spec)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ApiServer]:
    """A cluster with all that a release of the required values needs."""
    with serving(tmp_path / "kubeconfig") as server:
        server.put("ServiceAccount", "default")
        for name, keys in KEYS.items():
            put_secret(server, f"slipway-{name}", keys)
        yield server


@pytest.fixture
def render(cluster: ApiServer, tmp_path: Path, installed_program: Callable[[str], Path]) -> Render:
    """What helm renders for the cluster; raises Refused."""
    assert cluster
    (tmp_path / "home").mkdir()

    def run(values: Object) -> str:
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(merged(REQUIRED, values)))
        command = [
            *(installed_program("helm"), "template", "agents", CHART, "--namespace", "team", "--values", file),
            *("--kube-version", "1.34.2", "--dry-run=server", "--kubeconfig", tmp_path / "kubeconfig"),
        ]
        env = {"HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        if ended.returncode != 0:
            raise Refused(ended.stderr)
        return ended.stdout

    return run


def sentences(render: Render, values: Object) -> list[str]:
    """What is said against the values."""
    with pytest.raises(Refused) as refused:
        render(values)
    head, *rest = str(refused.value).split("\n- ")
    assert "nothing was changed" in head
    return [each.split("\n")[0] for each in rest]


def test_a_cluster_that_has_everything_takes_the_release_and_a_claim_keeps_its_class(
    cluster: ApiServer, render: Render
) -> None:
    claim(cluster, "audit", "1024Mi", "fast", "ReadWriteOnce")
    claims = [each for each in yaml.safe_load_all(render({})) if each and each["kind"] == "PersistentVolumeClaim"]
    assert [each["spec"]["storageClassName"] for each in claims] == ["fast"]


def test_secrets_and_keys_that_are_missing_are_all_named_and_only_where_somebody_asks_the_cluster(
    cluster: ApiServer, render: Render
) -> None:
    put_secret(cluster, "slipway-audit", ["database-url", "bus-url", "data-key"])
    put_secret(cluster, "of-the-router", ["tls.crt", "ca.crt"])
    values = {
        "secrets": {"tools": "mine"},
        "tls": {"enabled": True, "secrets": {"router": "of-the-router"}},
        "oidc": {"caSecret": "authority"},
        "image": {"pullSecrets": ["pull"]},
        "ingress": {"enabled": True, "tlsSecret": "outside"},
    }
    told = sentences(render, values)
    assert told[0].startswith("the Secret slipway-audit (secrets.audit) has no service-secret, log.key: scripts/")
    assert told[1].startswith("there is no Secret mine (secrets.tools) in the namespace team: scripts/chart-secrets.py")
    assert "slipway-gateway-tls (tls.secrets.gateway)" in told[3]
    assert "a certificate for agents-slipway-gateway-grpc.team.svc.cluster.local" in told[3]
    assert "the Secret of-the-router (tls.secrets.router) has no tls.key" in told[6]
    assert [each.partition(" (")[2].partition(")")[0] for each in told[-3:]] == [
        "oidc.caSecret",
        "image.pullSecrets",
        "ingress.tlsSecret",
    ]
    assert len(told) == 12
    assert "agents-slipway-gateway" in render({**values, "preflight": False})


def test_classes_and_operators_that_the_cluster_does_not_have_are_named(render: Render) -> None:
    told = sentences(
        render,
        {
            "priorityClassName": "gold",
            "config": {"policiesConfigMap": "ours"},
            "externalSecrets": {"enabled": True, "storeRef": {"name": "vault"}},
            "tls": {"enabled": True, "certManager": {"enabled": True, "issuerRef": {"name": "ca"}}},
            "monitoring": {"rules": {"enabled": True}},
            "ingress": {"enabled": True, "className": "nginx", "annotations": {"a": "b"}},
            "services": {
                "worker": {"autoscaling": {"mode": "postgresql"}, "priorityClassName": "silver"},
                "tools": {"sandboxPods": {"enabled": True, "runtimeClassName": "kata"}},
                "memory": {"objects": {"volume": True, "storageClassName": "shared"}},
            },
        },
    )
    starts = [
        "config.policiesConfigMap is ours, but there is no such ConfigMap in the namespace team",
        "priorityClassName is gold, but the cluster has no such PriorityClass: `kubectl get priorityclass`",
        "services.worker.priorityClassName is silver, but the cluster has no such PriorityClass",
        "services.tools.sandboxPods.runtimeClassName is kata, but the cluster has no such RuntimeClass",
        "services.memory.objects.storageClassName is shared, but the cluster has no such StorageClass",
        "ingress.className is nginx, but the cluster has no such IngressClass",
        "services.worker.autoscaling.mode is postgresql, but the cluster has no keda.sh/v1alpha1: install KEDA",
        "externalSecrets.enabled is true, but the cluster has no external-secrets.io/v1",
        "tls.certManager.enabled is true, but the cluster has no cert-manager.io/v1",
        "monitoring.rules.enabled is true, but the cluster has no monitoring.coreos.com/v1",
    ]
    assert len(told) == len(starts)
    for sentence, start in zip(told, starts, strict=True):
        assert sentence.startswith(start)


@pytest.mark.parametrize(
    ("heads", "growing", "said"),
    [
        (
            {"size": "512Mi"},
            True,
            "size is 512Mi, but the claim agents-slipway-audit has 1Gi, and volumes do not shrink",
        ),
        ({"size": "2Gi"}, False, "size is 2Gi, but the claim agents-slipway-audit has 1Gi, and its class fast lets no"),
        ({"size": "2Gi"}, True, ""),
        (
            {"storageClassName": "slow"},
            True,
            "storageClassName is slow, but the claim agents-slipway-audit has the class",
        ),
        (
            {"accessModes": ["ReadWriteMany"]},
            True,
            "accessModes is [ReadWriteMany], but the claim agents-slipway-audit",
        ),
    ],
)
def test_what_cannot_be_changed_in_a_claim_is_refused(
    cluster: ApiServer, render: Render, heads: Object, growing: bool, said: str
) -> None:
    claim(cluster, "audit", "1Gi", "fast", "ReadWriteOnce")
    cluster.put("StorageClass", "fast", provisioner="p", allowVolumeExpansion=growing)
    cluster.put("StorageClass", "slow", provisioner="p")
    values = {"services": {"audit": {"heads": heads}}}
    if said:
        (sentence,) = sentences(render, values)
        assert sentence.startswith(f"services.audit.heads.{said}")
        assert "delete the claim agents-slipway-audit" in sentence
    else:
        assert "storage: 2Gi" in render(values)


def test_originals_do_not_move_and_running_programs_keep_their_namespace(cluster: ApiServer, render: Render) -> None:
    deployed(cluster, "memory", SLIPWAY_MEMORY_OBJECTS_URL="file:///var/lib/slipway")
    deployed(cluster, "tools", SLIPWAY_TOOLS_SANDBOX_NAMESPACE="agents-slipway-sandboxes")
    cluster.put("RuntimeClass", "gvisor", handler="runsc")
    cluster.put("Namespace", "agents-slipway-sandboxes", metadata={"annotations": OF_THE_RELEASE})
    cluster.put("Namespace", "elsewhere")
    for pods, said in (
        (
            {"namespace": "elsewhere"},
            ["createNamespace is true, but the namespace elsewhere", "namespace is elsewhere"],
        ),
        ({"createNamespace": False}, ["createNamespace is false, but this release has made"]),
        (
            {"namespace": "elsewhere", "createNamespace": False},
            ["namespace is elsewhere, which takes pods that are not", "namespace is elsewhere, but programs run in"],
        ),
        ({"namespace": "new"}, ["namespace is new, but programs run in agents-slipway-sandboxes"]),
        ({}, []),
    ):
        told = sentences(render, {"services": {"tools": {"sandboxPods": {"enabled": True, **pods}}}})
        assert told[0].startswith("services.memory.objects.volume is false, but the release keeps its originals on the")
        assert len(told) == 1 + len(said)
        for sentence, start in zip(told[1:], said, strict=True):
            assert sentence.startswith(f"services.tools.sandboxPods.{start}")
    deployed(cluster, "memory", SLIPWAY_MEMORY_OBJECTS_URL="")
    (sentence,) = sentences(render, {"services": {"memory": {"objects": {"volume": True}}}})
    assert sentence.startswith(
        "services.memory.objects.volume is true, but the release keeps its originals in the bucket"
    )
