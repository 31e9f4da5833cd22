{{- define "ratelimitd.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "ratelimitd.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ratelimitd.labels" -}}
{{ include "ratelimitd.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "ratelimitd.scheme" -}}
{{- if .Values.tls.secretName }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{- define "ratelimitd.check" -}}
{{- if and .Values.persistence.enabled (or .Values.autoscaling.enabled (gt (int .Values.replicas) 1)) }}
{{- fail "persistence.enabled: one volume is for one process: replicas must be 1, and autoscaling off" }}
{{- end }}
{{- if and .Values.tls.clientCA (not .Values.tls.secretName) }}
{{- fail "tls.clientCA: needs tls.secretName" }}
{{- end }}
{{- if gt (int .Values.drain.delaySeconds) (int .Values.drain.timeSeconds) }}
{{- fail "drain.delaySeconds: is a part of drain.timeSeconds, and cannot be longer" }}
{{- end }}
{{- end }}
