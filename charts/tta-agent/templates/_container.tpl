{{/* The container of the agent. Takes the chart's scope: from another chart, `index .Subcharts "tta-agent"`. */}}
{{- define "tta-agent.container" -}}
{{- include "tta-agent.check" . -}}
{{- $settings := include "tta-agent.settings" . | fromJson -}}
{{- $http := $settings.http | default dict -}}
name: tta-agent
image: {{ include "tta-agent.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [tta-agent]
args: [run]
{{- if include "tta-agent.native" . }}
restartPolicy: Always
{{- end }}
env:
  {{- include "tta-agent.env" . | trim | nindent 2 }}
{{- include "tta-agent.envFrom" . }}
{{- $ports := list }}
{{- with $http.health_port }}{{ $ports = append $ports (dict "name" "tta-health" "containerPort" (int .)) }}{{ end }}
{{- with $http.port }}{{ $ports = append $ports (dict "name" "tta-http" "containerPort" (int .)) }}{{ end }}
{{- if .Values.metrics.enabled }}{{ $ports = append $ports (dict "name" "tta-metrics" "containerPort" (int .Values.metrics.port)) }}{{ end }}
{{- with $ports }}
ports:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $http.health_port }}
# No readiness and no start-up probe: the server does not wait for the agent.
livenessProbe:
  httpGet: {path: /healthz, port: tta-health}
  initialDelaySeconds: 60
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}
# At the beginning of the pod's end, not when the server has gone: the last checkpoint and commit have the whole grace period.
lifecycle:
  preStop:
    exec: {command: [/bin/sh, -c, kill -TERM 1]}
terminationMessagePolicy: FallbackToLogsOnError
{{ include "tta-agent.securityContext" . }}
resources:
  {{- include "tta-agent.resources" . | nindent 2 }}
volumeMounts:
  {{- include "tta-agent.mounts" . | nindent 2 }}
{{- end -}}

{{/* The list items for initContainers and for containers; one of the two is empty. */}}
{{- define "tta-agent.initContainers" -}}
{{- if .Values.preflight }}
- {{ include "tta-agent.preflight" . | nindent 2 | trim }}
{{- end }}
{{- if include "tta-agent.native" . }}
- {{ include "tta-agent.container" . | nindent 2 | trim }}
{{- end }}
{{- end -}}

{{- define "tta-agent.containers" -}}
{{- if not (include "tta-agent.native" .) }}
- {{ include "tta-agent.container" . | nindent 2 | trim }}
{{- end }}
{{- end -}}

{{/* Checks settings, plugins and the volume with the agent's own variables; what it finds becomes the termination message.
     Broker, records and server are not asked: they may start later, and must not keep the pod's server from starting. */}}
{{- define "tta-agent.preflight" -}}
name: tta-agent-preflight
image: {{ include "tta-agent.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [tta-agent]
args: [doctor, --only, settings, --only, volume, --message-file, /dev/termination-log]
env:
  {{- include "tta-agent.variables" . | trim | nindent 2 }}
{{- include "tta-agent.envFrom" . }}
terminationMessagePolicy: FallbackToLogsOnError
{{ include "tta-agent.securityContext" . }}
resources:
  requests: {cpu: 100m, memory: 512Mi}
  limits: {memory: 1536Mi}
volumeMounts:
  {{- include "tta-agent.mounts" . | nindent 2 }}
{{- end -}}

{{- define "tta-agent.envFrom" -}}
{{- with .Values.existingSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end -}}

{{/* Pod Security "restricted", in the container: the pod may be another's. */}}
{{- define "tta-agent.securityContext" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ int .Values.runAsUser }}
  runAsGroup: {{ int .Values.runAsGroup }}
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "tta-agent.resources" -}}
{{- $memory := printf "%sMi" (include "tta-agent.memoryMiB" .) -}}
{{- $found := mergeOverwrite (dict "requests" (dict "memory" $memory) "limits" (dict "memory" $memory)) (deepCopy .Values.resources) -}}
{{- if not (get (.Values.resources.requests | default dict) "memory") -}}
{{- $_ := set $found.requests "memory" $found.limits.memory -}}
{{- end -}}
{{- if has .Values.gpu.mode (list "device-plugin" "time-slicing") -}}
{{- $count := eq .Values.gpu.mode "time-slicing" | ternary 1 (int .Values.gpu.count) -}}
{{- $_ := set $found.limits .Values.gpu.resource $count -}}
{{- end -}}
{{- if eq .Values.gpu.mode "dra" -}}
{{- $_ := set $found "claims" (list (dict "name" "tta-agent-gpu")) -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}

{{- define "tta-agent.mounts" -}}
- {name: tta-agent-store, mountPath: {{ include "tta-agent.storePath" . }}}
- {name: tta-agent-tmp, mountPath: /tmp}
{{- if .Values.modelVolume }}
- {name: tta-agent-model, mountPath: /models, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}
