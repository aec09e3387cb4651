{{/* Everything that the schema cannot see: all mistakes at once, each with its key and what to do. */}}
{{- define "roundhouse.validate" -}}
{{- $errors := list -}}
{{- $models := (include "roundhouse.models" . | fromJson).list -}}
{{- $values := .Values -}}
{{- $auth := include "roundhouse.auth" . -}}
{{- $sharing := "engines that share memory take turns within one pod, and the chart gives each model pods of its own: run roundhouse serve in a pod instead (docs/kubernetes.md, Sharing a GPU)" -}}
{{- if $values.fleet.shares -}}
  {{- $errors = append $errors (printf "fleet.shares: %s" $sharing) -}}
{{- end -}}
{{- if not $models -}}
  {{- $errors = append $errors "models: name at least one; values-dev.yaml has an example" -}}
{{- end -}}
{{- if eq $auth "keys" -}}
  {{- if not (or $values.secrets.apiKey.name $values.secrets.keys.name $values.fleet.sign_on) -}}
    {{- $errors = append $errors "secrets: the gateway would let nobody in: name a Secret in secrets.apiKey.name or secrets.keys.name, or say fleet.auth: none where something else keeps strangers out" -}}
  {{- end -}}
  {{- if not $values.secrets.engineKey.name -}}
    {{- $errors = append $errors "secrets.engineKey.name: engines need a key that only gateways have; or say fleet.auth: none" -}}
  {{- end -}}
  {{- if and $values.monitoring.serviceMonitor.enabled (not $values.secrets.metricsKey.name) -}}
    {{- $errors = append $errors "secrets.metricsKey.name: /metrics asks for a key; `roundhouse keys create prometheus --endpoints metrics` makes one" -}}
  {{- end -}}
{{- else if or $values.secrets.apiKey.name $values.secrets.keys.name -}}
  {{- $errors = append $errors "fleet.auth: it is none, and secrets has API keys: leave one of them out" -}}
{{- end -}}
{{- $gateway := $values.gateway -}}
{{- $least := add (int $gateway.drain.endpointSeconds) (int $gateway.drain.timeoutSeconds) -}}
{{- if and $gateway.terminationGracePeriodSeconds (le (int $gateway.terminationGracePeriodSeconds) (int $least)) -}}
  {{- $errors = append $errors (printf "gateway.terminationGracePeriodSeconds: %d is not more than drain.endpointSeconds + drain.timeoutSeconds (%d): requests would be cut off" (int $gateway.terminationGracePeriodSeconds) (int $least)) -}}
{{- end -}}
{{- if and $gateway.autoscaling.enabled (gt (int $gateway.autoscaling.minReplicas) (int $gateway.autoscaling.maxReplicas)) -}}
  {{- $errors = append $errors "gateway.autoscaling: minReplicas is more than maxReplicas" -}}
{{- end -}}
{{- $processes := mul (int (include "roundhouse.gateways" .)) (int $gateway.workers) -}}
{{- if gt (int $processes) (int $gateway.maxProcesses) -}}
  {{- $errors = append $errors (printf "gateway.maxProcesses: there can be %d gateway processes, and engines are started for %d: raise it" (int $processes) (int $gateway.maxProcesses)) -}}
{{- end -}}
{{- $taken := dict -}}
{{- range list "base" "chat" "instruct" "code" "embedding" "reranker" "guard" "auto" -}}{{- $_ := set $taken . "reserved for routing" -}}{{- end -}}
{{- $slugs := dict -}}
{{- $weighted := dict -}}
{{- $quota := 0 -}}
{{- range $model := $models -}}
  {{- $at := printf "models.%s" .key -}}
  {{- range $key := list "share" "keep" "memory" -}}
    {{- if hasKey $model.fleet $key -}}{{- $errors = append $errors (printf "%s.fleet.%s: %s" $at $key $sharing) -}}{{- end -}}
  {{- end -}}
  {{- if hasKey $slugs .slug -}}
    {{- $errors = append $errors (printf "%s: its objects would have the name of those of models.%s: choose another key" $at (get $slugs .slug)) -}}
  {{- end -}}
  {{- $_ := set $slugs .slug .key -}}
  {{- $names := list .id -}}
  {{- range default list .fleet.aliases -}}
    {{- if and (hasKey $model.fleet "weight") (hasKey $weighted .) -}}{{- else -}}{{- $names = append $names . -}}{{- end -}}
    {{- if hasKey $model.fleet "weight" -}}{{- $_ := set $weighted . true -}}{{- end -}}
  {{- end -}}
  {{- range default list .fleet.adapters -}}{{- $names = append $names .id -}}{{- end -}}
  {{- range $names -}}
    {{- if hasKey $taken . -}}
      {{- $errors = append $errors (printf "%s.fleet: the name '%s' is %s" $at . (get $taken .)) -}}
    {{- else -}}
      {{- $_ := set $taken . (printf "that of %s already" $at) -}}
    {{- end -}}
  {{- end -}}
  {{- $engine := default dict .fleet.engine -}}
  {{- $wanted := mul (int (default 1 $engine.tensor_parallel_size)) (int (default 1 $engine.pipeline_parallel_size)) (int (default 1 $engine.data_parallel_size)) -}}
  {{- $said := or (hasKey $engine "tensor_parallel_size") (hasKey $engine "pipeline_parallel_size") (hasKey $engine "data_parallel_size") -}}
  {{- if and $said (ne (int $wanted) (max 1 (int .gpus) | int)) -}}
    {{- $errors = append $errors (printf "%s.fleet.gpus: a replica has %d, and tensor_parallel_size × pipeline_parallel_size × data_parallel_size is %d: the two must be equal" $at (int .gpus) (int $wanted)) -}}
  {{- else if and (not $said) (not (has (int .podGpus) (list 0 1 2 4 8 16))) -}}
    {{- $errors = append $errors (printf "%s.fleet.gpus: tensor parallelism cannot use %d GPUs, since it divides attention heads: take 1, 2, 4, 8 or 16, or say in fleet.engine how: tensor_parallel_size times pipeline_parallel_size" $at (int .podGpus)) -}}
  {{- end -}}
  {{- if .multiNode.enabled -}}
    {{- if or (eq (int .gpus) 0) (ne (mod (int .gpus) (int .pods)) 0) -}}
      {{- $errors = append $errors (printf "%s.fleet.gpus: %d cannot be divided among the %d pods of multiNode.size" $at (int .gpus) (int .pods)) -}}
    {{- end -}}
    {{- if gt (len .name) 48 -}}
      {{- $errors = append $errors (printf "%s.multiNode: its LeaderWorkerSet would be called %s, and no pod has a label with more than 48 characters of that: choose a shorter key, or fullnameOverride" $at .name) -}}
    {{- end -}}
  {{- end -}}
  {{- if and .terminationGracePeriodSeconds (le (int .terminationGracePeriodSeconds) (int .leastGrace)) -}}
    {{- $errors = append $errors (printf "%s.terminationGracePeriodSeconds: %d is not more than drain.endpointSeconds + drain.timeoutSeconds (%d): requests would be cut off" $at (int .terminationGracePeriodSeconds) (int .leastGrace)) -}}
  {{- end -}}
  {{- if eq .cache.kind "image" -}}
    {{- if semverCompare "<1.35.0-0" (include "roundhouse.kubeVersion" $) -}}
      {{- $errors = append $errors (printf "%s.cache.kind: image volumes need Kubernetes 1.35, and this is %s: older API servers drop them silently; take pvc" $at (include "roundhouse.kubeVersion" $)) -}}
    {{- end -}}
    {{- if not .cache.image.reference -}}{{- $errors = append $errors (printf "%s.cache.image.reference: name the image, with its digest" $at) -}}{{- end -}}
  {{- end -}}
  {{- range $place, $cache := dict "cache" .cache "compileCache" .compileCache -}}
    {{- if and (eq $cache.kind "hostPath") (not $cache.hostPath.path) -}}
      {{- $errors = append $errors (printf "%s.%s.hostPath.path: name the folder of the nodes" $at $place) -}}
    {{- end -}}
    {{- if and (eq $cache.kind "pvc") (not $cache.pvc.existingClaim) (gt (max (int $model.maxReplicas) (int $model.pods) | int) 1) (not (has "ReadWriteMany" $cache.pvc.accessModes)) -}}
      {{- $errors = append $errors (printf "%s.%s.pvc.accessModes: the model can have %d pods, which only ReadWriteMany serves on several nodes" $at $place (max (int $model.maxReplicas) (int $model.pods) | int)) -}}
    {{- end -}}
  {{- end -}}
  {{- if and .inferencePool.enabled (not .inferencePool.endpointPicker.name) -}}
    {{- $errors = append $errors (printf "%s.inferencePool.endpointPicker.name: name the Service of the endpoint picker" $at) -}}
  {{- end -}}
  {{- $quota = add $quota (mul (int .gpus) (int .maxReplicas)) -}}
  {{- if and (not .scaled) (lt (int .replicas) 1) -}}
    {{- $errors = append $errors (printf "%s.replicas: with none nothing would start one: take enabled: false, or autoscaling with minReplicas: 0" $at) -}}
  {{- end -}}
  {{- if .scaled -}}
    {{- $errors = concat $errors (include "roundhouse.scalingMistakes" (dict "root" $ "model" . "at" (printf "%s.autoscaling" $at)) | fromJson).list -}}
  {{- end -}}
{{- end -}}
{{- range $alias, $target := default dict .Values.fleet.aliases -}}
  {{- if hasKey $taken $alias -}}
    {{- $errors = append $errors (printf "fleet.aliases: the name '%s' is %s" $alias (get $taken $alias)) -}}
  {{- end -}}
{{- end -}}
{{- if and .Values.autoscaling.gpuQuota (gt (int $quota) (int .Values.autoscaling.gpuQuota)) -}}
  {{- $errors = append $errors (printf "autoscaling.gpuQuota: all models at their most replicas take %d GPUs, more than the %d of the quota: lower maxReplicas" (int $quota) (int .Values.autoscaling.gpuQuota)) -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
  {{- $errors = append $errors "httpRoute.parentRefs: name the Gateway" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
  {{- $errors = append $errors "ingress.hosts: name at least one" -}}
{{- end -}}
{{- if $errors -}}{{- fail (printf "\n%s\n" (join "\n" $errors)) -}}{{- end -}}
{{- end -}}

{{/* Of one model's autoscaling, as JSON {"list": […]}. Arguments: root, model, at. */}}
{{- define "roundhouse.scalingMistakes" -}}
{{- $errors := list -}}
{{- $scaling := .model.autoscaling -}}
{{- $at := .at -}}
{{- $budget := int .model.startup.budgetSeconds -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
  {{- $errors = append $errors (printf "%s: minReplicas (%d) is more than maxReplicas (%d)" $at (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- end -}}
{{- if eq $scaling.kind "keda" -}}
  {{- if not .root.Values.autoscaling.prometheus.serverAddress -}}
    {{- $errors = append $errors (printf "%s.kind: keda asks a Prometheus: name it in autoscaling.prometheus.serverAddress" $at) -}}
  {{- end -}}
  {{- if and (eq (int $scaling.minReplicas) 0) $scaling.cooldownSeconds (lt (int $scaling.cooldownSeconds) (int .model.patience)) -}}
    {{- $errors = append $errors (printf "%s.cooldownSeconds: %d is less than 1.5 times the startup budget (%d): the model would be stopped while it starts" $at (int $scaling.cooldownSeconds) (int .model.patience)) -}}
  {{- end -}}
{{- else -}}
  {{- if eq (int $scaling.minReplicas) 0 -}}
    {{- $errors = append $errors (printf "%s.minReplicas: scale to zero needs the gateway's demand metric, which KEDA alone reads while there is no replica: kind: keda" $at) -}}
  {{- end -}}
  {{- if not .root.Values.monitoring.prometheusRule.enabled -}}
    {{- $errors = append $errors (printf "%s.kind: hpa reads metrics that recording rules make: set monitoring.prometheusRule.enabled" $at) -}}
  {{- end -}}
{{- end -}}
{{- if and (eq (int $scaling.minReplicas) 0) (not (or .root.Values.monitoring.serviceMonitor.enabled (eq .root.Values.autoscaling.metricsScrapedBy "other"))) -}}
  {{- $errors = append $errors (printf "%s.minReplicas: scale to zero without a demand metric would never wake the model: set monitoring.serviceMonitor.enabled, or autoscaling.metricsScrapedBy: other where something else scrapes the gateways" $at) -}}
{{- end -}}
{{- with $scaling.scaleDown.stabilizationWindowSeconds -}}
  {{- if lt (int .) $budget -}}
    {{- $errors = append $errors (printf "%s.scaleDown.stabilizationWindowSeconds: %d is shorter than a cold start (startup.budgetSeconds: %d): the model would flap" $at (int .) $budget) -}}
  {{- end -}}
{{- end -}}
{{- dict "list" $errors | toJson -}}
{{- end -}}
