"""Values that cannot be: a sentence that names the value and the remedy, before anything is written."""

import pytest
from chart_testing.variants import REQUIRED, Helm, Object, Refused, merged


@pytest.mark.parametrize(
    ("values", "sentences"),
    [
        ({"publicUrl": ""}, ["publicUrl is not set"]),
        ({"publicUrl": "slipway.example.com"}, ["/publicUrl"]),
        ({"publicUrl": "https://slipway.example.com/path"}, ["/publicUrl"]),
        ({"oidc": {"issuer": ""}}, ["oidc.issuer is not set"]),
        ({"oidc": {"issuer": "http://keycloak.example.com/realms/slipway"}}, ["/oidc/issuer"]),
        ({"directory": {"url": ""}}, ["directory.url is not set"]),
        ({"directory": {"url": "ldap://example.com"}}, ["/directory/url"]),
        ({"replicas": 3}, ["replicas"]),
        ({"services": {"gatway": {"replicas": 3}}}, ["gatway"]),
        ({"services": {"gateway": {"replicas": "three"}}}, ["/services/gateway/replicas", "integer"]),
        ({"services": {"gateway": {"resources": {"requests": {"cpu": "a lot"}}}}}, ["/services/gateway/resources"]),
        ({"services": {"gateway": {"settings": {"rate": 1}}}}, ["/services/gateway/settings", "'rate'"]),
        (
            {"services": {"router": {"settings": {"DATABASE_URL": "postgresql://a:b@c/d"}}}},
            ["services.router.settings.DATABASE_URL is a secret", "key database-url"],
        ),
        ({"services": {"router": {"settings": {"GRPC_LISTEN": "0.0.0.0:1"}}}}, ["GRPC_LISTEN is set by the chart"]),
        (
            {"services": {"memory": {"autoscaling": {"minReplicas": 9}}}},
            ["minReplicas (9) is more than maxReplicas (8)"],
        ),
        ({"services": {"audit": {"replicas": 2}}}, ["more than one replica", "ReadWriteMany"]),
        (
            {"services": {"memory": {"sourceHosts": ["db:5432", "warehouse:6432"]}}},
            ["services.memory.sourceHosts names warehouse:6432", "networkPolicy.egress.sources.ports"],
        ),
        ({"services": {"memory": {"sourceHosts": ["db"]}}}, ["/services/memory/sourceHosts/0"]),
        ({"services": {"memory": {"settings": {"SOURCE_HOSTS": "db:5432"}}}}, ["SOURCE_HOSTS is set by the chart"]),
        ({"services": {"worker": {"autoscaling": {"mode": "prometheus"}}}}, ["autoscaling.prometheusUrl is not set"]),
        ({"services": {"worker": {"autoscaling": {"mode": "keda"}}}}, ["/services/worker/autoscaling/mode"]),
        ({"externalSecrets": {"enabled": True}}, ["externalSecrets.storeRef.name is not set"]),
        ({"tls": {"enabled": True, "certManager": {"enabled": True}}}, ["tls.certManager.issuerRef.name is not set"]),
        ({"tls": {"certManager": {"enabled": True, "issuerRef": {"name": "ca"}}}}, ["tls.enabled is false"]),
        ({"tls": {"secrets": {"gateway": "Not a name"}}}, ["/tls/secrets/gateway"]),
        ({"services": {"audit": {"settings": {"TLS_CALLERS": "any"}}}}, ["TLS_CALLERS is set by the chart"]),
        ({"monitoring": {"serviceMonitor": {"enabled": True}}}, ["networkPolicy.metricsFrom lets nobody scrape"]),
        ({"ingress": {"enabled": True}}, ["ingress.tlsSecret is not set"]),
        ({"drain": {"preStopSeconds": 0}}, ["/drain/preStopSeconds"]),
        (
            {"services": {"gateway": {"resources": {"requests": {"memory": "2Gi"}}}}},
            ["services.gateway.resources.requests.memory (2Gi) is more than limits.memory (512Mi)", "raise the limit"],
        ),
        (
            {"services": {"tools": {"resources": {"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}}}}},
            ["services.tools.resources.requests.cpu (2) is more than limits.cpu (1500m)"],
        ),
        ({"podLabels": {"team": "a team"}}, ["/podLabels/team"]),
        (
            {"podLabels": {"app.kubernetes.io/component": "mine"}},
            ["podLabels.app.kubernetes.io/component is set by the chart", "take it out"],
        ),
        ({"topologySpread": {"topologyKeys": ["zone", "zone"]}}, ["/topologySpread/topologyKeys"]),
        ({"services": {"gateway": {"extraVolumes": [{"emptyDir": {}}]}}}, ["/services/gateway/extraVolumes/0", "name"]),
        (
            {"services": {"gateway": {"extraVolumes": [{"name": "tmp", "emptyDir": {}}]}}},
            ["services.gateway.extraVolumes has a volume tmp, which is one of the chart's names"],
        ),
        (
            {"services": {"gateway": {"extraContainers": [{"name": "gateway", "image": "proxy:1"}]}}},
            ["services.gateway.extraContainers has a container gateway, which is the service's own name"],
        ),
        (
            {
                "services": {
                    "gateway": {"extraContainers": [{"name": "p", "image": "p:1", "ports": [{"containerPort": 8080}]}]}
                }
            },
            ["services.gateway.extraContainers listens at port 8080, where the service does"],
        ),
        ({"secrets": {"gateway": {"database-url": "postgresql://a:b@c/d"}}}, ["/secrets/gateway"]),
        ({"podSecurity": {"runAsUser": 0}}, ["/podSecurity/runAsUser"]),
        (
            {"services": {"tools": {"sandboxPods": {"enabled": True}, "settings": {"SANDBOX": "runsc"}}}},
            ["services.tools.settings.SANDBOX is set although", "take it out"],
        ),
        (
            {"services": {"tools": {"sandboxPods": {"enabled": True}, "seccompLocalhostProfile": "nsjail.json"}}},
            ["services.tools.seccompLocalhostProfile", "take one of both out"],
        ),
        (
            {"services": {"tools": {"sandboxPods": {"enabled": True, "namespace": "team"}}}},
            ["services.tools.sandboxPods.namespace is the release's own"],
        ),
        (
            {"services": {"tools": {"sandboxPods": {"image": "registry.example.com:5000/slipway/sandbox"}}}},
            ["/services/tools/sandboxPods/image"],
        ),
    ],
)
def test_a_wrong_value_is_refused_by_name(helm: Helm, values: Object, sentences: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        helm("template", merged(REQUIRED, values))
    for sentence in sentences:
        assert sentence in str(refused.value)
    assert "postgresql://a:b@c/d" not in str(refused.value)
