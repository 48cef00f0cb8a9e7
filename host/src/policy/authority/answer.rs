//! From what a guest answered about authority to what the host believes. See [`super::super::answer`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::value::RawValue;

use super::super::answer::{Checked, approve, at_most, deny, document, edits, notes, step_up, text, tokens};
use super::super::contract::authority::{client, credential, grant, refresh};
use super::super::decision::{Edit, Failure, Verdict};
use super::super::text::Breaks;
use super::terms::Narrowing;
use crate::glob::Glob;
use crate::mcp::json::Members;

const MAX_TOOLS: usize = 256;
const MAX_CLAIMS: usize = 32;
const MAX_CLAIM_NAME_BYTES: usize = 64;
const MAX_CLAIMS_BYTES: usize = 4 << 10;
const MAX_HEADLINE_BYTES: usize = 256;
const MAX_WARNINGS: usize = 16;
const MAX_WARNING_BYTES: usize = 1 << 10;

/// Claims whose meaning is not a policy's: those that the gateway sets itself, and those that say who somebody is, what
/// somebody may do or how they authenticated (RFC 7519 §4.1, RFC 7800, RFC 8693, RFC 8705, RFC 9068, RFC 9396, RFC 9449,
/// OpenID Connect Core §2 and §5.1).
const RESERVED: &[&str] = &[
    "_claim_names",
    "_claim_sources",
    "acr",
    "act",
    "active",
    "address",
    "amr",
    "at_hash",
    "aud",
    "auth_time",
    "authorization_details",
    "azp",
    "birthdate",
    "c_hash",
    "client_id",
    "cnf",
    "email",
    "email_verified",
    "entitlements",
    "events",
    "exp",
    "family_name",
    "gender",
    "given_name",
    "groups",
    "htm",
    "htu",
    "iat",
    "iss",
    "jkt",
    "jti",
    "locale",
    "may_act",
    "middle_name",
    "name",
    "nbf",
    "nickname",
    "nonce",
    "org_id",
    "phone_number",
    "phone_number_verified",
    "picture",
    "preferred_username",
    "profile",
    "roles",
    "s_hash",
    "scope",
    "scopes",
    "scp",
    "sid",
    "sub",
    "sub_jwk",
    "tenant",
    "token_type",
    "token_use",
    "tools",
    "txn",
    "typ",
    "updated_at",
    "username",
    "vot",
    "vtm",
    "website",
    "zoneinfo",
];
/// What the gateway's own claims begin with.
const OWN_CLAIMS: &str = "portcullis";

/// What one policy grants.
#[derive(Debug)]
pub(in crate::policy) struct Granting {
    pub(super) narrowing: Narrowing,
    /// The person has to be asked.
    pub(super) consent: Option<Consent>,
}

/// What a policy wants a person to be told.
#[derive(Clone, Debug)]
pub(super) struct Consent {
    pub(super) headline: String,
    pub(super) warnings: Vec<String>,
}

/// What one policy releases.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Releasing {
    pub(super) scopes: Vec<String>,
    pub(super) max_age: Option<Duration>,
}

/// The answer of `grant`.
pub(super) fn grant(answer: grant::Decision) -> Checked<Verdict<Granting>> {
    Ok(match answer {
        grant::Decision::Abstain => Verdict::Abstain,
        grant::Decision::Allow(terms) => Verdict::Allow(Granting { narrowing: narrowing(terms)?, consent: None }),
        grant::Decision::Consent(grant::Consent { terms, headline, warnings }) => {
            at_most("warnings", warnings.len(), MAX_WARNINGS)?;
            let warning = |warning| text("warning", warning, MAX_WARNING_BYTES, Breaks::Dropped);
            let headline = text("headline", headline, MAX_HEADLINE_BYTES, Breaks::Dropped)?;
            let warnings = warnings.into_iter().map(warning).collect::<Checked<_>>()?;
            let consent = Some(Consent { headline, warnings });
            Verdict::Allow(Granting { narrowing: narrowing(terms)?, consent })
        }
        grant::Decision::Approve(approval) => Verdict::Halt(approve(approval)?),
        grant::Decision::StepUp(wanted) => Verdict::Halt(step_up(wanted)?),
        grant::Decision::Deny(denial) => Verdict::Halt(deny(denial)?),
    })
}

/// The answer of `refresh`.
pub(super) fn refresh(answer: refresh::Decision) -> Checked<Verdict<Narrowing>> {
    Ok(match answer {
        refresh::Decision::Abstain => Verdict::Abstain,
        refresh::Decision::Allow(terms) => Verdict::Allow(narrowing(terms)?),
        refresh::Decision::StepUp(wanted) => Verdict::Halt(step_up(wanted)?),
        refresh::Decision::Deny(denial) => Verdict::Halt(deny(denial)?),
    })
}

/// The answer of `client`.
pub(super) fn client(answer: client::Decision) -> Checked<Verdict<Vec<Edit>>> {
    Ok(match answer {
        client::Decision::Abstain => Verdict::Abstain,
        client::Decision::Allow(changes) => Verdict::Allow(edits(changes)?),
        client::Decision::Approve(approval) => Verdict::Halt(approve(approval)?),
        client::Decision::Deny(denial) => Verdict::Halt(deny(denial)?),
    })
}

/// The answer of `credential`.
pub(super) fn credential(answer: credential::Decision) -> Checked<Verdict<Releasing>> {
    Ok(match answer {
        credential::Decision::Abstain => Verdict::Abstain,
        credential::Decision::Release(credential::Terms { scopes, max_age_s }) => Verdict::Allow(Releasing {
            scopes: tokens("scope", scopes)?,
            max_age: max_age_s.map(|seconds| Duration::from_secs(seconds.into())),
        }),
        credential::Decision::Approve(approval) => Verdict::Halt(approve(approval)?),
        credential::Decision::StepUp(wanted) => Verdict::Halt(step_up(wanted)?),
        credential::Decision::Deny(denial) => Verdict::Halt(deny(denial)?),
    })
}

fn narrowing(terms: grant::Terms) -> Checked<Narrowing> {
    let grant::Terms { scopes, tools, access_ttl_s, refresh_ttl_s, require_sender_constraint, claims, notes: told } =
        terms;
    let patterns = |tools: Vec<String>| {
        at_most("patterns over tools", tools.len(), MAX_TOOLS)?;
        // A pattern that could never fit `upstream/tool` is a mistake.
        let pattern = |text: String| {
            let pattern = Glob::parse(&text).filter(|_| text.contains(['/', '*']));
            pattern.ok_or_else(|| Failure::invalid("a pattern that fits no `upstream/tool`"))
        };
        tools.into_iter().map(pattern).collect::<Checked<Vec<Glob>>>()
    };
    if access_ttl_s == Some(0) {
        return Err(Failure::invalid("an access token for 0 s"));
    }
    let duration = |seconds: u32| Duration::from_secs(seconds.into());
    Ok(Narrowing {
        scopes: tokens("scope", scopes)?,
        tools: tools.map(patterns).transpose()?,
        access_ttl: access_ttl_s.map(duration),
        refresh_ttl: refresh_ttl_s.map(|seconds| (seconds > 0).then(|| duration(seconds))),
        require_sender_constraint,
        claims: claims.map(self::claims).transpose()?.unwrap_or_default(),
        notes: notes(told)?,
    })
}

fn claims(text: String) -> Checked<BTreeMap<String, Box<RawValue>>> {
    if text.len() > MAX_CLAIMS_BYTES {
        return Err(Failure::invalid(format!("claims of {} bytes, more than {MAX_CLAIMS_BYTES}", text.len())));
    }
    let claims = document("object of claims", text)?;
    let members = Members::parse(claims.get()).map_err(|_| Failure::invalid("claims that are not an object"))?;
    let claims: BTreeMap<String, Box<RawValue>> =
        members.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    at_most("claims", claims.len(), MAX_CLAIMS)?;
    for name in claims.keys() {
        if name.is_empty() || name.len() > MAX_CLAIM_NAME_BYTES {
            return Err(Failure::invalid("a claim whose name is empty or too long"));
        }
        let plain = name.to_ascii_lowercase();
        if RESERVED.contains(&plain.as_str()) || plain.starts_with(OWN_CLAIMS) {
            return Err(Failure::invalid(format!("the claim {name}, which is not a policy's to set")));
        }
    }
    Ok(claims)
}
