{{/* Template of the pods that are the chart's own. */}}
{{- define "tta-agent.pod" -}}
metadata:
  labels:
    {{- include "tta-agent.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    {{- include "tta-agent.annotations" . | nindent 4 }}
    kubectl.kubernetes.io/default-container: {{ eq .Values.mode "central" | ternary "tta-agent" "server" }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  automountServiceAccountToken: {{ .Values.rbac.create }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int .Values.terminationGracePeriodSeconds }}
  {{- with include "tta-agent.serviceAccount" . }}
  serviceAccountName: {{ . }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ int .Values.runAsUser }}
    runAsGroup: {{ int .Values.runAsGroup }}
    fsGroup: {{ int .Values.runAsGroup }}
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- with include "tta-agent.initContainers" . | trim }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    {{- if eq .Values.mode "sidecar-demo" }}
    - {{ include "tta-agent.server" . | nindent 6 | trim }}
    {{- end }}
    {{- with include "tta-agent.containers" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "tta-agent.volumes" . | trim | nindent 4 }}
  {{- with include "tta-agent.resourceClaims" . }}
  resourceClaims:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- $values := .Values }}
  {{- range $name := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
  {{- with get $values $name }}
  {{ $name }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
{{- end -}}

{{/* The model server of the demo, on the agent's store and settings. */}}
{{- define "tta-agent.server" -}}
{{- $serve := (include "tta-agent.settings" . | fromJson).serve | default dict -}}
{{- $port := get $serve "port" | default 8080 | int -}}
name: server
image: {{ include "tta-agent.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [tta-agent]
args: [serve]
env:
  {{- include "tta-agent.variables" . | trim | nindent 2 }}
{{- include "tta-agent.envFrom" . }}
ports:
  - {name: http, containerPort: {{ $port }}}
# Asked from inside: the server listens on the pod's loopback unless settings.serve.host says otherwise.
readinessProbe:
  exec:
    command:
      - python
      - -c
      - import urllib.request as u; u.urlopen("http://127.0.0.1:{{ $port }}/v2/health/ready", timeout=5)
  periodSeconds: 10
  timeoutSeconds: 10
terminationMessagePolicy: FallbackToLogsOnError
{{ include "tta-agent.securityContext" . }}
resources:
  {{- toYaml .Values.demo.resources | nindent 2 }}
volumeMounts:
  {{- include "tta-agent.mounts" . | nindent 2 }}
{{- end -}}
