//! The checks of an authorization request, by name: what each asks for, and how a client is told that it failed.

/// The check that an authorization request has failed.
///
/// The first few are told to the person alone: whom an error could be sent to is not known, or not to be trusted (RFC 9700
/// §4.11). All others are sent to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The parameters are bounded.
    Parameters,
    /// The client is known (RFC 6749 §3.1.2.4).
    Client,
    /// The redirect URI is one of the client's, to the letter but for the port of the person's own machine
    /// (OAuth 2.1 §2.3.2, RFC 8252 §7.3).
    RedirectUri,
    /// What was pushed is there, is this client's, and was not used (RFC 9126 §4).
    PushedRequest,

    /// Each parameter comes once (RFC 6749 §3.1).
    Repeated(String),
    /// The client has to push its requests, and has pushed this one (RFC 9126 §6).
    PushRequired,
    /// The request is not in an object of its own (RFC 9101 §6).
    RequestObject,
    /// Nor at an address of the client's.
    RequestUri,
    /// There is a response type (RFC 6749 §3.1.1).
    NoResponseType,
    /// `code` (RFC 6749 §4.1.1).
    ResponseType,
    /// `query` (OAuth 2.0 Multiple Response Types §2.1).
    ResponseMode,
    /// The client may use codes (RFC 7591 §2).
    GrantType,
    /// `state` is not longer than may be.
    State,
    /// A challenge of PKCE, made with SHA-256 (RFC 7636 §4.3, OAuth 2.1 §7.5.2).
    Challenge,
    /// What is asked for is ours (RFC 8707 §2).
    Resource,
    /// The scopes exist, and the client may ask for them (RFC 6749 §3.3).
    Scope,
    /// `prompt` is known, and goes together (OpenID Connect Core §3.1.2.1).
    Prompt,
    /// `max_age` is a number of seconds.
    MaxAge,
    /// `dpop_jkt` is a thumbprint (RFC 9449 §10).
    ProofKey,

    /// Nobody is signed in who could be, and nobody may be asked (OpenID Connect Core §3.1.2.6).
    LoginRequired,
    /// A person would have to agree, and may not be asked.
    ConsentRequired,
    /// A person would have to do something else, and may not be asked.
    InteractionRequired,
    /// A policy, or the person, says no.
    Denied,
    /// The gateway cannot do this at the moment.
    Unavailable,
}

impl Check {
    /// The error that a client is told (RFC 6749 §4.1.2.1 and the documents above).
    pub const fn error(&self) -> &'static str {
        match self {
            Self::Parameters
            | Self::RedirectUri
            | Self::Repeated(_)
            | Self::PushRequired
            | Self::State
            | Self::NoResponseType
            | Self::ResponseMode
            | Self::Challenge
            | Self::Prompt
            | Self::MaxAge
            | Self::ProofKey => "invalid_request",
            Self::Client => "invalid_client",
            Self::PushedRequest => "invalid_request_uri",
            Self::RequestObject => "request_not_supported",
            Self::RequestUri => "request_uri_not_supported",
            Self::ResponseType => "unsupported_response_type",
            Self::GrantType => "unauthorized_client",
            Self::Resource => "invalid_target",
            Self::Scope => "invalid_scope",
            Self::LoginRequired => "login_required",
            Self::ConsentRequired => "consent_required",
            Self::InteractionRequired => "interaction_required",
            Self::Denied => "access_denied",
            Self::Unavailable => "temporarily_unavailable",
        }
    }

    /// What whoever wrote the client has to know: printable ASCII without quotation marks and backslashes.
    pub fn description(&self) -> String {
        let text = match self {
            Self::Parameters => "the request is too long, or has too many parameters",
            Self::Client => "client_id is not one of a client that is known here",
            Self::RedirectUri => "redirect_uri is not one that the client has registered",
            Self::PushedRequest => "request_uri is not one of this client, was used, or is too old",
            Self::Repeated(name) => return format!("the parameter {} comes more than once", printable(name)),
            Self::PushRequired => "this client has to push its authorization requests",
            Self::RequestObject => "request objects are not supported",
            Self::RequestUri => "request_uri is only for what was pushed",
            Self::NoResponseType | Self::ResponseType => "response_type has to be code",
            Self::ResponseMode => "response_mode has to be query",
            Self::GrantType => "the client is not registered for authorization_code",
            Self::State => "state has at most 2048 bytes",
            Self::Challenge => {
                "code_challenge has to be the SHA-256 of a verifier as 43 characters of base64url, with code_challenge_method S256"
            }
            Self::Resource => "resource is not one of this gateway",
            Self::Scope => "scope has one that does not exist here, or that the client is not registered for",
            Self::Prompt => "prompt is none, or some of login, consent and select_account",
            Self::MaxAge => "max_age has to be a number of seconds",
            Self::ProofKey => "dpop_jkt has to be a SHA-256 thumbprint as 43 characters of base64url",
            Self::LoginRequired => "nobody is signed in",
            Self::ConsentRequired => "the person has not consented to this",
            Self::InteractionRequired => "the person has to be asked",
            Self::Denied => "the request was denied",
            Self::Unavailable => "the gateway cannot do this at the moment: try again later",
        };
        text.to_owned()
    }
}

fn printable(name: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_graphic() && !matches!(c, '"' | '\\');
    name.chars().filter(is_plain).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_are_told_is_plain() {
        let is_plain = |c: char| matches!(c, ' '..='~') && c != '"' && c != '\\';
        for check in [Check::Challenge, Check::Repeated("a\"\\\u{202e}\n<é>".repeat(20)), Check::Unavailable] {
            assert!(check.description().chars().all(is_plain), "{check:?}");
            assert!(check.description().len() < 200);
        }
    }
}
