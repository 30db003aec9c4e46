{{- define "headgate.image" -}}
{{ required "image.repository has to name an image with Headgate in it" .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "headgate.secret" -}}
{{ .Values.existingSecret | default (printf "%s-secrets" .Release.Name) }}
{{- end }}

{{- define "headgate.labels" -}}
app.kubernetes.io/name: headgate
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
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

{{- define "headgate.workerEnvFrom" -}}
- secretRef: {name: {{ include "headgate.secret" . }}}
{{- with .Values.worker.envFrom }}
{{ toYaml . }}
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
{{- with .Values.hostAliases }}
hostAliases: {{ toJson . }}
{{- end }}
{{- end }}

{{/*
A program of the one image. root: the chart's context; name; command: a list; and, where it has them, port, probe (a path),
env and envFrom (more), releases (whether it releases, as worker.* says), replicas, resources, claim (its storage).
*/}}
{{- define "headgate.program" -}}
{{- $name := printf "%s-%s" .root.Release.Name .name }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels:
    {{- include "headgate.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .name }}
spec:
  replicas: {{ if hasKey . "replicas" }}{{ .replicas }}{{ else }}1{{ end }}
  {{- if .claim }}
  strategy: {type: Recreate}
  {{- end }}
  selector:
    matchLabels: {app.kubernetes.io/instance: {{ .root.Release.Name }}, app.kubernetes.io/component: {{ .name }}}
  template:
    metadata:
      labels:
        {{- include "headgate.labels" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .name }}
    spec:
      {{- if .releases }}
      serviceAccountName: {{ .root.Release.Name }}-worker
      {{- else }}
      automountServiceAccountToken: false
      {{- end }}
      {{- include "headgate.placement" .root | nindent 6 }}
      enableServiceLinks: false
      securityContext:
        {{- include "headgate.podSecurity" .root | nindent 8 }}
      containers:
        - name: {{ .name }}
          image: {{ include "headgate.image" .root }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: {{ toJson .command }}
          env:
            {{- include (ternary "headgate.workerEnv" "headgate.env" (default false .releases)) .root | nindent 12 }}
            {{- with .env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          envFrom:
            {{- if .releases }}
            {{- include "headgate.workerEnvFrom" .root | nindent 12 }}
            {{- else }}
            - secretRef: {name: {{ include "headgate.secret" .root }}}
            {{- with .envFrom }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
            {{- end }}
          {{- if .port }}
          ports: [{name: http, containerPort: {{ .port }}, protocol: TCP}]
          readinessProbe:
            httpGet: {path: {{ .probe }}, port: http}
            periodSeconds: 5
            timeoutSeconds: 5
          startupProbe:
            httpGet: {path: {{ .probe }}, port: http}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 60
          {{- end }}
          resources: {{ toJson (.resources | default (dict "requests" (dict "cpu" "100m" "memory" "512Mi"))) }}
          securityContext:
            {{- include "headgate.containerSecurity" .root | nindent 12 }}
          volumeMounts:
            - {name: home, mountPath: /var/lib/headgate}
            - {name: tmp, mountPath: /tmp}
            {{- if .releases }}
            {{- with .root.Values.worker.volumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
            {{- end }}
      volumes:
        - name: home
          {{- if .claim }}
          persistentVolumeClaim: {claimName: {{ $name }}}
          {{- else }}
          emptyDir: {sizeLimit: {{ .root.Values.worker.home }}}
          {{- end }}
        - {name: tmp, emptyDir: {sizeLimit: 4Gi}}
        {{- if .releases }}
        {{- with .root.Values.worker.volumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- end }}
{{- if .claim }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ $name }}
  labels:
    {{- include "headgate.labels" .root | nindent 4 }}
  annotations: {helm.sh/resource-policy: keep}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: {{ .claim }}}}
{{- end }}
{{- if .port }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  labels:
    {{- include "headgate.labels" .root | nindent 4 }}
spec:
  selector: {app.kubernetes.io/instance: {{ .root.Release.Name }}, app.kubernetes.io/component: {{ .name }}}
  ports: [{name: http, port: {{ .port }}, targetPort: http, protocol: TCP}]
{{- end }}
{{- end }}
