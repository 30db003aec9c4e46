{{/*
What a flow run is in the cluster: the base job template of Prefect's pool, by
https://docs.prefect.io/integrations/prefect-kubernetes. It has the release's secrets by reference, and not in Prefect: Prefect
puts what a run's `env` says before what the container's has.
Prefect wants completions and parallelism where they are here; Kubernetes leaves them out.
*/}}
{{- define "headgate.jobTemplate" -}}
{{- $of := dict "root" . "name" "flow-run" }}
{{- $pod := dict
  "serviceAccountName" (printf "%s-worker" .Release.Name)
  "restartPolicy" "Never"
  "completions" 1
  "parallelism" 1
  "enableServiceLinks" false
  "securityContext" (include "headgate.podSecurity" . | fromYaml)
  "containers" (list (dict
    "name" "prefect-job"
    "image" "{{ image }}"
    "imagePullPolicy" .Values.image.pullPolicy
    "args" "{{ command }}"
    "env" (include "headgate.secretEnv" $of | fromYamlArray)
    "envFrom" .Values.worker.envFrom
    "resources" .Values.worker.resources
    "securityContext" (include "headgate.containerSecurity" . | fromYaml)
    "volumeMounts" (concat (list (dict "name" "home" "mountPath" "/var/lib/headgate") (dict "name" "tmp" "mountPath" "/tmp")) .Values.worker.volumeMounts)))
  "volumes" (concat (list
    (dict "name" "home" "emptyDir" (dict "sizeLimit" .Values.worker.home))
    (dict "name" "tmp" "emptyDir" (dict "sizeLimit" "4Gi"))) .Values.worker.volumes)
}}
{{- $pod = merge $pod (include "headgate.placement" . | fromYaml) (include "headgate.spread" $of | fromYaml) }}
{{- $env := dict }}
{{- range (include "headgate.workerEnv" . | fromYamlArray) }}{{ $_ := set $env .name .value }}{{ end }}
{{- $string := dict "type" "string" }}
{{- $job := dict
  "apiVersion" "batch/v1" "kind" "Job"
  "metadata" (dict "labels" "{{ labels }}" "namespace" "{{ namespace }}" "generateName" "{{ name }}-")
  "spec" (dict
    "backoffLimit" 0
    "ttlSecondsAfterFinished" "{{ finished_job_ttl }}"
    "template" (dict
      "metadata" (dict "labels" (include "headgate.podLabels" $of | fromYaml))
      "spec" $pod))
}}
{{- $configuration := dict
  "command" "{{ command }}" "env" "{{ env }}" "labels" "{{ labels }}" "name" "{{ name }}" "namespace" "{{ namespace }}"
  "job_manifest" $job "stream_output" "{{ stream_output }}"
  "job_watch_timeout_seconds" "{{ job_watch_timeout_seconds }}" "pod_watch_timeout_seconds" "{{ pod_watch_timeout_seconds }}"
}}
{{- $properties := dict
  "name" $string
  "command" $string
  "image" (dict "type" "string" "default" (include "headgate.image" .))
  "namespace" (dict "type" "string" "default" .Release.Namespace)
  "env" (dict "type" "object" "additionalProperties" $string "default" $env)
  "labels" (dict "type" "object" "additionalProperties" $string)
  "stream_output" (dict "type" "boolean" "default" true)
  "finished_job_ttl" (dict "type" "integer" "default" 3600)
  "job_watch_timeout_seconds" (dict "anyOf" (list (dict "type" "integer") (dict "type" "null")))
  "pod_watch_timeout_seconds" (dict "type" "integer" "default" 600)
}}
{{- dict "job_configuration" $configuration "variables" (dict "type" "object" "properties" $properties) | toJson }}
{{- end }}
