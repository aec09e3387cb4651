{{- define "roundhouse.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride | trunc 30 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}{{ .Release.Name | trunc 30 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name $name | trunc 30 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "roundhouse.kubeVersion" -}}{{ default .Capabilities.KubeVersion.Version .Values.kubeVersion | trimPrefix "v" }}{{- end -}}

{{/* The labels by which pods are selected. Arguments: root, component. */}}
{{- define "roundhouse.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .model }}
roundhouse/model: {{ .slug }}
{{- end }}
{{- end -}}

{{/* The labels of the pods of a model that answer requests: of several nodes the leaders'. Arguments: root, component, model. */}}
{{- define "roundhouse.servers" -}}
{{ include "roundhouse.selector" . }}
{{- if .model.multiNode.enabled }}
leaderworkerset.sigs.k8s.io/worker-index: "0"
{{- end }}
{{- end -}}

{{/* All labels of an object. Arguments: root, component, and model where it is a model's. */}}
{{- define "roundhouse.labels" -}}
{{ include "roundhouse.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: roundhouse
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Arguments: root, image. */}}
{{- define "roundhouse.image" -}}
{{- $repository := ternary .image.repository (printf "%s/%s" .image.registry .image.repository) (empty .image.registry) -}}
{{- if .image.digest -}}{{ $repository }}@{{ .image.digest }}
{{- else -}}{{ $repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{/* Every enabled model in the fleet's order, with what follows from its values, as JSON {"list": […]}. */}}
{{- define "roundhouse.models" -}}
{{- $root := . -}}
{{- $ordered := list -}}
{{- range $key, $own := .Values.models -}}
  {{- $model := mergeOverwrite (deepCopy $root.Values.engineDefaults) (deepCopy $own) -}}
  {{- if $model.enabled -}}{{- $ordered = append $ordered (printf "%06d %s" (int $model.order) $key) -}}{{- end -}}
{{- end -}}
{{- $list := list -}}
{{- range $place := sortAlpha $ordered -}}
  {{- $key := last (splitList " " $place) -}}
  {{- $model := mergeOverwrite (deepCopy $root.Values.engineDefaults) (deepCopy (index $root.Values.models $key)) -}}
  {{- $slug := replace "." "-" $key | trunc 30 | trimSuffix "-" -}}
  {{- $gpus := int (default 0 $model.fleet.gpus) -}}
  {{- $pods := ternary (int $model.multiNode.size) 1 $model.multiNode.enabled -}}
  {{- $scaled := ne $model.autoscaling.kind "none" -}}
  {{- $max := ternary (int $model.autoscaling.maxReplicas) (int $model.replicas) $scaled -}}
  {{- $budget := int $model.startup.budgetSeconds -}}
  {{- $patience := int (ceil (mulf 1.5 $budget)) -}}
  {{- $least := add (int $model.drain.endpointSeconds) (int $model.drain.timeoutSeconds) -}}
  {{- $source := toString $model.fleet.model -}}
  {{- $local := or $model.fleet.weights (hasPrefix "/" $source) (eq $model.cache.kind "image") -}}
  {{- $_ := set $model "key" $key -}}
  {{- $_ = set $model "slug" $slug -}}
  {{- $_ = set $model "name" (printf "%s-%s" (include "roundhouse.fullname" $root) $slug) -}}
  {{- $_ = set $model "id" (default $key $model.fleet.id) -}}
  {{- $_ = set $model "gpus" $gpus -}}
  {{- $_ = set $model "pods" $pods -}}
  {{- $_ = set $model "podGpus" (div $gpus $pods) -}}
  {{- $_ = set $model "scaled" $scaled -}}
  {{- $_ = set $model "minReplicas" (ternary (int $model.autoscaling.minReplicas) (int $model.replicas) $scaled) -}}
  {{- $_ = set $model "maxReplicas" $max -}}
  {{- $_ = set $model "half" (max 1 (div $max 2)) -}}
  {{- $_ = set $model "patience" $patience -}}
  {{- $_ = set $model "leastGrace" $least -}}
  {{- $_ = set $model "grace" (default (add $least (int $model.drain.teardownSeconds)) $model.terminationGracePeriodSeconds | int) -}}
  {{- $_ = set $model "downloads" (and $model.download.enabled (not $local)) -}}
  {{- $list = append $list $model -}}
{{- end -}}
{{- dict "list" $list | toJson -}}
{{- end -}}

{{/* The most gateway pods that there can be. */}}
{{- define "roundhouse.gateways" -}}
{{- if .Values.gateway.autoscaling.enabled -}}{{ int .Values.gateway.autoscaling.maxReplicas }}{{- else -}}{{ int .Values.gateway.replicas }}{{- end -}}
{{- end -}}

{{- define "roundhouse.auth" -}}{{ default "keys" .Values.fleet.auth }}{{- end -}}

{{/* What every pod has. Arguments: root, and pod: the values of the gateway or of a model. */}}
{{- define "roundhouse.pod" -}}
{{- $values := .root.Values -}}
serviceAccountName: {{ default (ternary (include "roundhouse.fullname" .root) "default" $values.serviceAccount.create) $values.serviceAccount.name }}
automountServiceAccountToken: false
# A Service called roundhouse would otherwise set ROUNDHOUSE_PORT.
enableServiceLinks: false
securityContext: {{- toYaml $values.podSecurityContext | nindent 2 }}
{{- with $values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .pod.priorityClassName }}
priorityClassName: {{ .pod.priorityClassName }}
{{- else if $values.priorityClasses.create }}
priorityClassName: {{ include "roundhouse.fullname" .root }}-{{ .component }}
{{- end }}
topologySpreadConstraints:
{{- if .pod.topologySpreadConstraints }}
{{- toYaml .pod.topologySpreadConstraints | nindent 2 }}
{{- else }}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "roundhouse.selector" $ | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}
{{- end -}}

{{/* Requests stay away before the process is told to end. Arguments: root, drain. */}}
{{- define "roundhouse.preStop" -}}
{{- if semverCompare ">=1.30.0-0" (include "roundhouse.kubeVersion" .root) -}}
sleep: {seconds: {{ int .drain.endpointSeconds }}}
{{- else -}}
exec: {command: [sleep, "{{ int .drain.endpointSeconds }}"]}
{{- end -}}
{{- end -}}

{{/* A file of a Secret as a setting. Arguments: secret, setting. */}}
{{- define "roundhouse.secretFile" -}}
- name: {{ .setting }}
  value: /etc/roundhouse/secrets/{{ .secret.name }}/{{ .secret.key }}
{{- end -}}

{{/* The mounts of Secrets, each once. Arguments: secrets, a list; mount, whether mounts or volumes. */}}
{{- define "roundhouse.secretNames" -}}
{{- $names := list -}}
{{- range .secrets -}}{{- if .name -}}{{- $names = append $names .name -}}{{- end -}}{{- end -}}
{{- dict "list" (uniq $names) | toJson -}}
{{- end -}}
