{{- define "slipway.fullname" -}}
{{- if contains "slipway" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-slipway" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Name of a component's objects: (dict "root" $ "component" "localModels") */}}
{{- define "slipway.name" -}}
{{ include "slipway.fullname" .root }}-{{ .component | kebabcase }}
{{- end }}

{{- define "slipway.selector" -}}
app.kubernetes.io/name: slipway
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component | kebabcase }}
{{- end }}

{{/* Labels of all objects; with a component those of its objects. */}}
{{- define "slipway.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ include "slipway.tag" .root | quote }}
app.kubernetes.io/part-of: slipway
{{- if .component }}
{{ include "slipway.selector" . }}
{{- else }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}
{{- end }}

{{- define "slipway.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "slipway.image" -}}
{{- with .root.Values.image }}{{ with .registry }}{{ . }}/{{ end }}{{ .repository }}{{ end }}/{{ .image }}:{{ include "slipway.tag" .root }}
{{- end }}

{{/* gRPC target of a component: all of its pods' addresses, between which the client itself takes turns. */}}
{{- define "slipway.target" -}}
dns:///{{ include "slipway.host" . }}:50051
{{- end }}

{{/* Host of a component's gRPC Service, which its certificate names. */}}
{{- define "slipway.host" -}}
{{- $name := include "slipway.name" . -}}
{{- if eq .component "gateway" }}{{ $name = printf "%s-grpc" $name }}{{ end -}}
{{ $name }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end }}

{{/* Hosts of the components that call this one, with commas: names in their certificates. */}}
{{- define "slipway.callers" -}}
{{- $root := .root }}{{ $called := .component }}{{ $hosts := list }}
{{- range $component, $spec := include "slipway.components" $root | fromYaml }}
{{- if has $called $spec.calls }}{{ $hosts = append $hosts (include "slipway.host" (dict "root" $root "component" $component)) }}{{ end }}
{{- end }}
{{- join "," $hosts }}
{{- end }}

{{/* Namespace of the pods that run agents' code. */}}
{{- define "slipway.sandboxNamespace" -}}
{{ .Values.services.tools.sandboxPods.namespace | default (printf "%s-sandboxes" (include "slipway.fullname" .)) }}
{{- end }}

{{- define "slipway.publicHost" -}}
{{ (urlParse .Values.publicUrl).host | splitList ":" | first }}
{{- end }}

{{/* JSON: hosts that requests may name, those of publicUrl and of the Service within the cluster. */}}
{{- define "slipway.allowedHosts" -}}
{{- $name := include "slipway.name" (dict "root" . "component" "gateway") -}}
{{- $inside := list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) (printf "%s.%s.svc.%s" $name .Release.Namespace .Values.clusterDomain) -}}
{{- concat (.Values.services.gateway.allowedHosts | default (list (include "slipway.publicHost" .))) $inside | toJson -}}
{{- end }}

{{- define "slipway.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ .Values.podSecurity.runAsUser }}
runAsGroup: {{ .Values.podSecurity.runAsUser }}
fsGroup: {{ .Values.podSecurity.runAsUser }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "slipway.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "slipway.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ range . }}
  - name: {{ . }}{{ end }}
{{- end }}
{{- end }}

{{/* What runs, and what it calls. `service` names the settings' prefix and the Secret. */}}
{{- define "slipway.components" -}}
gateway: {service: gateway, image: gateway, redis: true, calls: [router, orchestrator, memory, tools, audit], egress: [identity]}
router: {service: router, image: router, redis: true, calls: [], egress: [models]}
orchestrator: {service: orchestrator, image: orchestrator, arguments: [api], calls: [router, memory, tools, gateway], egress: []}
worker: {service: orchestrator, image: orchestrator, arguments: [worker], calls: [router, memory, tools, gateway], egress: []}
memory: {service: memory, image: memory, redis: true, calls: [router, gateway], egress: [objects, vectors, sources]}
tools: {service: tools, image: tools, calls: [memory], egress: [targets]}
audit: {service: audit, image: audit, calls: [], egress: []}
{{- end }}

{{/* Does a service scale on CPU? */}}
{{- define "slipway.scalesOnCpu" -}}
{{- range $name, $service := .Values.services }}
{{- if and $service.autoscaling.enabled (ne (toString $service.enabled) "false") (has ($service.autoscaling.mode | default "cpu") (list "cpu" "external")) }}true{{ end }}
{{- end }}
{{- end }}

{{/* Is audit allowed more than one pod? */}}
{{- define "slipway.auditShared" -}}
{{- if has "ReadWriteMany" .Values.services.audit.heads.accessModes }}true{{ end }}
{{- end }}
