{{- define "portcullis.environment" -}}
env:
  - name: POD_IP
    valueFrom:
      fieldRef:
        fieldPath: status.podIP
  - name: PORTCULLIS_CONFIG
    value: /etc/portcullis/portcullis.toml
  - name: CREDENTIALS_DIRECTORY
    value: /run/secrets/portcullis
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "portcullis.confinement" -}}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- /* A probe of a path, at the host of the public URL: others are refused. */ -}}
{{- define "portcullis.probe" -}}
path: {{ index . 1 }}
port: public
httpHeaders:
  - name: Host
    value: {{ include "portcullis.authority" (index . 0) | quote }}
{{- end -}}
