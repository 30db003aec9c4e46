{{/*
Whom each program asks. `outside` is every address at networkPolicies.ports: the API server, registries, stores, clouds,
and where Prefect sends notifications.
*/}}
{{- define "headgate.asks" -}}
{{- $releases := list "postgresql" "prefect" "mlflow" "outside" }}
{{- $mlflow := list "postgresql" "receiver" }}
{{- if contains "://" .Values.mlflow.artifacts }}{{ $mlflow = append $mlflow "outside" }}{{ end }}
{{- dict
  "prefect" (list "postgresql" "outside")
  "mlflow" $mlflow
  "receiver" (list "postgresql" "prefect")
  "guard" $releases
  "worker" (ternary $releases (list "prefect" "outside") (eq .Values.worker.type "process"))
  "flow-run" $releases
  "connect" (list "prefect" "mlflow")
  "first-secret" (list "outside")
| toJson }}
{{- end }}

{{/* The port that each server's pod listens at. */}}
{{- define "headgate.ports" -}}
{prefect: 4200, mlflow: 5000, receiver: 8000, postgresql: 5432}
{{- end }}

{{/* What a program may ask: root, name. */}}
{{- define "headgate.egress" -}}
{{- $policies := .root.Values.networkPolicies }}
{{- range index (include "headgate.asks" .root | fromJson) .name | default list }}
{{- if eq . "outside" }}
- ports:
    {{- range $policies.ports }}
    - {port: {{ int . }}, protocol: TCP}
    {{- end }}
{{- else if and (eq . "postgresql") $.root.Values.database.host }}
- ports: [{port: {{ $.root.Values.database.port }}, protocol: TCP}]
{{- else }}
- to:
    - podSelector:
        matchLabels:
          {{- include "headgate.selector" (dict "root" $.root "name" .) | nindent 10 }}
  ports: [{port: {{ index (include "headgate.ports" . | fromYaml) . }}, protocol: TCP}]
{{- end }}
{{- end }}
{{- if has .name (list "guard" "worker" "flow-run") }}
{{- with $policies.egress }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Who may ask a server: root, name. */}}
{{- define "headgate.ingress" -}}
{{- $policies := .root.Values.networkPolicies }}
{{- $peers := list }}
{{- range $who, $asked := include "headgate.asks" .root | fromJson }}
{{- if has $.name $asked }}
{{- $peers = append $peers (dict "podSelector" (dict "matchLabels" (include "headgate.selector" (dict "root" $.root "name" $who) | fromYaml))) }}
{{- end }}
{{- end }}
{{- $peers = concat $peers $policies.clients (ternary $policies.monitoring list (eq .name "receiver")) }}
- from:
    {{- toYaml $peers | nindent 4 }}
  ports: [{port: {{ index (include "headgate.ports" . | fromYaml) .name }}, protocol: TCP}]
{{- end }}
