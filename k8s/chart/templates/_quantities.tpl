{{/* A quantity of Kubernetes (250m, 1.5, 512Mi, 20G) as a number that compares. */}}
{{- define "slipway.quantity" -}}
{{- $text := toString . }}
{{- $unit := regexFind "[A-Za-z]+$" $text }}
{{- $factors := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 }}
{{- mulf (float64 (trimSuffix $unit $text)) (index $factors $unit) }}
{{- end }}

{{/* Requests that are more than limits, and values of pods that the API server would refuse when half of a release is written. */}}
{{- define "slipway.validatePods" -}}
{{- range $name, $service := .Values.services }}
{{- range $resource, $limit := $service.resources.limits }}
{{- $request := index $service.resources.requests $resource }}
{{- if gt (float64 (include "slipway.quantity" $request)) (float64 (include "slipway.quantity" $limit)) }}{{ fail (printf "services.%s.resources.requests.%s (%v) is more than limits.%s (%v): raise the limit, or ask for less" $name $resource $request $resource $limit) }}{{ end }}
{{- end }}
{{- range $service.extraContainers }}
{{- if eq (toString .name) (kebabcase $name) }}{{ fail (printf "services.%s.extraContainers has a container %s, which is the service's own name: give it another" $name .name) }}{{ end }}
{{- range .ports }}
{{- if has (int .containerPort) (list 8080 9090 50051 50052) }}{{ fail (printf "services.%s.extraContainers listens at port %d, where the service does: give it another" $name (int .containerPort)) }}{{ end }}
{{- end }}
{{- end }}
{{- range $service.extraVolumes }}
{{- if has .name (list "tmp" "policies" "caller" "tls" "secret" "catalogue" "realm" "issuer-ca" "data") }}{{ fail (printf "services.%s.extraVolumes has a volume %s, which is one of the chart's names: give it another" $name .name) }}{{ end }}
{{- end }}
{{- end }}
{{- range $label, $_ := .Values.podLabels }}
{{- if or (hasPrefix "app.kubernetes.io/" $label) (hasPrefix "helm.sh/" $label) (eq $label "pod-template-hash") }}{{ fail (printf "podLabels.%s is set by the chart, whose Services and Deployments find pods by it: take it out" $label) }}{{ end }}
{{- end }}
{{- end }}
