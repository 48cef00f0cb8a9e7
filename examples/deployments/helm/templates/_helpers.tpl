{{- define "portcullis.name" -}}
{{- if contains "portcullis" .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-portcullis" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "portcullis.selector" -}}
app.kubernetes.io/name: portcullis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "portcullis.labels" -}}
{{ include "portcullis.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "portcullis.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- /* The host of publicUrl, without port and path. */ -}}
{{- define "portcullis.host" -}}
{{- (urlParse .Values.publicUrl).host | regexFind "^[^:]+" -}}
{{- end -}}

{{- /* What stands in Host. */ -}}
{{- define "portcullis.authority" -}}
{{- (urlParse .Values.publicUrl).host -}}
{{- end -}}

{{- /* The database's URL, with the authority that its certificate is of. */ -}}
{{- define "portcullis.database" -}}
{{- $url := .Values.database.url -}}
{{- if .Values.database.caKey -}}
{{- printf "%s%ssslrootcert=/run/secrets/portcullis/database-ca" $url (contains "?" $url | ternary "&" "?") -}}
{{- else -}}
{{- $url -}}
{{- end -}}
{{- end -}}

{{- define "portcullis.config" -}}
# Made by the chart. docs/configuration.md has every setting.
public_url = {{ .Values.publicUrl | quote }}
data_dir = "/var/lib/portcullis"

[listen]
public = "0.0.0.0:7400"
admin = "127.0.0.1:7401"
{{- with .Values.trustedProxies }}

[edge]
trusted_proxies = {{ toJson . }}
{{- end }}

[store]
url = {{ include "portcullis.database" . | quote }}
password = "file:/run/secrets/portcullis/database"

[replica]
# The pod's own address comes here when it starts.
listen = "127.0.0.1:7402"
{{- range .Values.vault.keys }}

[[vault.keys]]
kid = {{ .kid | quote }}
source = "credential"
credential = {{ printf "kek-%s" .kid | quote }}
state = {{ .state | default "active" | quote }}
{{- end }}
{{- with .Values.upstreams }}

{{ toToml (dict "upstreams" .) | trim }}
{{- end }}
{{- with .Values.extraConfig }}

{{ . | trim }}
{{- end }}
{{ end -}}
