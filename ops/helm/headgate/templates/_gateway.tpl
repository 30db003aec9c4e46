{{/*
What the gateway's manifests say of limits, by the word that stands for it in files/gateway.yaml. Without
limits.connections it takes as many as fit in its memory, as headgate/limits.py says, and 70,000 at most.
*/}}
{{- define "headgate.gatewayLimits" -}}
{{- $bytes := mul (int .limits.memoryMiB) 1048576 }}
{{- $fit := div (mul $bytes 17) (mul 20 24576) }}
{{- $connections := ternary (min 70000 $fit) (int (.limits.connections | default 0)) (kindIs "invalid" .limits.connections) }}
{{- $drain := int .timeouts.drainSeconds }}
{{- dict
  "MOST_CONNECTIONS" (toString $connections)
  "MOST_BYTES" (toString $bytes)
  "MOST_KIB_OF_HEADERS" (toString (int .limits.headersKiB))
  "TIME_OF_HEADERS" (include "headgate.seconds" .timeouts.headersSeconds)
  "TIME_OF_UPLOADS" (include "headgate.seconds" .timeouts.uploadSeconds)
  "TIME_IDLE" (include "headgate.seconds" .timeouts.idleSeconds)
  "SECONDS_OF_DRAIN" (toString $drain)
  "SECONDS_OF_DRAIN_AND_10" (toString (add $drain 10))
  "SECONDS_OF_DRAIN_AND_20" (toString (add $drain 20))
| toJson }}
{{- end }}

{{/* Seconds with three decimal places at most, as Envoy reads them. */}}
{{- define "headgate.seconds" -}}
{{- regexReplaceAllLiteral "\\.?0+$" (printf "%.3f" (float64 .)) "" }}s
{{- end }}
