{{/* The fleet file: gateways and engines read the same. */}}
{{- define "roundhouse.fleet" -}}
{{- $models := list -}}
{{- range (include "roundhouse.models" . | fromJson).list -}}
  {{- $models = append $models (include "roundhouse.entry" . | fromJson) -}}
{{- end -}}
{{- toYaml (merge (dict "models" $models) (deepCopy .Values.fleet)) -}}
{{- end -}}

{{/* A model's entry in the fleet file, as JSON. */}}
{{- define "roundhouse.entry" -}}
{{- $entry := deepCopy .fleet -}}
{{- $_ := set $entry "id" .id -}}
{{- $_ = set $entry "addresses" (list (printf "%s:%d" .name (int .port))) -}}
{{- if eq (int .minReplicas) 0 -}}
  {{- $_ = set $entry "min_replicas" 0 -}}
  {{- $_ = set $entry "timeouts" (mergeOverwrite (dict "activation" (int .startup.budgetSeconds)) (default dict $entry.timeouts)) -}}
{{- end -}}
{{- $env := dict
  "VLLM_CACHE_ROOT" "/var/cache/roundhouse/vllm"
  "TRITON_CACHE_DIR" "/var/cache/roundhouse/triton"
  "TORCHINDUCTOR_CACHE_DIR" "/var/cache/roundhouse/inductor" -}}
{{- if .multiNode.enabled -}}
  {{- $_ = set $env "GLOO_SOCKET_IFNAME" .multiNode.networkInterface -}}
  {{- $_ = set $env "NCCL_SOCKET_IFNAME" .multiNode.networkInterface -}}
  {{- $spread := dict "distributed_executor_backend" "ray" "tensor_parallel_size" .podGpus "pipeline_parallel_size" .pods -}}
  {{- $_ = set $entry "engine" (mergeOverwrite $spread (default dict $entry.engine)) -}}
{{- end -}}
{{- $_ = set $entry "env" (mergeOverwrite $env (default dict $entry.env)) -}}
{{- toJson $entry -}}
{{- end -}}

{{/* What an engine's pods must be started again for: its own entry, and what holds for all engines. Not the addresses' or the gateways' side. */}}
{{- define "roundhouse.engineChecksum" -}}
{{- $entry := omit (include "roundhouse.entry" .model | fromJson) "aliases" "weight" "fallback" "policy" "timeouts" "max_queued" "guardrails" "gpu_hour_price" -}}
{{- $shared := pick .root.Values.fleet "engine" "env" "optional_flags" "request_bounds" -}}
{{- list $entry $shared | toJson | sha256sum -}}
{{- end -}}

{{/* What the gateway cannot take up while it runs. */}}
{{- define "roundhouse.gatewayChecksum" -}}
{{- list (include "roundhouse.auth" .) (hasKey .Values.fleet "sign_on") (default "auto" .Values.fleet.startup) | toJson | sha256sum -}}
{{- end -}}
