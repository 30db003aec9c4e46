{{- define "headgate.image" -}}
{{- $repository := required "image.repository has to name an image with Headgate in it" .Values.image.repository }}
{{- with .Values.image.digest }}{{ $repository }}@{{ . }}{{ else }}{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "headgate.secret" -}}
{{ .Values.existingSecret | default (printf "%s-secrets" .Release.Name) }}
{{- end }}

{{/* Of objects. Pods have headgate.podLabels: an upgrade of the chart alone starts no pod anew. */}}
{{- define "headgate.labels" -}}
app.kubernetes.io/name: headgate
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* What a program's pods are chosen by; it cannot be changed once they are there. root, name. */}}
{{- define "headgate.selector" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{/* root, name. */}}
{{- define "headgate.podLabels" -}}
app.kubernetes.io/name: headgate
{{ include "headgate.selector" . }}
{{- end }}

{{- define "headgate.database" -}}
{{ .Values.database.host | default (printf "%s-postgresql" .Release.Name) }}:{{ .Values.database.port }}
{{- end }}

{{/* Where everybody finds the servers. */}}
{{- define "headgate.env" -}}
- {name: PREFECT_API_URL, value: "http://{{ .Release.Name }}-prefect:4200/api"}
- {name: MLFLOW_TRACKING_URI, value: "http://{{ .Release.Name }}-mlflow:5000"}
- {name: PREFECT_SERVER_ANALYTICS_ENABLED, value: "false"}
- {name: DO_NOT_TRACK, value: "1"}
- {name: MLFLOW_DISABLE_TELEMETRY, value: "true"}
- {name: HOME, value: /var/lib/headgate}
- {name: HEADGATE_HOME, value: /var/lib/headgate}
- {name: PREFECT_HOME, value: /var/lib/headgate/prefect}
# What asks the system who it is finds no name for the user that pods run as.
- {name: USER, value: headgate}
{{- end }}

{{/* And what releases need besides. */}}
{{- define "headgate.workerEnv" -}}
{{ include "headgate.env" . }}
{{- range $name, $value := .Values.worker.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/*
The keys of the Secret that each program reads. Its pods have these and no others: a worker whose flow runs are Jobs asks
only Prefect. root.
*/}}
{{- define "headgate.keys" -}}
{{- $signIn := list "PREFECT_API_AUTH_STRING" "MLFLOW_TRACKING_USERNAME" "MLFLOW_TRACKING_PASSWORD" }}
{{- $releases := concat (list "HEADGATE_JOURNAL_URL" "HEADGATE_SEALING_KEY") $signIn }}
{{- dict
  "prefect" (list "PREFECT_API_DATABASE_CONNECTION_URL" "PREFECT_API_AUTH_STRING")
  "mlflow" (list "MLFLOW_BACKEND_STORE_URI" "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY" "MLFLOW_TRACKING_USERNAME" "MLFLOW_TRACKING_PASSWORD" "MLFLOW_FLASK_SERVER_SECRET_KEY")
  "receiver" (list "HEADGATE_JOURNAL_URL" "HEADGATE_WEBHOOK_SECRET" "HEADGATE_ALERT_TOKEN" "PREFECT_API_AUTH_STRING")
  "guard" $releases
  "worker" (ternary $releases (list "PREFECT_API_AUTH_STRING") (eq .root.Values.worker.type "process"))
  "flow-run" $releases
  "connect" (concat (list "HEADGATE_WEBHOOK_SECRET") $signIn)
  "postgresql" (list "POSTGRES_PASSWORD")
  "first-secret" list
| toJson }}
{{- end }}

{{/* What a server calls a key that its clients call by the key's name. */}}
{{- define "headgate.serverNames" -}}
prefect: {PREFECT_API_AUTH_STRING: PREFECT_SERVER_API_AUTH_STRING}
mlflow: {MLFLOW_TRACKING_USERNAME: MLFLOW_AUTH_ADMIN_USERNAME, MLFLOW_TRACKING_PASSWORD: MLFLOW_AUTH_ADMIN_PASSWORD}
{{- end }}

{{/* The keys as entries of a container's env: root, name. */}}
{{- define "headgate.secretEnv" -}}
{{- $names := index (include "headgate.serverNames" . | fromYaml) .name | default dict }}
{{- range index (include "headgate.keys" . | fromJson) .name }}
- {name: {{ get $names . | default . }}, valueFrom: {secretKeyRef: {name: {{ include "headgate.secret" $.root }}, key: {{ . }}}}}
{{- end }}
{{- end }}

{{- define "headgate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "headgate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "headgate.placement" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases: {{ toJson . }}
{{- end }}
{{- end }}

{{/* How the pods of one program are spread: each constraint is about these, where it does not say about which. root, name. */}}
{{- define "headgate.spread" -}}
{{- with .root.Values.topologySpreadConstraints }}
{{- $own := dict "labelSelector" (dict "matchLabels" (include "headgate.selector" $ | fromYaml)) }}
topologySpreadConstraints:
  {{- range . }}
  - {{ toJson (ternary . (merge (deepCopy .) $own) (hasKey . "labelSelector")) }}
  {{- end }}
{{- end }}
{{- end }}
