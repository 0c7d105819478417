{{/* Names. Those of pods and Services are longer, and a label has 63 characters. */}}
{{- define "coordinator.name" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride }}
{{- else if not (regexMatch "^[a-z]" .Release.Name) -}}
{{- fail "the name of a Service begins with a letter, and that of the release does not: set fullnameOverride" -}}
{{- else -}}
{{- $release := replace "." "-" .Release.Name -}}
{{- if contains .Chart.Name $release -}}
{{ $release | trunc 40 | trimAll "-" }}
{{- else -}}
{{ printf "%s-%s" ($release | trunc 28 | trimAll "-") .Chart.Name }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "coordinator.gatewayName" -}}
{{- $coordinator := include "coordinator.name" . -}}
{{- $gateway := .Values.gateways.fullnameOverride | default (printf "%s-gateway" $coordinator) -}}
{{- if has $gateway (list $coordinator (printf "%ss" $coordinator)) | or (eq (printf "%ss" $gateway) $coordinator) -}}
{{- fail (printf "fullnameOverride and gateways.fullnameOverride: %s and %s make two Services of one name" $coordinator $gateway) -}}
{{- end -}}
{{ $gateway }}
{{- end -}}

{{/* Labels of an object, and those of the values before them: (list . "gateway" labels). */}}
{{- define "coordinator.labelsAnd" -}}
{{- $own := include "coordinator.labels" (list (index . 0) (index . 1)) | fromYaml -}}
{{ toYaml (merge (dict) (index . 2 | default dict) $own) }}
{{- end -}}

{{/* Whether several coordinators share a database. */}}
{{- define "coordinator.several" -}}
{{- if gt (int .Values.replicas) 1 -}}yes{{- end -}}
{{- end -}}

{{/* What a selector names, and a pod carries: (list . "gateway"). It never changes, so that no pod does. */}}
{{- define "coordinator.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ toYaml $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "coordinator.labels" -}}
{{- $root := index . 0 -}}
{{ include "coordinator.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- end -}}

{{/* Variables by name. YAML takes a bare YES for a boolean, and Kubernetes $$ for $ and $(NAME) for a variable. */}}
{{- define "coordinator.settings" -}}
{{- range $name, $value := . }}
{{- if kindIs "bool" $value }}
- {name: {{ $name }}, value: {{ ternary "YES" "NO" $value | quote }}}
{{- else if ne (toString $value) "" }}
- {name: {{ $name }}, value: {{ toString $value | replace "$" "$$" | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "coordinator.secretFile" -}}
{{ . | lower | replace "_" "-" }}
{{- end -}}

{{/* Secrets that a coordinator reads, as JSON: a template has no other way to return a map. */}}
{{- define "coordinator.secrets" -}}
{{- $secrets := deepCopy .Values.secrets -}}
{{- if ne (toString .Values.settings.COMMANDS_API_AUTH) "Bearer" -}}
{{- $_ := unset $secrets "COMMANDS_API_AUTH_TOKEN" -}} {{/* it is there by default, and a pod waits for ever for a key that its Secret does not have */}}
{{- end -}}
{{- with .Values.highAvailability -}}
{{- if .databaseSecret -}}
{{- $_ := set $secrets "DATABASE_URL" (dict "name" .databaseSecret "key" .databaseSecretKey) -}}
{{- end -}}
{{- end -}}
{{ $secrets | toJson }}
{{- end -}}

{{- define "coordinator.gatewaySecrets" -}}
{{ pick .Values.secrets "CONTROL_SECRET" "GATEWAY_SECRET" | toJson }}
{{- end -}}

{{- define "coordinator.secretSettings" -}}
{{- range $name, $_ := . }}
- {name: {{ $name }}_FILE, value: /secrets/{{ include "coordinator.secretFile" $name }}}
{{- end }}
{{- end -}}

{{- define "coordinator.secretVolume" -}}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range $name, $ref := . }}
      - secret: {name: {{ toYaml $ref.name }}, items: [{key: {{ toYaml $ref.key }}, path: {{ include "coordinator.secretFile" $name }}}]}
      {{- end }}
{{- end -}}

{{/* What pods of both roles are made of. */}}
{{- define "coordinator.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 15
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "coordinator.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "coordinator.livez" -}}
startupProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
{{- end -}}

{{- define "coordinator.scheduling" -}}
{{- with .priorityClassName }}
priorityClassName: {{ toYaml . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Machines that pods are spread over: (list . "gateway" keys "ScheduleAnyway"). */}}
{{- define "coordinator.spread" -}}
{{- $of := list (index . 0) (index . 1) -}}
{{- $unsatisfiable := index . 3 -}}
{{- with index . 2 }}
topologySpreadConstraints:
  {{- range . }}
  - maxSkew: 1
    topologyKey: {{ toYaml . }}
    whenUnsatisfiable: {{ $unsatisfiable }}
    {{- if eq $unsatisfiable "DoNotSchedule" }}
    nodeTaintsPolicy: Honor # else a machine that no pod may run on counts as one without a pod, and the pod waits for it
    {{- end }}
    labelSelector:
      matchLabels:
        {{- include "coordinator.selector" $of | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "coordinator.imagePullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - {name: {{ toYaml . }}}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "coordinator.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "coordinator.gatewayImage" -}}
{{ .Values.image.repository }}:{{ .Values.gateways.image.tag | default .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "coordinator.port" -}}
{{- if eq . "https" -}}8443{{- else -}}8080{{- end -}}
{{- end -}}

{{/* Where gateways link to. */}}
{{- define "coordinator.urls" -}}
{{- $name := include "coordinator.name" . -}}
{{- $scheme := .Values.gateways.linkScheme -}}
{{- if include "coordinator.several" . -}}
{{- range $i := until (int .Values.replicas) -}}
{{- if $i }},{{ end }}{{ $scheme }}://{{ $name }}-{{ $i }}.{{ $name }}s:{{ include "coordinator.port" $scheme }}
{{- end -}}
{{- else -}}
{{ $scheme }}://{{ $name }}
{{- end -}}
{{- end -}}

{{/* Alert rules and dashboard name the jobs of a scrape: here they are called as the Services are. */}}
{{- define "coordinator.withJobs" -}}
{{- $root := index . 0 -}}
{{- $quote := index . 2 -}}
{{- $text := $root.Files.Get (index . 1) -}}
{{- $text = replace (printf "job=%scoordinator%s" $quote $quote) (printf "job=%s%s%s" $quote (include "coordinator.name" $root) $quote) $text -}}
{{ replace (printf "job=%sgateway%s" $quote $quote) (printf "job=%s%s%s" $quote (include "coordinator.gatewayName" $root) $quote) $text }}
{{- end -}}
