{{/* The names that an Ingress and an HTTPRoute give a server, by its values. */}}
{{- define "headgate.names" -}}
{{- $found := list }}
{{- if .ingress.enabled }}{{ $found = append $found .ingress.host }}{{ end }}
{{- if .httpRoute.enabled }}{{ $found = concat $found .httpRoute.hostnames }}{{ end }}
{{- uniq $found | toJson }}
{{- end }}

{{/* The ways to a server from outside of the cluster: root, name, port. */}}
{{- define "headgate.ways" -}}
{{- $name := printf "%s-%s" .root.Release.Name .name }}
{{- $values := index .root.Values .name }}
{{- with $values.ingress }}
{{- if .enabled }}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ $name }}
  namespace: {{ $.root.Release.Namespace }}
  labels:
    {{- include "headgate.labels" $.root | nindent 4 }}
    app.kubernetes.io/component: {{ $.name }}
  {{- with .annotations }}
  annotations: {{ toJson . }}
  {{- end }}
spec:
  {{- with .className }}
  ingressClassName: {{ . }}
  {{- end }}
  {{- with .tls }}
  tls: {{ toJson . }}
  {{- end }}
  rules:
    - host: {{ required (printf "%s.ingress.host has to be the name by which browsers reach it, such as %s.acme.com" $.name $.name) .host | quote }}
      http:
        paths:
          - {path: /, pathType: Prefix, backend: {service: {name: {{ $name }}, port: {name: http}}}}
{{- end }}
{{- end }}
{{- with $values.httpRoute }}
{{- if .enabled }}
{{- if not .parentRefs }}{{ fail (printf "%s.httpRoute.parentRefs has to name a Gateway, such as [{name: public, namespace: edge}]" $.name) }}{{ end }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {{ $name }}
  namespace: {{ $.root.Release.Namespace }}
  labels:
    {{- include "headgate.labels" $.root | nindent 4 }}
    app.kubernetes.io/component: {{ $.name }}
  {{- with .annotations }}
  annotations: {{ toJson . }}
  {{- end }}
spec:
  parentRefs: {{ toJson .parentRefs }}
  {{- with .hostnames }}
  hostnames: {{ toJson . }}
  {{- end }}
  rules:
    - backendRefs: [{name: {{ $name }}, port: {{ $.port }}}]
{{- end }}
{{- end }}
{{- end }}
