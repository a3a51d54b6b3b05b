"""The chart's objects, in all variants: of Kubernetes' types, closed off, complete."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from chart_testing.variants import CHART, REQUIRED, VARIANTS, Helm, Object, Refused, merged

KUBERNETES = json.loads((Path(__file__).parent / "kubernetes.json").read_text())
# Of operators that a cluster may have: made by scripts/chart-crds.py.
OPERATORS = json.loads((Path(__file__).parent / "data" / "crds.json").read_text())
KINDS = KUBERNETES["kinds"] | OPERATORS["kinds"]
SERVICES = ("audit", "gateway", "memory", "orchestrator", "router", "tools", "worker")
# What the architecture draws: who calls whose gRPC port.
ARROWS = {
    "gateway": {"orchestrator", "worker", "memory"},
    "router": {"gateway", "orchestrator", "worker", "memory"},
    "orchestrator": {"gateway"},
    "worker": set[str](),
    "memory": {"gateway", "orchestrator", "worker", "tools"},
    "tools": {"gateway", "orchestrator", "worker"},
    "audit": {"gateway"},
}

Rendered = dict[str, list[Object]]
variants = pytest.mark.parametrize("variant", VARIANTS)


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [found for found in objects if found["kind"] in kinds]


def component(found: Object) -> str:
    return found["metadata"]["labels"].get("app.kubernetes.io/component", "")


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Name and pod template of everything that runs."""
    for found in of_kind(objects, "Deployment", "Job"):
        yield found["metadata"]["name"], found["spec"]["template"]
    for found in of_kind(objects, "Pod"):
        yield found["metadata"]["name"], found


def faults(found: Object) -> list[str]:
    """What the API server's strict validation says against an object."""
    kind = f"{found['apiVersion']}/{found['kind']}"
    assert kind in KINDS, f"no type is known for {kind}: scripts/chart-types.py and scripts/chart-crds.py take them"
    schema = {**KINDS[kind], "definitions": KUBERNETES["definitions"]}
    return [f"{error.instance_path}: {error.message}" for error in jsonschema_rs.iter_errors(schema, found)]


@variants
def test_every_object_is_of_a_type_that_the_api_server_takes(rendered: Rendered, variant: str) -> None:
    for found in rendered[variant]:
        assert not faults(found), (found["kind"], found["metadata"]["name"])
    names = [(found["kind"], found["metadata"]["name"]) for found in rendered[variant]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("variant", "kind", "path", "value"),
    [
        ("minimal", "Deployment", ("template", "spec", "terminationGracePeriod"), 10),
        ("keda-prometheus", "ScaledObject", ("minReplicas",), 1),
        ("keda-prometheus", "ScaledObject", ("triggers", 0, "metadata", "threshold"), 5),
        ("keda-postgresql", "TriggerAuthentication", ("secretTargetRef", 0, "secret"), "database"),
        ("external-secrets", "ExternalSecret", ("target", "creationPolicy"), "Sometimes"),
        ("full", "ServiceMonitor", ("endpoints", 0, "interval"), "half a minute"),
        ("full", "PrometheusRule", ("groups", 0, "rules", 0, "for"), "ten minutes"),
    ],
)
def test_the_types_refuse_what_is_misspelt(
    rendered: Rendered, variant: str, kind: str, path: tuple[str | int, ...], value: object
) -> None:
    """What the test above is worth."""
    wrong: Any = json.loads(json.dumps(of_kind(rendered[variant], kind)[0]))
    place = wrong["spec"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert len(faults(wrong)) == 1


@variants
def test_every_pod_meets_the_restricted_standard_and_has_no_token_but_to_make_sandboxes(
    rendered: Rendered, variant: str
) -> None:
    for name, pod in pods(rendered[variant]):
        spec = pod["spec"]
        makes_pods = variant == "sandbox-pods" and name.endswith("slipway-tools")
        assert spec["automountServiceAccountToken"] is makes_pods, name
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert all("hostPath" not in volume for volume in spec["volumes"])
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context.get("seccompProfile", {"type": "RuntimeDefault"})["type"] in {"RuntimeDefault", "Localhost"}
            assert context.get("privileged") is None
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert not container["image"].endswith(":latest")


@variants
def test_every_long_running_pod_is_probed_and_drained(rendered: Rendered, variant: str) -> None:
    for found in of_kind(rendered[variant], "Deployment"):
        spec = found["spec"]["template"]["spec"]
        main = spec["containers"][0]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(main)
        drain = main["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert drain >= 3
        assert spec["terminationGracePeriodSeconds"] >= drain + 20
        if component(found) == "local-models":
            continue
        # With mutual TLS nobody without a certificate may call gRPC (test_tls.py).
        if not variant.startswith("tls-"):
            assert main["readinessProbe"]["grpc"] == {"port": 50051}
        # Liveness depends on no server: a database that is away must restart nobody.
        assert main["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "metrics"}
        grace = next(entry["value"] for entry in main["env"] if entry["name"].endswith("_SHUTDOWN_GRACE"))
        # Beyond calls in flight there is time for the hand-over of leases.
        assert spec["terminationGracePeriodSeconds"] >= drain + float(grace) + 10


@variants
def test_each_service_has_its_objects_and_the_selectors_meet(rendered: Rendered, variant: str) -> None:
    objects = rendered[variant]
    deployments = {component(found): found for found in of_kind(objects, "Deployment")}
    assert set(SERVICES) <= set(deployments)
    for name, deployment in deployments.items():
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        budgets = [
            found
            for found in of_kind(objects, "PodDisruptionBudget")
            if found["spec"]["selector"]["matchLabels"].items() <= labels.items()
        ]
        assert [found["spec"]["maxUnavailable"] for found in budgets] == [1], name
        accounts = [found for found in of_kind(objects, "ServiceAccount") if component(found) == name]
        assert [found["metadata"]["name"] for found in accounts] == [
            deployment["spec"]["template"]["spec"]["serviceAccountName"]
        ]
        assert accounts[0]["automountServiceAccountToken"] is False
        scalers = [
            found
            for found in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
            if found["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
        ]
        # Two that both set the number of replicas would fight, and so would one and a fixed number.
        assert len(scalers) + ("replicas" in deployment["spec"]) == 1, name
        ports = {
            port["name"]: port["containerPort"]
            for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
        }
        for service in of_kind(objects, "Service"):
            if service["spec"]["selector"].items() <= labels.items():
                assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)
        test_pod = of_kind(objects, "Pod")[0]
        assert not deployment["spec"]["selector"]["matchLabels"].items() <= test_pod["metadata"]["labels"].items()


def test_targets_are_headless_services_that_exist_so_that_clients_take_turns(rendered: Rendered) -> None:
    services = {found["metadata"]["name"]: found for found in of_kind(rendered["full"], "Service")}
    targets = {
        entry["value"]
        for _, pod in pods(rendered["full"])
        for entry in pod["spec"]["containers"][0].get("env", [])
        if entry["name"].endswith("_TARGET")
    }
    assert len(targets) == 6
    for target in targets:
        assert target.startswith("dns:///")
        host, _, port = target.removeprefix("dns:///").rpartition(":")
        name, namespace, rest = host.split(".", 2)
        assert (namespace, rest) == ("team", "svc.cluster.local")
        assert services[name]["spec"]["clusterIP"] == "None"
        assert int(port) in {entry["port"] for entry in services[name]["spec"]["ports"]}


def test_callers_of_links_are_told_the_pods_own_address(rendered: Rendered) -> None:
    for found in of_kind(rendered["minimal"], "Deployment"):
        env = {entry["name"]: entry for entry in found["spec"]["template"]["spec"]["containers"][0]["env"]}
        own = [name for name in env if name.endswith("_LINK_LISTEN")]
        assert [env[name]["value"] for name in own] == ["$(POD_IP):50052"]
        assert list(env).index("POD_IP") < list(env).index(own[0])


@pytest.mark.parametrize("variant", ["minimal", "full", "keda-postgresql"])
def test_network_policies_let_the_arrows_of_the_architecture_through_and_nothing_else(
    rendered: Rendered, variant: str
) -> None:
    objects = rendered[variant]
    policies = of_kind(objects, "NetworkPolicy")
    denied = next(found for found in policies if found["metadata"]["name"].endswith("-deny"))
    assert denied["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(denied["spec"])
    by_component = {component(found): found["spec"] for found in policies if component(found)}
    for name, pod in pods(objects):
        if pod["metadata"]["labels"]["app.kubernetes.io/name"] == "slipway":
            assert denied["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items(), name
    egress_to: dict[str, set[str]] = {}
    for name, callers in ARROWS.items():
        rules = [rule for rule in by_component[name].get("ingress", []) if rule["ports"][0]["port"] == 50051]
        allowed = {
            peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for rule in rules for peer in rule["from"]
        }
        assert allowed == callers, name
        for caller in callers:
            egress_to.setdefault(caller, set()).add(name)
    for name in SERVICES:
        peers = [
            (rule["ports"], peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"])
            for rule in by_component[name]["egress"]
            for peer in rule.get("to", [])
            if "podSelector" in peer
        ]
        assert {peer for _, peer in peers if peer != "local-models"} == egress_to.get(name, set()), name
        links = [peer for ports, peer in peers if 50052 in {port["port"] for port in ports}]
        assert links == (["router"] if name == "gateway" else [])
    # Every port that is served is reached by somebody through some rule, or by nobody at all on purpose.
    for deployment in of_kind(objects, "Deployment"):
        served = {port["containerPort"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
        opened = {p["port"] for rule in by_component[component(deployment)].get("ingress", []) for p in rule["ports"]}
        closed = served - opened
        assert closed <= ({50051, 9090} if component(deployment) == "worker" else {9090}), component(deployment)


@pytest.mark.parametrize(
    ("variant", "hosts", "ports"),
    [("minimal", "[]", {53, 443, 5432, 5671, 5672, 6379}), ("full", '["db.example.com:5432","warehouse:6432"]', None)],
)
def test_memory_reaches_weaviate_and_the_databases_of_data_sources_where_they_are_named(
    rendered: Rendered, variant: str, hosts: str, ports: set[int] | None
) -> None:
    spec = next(found["spec"] for found in of_kind(rendered[variant], "NetworkPolicy") if component(found) == "memory")
    reached = {port["port"] for rule in spec["egress"] for port in rule["ports"]} - {50051}
    assert reached == (ports or {53, 443, 4317, 5432, 5671, 5672, 6379, 6432, 8080, 50061})
    memory = next(found for found in of_kind(rendered[variant], "Deployment") if component(found) == "memory")
    container = memory["spec"]["template"]["spec"]["containers"][0]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert env["SLIPWAY_MEMORY_SOURCE_HOSTS"] == hosts
    assert "SLIPWAY_MEMORY_VECTORS_URL" in env
    mounted = "/etc/slipway/secret" in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert (env.get("SLIPWAY_MEMORY_SECRETS_FILE") is not None) == mounted == (variant == "full")


def test_only_the_pods_of_tools_share_their_processes_so_that_orphans_of_sandboxes_are_collected(
    rendered: Rendered,
) -> None:
    sharing = {
        component(found)
        for found in of_kind(rendered["minimal"], "Deployment")
        if found["spec"]["template"]["spec"].get("shareProcessNamespace")
    }
    assert sharing == {"tools"}


@variants
def test_no_secret_is_in_what_is_rendered_and_each_is_referred_to(rendered: Rendered, variant: str) -> None:
    objects = rendered[variant]
    assert not of_kind(objects, "Secret")
    for _, pod in pods(objects):
        for container in pod["spec"]["containers"]:
            for entry in container.get("env", []):
                if entry["name"].endswith(("_URL", "_SECRET", "_KEY", "_API_KEY")) and "value" in entry:
                    assert "://" not in entry["value"] or "@" not in entry["value"], entry["name"]
                    assert not entry["name"].endswith(
                        ("DATABASE_URL", "REDIS_URL", "BUS_URL", "_KEY", "SERVICE_SECRET")
                    )


def test_migrations_come_before_the_release_and_know_the_databases_address_only(rendered: Rendered) -> None:
    jobs = of_kind(rendered["minimal"], "Job")
    assert len(jobs) == 6
    for job in jobs:
        assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        container = job["spec"]["template"]["spec"]["containers"][0]
        assert [entry["name"].rpartition("_DATABASE_")[2] for entry in container["env"]] == ["URL"]
        assert container["command"][2].endswith(".migrate")
    for variant, expected in (("minimal", "check"), ("no-autoscaling", "apply")):
        for found in of_kind(rendered[variant], "Deployment"):
            env = found["spec"]["template"]["spec"]["containers"][0]["env"]
            assert [e["value"] for e in env if e["name"].endswith("_MIGRATIONS")] == [expected]
    assert not of_kind(rendered["no-autoscaling"], "Job")


def test_after_a_restore_runs_and_logs_go_on_as_new_ones_before_any_pod_starts(helm: Helm) -> None:
    values = merged(REQUIRED, {"migrations": {"afterRestore": True}})
    objects = [found for found in yaml.safe_load_all(helm("template", values)) if found]
    commands = {
        job["metadata"]["name"].rpartition("-")[2]: job["spec"]["template"]["spec"]["containers"][0]["command"]
        for job in of_kind(objects, "Job")
    }
    assert commands["gateway"] == ["python", "-m", "slipway_gateway.migrate"]
    assert commands["orchestrator"][2].endswith("&& python -m slipway_orchestrator.restored")
    assert commands["audit"][2].endswith("&& python -m slipway_audit.restore --all")
    assert not [fault for job in of_kind(objects, "Job") for fault in faults(job)]
    values["migrations"]["job"] = False
    with pytest.raises(Refused, match=r"afterRestore needs migrations\.job"):
        helm("template", values)


def test_workers_are_scaled_on_runs_that_wait_and_runs_in_hands(rendered: Rendered) -> None:
    prometheus = of_kind(rendered["keda-prometheus"], "ScaledObject")[0]["spec"]["triggers"][0]["metadata"]
    assert "slipway_runs_claimable" in prometheus["query"]
    assert "slipway_runs_active" in prometheus["query"]
    postgresql = of_kind(rendered["keda-postgresql"], "ScaledObject")[0]["spec"]["triggers"][0]
    assert "worker_pool = 'gpu'" in postgresql["metadata"]["query"]
    authentication = of_kind(rendered["keda-postgresql"], "TriggerAuthentication")[0]
    assert authentication["metadata"]["name"] == postgresql["authenticationRef"]["name"]
    external = [
        found
        for found in of_kind(rendered["external-metric"], "HorizontalPodAutoscaler")
        if found["metadata"]["name"] == "agents-slipway-worker"
    ]
    assert external[0]["spec"]["metrics"][0]["external"]["metric"]["name"] == "slipway_runs_claimable"


def test_external_secrets_are_there_before_the_migrations_that_need_them(rendered: Rendered) -> None:
    made = {found["spec"]["target"]["name"] for found in of_kind(rendered["external-secrets"], "ExternalSecret")}
    needed = {
        reference["name"]
        for _, pod in pods(rendered["external-secrets"])
        for entry in pod["spec"]["containers"][0].get("env", [])
        if (reference := entry.get("valueFrom", {}).get("secretKeyRef"))
    }
    assert needed <= made
    assert all(
        int(found["metadata"]["annotations"]["helm.sh/hook-weight"]) < 0
        for found in of_kind(rendered["external-secrets"], "ExternalSecret")
    )


@pytest.mark.parametrize(("name", "folder"), [("policies", "policies"), ("catalogue", "catalogue"), ("realm", "realm")])
def test_configuration_has_one_source(rendered: Rendered, name: str, folder: str) -> None:
    source = CHART.parent / folder
    data: dict[str, Any] = next(
        found["data"]
        for found in of_kind(rendered["full"], "ConfigMap")
        if found["metadata"]["name"].endswith(f"-{name}")
    )
    assert {file.name: file.read_text().strip() for file in source.iterdir()} == {
        key: value.strip() for key, value in data.items()
    }
    assert (CHART / "files" / folder).resolve() == source


def test_the_chart_passes_helms_own_checks(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm("lint", merged(REQUIRED, VARIANTS["full"]))
