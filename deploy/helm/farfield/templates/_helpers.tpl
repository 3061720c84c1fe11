{{- define "farfield.name" -}}
{{- if contains "farfield" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-farfield" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels that select the pods of one part; called with a list of the root and the part. */}}
{{- define "farfield.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: farfield
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "farfield.labels" -}}
{{- $root := index . 0 -}}
{{ include "farfield.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{/* All of a pod but its containers. */}}
{{- define "farfield.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false   # its variables would be read as settings: FARFIELD_PORT=tcp://...
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  - name: data
    emptyDir: {}
  {{- with .Values.volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* What every container has: image, rights, folders. */}}
{{- define "farfield.container" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  - name: tmp
    mountPath: /tmp
  - name: data
    mountPath: /data
  {{- with .Values.volumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Variables of service and worker. */}}
{{- define "farfield.environment" -}}
- name: FARFIELD_STORE
  valueFrom:
    secretKeyRef:
      name: {{ .Values.store.existingSecret }}
      key: {{ .Values.store.key }}
- name: FARFIELD_MAX_OUTLIERS
  value: {{ int64 .Values.outliers.most | quote }}
- name: FARFIELD_OUTLIER_SECONDS
  value: {{ int64 .Values.outliers.seconds | quote }}
- name: FARFIELD_OUTLIER_INPUTS
  value: {{ .Values.outliers.inputs | quote }}
- name: FARFIELD_FEEDBACK_SECONDS
  value: {{ int64 .Values.outliers.feedbackSeconds | quote }}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* Variables of the worker alone, which posts webhooks. */}}
{{- define "farfield.webhooks" -}}
{{- with .Values.webhooks }}
{{- if .urls }}
- name: FARFIELD_WEBHOOKS
  value: {{ toJson .urls | quote }}
- name: FARFIELD_WEBHOOK_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .key }}
- name: FARFIELD_WEBHOOK_RATE
  value: {{ int64 .rate | quote }}
- name: FARFIELD_WEBHOOK_NETWORKS
  value: {{ toJson .networks | quote }}
{{- with .ca }}
- name: FARFIELD_WEBHOOK_CA
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
