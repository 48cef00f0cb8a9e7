//! Registration of clients: who may, and what becomes of the metadata.
//!
//! A policy may edit the metadata, and what it leaves is checked again: it may take away redirect URIs, scopes, grant
//! types and response types and not add any, it may not touch what identifies the client, and whoever registers clients
//! has the last word on whether the result is metadata at all.

use serde_json::value::RawValue;

use super::super::asking::{Asking, CallContext, Told};
use super::super::bindings::{BoundPolicy, PolicySet};
use super::super::contract::authority::client;
use super::super::contract::hook;
use super::super::decision::{Edit, Failure, Hook, Refusal, Trail, Verdict};
use super::super::edits;
use super::super::matching::About;
use super::super::shadow::{Question, Shadow};
use super::super::tally::Tally;
use super::super::text::one_line;
use super::{AuthorityQuestion, answer, texts};
use crate::mcp::json::Members;

const MAX_MESSAGE_BYTES: usize = 256;

/// Members that say who a client is, or that others vouch for (RFC 7591 §2 and §3.2.1, RFC 7592 §3).
const UNTOUCHABLE: [&str; 10] = [
    "client_id",
    "client_secret",
    "client_secret_expires_at",
    "client_id_issued_at",
    "jwks",
    "jwks_uri",
    "registration_access_token",
    "registration_client_uri",
    "sector_identifier_uri",
    "software_statement",
];

/// Lists of which a policy may only take away.
const LISTS: [&str; 3] = ["redirect_uris", "grant_types", "response_types"];

/// How a client comes to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientSource {
    /// RFC 7591.
    Dynamic,
    /// A Client ID Metadata Document.
    MetadataDocument,
    PreRegistered,
    Admin,
}

/// A client that wants to register.
#[derive(Clone, Debug)]
pub struct ClientRequest {
    pub source: ClientSource,
    /// A JSON object: the client metadata (RFC 7591 §2).
    pub metadata: Box<RawValue>,
}

/// Whether a text is metadata that can be registered, or why not.
pub(in crate::policy) type Accept<'a> = dyn Fn(&RawValue) -> Result<(), String> + Sync + 'a;

impl ClientSource {
    const fn shown(self) -> client::Source {
        match self {
            Self::Dynamic => client::Source::Dynamic,
            Self::MetadataDocument => client::Source::MetadataDocument,
            Self::PreRegistered => client::Source::PreRegistered,
            Self::Admin => client::Source::Admin,
        }
    }
}

impl PolicySet {
    /// Whether a client may register, and its metadata as the policies leave it. `accept` is asked about everything that
    /// a policy makes of it.
    pub async fn check_client(
        &self,
        ctx: &CallContext<'_>,
        request: &ClientRequest,
        accept: &(dyn Fn(&RawValue) -> Result<(), String> + Sync),
    ) -> (Result<Box<RawValue>, Refusal>, Trail) {
        let mut trail = Trail::default();
        let about = About::Authority(&[]);
        let checked = self.ask_all_about_client(ctx, request, accept, &mut trail).await;
        if self.shadows(Hook::Client, about, ctx.caller).next().is_some() {
            let question = Question::Authority(Box::new(AuthorityQuestion::Client(request.clone())));
            trail.shadows.push(Shadow::of(ctx, question, checked.is_ok()));
        }
        (checked, trail)
    }

    async fn ask_all_about_client(
        &self,
        ctx: &CallContext<'_>,
        request: &ClientRequest,
        accept: &Accept<'_>,
        trail: &mut Trail,
    ) -> Result<Box<RawValue>, Refusal> {
        let policies: Vec<&BoundPolicy> = self.asked(Hook::Client, About::Authority(&[]), ctx.caller).collect();
        let texts = ctx.texts();
        let mut asking = Asking::new(self, ctx, &texts, Hook::Client, &policies, &mut trail.steps);
        let mut tally = Tally::default();
        let mut metadata = request.metadata.clone();
        for policy in policies {
            let heard = self.ask_about_client(&mut asking, policy, request, &metadata, accept).await;
            if let Some(Some(edited)) = tally.hear(policy.name(), heard)? {
                metadata = edited;
            }
        }
        tally.finish(Hook::Client, self.when_all_abstain)?;
        Ok(metadata)
    }

    /// Asks one policy: its verdict, with the metadata as it wants it, if it changes it.
    pub(super) async fn ask_about_client(
        &self,
        asking: &mut Asking<'_>,
        policy: &BoundPolicy,
        request: &ClientRequest,
        metadata: &RawValue,
        accept: &Accept<'_>,
    ) -> Result<Option<Verdict<Option<Box<RawValue>>>>, Refusal> {
        let facts = Facts::of(metadata);
        let shown = client::Request {
            source: request.source.shown(),
            redirect_uris: texts(&facts.redirect_uris),
            scopes: texts(&facts.scopes),
            software_id: facts.software_id.as_deref(),
            metadata: metadata.get(),
        };
        let judge = |answer| {
            let verdict = match answer::client(answer)? {
                Verdict::Abstain => Verdict::Abstain,
                Verdict::Halt(halt) => Verdict::Halt(halt),
                Verdict::Allow(changes) => Verdict::Allow(edited(policy, metadata, &changes, accept)?),
            };
            let told = Told::verdict(&verdict, |_| Told::word("allow"));
            Ok((verdict, told))
        };
        asking.ask::<hook::Client, _>(policy, &shown, judge).await
    }
}

/// The metadata after a policy's edits, if there are any and they may be made.
fn edited(
    policy: &BoundPolicy,
    metadata: &RawValue,
    changes: &[Edit],
    accept: &Accept<'_>,
) -> Result<Option<Box<RawValue>>, Failure> {
    if changes.is_empty() {
        return Ok(None);
    }
    if !policy.mutates(Hook::Client) {
        return Err(Failure::invalid("it edits metadata, and its manifest does not say that it mutates client"));
    }
    let after = edits::apply(metadata, changes)?.filter(|after| after.get().starts_with('{'));
    let after = after.ok_or_else(|| Failure::invalid("it makes the metadata something else than an object"))?;
    narrows(metadata, &after).map_err(Failure::invalid)?;
    let unfit = |what: String| {
        Failure::invalid(format!("metadata that cannot be registered: {}", one_line(&what, MAX_MESSAGE_BYTES)))
    };
    accept(&after).map_err(unfit)?;
    Ok(Some(after))
}

/// Whether one text of metadata holds no more than another, or what more it holds.
fn narrows(before: &RawValue, after: &RawValue) -> Result<(), String> {
    let parse =
        |metadata: &RawValue| Members::parse(metadata.get()).map_err(|_| "metadata that is no object".to_owned());
    let (before, after) = (parse(before)?, parse(after)?);
    for name in UNTOUCHABLE {
        if before.get(name).map(RawValue::get) != after.get(name).map(RawValue::get) {
            return Err(format!("an edit of {name}, which is not a policy's to change"));
        }
    }
    for name in LISTS {
        let (had, has) = (list(&before, name), list(&after, name));
        // What is not said has a meaning of its own (RFC 7591 §2), and so has nothing at all.
        if had.is_some() && has.is_none() {
            return Err(format!("{name} removed, which means other ones"));
        }
        if let (Some(had), Some(has)) = (had, has)
            && has.iter().any(|item| !had.contains(item))
        {
            return Err(format!("{name} with more than the client asked for"));
        }
    }
    let (had, has) = (scopes(&before), scopes(&after));
    match (had, has) {
        (Some(_), None) => Err("scope removed, which means any".to_owned()),
        (Some(had), Some(has)) if has.iter().any(|scope| !had.contains(scope)) => {
            Err("scope with more than the client asked for".to_owned())
        }
        _ => Ok(()),
    }
}

/// What of metadata has a place of its own in the question.
struct Facts {
    redirect_uris: Vec<String>,
    scopes: Vec<String>,
    software_id: Option<String>,
}

impl Facts {
    fn of(metadata: &RawValue) -> Self {
        let members = Members::parse(metadata.get()).unwrap_or_default();
        Self {
            redirect_uris: list(&members, "redirect_uris").unwrap_or_default(),
            scopes: scopes(&members).unwrap_or_default(),
            software_id: members.get("software_id").and_then(|id| serde_json::from_str(id.get()).ok()),
        }
    }
}

/// `None` if it is not there; what is there and no list of texts is an empty one.
fn list(members: &Members, name: &str) -> Option<Vec<String>> {
    members.get(name).map(|list| serde_json::from_str(list.get()).unwrap_or_default())
}

fn scopes(members: &Members) -> Option<Vec<String>> {
    let scope = members.get("scope")?;
    let scope: String = serde_json::from_str(scope.get()).unwrap_or_default();
    Some(scope.split(' ').filter(|scope| !scope.is_empty()).map(ToOwned::to_owned).collect())
}
