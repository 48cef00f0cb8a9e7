//! The hooks over authority.

/// Interface `grant`.
pub(in crate::policy) mod grant {
    use serde::{Deserialize, Serialize};
    use wasmtime::component::{ComponentType, Lift, Lower};

    use super::super::types::{Approval, Denial, Note, StepUp, Upstream};

    #[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Copy, Eq, Default)]
    #[component(enum)]
    #[serde(rename_all = "kebab-case")]
    #[repr(u8)]
    pub(in crate::policy) enum GrantType {
        #[default]
        #[component(name = "authorization-code")]
        AuthorizationCode,
        #[component(name = "device-code")]
        DeviceCode,
        #[component(name = "client-credentials")]
        ClientCredentials,
        #[component(name = "token-exchange")]
        TokenExchange,
        #[component(name = "jwt-bearer")]
        JwtBearer,
    }

    /// An OAuth client.
    #[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq)]
    #[component(record)]
    #[serde(deny_unknown_fields, default)]
    #[serde(bound(
        serialize = "S: AsRef<str> + Serialize",
        deserialize = "S: Deserialize<'de> + Default + From<String>"
    ))]
    pub(in crate::policy) struct Client<S> {
        pub(in crate::policy) id: S,
        pub(in crate::policy) name: S,
        /// Its metadata document or an operator vouches for it.
        pub(in crate::policy) verified: bool,
        #[component(name = "first-party")]
        pub(in crate::policy) first_party: bool,
        /// Host of the redirect URI in use, or the empty string.
        #[component(name = "redirect-host")]
        pub(in crate::policy) redirect_host: S,
        /// Its registered metadata (RFC 7591 §2).
        #[serde(with = "super::super::json", default = "super::super::json::empty_object")]
        pub(in crate::policy) metadata: S,
    }

    impl<S: Default + From<String>> Default for Client<S> {
        fn default() -> Self {
            Self {
                id: S::default(),
                name: S::default(),
                verified: false,
                first_party: false,
                redirect_host: S::default(),
                metadata: super::super::json::empty_object(),
            }
        }
    }

    #[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq)]
    #[component(record)]
    #[serde(deny_unknown_fields, default)]
    #[serde(bound(
        serialize = "S: AsRef<str> + Serialize",
        deserialize = "S: Deserialize<'de> + Default + From<String>"
    ))]
    pub(in crate::policy) struct Request<S> {
        pub(in crate::policy) kind: GrantType,
        pub(in crate::policy) client: Client<S>,
        pub(in crate::policy) scopes: Vec<S>,
        #[component(name = "already-granted")]
        pub(in crate::policy) already_granted: Vec<S>,
        /// Resource indicators (RFC 8707).
        pub(in crate::policy) resources: Vec<S>,
        pub(in crate::policy) upstreams: Vec<Upstream<S>>,
        #[component(name = "consent-on-file")]
        pub(in crate::policy) consent_on_file: bool,
        /// Seconds.
        #[component(name = "access-ttl-s")]
        pub(in crate::policy) access_ttl_s: u32,
        /// Seconds; absent where no refresh token would be issued.
        #[component(name = "refresh-ttl-s")]
        pub(in crate::policy) refresh_ttl_s: Option<u32>,
        #[component(name = "sender-constrained")]
        pub(in crate::policy) sender_constrained: bool,
    }

    impl<S: Default + From<String>> Default for Request<S> {
        fn default() -> Self {
            Self {
                kind: GrantType::default(),
                client: Client::default(),
                scopes: Vec::new(),
                already_granted: Vec::new(),
                resources: Vec::new(),
                upstreams: Vec::new(),
                consent_on_file: false,
                access_ttl_s: 0,
                refresh_ttl_s: None,
                sender_constrained: false,
            }
        }
    }

    /// What is granted: never more than was requested.
    #[derive(ComponentType, Lift, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
    #[component(record)]
    #[serde(deny_unknown_fields)]
    pub(in crate::policy) struct Terms {
        #[serde(default)]
        pub(in crate::policy) scopes: Vec<String>,
        /// Patterns over `upstream/tool`; absent: no narrowing.
        #[serde(default)]
        pub(in crate::policy) tools: Option<Vec<String>>,
        /// Seconds; absent: as requested.
        #[component(name = "access-ttl-s")]
        #[serde(default)]
        pub(in crate::policy) access_ttl_s: Option<u32>,
        /// Seconds; absent: as requested.
        #[component(name = "refresh-ttl-s")]
        #[serde(default)]
        pub(in crate::policy) refresh_ttl_s: Option<u32>,
        #[component(name = "require-sender-constraint")]
        #[serde(default)]
        pub(in crate::policy) require_sender_constraint: bool,
        /// A JSON object of further claims for the access token; reserved names are refused.
        #[serde(with = "super::super::json::option", default)]
        pub(in crate::policy) claims: Option<String>,
        #[serde(default)]
        pub(in crate::policy) notes: Vec<Note>,
    }

    /// The person has to be asked, and is told this.
    #[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
    #[component(record)]
    #[serde(deny_unknown_fields)]
    pub(in crate::policy) struct Consent {
        pub(in crate::policy) terms: Terms,
        pub(in crate::policy) headline: String,
        #[serde(default)]
        pub(in crate::policy) warnings: Vec<String>,
    }

    #[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
    #[component(variant)]
    #[serde(rename_all = "kebab-case")]
    pub(in crate::policy) enum Decision {
        #[component(name = "abstain")]
        Abstain,
        #[component(name = "allow")]
        Allow(Terms),
        #[component(name = "consent")]
        Consent(Consent),
        #[component(name = "approve")]
        Approve(Approval),
        #[component(name = "step-up")]
        StepUp(StepUp),
        #[component(name = "deny")]
        Deny(Denial),
    }
}

/// Interface `refresh`.
pub(in crate::policy) mod refresh {
    use serde::{Deserialize, Serialize};
    use wasmtime::component::{ComponentType, Lift, Lower};

    use super::super::types::{Denial, StepUp};
    use super::grant::Terms;

    #[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
    #[component(record)]
    #[serde(deny_unknown_fields, default)]
    #[serde(bound(
        serialize = "S: AsRef<str> + Serialize",
        deserialize = "S: Deserialize<'de> + Default + From<String>"
    ))]
    pub(in crate::policy) struct Request<S> {
        pub(in crate::policy) granted: Terms,
        /// Seconds since the Unix epoch.
        #[component(name = "issued-at")]
        pub(in crate::policy) issued_at: u64,
        /// Seconds since the Unix epoch.
        #[component(name = "last-used")]
        pub(in crate::policy) last_used: u64,
        pub(in crate::policy) uses: u32,
        pub(in crate::policy) requested: Vec<S>,
        #[component(name = "reuse-detected")]
        pub(in crate::policy) reuse_detected: bool,
    }

    #[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
    #[component(variant)]
    #[serde(rename_all = "kebab-case")]
    pub(in crate::policy) enum Decision {
        #[component(name = "abstain")]
        Abstain,
        #[component(name = "allow")]
        Allow(Terms),
        #[component(name = "step-up")]
        StepUp(StepUp),
        #[component(name = "deny")]
        Deny(Denial),
    }
}

/// Interface `client`.
pub(in crate::policy) mod client {
    use serde::{Deserialize, Serialize};
    use wasmtime::component::{ComponentType, Lift, Lower};

    use super::super::types::{Approval, Denial, Edit};

    #[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Copy, Eq, Default)]
    #[component(enum)]
    #[serde(rename_all = "kebab-case")]
    #[repr(u8)]
    pub(in crate::policy) enum Source {
        /// RFC 7591.
        #[default]
        #[component(name = "dynamic")]
        Dynamic,
        /// A Client ID Metadata Document.
        #[component(name = "metadata-document")]
        MetadataDocument,
        #[component(name = "pre-registered")]
        PreRegistered,
        #[component(name = "admin")]
        Admin,
    }

    #[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq)]
    #[component(record)]
    #[serde(deny_unknown_fields, default)]
    #[serde(bound(
        serialize = "S: AsRef<str> + Serialize",
        deserialize = "S: Deserialize<'de> + Default + From<String>"
    ))]
    pub(in crate::policy) struct Request<S> {
        pub(in crate::policy) source: Source,
        #[component(name = "redirect-uris")]
        pub(in crate::policy) redirect_uris: Vec<S>,
        pub(in crate::policy) scopes: Vec<S>,
        #[component(name = "software-id")]
        pub(in crate::policy) software_id: Option<S>,
        /// The client metadata (RFC 7591 §2).
        #[serde(with = "super::super::json", default = "super::super::json::empty_object")]
        pub(in crate::policy) metadata: S,
    }

    impl<S: Default + From<String>> Default for Request<S> {
        fn default() -> Self {
            Self {
                source: Source::default(),
                redirect_uris: Vec::new(),
                scopes: Vec::new(),
                software_id: None,
                metadata: super::super::json::empty_object(),
            }
        }
    }

    #[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
    #[component(variant)]
    #[serde(rename_all = "kebab-case")]
    pub(in crate::policy) enum Decision {
        #[component(name = "abstain")]
        Abstain,
        /// With these edits of the metadata.
        #[component(name = "allow")]
        Allow(Vec<Edit>),
        #[component(name = "approve")]
        Approve(Approval),
        #[component(name = "deny")]
        Deny(Denial),
    }
}

/// Interface `credential`.
pub(in crate::policy) mod credential {
    use serde::{Deserialize, Serialize};
    use wasmtime::component::{ComponentType, Lift, Lower};

    use super::super::types::{Approval, Denial, StepUp, Upstream};

    #[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
    #[component(record)]
    #[serde(deny_unknown_fields, default)]
    #[serde(bound(
        serialize = "S: AsRef<str> + Serialize",
        deserialize = "S: Deserialize<'de> + Default + From<String>"
    ))]
    pub(in crate::policy) struct Request<S> {
        pub(in crate::policy) upstream: Upstream<S>,
        /// `shared-oauth`, `per-user-oauth`, `per-user-headers`, `token-exchange` or `static-headers`.
        pub(in crate::policy) kind: S,
        /// The account at the upstream, when known.
        pub(in crate::policy) account: Option<S>,
        /// `call`, `sync` or `connect`.
        pub(in crate::policy) purpose: S,
        /// The upstream's own name for the tool that is called.
        pub(in crate::policy) tool: Option<S>,
        pub(in crate::policy) scopes: Vec<S>,
    }

    #[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
    #[component(record)]
    #[serde(deny_unknown_fields)]
    pub(in crate::policy) struct Terms {
        /// Never more than were requested.
        #[serde(default)]
        pub(in crate::policy) scopes: Vec<String>,
        /// Oldest acceptable credential, in seconds since it was obtained.
        #[component(name = "max-age-s")]
        #[serde(default)]
        pub(in crate::policy) max_age_s: Option<u32>,
    }

    #[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
    #[component(variant)]
    #[serde(rename_all = "kebab-case")]
    pub(in crate::policy) enum Decision {
        #[component(name = "abstain")]
        Abstain,
        #[component(name = "release")]
        Release(Terms),
        #[component(name = "approve")]
        Approve(Approval),
        #[component(name = "step-up")]
        StepUp(StepUp),
        #[component(name = "deny")]
        Deny(Denial),
    }
}
