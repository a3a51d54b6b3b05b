{{/* What a schema cannot say: each is a sentence that names the value and the remedy. */}}
{{- define "slipway.validate" -}}
{{- $v := .Values -}}
{{- if not $v.publicUrl }}{{ fail "publicUrl is not set: the https address that clients use, e.g. --set publicUrl=https://slipway.example.com" }}{{ end }}
{{- if not $v.oidc.issuer }}{{ fail "oidc.issuer is not set: the exact `iss` of your identity provider's access tokens, e.g. https://keycloak.example.com/realms/slipway" }}{{ end }}
{{- if not $v.directory.url }}{{ fail "directory.url is not set: where a run's subject is looked up again, e.g. keycloak+https://keycloak.example.com/realms/slipway?client_id=slipway-gateway" }}{{ end }}
{{- if and $v.externalSecrets.enabled (not $v.externalSecrets.storeRef.name) }}{{ fail "externalSecrets.storeRef.name is not set: the SecretStore or ClusterSecretStore that holds the secrets" }}{{ end }}
{{- if and $v.monitoring.serviceMonitor.enabled $v.networkPolicy.enabled (not $v.networkPolicy.metricsFrom) }}{{ fail "monitoring.serviceMonitor is enabled, but networkPolicy.metricsFrom lets nobody scrape: name Prometheus' namespace there" }}{{ end }}
{{- if $v.migrations.afterRestore }}
{{- if .Release.IsUpgrade }}{{ fail "migrations.afterRestore is for the install after a restore, this is an upgrade: take it out (each time it makes new logs)" }}{{ end }}
{{- if not $v.migrations.job }}{{ fail "migrations.afterRestore needs migrations.job=true: what it does has to be done before any pod starts" }}{{ end }}
{{- end }}
{{- with $v.tls }}
{{- if and .certManager.enabled (not .enabled) }}{{ fail "tls.certManager is enabled, but tls.enabled is false: set it too" }}{{ end }}
{{- if and .certManager.enabled (not .certManager.issuerRef.name) }}{{ fail "tls.certManager.issuerRef.name is not set: the Issuer or ClusterIssuer that signs the services' certificates" }}{{ end }}
{{- end }}
{{- range $name, $service := $v.services }}
{{- with $service.autoscaling }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}{{ fail (printf "services.%s.autoscaling.minReplicas (%d) is more than maxReplicas (%d)" $name (int .minReplicas) (int .maxReplicas)) }}{{ end }}
{{- end }}
{{- end }}
{{- $secrets := list "DATABASE_URL" "BUS_URL" "REDIS_URL" "DATA_KEY" "SERVICE_SECRET" "SERVICE_SECRETS" "DIRECTORY_SECRET" "OBJECTS_URL" "VECTORS_URL" }}
{{- $charts := list "GRPC_LISTEN" "LINK_LISTEN" "TLS_CERT_FILE" "TLS_KEY_FILE" "TLS_CA_FILE" "TLS_CALLERS" "METRICS_LISTEN" "HTTP_LISTEN" "MIGRATIONS" "POLICY_DIR" "CALLER_JWKS_FILE" "LOG_LEVEL" "OTLP_ENDPOINT" "SHUTDOWN_GRACE" "IDENTITY_TARGET" "ROUTER_TARGET" "ORCHESTRATOR_TARGET" "MEMORY_TARGET" "TOOLS_TARGET" "AUDIT_TARGET" "PUBLIC_URL" "ALLOWED_HOSTS" "OIDC_ISSUER" "OIDC_JWKS_URL" "OIDC_AUDIENCE" "OIDC_AZP" "OIDC_CA_FILE" "DIRECTORY_URL" "DIRECTORY_SECRET_FILE" "SIGNING_KEY_FILE" "SERVICE_SECRETS_FILE" "CATALOGUE_FILE" "SECRETS_FILE" "SOURCE_HOSTS" "LOCAL_MODELS_URL" "CONCURRENCY" "WORKER_POOL" "STATE_DIR" "HEADS_DIR" }}
{{- range $name, $service := $v.services }}
{{- range $setting, $_ := $service.settings }}
{{- if has $setting $secrets }}{{ fail (printf "services.%s.settings.%s is a secret: put it into a Secret that `secrets` names, under the key %s (docs/kubernetes.md), not into values" $name $setting ($setting | lower | replace "_" "-")) }}{{ end }}
{{- if has $setting $charts }}{{ fail (printf "services.%s.settings.%s is set by the chart from other values: see values.yaml" $name $setting) }}{{ end }}
{{- end }}
{{- end }}
{{- with $v.services.tools }}
{{- if .sandboxPods.enabled }}
{{- range $setting := list "SANDBOX" "SANDBOX_NAMESPACE" "SANDBOX_IMAGE" "SANDBOX_RUNTIME_CLASS" "SANDBOX_KUBECONFIG" }}
{{- if hasKey $v.services.tools.settings $setting }}{{ fail (printf "services.tools.settings.%s is set although services.tools.sandboxPods is enabled, which says where code runs: take it out" $setting) }}{{ end }}
{{- end }}
{{- if or .seccompLocalhostProfile .appArmorUnconfined }}{{ fail "services.tools.seccompLocalhostProfile and appArmorUnconfined are for nsjail in the pods of tools, but services.tools.sandboxPods is enabled: take one of both out" }}{{ end }}
{{- if eq (include "slipway.sandboxNamespace" $) $.Release.Namespace }}{{ fail "services.tools.sandboxPods.namespace is the release's own: pods that run agents' code need a namespace of their own" }}{{ end }}
{{- end }}
{{- end }}
{{- if not (include "slipway.auditShared" .) }}
{{- if or $v.services.audit.autoscaling.enabled (gt (int $v.services.audit.replicas) 1) }}{{ fail "services.audit has more than one replica, which need a shared volume: set services.audit.heads.accessModes=[ReadWriteMany], or one replica without autoscaling" }}{{ end }}
{{- end }}
{{- range $v.services.memory.sourceHosts }}
{{- $port := splitList ":" . | last | int }}
{{- if and $v.networkPolicy.enabled (not (has (toString $port) (toStrings $v.networkPolicy.egress.sources.ports))) }}{{ fail (printf "services.memory.sourceHosts names %s, whose port networkPolicy.egress.sources.ports does not let through: add %d there" . $port) }}{{ end }}
{{- end }}
{{- with $v.services.worker.autoscaling }}
{{- if and .enabled (eq .mode "prometheus") (not .prometheusUrl) }}{{ fail "services.worker.autoscaling.prometheusUrl is not set: KEDA asks Prometheus there, e.g. http://prometheus.monitoring:9090" }}{{ end }}
{{- end }}
{{- if and $v.ingress.enabled (not $v.ingress.tlsSecret) (hasPrefix "https" $v.publicUrl) (not $v.ingress.annotations) }}{{ fail "ingress.tlsSecret is not set although publicUrl is https: name the Secret with the certificate, or set ingress.annotations of a controller that ends TLS elsewhere" }}{{ end }}
{{- end }}
