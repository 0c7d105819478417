{{/* The pod of a coordinator, alone or not. */}}
{{- define "coordinator.pod" -}}
{{- $secrets := include "coordinator.secrets" . | fromJson -}}
{{- $several := include "coordinator.several" . -}}
metadata:
  labels:
    {{- include "coordinator.selector" (list . "coordinator") | nindent 4 }}
spec:
  {{- include "coordinator.podSecurity" . | nindent 2 }}
  {{- with include "coordinator.imagePullSecrets" . | trim }}{{ . | nindent 2 }}{{ end }}
  {{- with include "coordinator.scheduling" .Values | trim }}{{ . | nindent 2 }}{{ end }}
  {{- if $several }}
  # on different machines, if there are enough
  {{- with include "coordinator.spread" (list . "coordinator" .Values.topologyKeys "DoNotSchedule") | trim }}{{ . | nindent 2 }}{{ end }}
  {{- end }}
  containers:
    - name: coordinator
      image: {{ include "coordinator.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      {{- include "coordinator.containerSecurity" . | nindent 6 }}
      ports:
        - {name: http, containerPort: 8080}
        {{- if .Values.tls.secretName }}
        - {name: https, containerPort: 8443}
        {{- end }}
      env:
        - {name: HTTP_PORT, value: "8080"}
        {{- if .Values.tls.secretName }}
        - {name: SSL_PORT, value: "8443"}
        - {name: SSL_CERT, value: /certificate/tls.crt}
        - {name: SSL_KEY, value: /certificate/tls.key}
        {{- end }}
        {{- if $several }}
        - {name: DATA_DIR, value: ""} # the image sets it, and events are in the database
        {{- else }}
        - {name: DATA_DIR, value: /data/events}
        {{- end }}
        {{- with include "coordinator.secretSettings" $secrets | trim }}{{ . | nindent 8 }}{{ end }}
        {{- with include "coordinator.settings" .Values.settings | trim }}{{ . | nindent 8 }}{{ end }}
      {{- include "coordinator.livez" . | nindent 6 }}
      readinessProbe: # one that stands by is ready while the database answers: an update goes on then
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        timeoutSeconds: 3
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        {{- if not $several }}
        - {name: data, mountPath: /data}
        {{- end }}
        {{- if $secrets }}
        - {name: secrets, mountPath: /secrets, readOnly: true}
        {{- end }}
        {{- if .Values.tls.secretName }}
        - {name: certificate, mountPath: /certificate, readOnly: true} # the whole directory: a subPath is not renewed
        {{- end }}
        {{- if .Values.authoritiesConfigMap }}
        - {name: authorities, mountPath: /authorities, readOnly: true}
        {{- end }}
  volumes:
    {{- if not $several }}
    - name: data
      persistentVolumeClaim: {claimName: {{ .Values.persistence.existingClaim | default (printf "%s-data" (include "coordinator.name" .)) | toYaml }}}
    {{- end }}
    {{- if $secrets }}
    {{- include "coordinator.secretVolume" $secrets | nindent 4 }}
    {{- end }}
    {{- with .Values.tls.secretName }}
    - name: certificate
      secret: {secretName: {{ toYaml . }}, defaultMode: 0440}
    {{- end }}
    {{- with .Values.authoritiesConfigMap }}
    - name: authorities
      configMap: {name: {{ toYaml . }}}
    {{- end }}
{{- end -}}
