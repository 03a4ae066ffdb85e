{{/* Variables of every container: one for each setting that is given, and extraEnv. Takes the chart's scope. */}}
{{- define "tta-agent.variables" -}}
{{- range $group, $value := include "tta-agent.settings" . | fromJson }}
{{- if kindIs "map" $value }}
{{- range $name, $inner := $value }}
{{- include "tta-agent.variable" (list (printf "TTA_%s__%s" (upper $group) (upper $name)) $inner) }}
{{- end }}
{{- else }}
{{- include "tta-agent.variable" (list (printf "TTA_%s" (upper $group)) $value) }}
{{- end }}
{{- end }}
- name: HOME
  value: /tmp
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* All variables of the agent. Takes the chart's scope. */}}
{{- define "tta-agent.env" -}}
{{- include "tta-agent.variables" . | trim }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.pod.name=$(POD_NAME),k8s.namespace.name=$(POD_NAMESPACE)
{{- if .Values.metrics.enabled }}
- name: OTEL_METRICS_EXPORTER
  value: prometheus
- name: OTEL_EXPORTER_PROMETHEUS_HOST
  value: 0.0.0.0
- name: OTEL_EXPORTER_PROMETHEUS_PORT
  value: {{ .Values.metrics.port | quote }}
{{- end }}
{{- end -}}

{{/* One variable: text as it is, all else as JSON; the kubelet would expand a $(NAME) in it. Takes name and value. */}}
{{- define "tta-agent.variable" -}}
{{- $value := index . 1 }}
{{- if not (kindIs "invalid" $value) }}
{{- $text := kindIs "string" $value | ternary $value (toJson $value) }}
- name: {{ index . 0 }}
  value: {{ $text | replace "$(" "$$(" | quote }}
{{- end }}
{{- end -}}
