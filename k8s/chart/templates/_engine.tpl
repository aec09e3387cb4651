{{/* The pod of an engine. Arguments: root, model, role: engine, leader or worker. */}}
{{- define "roundhouse.enginePod" -}}
{{- $root := .root -}}
{{- $model := .model -}}
{{- $secrets := $root.Values.secrets -}}
{{- $scope := dict "root" $root "component" "engine" "pod" $model "model" $model -}}
{{- $image := include "roundhouse.image" (dict "root" $root "image" $model.image) -}}
{{- $mounted := (include "roundhouse.secretNames" (dict "secrets" (list $secrets.engineKey)) | fromJson).list -}}
{{- $serves := ne .role "worker" -}}
{{- $arguments := list "engine" "--fleet" "/etc/roundhouse/fleet/fleet.yaml" "--model" $model.id "--host" "0.0.0.0" "--port" (toString (int $model.port)) -}}
metadata:
  # Not the version: an upgrade of the chart alone starts no engine again.
  labels:
    {{- include "roundhouse.selector" $scope | nindent 4 }}
    {{- with $model.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    roundhouse/model-id: {{ $model.id | quote }}
    checksum/engine: {{ include "roundhouse.engineChecksum" (dict "root" $root "model" $model) }}
    {{- with $model.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "roundhouse.pod" $scope | nindent 2 }}
  {{- with $model.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  terminationGracePeriodSeconds: {{ $model.grace }}
  {{- if $model.downloads }}
  initContainers:
    # A pull that was interrupted goes on where it stopped; another pod's has to end first.
    - name: weights
      image: {{ $image }}
      imagePullPolicy: {{ $model.image.pullPolicy }}
      args:
        - pull
        - {{ $model.fleet.model | quote }}
        {{- with (default dict $model.fleet.engine).revision }}
        - --revision={{ . }}
        {{- end }}
      env:
        - {name: HOME, value: /tmp}
        - {name: ROUNDHOUSE_WEIGHTS, value: /weights}
        {{- with $secrets.hubToken.name }}
        - name: HF_TOKEN
          valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $secrets.hubToken.key }}}}
        {{- end }}
        {{- range $variable, $value := $model.env }}
        - {name: {{ $variable }}, value: {{ $value | quote }}}
        {{- end }}
      resources:
        requests: {cpu: 500m, memory: 1Gi}
        limits: {memory: 2Gi}
      securityContext: {{- toYaml $root.Values.securityContext | nindent 8 }}
      volumeMounts:
        - {name: weights, mountPath: /weights}
        - {name: tmp, mountPath: /tmp}
  {{- end }}
  containers:
    - name: engine
      image: {{ $image }}
      imagePullPolicy: {{ $model.image.pullPolicy }}
      {{- if eq .role "engine" }}
      args: {{- toYaml $arguments | nindent 8 }}
      {{- else if eq .role "leader" }}
      command: [sh, -c]
      args:
        - ray start --head --port=6379 --disable-usage-stats && exec roundhouse {{ join " " $arguments }}
      {{- else }}
      command: [sh, -c]
      args:
        - |
          until ray health-check --address "$LWS_LEADER_ADDRESS:6379"; do sleep 2; done
          exec ray start --address "$LWS_LEADER_ADDRESS:6379" --disable-usage-stats --block
      {{- end }}
      env:
        - {name: HOME, value: /tmp}
        - {name: HF_HOME, value: /tmp/huggingface}
        - {name: ROUNDHOUSE_WEIGHTS, value: /weights}
        - {name: ROUNDHOUSE_RUN_DIR, value: /run/roundhouse/engine}
        - {name: ROUNDHOUSE_START_TIMEOUT, value: {{ int $model.startup.budgetSeconds | quote }}}
        - {name: ROUNDHOUSE_DRAIN_TIMEOUT, value: {{ int $model.drain.timeoutSeconds | quote }}}
        - {name: ROUNDHOUSE_GATEWAY_REPLICAS, value: {{ int $root.Values.gateway.maxProcesses | quote }}}
        {{- with $secrets.engineKey }}
        {{- if .name }}
        {{- include "roundhouse.secretFile" (dict "secret" . "setting" "ROUNDHOUSE_ENGINE_KEY_FILE") | nindent 8 }}
        {{- end }}
        {{- end }}
        {{- range $variable, $value := $model.env }}
        - {name: {{ $variable }}, value: {{ $value | quote }}}
        {{- end }}
      {{- if $serves }}
      ports:
        - {name: http, containerPort: {{ int $model.port }}, protocol: TCP}
      startupProbe:
        httpGet: {path: /health, port: http}
        periodSeconds: {{ int $model.startup.periodSeconds }}
        timeoutSeconds: 5
        failureThreshold: {{ add 1 (div (int $model.startup.budgetSeconds) (int $model.startup.periodSeconds)) }}
      # An engine that hangs ends itself; this is for one that cannot.
      livenessProbe:
        httpGet: {path: /health, port: http}
        periodSeconds: 10
        timeoutSeconds: 10
        failureThreshold: 12
      readinessProbe:
        httpGet: {path: /health, port: http}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 3
      lifecycle:
        preStop: {{- include "roundhouse.preStop" (dict "root" $root "drain" $model.drain) | nindent 10 }}
      {{- end }}
      resources: {{- include "roundhouse.engineResources" $model | nindent 8 }}
      securityContext: {{- toYaml $root.Values.securityContext | nindent 8 }}
      volumeMounts:
        - {name: fleet, mountPath: /etc/roundhouse/fleet, readOnly: true}
        - {name: weights, mountPath: /weights{{ if not (has $model.cache.kind (list "emptyDir" "pvc")) }}, readOnly: true{{ end }}}
        - {name: compile-cache, mountPath: /var/cache/roundhouse}
        - {name: run, mountPath: /run/roundhouse}
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
        {{- range $secret := $mounted }}
        - {name: secret-{{ $secret | replace "." "-" | trunc 50 }}, mountPath: /etc/roundhouse/secrets/{{ $secret }}, readOnly: true}
        {{- end }}
  volumes:
    - {name: fleet, configMap: {name: {{ include "roundhouse.fullname" $root }}-fleet}}
    - name: weights
      {{- include "roundhouse.volume" (dict "cache" $model.cache "claim" (printf "%s-weights" $model.name)) | nindent 6 }}
    - name: compile-cache
      {{- include "roundhouse.volume" (dict "cache" $model.compileCache "claim" (printf "%s-compiled" $model.name)) | nindent 6 }}
    - {name: run, emptyDir: {sizeLimit: 1Gi}}
    - {name: tmp, emptyDir: {sizeLimit: 10Gi}}
    - {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ $model.shm.sizeLimit }}}}
    {{- range $secret := $mounted }}
    - {name: secret-{{ $secret | replace "." "-" | trunc 50 }}, secret: {secretName: {{ $secret }}, defaultMode: 0440}}
    {{- end }}
{{- end -}}

{{- define "roundhouse.engineResources" -}}
{{- $resources := deepCopy .resources -}}
{{- if gt (int .podGpus) 0 -}}
  {{- $limits := default dict $resources.limits -}}
  {{- $_ := set $limits .gpuResource (toString (int .podGpus)) -}}
  {{- $_ = set $resources "limits" $limits -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* A volume of a cache. Arguments: cache, claim: the name of the claim that the chart makes. */}}
{{- define "roundhouse.volume" -}}
{{- if eq .cache.kind "pvc" -}}
persistentVolumeClaim: {claimName: {{ default .claim .cache.pvc.existingClaim }}}
{{- else if eq .cache.kind "hostPath" -}}
hostPath: {path: {{ .cache.hostPath.path }}, type: Directory}
{{- else if eq .cache.kind "image" -}}
image: {reference: {{ .cache.image.reference | quote }}, pullPolicy: {{ .cache.image.pullPolicy }}}
{{- else -}}
emptyDir: {{ toJson (default dict .cache.emptyDir) }}
{{- end -}}
{{- end -}}
