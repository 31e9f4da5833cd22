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

{{- /* A number of a values file is a float64, whose own text is 5e+06 from a million on. */}}
{{- define "ratelimitd.text" -}}
{{- if kindIs "float64" . }}{{ int64 . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

{{- /* The variables that env must not overrule, and what is to be used instead. */}}
{{- define "ratelimitd.own" -}}
TPS_GRPC_ADDR: service.grpcPort
TPS_HTTP_ADDR: service.httpPort
TPS_DATA_DIR: persistence
TPS_LIMITS_FILE: persistence
TPS_DRAIN_DELAY: drain.delaySeconds
TPS_DRAIN_TIME: drain.timeSeconds
TPS_SERVER_ID: the name of the pod
TPS_DATABASE_URL: database.secretName
TPS_DB_PASSWORD: database.secretName
TPS_API_TOKENS: apiTokens.secretName
TPS_TLS_CERT: tls.secretName
TPS_TLS_KEY: tls.secretName
TPS_TLS_CLIENT_CA: tls.clientCA
TPS_TLS_PORTS: tls.secretName
TPS_CONFIG_DIR: descriptors.configMapName
{{- end }}

{{- define "ratelimitd.check" -}}
{{- range $name, $by := include "ratelimitd.own" . | fromYaml }}
{{- if hasKey $.Values.env $name }}
{{- fail (printf "env.%s: is not for env; the chart sets it by %s" $name $by) }}
{{- end }}
{{- end }}
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
