{{/*
Names, labels and images. Objects of the two namespaces have fixed names, since a namespace holds one installation;
what is cluster-wide carries the system namespace's name.
*/}}

{{- define "dynapod.labels" -}}
{{ include "dynapod.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* What all pods of this release, and no others, carry. */}}
{{- define "dynapod.selector" -}}
app.kubernetes.io/name: dynapod
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dynapod.system" -}}{{ .Values.namespaces.system.name }}{{- end }}
{{- define "dynapod.jobs" -}}{{ .Values.namespaces.jobs.name }}{{- end }}

{{/* The labels that `worker.orphans` and the gateway know a job's pod by (runner_spec/anatomy.py). */}}
{{- define "dynapod.jobPods" -}}
app.kubernetes.io/managed-by: dynapod
{{- end }}

{{/* Service account of the jobs' pods: an identity without any right. */}}
{{- define "dynapod.jobAccount" -}}dynapod-job{{- end }}

{{- define "dynapod.gatewayURL" -}}
http://dynapod-gateway.{{ include "dynapod.system" . }}.svc:8080
{{- end }}

{{/* An image from a dict with `image` (repository, tag, digest) and `default`, the tag when none is named. */}}
{{- define "dynapod.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .default }}
{{- end }}
{{- end }}

{{/* The Secret with the queue's URL, and the key it has there. */}}
{{- define "dynapod.redisURL" -}}
secretKeyRef:
  name: {{ .Values.redis.existingSecret.name | default "dynapod-redis" }}
  key: {{ empty .Values.redis.existingSecret.name | ternary "url" .Values.redis.existingSecret.key }}
{{- end }}

{{- define "dynapod.gatewayRedisURL" -}}
{{- $secret := .Values.redis.existingSecret -}}
secretKeyRef:
  name: {{ $secret.name | default "dynapod-redis" }}
  key: {{ empty $secret.name | ternary "url" ($secret.gatewayKey | default $secret.key) }}
{{- end }}

{{/* Not empty when this chart runs the Redis itself. */}}
{{- define "dynapod.ownRedis" -}}
{{- if not (or .Values.redis.url .Values.redis.existingSecret.name) }}yes{{ end }}
{{- end }}

{{/* Mistakes that no schema can see. Included where every rendering passes: with the policy. */}}
{{- define "dynapod.check" -}}
{{- $system := .Values.namespaces.system }}
{{- $jobs := .Values.namespaces.jobs }}
{{- if eq $system.name $jobs.name }}
{{- fail (printf "namespaces: system and jobs are both %q; jobs need a namespace of their own, name another" $jobs.name) }}
{{- end }}
{{- range $key, $namespace := dict "system" $system "jobs" $jobs }}
{{- if and $namespace.create (eq $namespace.name $.Release.Namespace) }}
{{- fail (printf "namespaces.%s: the release itself lives in %q, so it exists; set namespaces.%s.create=false, or install with another --namespace" $key $namespace.name $key) }}
{{- end }}
{{- end }}
{{- if and .Values.redis.url .Values.redis.existingSecret.name }}
{{- fail "redis: url and existingSecret.name are both set; keep one" }}
{{- end }}
{{- if and .Values.redis.tls.existingSecret (include "dynapod.ownRedis" .) }}
{{- fail "redis.tls.existingSecret: the chart's own Redis speaks no TLS; set redis.url or redis.existingSecret.name, or leave it empty" }}
{{- end }}
{{- if and .Values.debug.subjects (not .Values.policy.allow_debug) }}
{{- fail "debug.subjects: the policy does not allow it; set policy.allow_debug=true, or leave debug.subjects empty" }}
{{- end }}
{{- end }}
