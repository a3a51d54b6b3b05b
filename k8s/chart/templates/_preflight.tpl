{{/*
What only the cluster knows, asked before anything is written: sentences of all that does not fit, one a line. Nothing is
asked where there is no cluster (helm template), nor with preflight=false.
*/}}
{{- define "slipway.preflight" -}}
{{- if and .Values.preflight (lookup "v1" "ServiceAccount" .Release.Namespace "default") }}
{{- $told := list }}
{{- range $asked := list "secrets" "names" "apis" "volumes" "objectStore" "sandboxNamespace" }}
{{- range splitList "\n" (include (printf "slipway.preflight.%s" $asked) $) }}
{{- with trim . }}{{ $told = append $told . }}{{ end }}
{{- end }}
{{- end }}
{{- if $told }}{{ fail (printf "the cluster does not fit these values, nothing was changed:\n- %s" (join "\n- " $told)) }}{{ end }}
{{- end }}
{{- end }}

{{/* Secrets that must be there, and their keys. */}}
{{- define "slipway.preflight.secrets" -}}
{{- $v := .Values }}
{{- $made := "scripts/chart-secrets.py makes it, docs/kubernetes.md lists its keys" }}
{{- if not $v.externalSecrets.enabled }}
{{ include "slipway.preflight.secret" (dict "root" $ "value" "secrets.callerKeys" "name" $v.secrets.callerKeys "keys" (list "jwks.json") "remedy" $made) }}
{{- range $component, $spec := include "slipway.components" . | fromYaml }}
{{- if ne $component "worker" }}
{{- $keys := list "database-url" "bus-url" "data-key" }}
{{- if $spec.redis }}{{ $keys = append $keys "redis-url" }}{{ end }}
{{- if ne $component "gateway" }}{{ $keys = append $keys "service-secret" }}{{ end }}
{{- if and (eq $component "memory") (not $v.services.memory.objects.volume) }}{{ $keys = append $keys "objects-url" }}{{ end }}
{{- $files := include "slipway.secretFiles" (dict "root" $ "component" $component) | trim }}
{{- if $files }}{{ $keys = concat $keys (splitList " " $files) }}{{ end }}
{{ include "slipway.preflight.secret" (dict "root" $ "value" (printf "secrets.%s" $spec.service) "name" (index $v.secrets $spec.service) "keys" $keys "remedy" $made) }}
{{- end }}
{{- end }}
{{- if $v.services.localModels.enabled }}
{{ include "slipway.preflight.secret" (dict "root" $ "value" "secrets.localModels" "name" $v.secrets.localModels "keys" (list "api-key") "remedy" $made) }}
{{- end }}
{{- end }}
{{- if and $v.tls.enabled (not $v.tls.certManager.enabled) }}
{{- range $component, $secret := $v.tls.secrets }}
{{ include "slipway.preflight.secret" (dict "root" $ "value" (printf "tls.secrets.%s" $component) "name" $secret "keys" (list "tls.crt" "tls.key" "ca.crt") "remedy" (printf "put a certificate for %s there, or have tls.certManager make it" (include "slipway.host" (dict "root" $ "component" $component)))) }}
{{- end }}
{{- end }}
{{- with $v.oidc.caSecret }}
{{ include "slipway.preflight.secret" (dict "root" $ "value" "oidc.caSecret" "name" . "keys" (list "ca.crt") "remedy" "put the issuer's authority there, or leave the value empty for public ones") }}
{{- end }}
{{- range $v.image.pullSecrets }}
{{ include "slipway.preflight.secret" (dict "root" $ "value" "image.pullSecrets" "name" . "keys" (list) "remedy" "kubectl create secret docker-registry makes it") }}
{{- end }}
{{- if and $v.ingress.enabled $v.ingress.tlsSecret (not $v.ingress.annotations) }}
{{ include "slipway.preflight.secret" (dict "root" $ "value" "ingress.tlsSecret" "name" $v.ingress.tlsSecret "keys" (list "tls.crt" "tls.key") "remedy" "kubectl create secret tls makes it") }}
{{- end }}
{{- end }}

{{- define "slipway.preflight.secret" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .name }}
{{- if not $found -}}
there is no Secret {{ .name }} ({{ .value }}) in the namespace {{ .root.Release.Namespace }}: {{ .remedy }}
{{- else }}
{{- $missing := list }}
{{- range .keys }}{{ if not (index ($found.data | default dict) .) }}{{ $missing = append $missing . }}{{ end }}{{ end }}
{{- if $missing -}}
the Secret {{ .name }} ({{ .value }}) has no {{ join ", " $missing }}: {{ .remedy }}
{{- end }}
{{- end }}
{{- end }}

{{/* Objects of the cluster that values name. */}}
{{- define "slipway.preflight.names" -}}
{{- $v := .Values }}
{{- range $value, $name := dict "config.policiesConfigMap" $v.config.policiesConfigMap "config.catalogueConfigMap" $v.config.catalogueConfigMap }}
{{- if and $name (not (lookup "v1" "ConfigMap" $.Release.Namespace $name)) }}
{{ $value }} is {{ $name }}, but there is no such ConfigMap in the namespace {{ $.Release.Namespace }}: make it, or leave the value empty for the chart's own
{{- end }}
{{- end }}
{{- $named := list (list "priorityClassName" "scheduling.k8s.io/v1" "PriorityClass" $v.priorityClassName) }}
{{- range $component, $values := $v.services }}
{{- $named = append $named (list (printf "services.%s.priorityClassName" $component) "scheduling.k8s.io/v1" "PriorityClass" $values.priorityClassName) }}
{{- $named = append $named (list (printf "services.%s.runtimeClassName" $component) "node.k8s.io/v1" "RuntimeClass" $values.runtimeClassName) }}
{{- end }}
{{- if $v.services.tools.sandboxPods.enabled }}{{ $named = append $named (list "services.tools.sandboxPods.runtimeClassName" "node.k8s.io/v1" "RuntimeClass" $v.services.tools.sandboxPods.runtimeClassName) }}{{ end }}
{{- $named = append $named (list "services.audit.heads.storageClassName" "storage.k8s.io/v1" "StorageClass" $v.services.audit.heads.storageClassName) }}
{{- if $v.services.memory.objects.volume }}{{ $named = append $named (list "services.memory.objects.storageClassName" "storage.k8s.io/v1" "StorageClass" $v.services.memory.objects.storageClassName) }}{{ end }}
{{- if $v.ingress.enabled }}{{ $named = append $named (list "ingress.className" "networking.k8s.io/v1" "IngressClass" $v.ingress.className) }}{{ end }}
{{- range $named }}
{{- $kind := index . 2 }}
{{- if and (index . 3) (not (lookup (index . 1) $kind "" (index . 3))) }}
{{ index . 0 }} is {{ index . 3 }}, but the cluster has no such {{ $kind }}: `kubectl get {{ lower $kind }}` lists those that there are
{{- end }}
{{- end }}
{{- end }}

{{/* Interfaces of operators that values ask for. */}}
{{- define "slipway.preflight.apis" -}}
{{- $v := .Values }}
{{- $mode := $v.services.worker.autoscaling.mode }}
{{- $asked := list
  (list (and $v.services.worker.autoscaling.enabled (has $mode (list "prometheus" "postgresql"))) "keda.sh/v1alpha1" (printf "services.worker.autoscaling.mode is %s" $mode) "install KEDA, or set the mode cpu")
  (list $v.externalSecrets.enabled "external-secrets.io/v1" "externalSecrets.enabled is true" "install External Secrets, or make the Secrets yourself")
  (list (and $v.tls.enabled $v.tls.certManager.enabled) "cert-manager.io/v1" "tls.certManager.enabled is true" "install cert-manager, or make the Secrets of tls.secrets yourself")
  (list $v.monitoring.serviceMonitor.enabled "monitoring.coreos.com/v1" "monitoring.serviceMonitor.enabled is true" "install the Prometheus operator, or turn it off")
  (list $v.monitoring.rules.enabled "monitoring.coreos.com/v1" "monitoring.rules.enabled is true" "install the Prometheus operator, or turn it off") }}
{{- range $asked }}
{{- if and (index . 0) (not ($.Capabilities.APIVersions.Has (index . 1))) }}
{{ index . 2 }}, but the cluster has no {{ index . 1 }}: {{ index . 3 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Claims that are there already: what the API server does not let change. */}}
{{- define "slipway.preflight.volumes" -}}
{{- $v := .Values }}
{{- range $component, $value := dict "audit" "services.audit.heads" "memory" "services.memory.objects" }}
{{- $claim := ternary $v.services.audit.heads $v.services.memory.objects (eq $component "audit") }}
{{- $name := include "slipway.name" (dict "root" $ "component" $component) }}
{{- $found := lookup "v1" "PersistentVolumeClaim" $.Release.Namespace $name }}
{{- if and $found (or (eq $component "audit") $claim.volume) }}
{{- $anew := printf "copy what it holds, delete the claim %s with its pods stopped, and it is made anew" $name }}
{{- if and $claim.storageClassName (ne $claim.storageClassName ($found.spec.storageClassName | default "")) }}
{{ $value }}.storageClassName is {{ $claim.storageClassName }}, but the claim {{ $name }} has the class {{ $found.spec.storageClassName }}, which cannot be changed: set that again, or {{ $anew }}
{{- end }}
{{- if ne (sortAlpha $claim.accessModes | join ",") (sortAlpha $found.spec.accessModes | join ",") }}
{{ $value }}.accessModes is [{{ join "," $claim.accessModes }}], but the claim {{ $name }} has [{{ join "," $found.spec.accessModes }}], which cannot be changed: set that again, or {{ $anew }}
{{- end }}
{{- $was := $found.spec.resources.requests.storage }}
{{- $new := float64 (include "slipway.quantity" $claim.size) }}
{{- $old := float64 (include "slipway.quantity" $was) }}
{{- if lt $new $old }}
{{ $value }}.size is {{ $claim.size }}, but the claim {{ $name }} has {{ $was }}, and volumes do not shrink: set that again, or {{ $anew }}
{{- else if gt $new $old }}
{{- $class := lookup "storage.k8s.io/v1" "StorageClass" "" ($found.spec.storageClassName | default "none") }}
{{- if not $class.allowVolumeExpansion }}
{{ $value }}.size is {{ $claim.size }}, but the claim {{ $name }} has {{ $was }}, and its class {{ $found.spec.storageClassName }} lets no volume grow: set that again, or {{ $anew }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Originals do not move by themselves from a bucket to a volume, or back. */}}
{{- define "slipway.preflight.objectStore" -}}
{{- $name := include "slipway.name" (dict "root" . "component" "memory") }}
{{- $was := include "slipway.preflight.setting" (dict "root" $ "component" "memory" "name" "SLIPWAY_MEMORY_OBJECTS_URL") }}
{{- $volume := .Values.services.memory.objects.volume }}
{{- if or (and $volume (eq $was "of a Secret")) (and (not $volume) (hasPrefix "file:" $was)) -}}
services.memory.objects.volume is {{ $volume }}, but the release keeps its originals {{ ternary "in the bucket that objects-url names" (printf "on the volume of the claim %s" $name) (eq $was "of a Secret") }}: set it back; or stop memory (kubectl delete deployment {{ $name }}), copy them, and upgrade then
{{- end }}
{{- end }}

{{/* The value of a setting in the release as it is; "of a Secret"; or nothing. */}}
{{- define "slipway.preflight.setting" -}}
{{- $deployment := lookup "apps/v1" "Deployment" .root.Release.Namespace (include "slipway.name" .) }}
{{- if $deployment }}
{{- range (first $deployment.spec.template.spec.containers).env }}
{{- if eq .name $.name }}{{ .value | default "of a Secret" }}{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The namespace of sandboxes: whose it is, and whether the release would take it away from under programs. */}}
{{- define "slipway.preflight.sandboxNamespace" -}}
{{- with .Values.services.tools.sandboxPods }}
{{- if .enabled }}
{{- $name := include "slipway.sandboxNamespace" $ }}
{{- $found := lookup "v1" "Namespace" "" $name }}
{{- $annotations := ($found.metadata | default dict).annotations | default dict }}
{{- $ours := and (eq (index $annotations "meta.helm.sh/release-name" | default "") $.Release.Name) (eq (index $annotations "meta.helm.sh/release-namespace" | default "") $.Release.Namespace) }}
{{- if and $found (eq (dig "status" "phase" "" $found) "Terminating") }}
services.tools.sandboxPods.namespace is {{ $name }}, which is being deleted: wait until it is gone
{{- else if and .createNamespace $found (not $ours) }}
services.tools.sandboxPods.createNamespace is true, but the namespace {{ $name }} is there and is not of this release: set createNamespace=false, or name another
{{- else if and (not .createNamespace) $ours }}
services.tools.sandboxPods.createNamespace is false, but this release has made the namespace {{ $name }}, and would delete it with all that runs there: leave it true, or name another
{{- else if and (not .createNamespace) (not $found) }}
services.tools.sandboxPods.createNamespace is false, but there is no namespace {{ $name }}: make it, with the label pod-security.kubernetes.io/enforce=restricted, or set createNamespace=true
{{- else if and (not .createNamespace) (ne (dig "metadata" "labels" "pod-security.kubernetes.io/enforce" "" $found) "restricted") }}
services.tools.sandboxPods.namespace is {{ $name }}, which takes pods that are not restricted: kubectl label namespace {{ $name }} pod-security.kubernetes.io/enforce=restricted
{{- end }}
{{- $was := include "slipway.preflight.setting" (dict "root" $ "component" "tools" "name" "SLIPWAY_TOOLS_SANDBOX_NAMESPACE") }}
{{- if and $was (ne $was $name) }}
services.tools.sandboxPods.namespace is {{ $name }}, but programs run in {{ $was }}, which would go away under them: set it back; or upgrade with sandboxPods.enabled=false first, which ends them, and then with the new name
{{- end }}
{{- end }}
{{- end }}
{{- end }}
