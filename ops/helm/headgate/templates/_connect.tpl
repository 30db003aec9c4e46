{{- define "headgate.connectPod" -}}
{{- $told := list "--pool" .Values.worker.pool "--type" .Values.worker.type "--receiver" (printf "http://%s-receiver:8000" .Release.Name) }}
{{- if eq .Values.worker.type "kubernetes" }}{{ $told = concat $told (list "--template" "/etc/headgate/template.json") }}{{ end }}
{{- include "headgate.jobPod" (dict
  "root" . "name" "connect" "restart" "OnFailure" "command" (concat (list "headgate" "connect") $told)
  "volumes" (list (dict "name" "pool" "configMap" (dict "name" (printf "%s-pool" .Release.Name))))
  "mounts" (list (dict "name" "pool" "mountPath" "/etc/headgate"))
) }}
{{- end }}

{{/*
Helm runs it anew at each upgrade, by the revision. Where the chart is only rendered that is always 1, and a Job that ran
cannot be changed: so what it does is in the name too.
*/}}
{{- define "headgate.connectName" -}}
{{- $does := printf "%s%s" (include "headgate.connectPod" .) (include "headgate.jobTemplate" .) }}
{{- printf "%s-connect-%d-%s" .Release.Name .Release.Revision (sha256sum $does | trunc 8) }}
{{- end }}

{{/*
Prefect's worker answers 503 once it has not heard of its server for five minutes. A new pod hears no more of it, but one
whose connection is broken does. With `process` the pod carries flow runs, which go on without the server: so it is left
alone half an hour longer.
*/}}
{{- define "headgate.workerProbes" -}}
startupProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: {{ ternary 180 6 (eq .Values.worker.type "process") }}
readinessProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
{{- end }}
