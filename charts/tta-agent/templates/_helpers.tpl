{{/* Names, labels, and values that follow from others. Helpers take a chart's scope: `.`, or `index .Subcharts "tta-agent"`. */}}

{{- define "tta-agent.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "tta-agent.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "tta-agent.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "tta-agent.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tta-agent.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tta-agent.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tta-agent.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "tta-agent.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "tta-agent.metadata" -}}
name: {{ include "tta-agent.fullname" . }}
labels:
  {{- include "tta-agent.labels" . | nindent 2 }}
{{- end -}}

{{- define "tta-agent.image" -}}
{{- $tag := .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (eq .Values.gpu.mode "none" | ternary "" "-cuda")) -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- end -}}
{{- end -}}

{{/* "true" where the chart has a pod of its own. */}}
{{- define "tta-agent.hasPod" -}}
{{- if has .Values.mode (list "central" "sidecar-demo") -}}true{{- end -}}
{{- end -}}

{{/* "true" where the agent is an init container that always restarts: beside a server, on a cluster that has it. */}}
{{- define "tta-agent.native" -}}
{{- $has := semverCompare ">=1.29.0-0" .Capabilities.KubeVersion.Version -}}
{{- $wanted := toString .Values.nativeSidecar -}}
{{- if and (ne .Values.mode "central") (or (eq $wanted "true") (and (eq $wanted "auto") $has)) -}}true{{- end -}}
{{- end -}}

{{/* All settings as JSON: those of the mode, under those that are given. */}}
{{- define "tta-agent.settings" -}}
{{- $own := dict "store" (dict "path" "/var/lib/tta-agent") -}}
{{- if eq .Values.gpu.mode "none" -}}
{{- $own = mergeOverwrite $own (dict "model" (dict "device" "cpu")) -}}
{{- end -}}
{{- if eq .Values.mode "sidecar-demo" -}}
{{- $weights := "/opt/tta-agent/samples/fashion_net.safetensors" -}}
{{- $model := dict "factory" "tta_agent.samples.nets:fashion_net" "weights" $weights "input_shape" (list 1 28 28) -}}
{{- $own = mergeOverwrite $own (dict "mode" "auto" "model" $model) -}}
{{- end -}}
{{- mergeOverwrite $own (deepCopy .Values.settings) | toJson -}}
{{- end -}}

{{/* Refuse what the schema cannot: settings that do not go together. */}}
{{- define "tta-agent.check" -}}
{{- $s := include "tta-agent.settings" . | fromJson -}}
{{- $model := $s.model | default dict -}}
{{- $ways := list -}}
{{- range list "name" "factory" "onnx" -}}{{- if get $model . -}}{{- $ways = append $ways . -}}{{- end -}}{{- end -}}
{{- if ne (len $ways) 1 -}}
{{- fail (printf "settings.model: expected exactly one of name, factory and onnx, got %s" (join ", " $ways | default "none")) -}}
{{- end -}}
{{- if and (eq .Values.gpu.mode "time-slicing") (not (get ($s.adapt | default dict) "memory")) -}}
{{- fail "gpu.mode=time-slicing shares the memory of the GPU: set settings.adapt.memory, the agent's share of it (0.3 for instance)" -}}
{{- end -}}
{{- if and (eq .Values.gpu.mode "dra") (eq .Values.mode "patch") (not .Values.gpu.existingClaimTemplate) -}}
{{- fail "gpu.mode=dra in mode patch, which makes no objects: set gpu.existingClaimTemplate to a ResourceClaimTemplate of yours" -}}
{{- end -}}
{{- if and .Values.rbac.create (not (include "tta-agent.customResource" .)) -}}
{{- fail "rbac.create: only the drivers kserve and seldon ask the API server; set settings.swap.driver to one of them, or rbac.create=false" -}}
{{- end -}}
{{- if and .Values.rbac.create (not (include "tta-agent.hasPod" .)) -}}
{{- fail (printf "rbac.create in mode %s, which makes no objects: give the pod's service account the Role yourself (docs/guide/kubernetes.md)" .Values.mode) -}}
{{- end -}}
{{- if and (gt (int .Values.replicas) 1) (eq .Values.mode "central") (not (has "ReadWriteMany" .Values.store.accessModes)) -}}
{{- fail (printf "replicas=%d: the standby needs the same store; set store.accessModes=[ReadWriteMany], or replicas=1" (int .Values.replicas)) -}}
{{- end -}}
{{- $taken := list "HOME" "POD_NAME" "POD_NAMESPACE" "OTEL_RESOURCE_ATTRIBUTES" -}}
{{- range .Values.extraEnv -}}
{{- if has .name $taken -}}{{- fail (printf "extraEnv: the chart sets %s itself" .name) -}}{{- end -}}
{{- if and (regexMatch "^OTEL_METRICS_EXPORTER$|^OTEL_EXPORTER_PROMETHEUS_" .name) $.Values.metrics.enabled -}}
{{- fail (printf "extraEnv: metrics.enabled sets %s: set metrics.enabled=false to send metrics elsewhere" .name) -}}
{{- end -}}
{{- end -}}
{{- $secret := .Values.existingSecret -}}
{{- range list "http" "serve" -}}
{{- $group := get $s . | default dict -}}
{{- $listens := or (eq . "serve") (get $group "port") -}}
{{- $reached := not (has (get $group "host" | default "127.0.0.1") (list "127.0.0.1" "localhost" "::1")) -}}
{{- if and $listens $reached (not $secret) -}}
{{- fail (printf "settings.%s.host lets others give commands: set existingSecret, a Secret with the key TTA_%s__TOKEN" . (upper .)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Name of the service account; empty: the namespace's default one. */}}
{{- define "tta-agent.serviceAccount" -}}
{{- .Values.serviceAccountName | default (ternary (include "tta-agent.fullname" .) "" .Values.rbac.create) -}}
{{- end -}}

{{/* Custom resource that the server driver patches, as group/plural; empty for other drivers. */}}
{{- define "tta-agent.customResource" -}}
{{- $driver := ((include "tta-agent.settings" . | fromJson).swap | default dict).driver | default "" -}}
{{- get (dict "kserve" "serving.kserve.io/inferenceservices" "seldon" "mlops.seldon.io/models") $driver -}}
{{- end -}}

{{/* Memory of the agent in MiB, by what it holds: libraries, weights and graphs, queues. */}}
{{- define "tta-agent.memoryMiB" -}}
{{- $s := include "tta-agent.settings" . | fromJson -}}
{{- $queue := get ($s.stream | default dict) "queue_bytes" | default 67108864 | float64 -}}
{{- $libraries := eq .Values.gpu.mode "none" | ternary 1536 3072 -}}
{{- add $libraries (mul 10 (int .Values.modelMiB)) (mul 4 (divf $queue 1048576 | ceil | int)) -}}
{{- end -}}

{{/* Size of the store in MiB: kept versions, those that are tested, labels and checkpoints. */}}
{{- define "tta-agent.storeMiB" -}}
{{- $s := include "tta-agent.settings" . | fromJson -}}
{{- $keep := get ($s.store | default dict) "keep" | default 20 | int -}}
{{- add 512 (mul (int .Values.modelMiB) (add $keep 8)) -}}
{{- end -}}

{{- define "tta-agent.storeSize" -}}
{{- .Values.store.size | default (printf "%sMi" (include "tta-agent.storeMiB" .)) -}}
{{- end -}}

{{- define "tta-agent.storePath" -}}
{{- (include "tta-agent.settings" . | fromJson).store.path -}}
{{- end -}}

{{/* Name of the claim of the store; empty where it is an emptyDir. */}}
{{- define "tta-agent.claim" -}}
{{- $type := .Values.store.type | default (eq .Values.mode "central" | ternary "claim" "emptyDir") -}}
{{- if .Values.store.existingClaim -}}
{{- .Values.store.existingClaim -}}
{{- else if and (eq $type "claim") (include "tta-agent.hasPod" .) -}}
{{- include "tta-agent.fullname" . -}}
{{- end -}}
{{- end -}}

{{/* What differs from one set of settings to another, so that a change replaces the pod. */}}
{{- define "tta-agent.annotations" -}}
checksum/tta-agent: {{ include "tta-agent.env" . | sha256sum | trunc 32 }}
{{- end -}}
