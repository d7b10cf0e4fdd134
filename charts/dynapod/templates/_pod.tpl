{{/* What the pods of worker, gateway and Redis have in common. */}}

{{/* Whoever breaks out of such a container is nobody, with no capability and no file to write. */}}
{{- define "dynapod.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "dynapod.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* From a dict with `root` (the chart's scope) and `component`. */}}
{{- define "dynapod.placement" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .root.Values.placement.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.placement.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.placement.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.placement.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "dynapod.selector" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Where the object store is, under the variable's name given as `name`; then what its client needs. */}}
{{- define "dynapod.storeEnv" -}}
- name: {{ .name }}
  value: {{ .root.Values.store.url | default "/var/lib/dynapod/store" | quote }}
{{- with .root.Values.store.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "dynapod.storeMount" -}}
{{- if not .Values.store.url }}
- name: store
  mountPath: /var/lib/dynapod/store
{{- end }}
{{- end }}

{{- define "dynapod.storeVolume" -}}
{{- if not .Values.store.url }}
- name: store
  persistentVolumeClaim:
    claimName: {{ .Values.store.volume.existingClaim | default "dynapod-store" }}
{{- end }}
{{- end }}

{{- define "dynapod.envFrom" -}}
{{- with .Values.store.existingSecret }}
envFrom:
  - secretRef:
      name: {{ . }}
{{- end }}
{{- end }}

{{/* Authority, certificate and key for TLS with Redis, where the URL names them. */}}
{{- define "dynapod.redisMount" -}}
{{- if .Values.redis.tls.existingSecret }}
- name: redis-tls
  mountPath: /etc/dynapod-redis
  readOnly: true
{{- end }}
{{- end }}

{{- define "dynapod.redisVolume" -}}
{{- with .Values.redis.tls.existingSecret }}
- name: redis-tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end }}
