"""Mutual TLS between services as the chart sets it up."""

from typing import Any

from chart_testing.variants import Object

Rendered = dict[str, list[Object]]
HOST = "agents-slipway-{}.team.svc.cluster.local"


def deployments(objects: list[Object]) -> dict[str, Any]:
    """Deployments of services by component."""
    return {
        found["metadata"]["labels"]["app.kubernetes.io/component"]: found["spec"]["template"]["spec"]
        for found in objects
        if found["kind"] == "Deployment"
    }


def environment(pod: Any) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in pod["containers"][0]["env"]}


def test_every_service_has_its_own_certificate_mounted_where_its_settings_say(rendered: Rendered) -> None:
    for component, pod in deployments(rendered["tls-provided"]).items():
        env, secret = environment(pod), "of-the-router" if component == "router" else f"slipway-{component}-tls"
        folders = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        files = {name.partition("_TLS_")[2]: value for name, value in env.items() if "_TLS_" in name and "FILE" in name}
        assert files == {
            "CERT_FILE": f"{folders['tls']}/tls.crt",
            "KEY_FILE": f"{folders['tls']}/tls.key",
            "CA_FILE": f"{folders['tls']}/ca.crt",
        }
        volume = next(found for found in pod["volumes"] if found["name"] == "tls")
        # What others may read is refused by the service.
        assert volume["secret"] == {"secretName": secret, "defaultMode": 0o400}


def test_nothing_that_has_no_certificate_is_to_call_grpc(rendered: Rendered) -> None:
    for pod in deployments(rendered["tls-provided"]).values():
        assert pod["containers"][0]["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
        for probe in ("startupProbe", "livenessProbe"):
            assert "grpc" not in pod["containers"][0][probe]
    for pod in deployments(rendered["minimal"]).values():
        assert pod["containers"][0]["readinessProbe"]["grpc"] == {"port": 50051}
        assert not [name for name in environment(pod) if "_TLS_" in name]


def test_a_service_takes_calls_of_those_whose_targets_it_is_and_of_nobody_else(rendered: Rendered) -> None:
    pods = deployments(rendered["tls-provided"])
    own = {name: HOST.format("gateway-grpc" if name == "gateway" else name) for name in pods}
    called: dict[str, set[str]] = {name: set() for name in pods}
    for caller, pod in pods.items():
        for name, target in environment(pod).items():
            # Audit, router and tools know where identity is, and ask it for nothing.
            if name.endswith("_TARGET") and not (caller in ("audit", "router", "tools") and "IDENTITY" in name):
                called[next(one for one, host in own.items() if host in target)].add(own[caller])
    for name, pod in pods.items():
        admitted = [value for key, value in environment(pod).items() if key.endswith("_TLS_CALLERS")]
        assert len(admitted) == (name != "worker")
        assert set(",".join(admitted).split(",")) - {""} == called[name], name
    assert not [
        key
        for pod in deployments(rendered["tls-cert-manager"]).values()
        for key in environment(pod)
        if key.endswith("_TLS_CALLERS")
    ]


def test_cert_manager_makes_each_secret_for_the_host_that_callers_name(rendered: Rendered) -> None:
    objects = rendered["tls-cert-manager"]
    made = {found["spec"]["secretName"]: found["spec"] for found in objects if found["kind"] == "Certificate"}
    pods = deployments(objects)
    targets = {value for pod in pods.values() for name, value in environment(pod).items() if name.endswith("_TARGET")}
    for pod in pods.values():
        volume = next(found for found in pod["volumes"] if found["name"] == "tls")
        spec = made.pop(volume["secret"]["secretName"])
        assert spec["issuerRef"] == {"name": "internal", "kind": "ClusterIssuer", "group": "cert-manager.io"}
        assert {"server auth", "client auth"} <= set(spec["usages"])
        targets.discard(f"dns:///{spec['dnsNames'][0]}:50051")
    assert not made
    assert not targets
    assert not [found for found in rendered["tls-provided"] if found["kind"] == "Certificate"]
