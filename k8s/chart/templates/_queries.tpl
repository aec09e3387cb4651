{{/* Written by `python -m k8s.build` from service/autoscaling/queries.py. */}}
{{- define "roundhouse.query.load" -}}
sum(rate(roundhouse_requests_arrived_total{model="{{ .model }}",namespace="{{ .namespace }}"}[1m])) + clamp_max(sum(roundhouse_requests_queued{model="{{ .model }}",namespace="{{ .namespace }}"}) / {{ .drain_seconds }}, {{ .drain_cap }})
{{- end -}}
{{- define "roundhouse.query.in_flight" -}}
sum(roundhouse_requests_in_flight{model="{{ .model }}",namespace="{{ .namespace }}"})
{{- end -}}
{{- define "roundhouse.query.demand" -}}
sum(roundhouse_demand{model="{{ .model }}",namespace="{{ .namespace }}"})
{{- end -}}
{{- define "roundhouse.query.kv_cache" -}}
sum(max by (replica) (roundhouse_engine_kv_cache_usage_ratio{model="{{ .model }}",namespace="{{ .namespace }}"})) or vector(0)
{{- end -}}
