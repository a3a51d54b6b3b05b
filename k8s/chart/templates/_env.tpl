{{/* Environment of a component's container: (dict "root" $ "component" … "spec" …) */}}
{{- define "slipway.env" -}}
{{- $root := .root }}{{ $v := .root.Values }}{{ $values := index $v.services .component }}
{{- $prefix := printf "SLIPWAY_%s" (upper .spec.service) }}
{{- $secret := index $v.secrets .spec.service }}
- {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
- {name: {{ $prefix }}_GRPC_LISTEN, value: "0.0.0.0:50051"}
# Callers of links are told this address: the pod's own.
- {name: {{ $prefix }}_LINK_LISTEN, value: "$(POD_IP):50052"}
- {name: {{ $prefix }}_METRICS_LISTEN, value: "0.0.0.0:9090"}
- {name: {{ $prefix }}_MIGRATIONS, value: {{ ternary "check" "apply" $v.migrations.job }}}
- {name: {{ $prefix }}_POLICY_DIR, value: /etc/slipway/policies}
- {name: {{ $prefix }}_CALLER_JWKS_FILE, value: /etc/slipway/caller/jwks.json}
- {name: {{ $prefix }}_LOG_LEVEL, value: {{ $v.logLevel | quote }}}
- {name: {{ $prefix }}_OTLP_ENDPOINT, value: {{ $v.otlpEndpoint | quote }}}
- {name: {{ $prefix }}_SHUTDOWN_GRACE, value: {{ $v.drain.graceSeconds | quote }}}
{{- range without .spec.calls "gateway" }}
- {name: {{ $prefix }}_{{ upper . }}_TARGET, value: {{ include "slipway.target" (dict "root" $root "component" .) | quote }}}
{{- end }}
- {name: {{ $prefix }}_DATABASE_URL, valueFrom: {secretKeyRef: {name: {{ $secret }}, key: database-url}}}
- {name: {{ $prefix }}_BUS_URL, valueFrom: {secretKeyRef: {name: {{ $secret }}, key: bus-url}}}
- {name: {{ $prefix }}_DATA_KEY, valueFrom: {secretKeyRef: {name: {{ $secret }}, key: data-key}}}
{{- if .spec.redis }}
- {name: {{ $prefix }}_REDIS_URL, valueFrom: {secretKeyRef: {name: {{ $secret }}, key: redis-url}}}
{{- end }}
{{- if $v.tls.enabled }}
- {name: {{ $prefix }}_TLS_CERT_FILE, value: /etc/slipway/tls/tls.crt}
- {name: {{ $prefix }}_TLS_KEY_FILE, value: /etc/slipway/tls/tls.key}
- {name: {{ $prefix }}_TLS_CA_FILE, value: /etc/slipway/tls/ca.crt}
{{- with include "slipway.callers" (dict "root" $root "component" .component) }}
{{- if $v.tls.restrictCallers }}
- {name: {{ $prefix }}_TLS_CALLERS, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- if eq .component "gateway" }}
- {name: {{ $prefix }}_HTTP_LISTEN, value: "0.0.0.0:8080"}
- {name: {{ $prefix }}_PUBLIC_URL, value: {{ $v.publicUrl | quote }}}
- {name: {{ $prefix }}_ALLOWED_HOSTS, value: {{ include "slipway.allowedHosts" $root | quote }}}
- {name: {{ $prefix }}_OIDC_ISSUER, value: {{ $v.oidc.issuer | quote }}}
- {name: {{ $prefix }}_OIDC_JWKS_URL, value: {{ $v.oidc.jwksUrl | quote }}}
- {name: {{ $prefix }}_OIDC_AUDIENCE, value: {{ $v.oidc.audience | toJson | quote }}}
- {name: {{ $prefix }}_OIDC_AZP, value: {{ $v.oidc.clients | toJson | quote }}}
{{- if $v.oidc.caSecret }}
- {name: {{ $prefix }}_OIDC_CA_FILE, value: /etc/slipway/issuer-ca/ca.crt}
{{- end }}
- {name: {{ $prefix }}_DIRECTORY_URL, value: {{ $v.directory.url | quote }}}
{{- if hasPrefix "keycloak" $v.directory.url }}
- {name: {{ $prefix }}_DIRECTORY_SECRET_FILE, value: /etc/slipway/secret/directory-secret}
{{- end }}
- {name: {{ $prefix }}_SIGNING_KEY_FILE, value: /etc/slipway/secret/signing.pem}
- {name: {{ $prefix }}_SERVICE_SECRETS_FILE, value: /etc/slipway/secret/service-secrets.json}
{{- else }}
- {name: {{ $prefix }}_IDENTITY_TARGET, value: {{ include "slipway.target" (dict "root" $root "component" "gateway") | quote }}}
- {name: {{ $prefix }}_SERVICE_SECRET, valueFrom: {secretKeyRef: {name: {{ $secret }}, key: service-secret}}}
{{- end }}
{{- if eq .component "router" }}
- {name: {{ $prefix }}_CATALOGUE_FILE, value: /etc/slipway/catalogue/models.yaml}
- {name: {{ $prefix }}_SECRETS_FILE, value: /etc/slipway/secret/secrets.yaml}
{{- if $v.services.localModels.enabled }}
- {name: {{ $prefix }}_LOCAL_MODELS_URL, value: "http://{{ include "slipway.name" (dict "root" $root "component" "localModels") }}:8081/v1"}
{{- end }}
{{- else if eq .component "worker" }}
- {name: {{ $prefix }}_CONCURRENCY, value: {{ $values.concurrency | quote }}}
- {name: {{ $prefix }}_WORKER_POOL, value: {{ $values.pool | quote }}}
{{- else if eq .component "memory" }}
{{- if $values.objects.volume }}
- {name: {{ $prefix }}_OBJECTS_URL, value: "file:///var/lib/slipway"}
{{- else }}
- {name: {{ $prefix }}_OBJECTS_URL, valueFrom: {secretKeyRef: {name: {{ $secret }}, key: objects-url}}}
{{- end }}
- {name: {{ $prefix }}_VECTORS_URL, valueFrom: {secretKeyRef: {name: {{ $secret }}, key: vectors-url, optional: true}}}
- {name: {{ $prefix }}_SOURCE_HOSTS, value: {{ $values.sourceHosts | toJson | quote }}}
{{- if $values.secretsFile }}
- {name: {{ $prefix }}_SECRETS_FILE, value: /etc/slipway/secret/secrets.yaml}
{{- end }}
{{- else if eq .component "tools" }}
- {name: {{ $prefix }}_STATE_DIR, value: /var/lib/slipway}
{{- with $values.sandboxPods }}
{{- if .enabled }}
- {name: {{ $prefix }}_SANDBOX, value: kubernetes}
- {name: {{ $prefix }}_SANDBOX_NAMESPACE, value: {{ include "slipway.sandboxNamespace" $root }}}
- {name: {{ $prefix }}_SANDBOX_IMAGE, value: {{ .image | default (include "slipway.image" (dict "root" $root "image" "sandbox")) | quote }}}
- {name: {{ $prefix }}_SANDBOX_RUNTIME_CLASS, value: {{ .runtimeClassName | quote }}}
{{- end }}
{{- end }}
{{- if $values.secretsFile }}
- {name: {{ $prefix }}_SECRETS_FILE, value: /etc/slipway/secret/secrets.yaml}
{{- end }}
{{- else if eq .component "audit" }}
- {name: {{ $prefix }}_SIGNING_KEY_FILE, value: /etc/slipway/secret/log.key}
- {name: {{ $prefix }}_HEADS_DIR, value: /var/lib/slipway}
{{- end }}
{{- range $name, $value := $values.settings }}
- {name: {{ $prefix }}_{{ $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end }}

{{/* Keys of a component's Secret that it reads as files. */}}
{{- define "slipway.secretFiles" -}}
{{- $v := .root.Values }}
{{- if eq .component "gateway" }}signing.pem service-secrets.json{{ if hasPrefix "keycloak" $v.directory.url }} directory-secret{{ end }}
{{- else if eq .component "router" }}secrets.yaml
{{- else if and (has .component (list "memory" "tools")) (index $v.services .component).secretsFile }}secrets.yaml
{{- else if eq .component "audit" }}log.key
{{- end }}
{{- end }}
