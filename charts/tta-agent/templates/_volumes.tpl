{{/* Volumes of the container. Takes the chart's scope. */}}
{{- define "tta-agent.volumes" -}}
- name: tta-agent-store
  {{- if include "tta-agent.claim" . }}
  persistentVolumeClaim: {claimName: {{ include "tta-agent.claim" . }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ include "tta-agent.storeSize" . }}}
  {{- end }}
- name: tta-agent-tmp
  emptyDir: {sizeLimit: {{ add 512 (mul 4 (int .Values.modelMiB)) }}Mi}
{{- with .Values.modelVolume }}
- name: tta-agent-model
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Claims of the pod on a GPU that its containers share: gpu.mode dra only. Takes the chart's scope. */}}
{{- define "tta-agent.resourceClaims" -}}
{{- if eq .Values.gpu.mode "dra" -}}
- name: tta-agent-gpu
  resourceClaimTemplateName: {{ .Values.gpu.existingClaimTemplate | default (include "tta-agent.fullname" .) }}
{{- end -}}
{{- end -}}
