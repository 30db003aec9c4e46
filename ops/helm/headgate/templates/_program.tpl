{{/*
A program of the one image. root: the chart's context; name; command: a list; and, where it has them, port; probes (their
YAML); service (whether it has a Service); env and envFrom (more); releases (whether it releases, as worker.* says);
replicas; grace (seconds that it may take to end); claim (its storage).
*/}}
{{- define "headgate.program" -}}
{{- $name := printf "%s-%s" .root.Release.Name .name }}
{{- $values := index .root.Values .name }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "headgate.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .name }}
spec:
  replicas: {{ if hasKey . "replicas" }}{{ .replicas }}{{ else }}1{{ end }}
  {{- if .claim }}
  strategy: {type: Recreate}
  {{- end }}
  selector:
    matchLabels:
      {{- include "headgate.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "headgate.podLabels" . | nindent 8 }}
    spec:
      {{- if .releases }}
      serviceAccountName: {{ .root.Release.Name }}-worker
      {{- else }}
      automountServiceAccountToken: false
      {{- end }}
      {{- with .grace }}
      terminationGracePeriodSeconds: {{ int . }}
      {{- end }}
      {{- include "headgate.placement" .root | nindent 6 }}
      {{- include "headgate.spread" . | nindent 6 }}
      enableServiceLinks: false
      securityContext:
        {{- include "headgate.podSecurity" .root | nindent 8 }}
      containers:
        - name: {{ .name }}
          image: {{ include "headgate.image" .root }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: {{ toJson .command }}
          env:
            {{- include "headgate.secretEnv" . | nindent 12 }}
            {{- include (ternary "headgate.workerEnv" "headgate.env" (default false .releases)) .root | nindent 12 }}
            {{- with .env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- with ternary .root.Values.worker.envFrom .envFrom (default false .releases) }}
          envFrom:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with .port }}
          ports: [{name: http, containerPort: {{ . }}, protocol: TCP}]
          {{- end }}
          {{- with .probes }}
          {{- . | nindent 10 }}
          {{- end }}
          resources: {{ toJson $values.resources }}
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
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "headgate.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .name }}
  annotations: {helm.sh/resource-policy: keep}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: {{ .claim }}}}
{{- end }}
{{- if .service }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "headgate.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .name }}
  {{- with $values.service.annotations }}
  annotations: {{ toJson . }}
  {{- end }}
spec:
  type: {{ $values.service.type }}
  selector:
    {{- include "headgate.selector" . | nindent 4 }}
  ports: [{name: http, port: {{ .port }}, targetPort: http, protocol: TCP}]
{{- end }}
{{- end }}

{{/*
Of a server: a path that answers, also while its database is away. It may take five minutes to start, as it may have to
wait for its database. A server that hangs is started anew after two minutes; a busy one answers sooner.
*/}}
{{- define "headgate.serverProbes" -}}
startupProbe:
  httpGet: {path: {{ . }}, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: {{ . }}, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 12
readinessProbe:
  httpGet: {path: {{ . }}, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{/*
The pod of a Job. root; name; account: its ServiceAccount, if any; restart: its restartPolicy; command; env: more;
volumes and mounts: more.
*/}}
{{- define "headgate.jobPod" -}}
metadata:
  labels:
    {{- include "headgate.podLabels" . | nindent 4 }}
spec:
  restartPolicy: {{ .restart }}
  {{- with .account }}
  serviceAccountName: {{ . }}
  {{- else }}
  automountServiceAccountToken: false
  {{- end }}
  {{- include "headgate.placement" .root | nindent 2 }}
  enableServiceLinks: false
  securityContext:
    {{- include "headgate.podSecurity" .root | nindent 4 }}
  containers:
    - name: {{ .name }}
      image: {{ include "headgate.image" .root }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      command: {{ toJson .command }}
      env:
        {{- include "headgate.secretEnv" . | nindent 8 }}
        {{- include "headgate.env" .root | nindent 8 }}
      resources: {{ toJson .root.Values.jobs.resources }}
      securityContext:
        {{- include "headgate.containerSecurity" .root | nindent 8 }}
      volumeMounts:
        - {name: home, mountPath: /var/lib/headgate}
        - {name: tmp, mountPath: /tmp}
        {{- with .mounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - {name: home, emptyDir: {}}
    - {name: tmp, emptyDir: {}}
    {{- with .volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
