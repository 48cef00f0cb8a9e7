//! Events as they are written down: what is free text is shortened, so that each fits its row.

use super::super::table::{abridge, shorten};
use super::row::{ActorRecord, ChangeRecord, EventRecord, PartyRecord, RulingRecord};
use crate::audit::{Actor, AuditEvent, FieldChange, OperatorProof, Party, Registered, Ruling};
use crate::env::Timestamp;
use crate::ids::KeyName;

/// Longest free text in an event, in bytes.
pub(super) const MAX_TEXT_BYTES: usize = 4096;
/// Longest definition of a policy binding in an event. An event has at most two, and has to fit a row.
const MAX_DEFINITION_BYTES: usize = 32 * 1024;

impl From<Actor> for ActorRecord {
    fn from(actor: Actor) -> Self {
        match actor {
            Actor::Operator(OperatorProof::Socket) => Self::OperatorSocket,
            Actor::Operator(OperatorProof::Token) => Self::OperatorToken,
            Actor::Operator(OperatorProof::Session(user)) => Self::OperatorSession(user),
            Actor::Operator(OperatorProof::ApiToken { token, user }) => Self::OperatorApiToken { token, user },
            Actor::Operator(OperatorProof::SetUpLink) => Self::OperatorSetUpLink,
            Actor::User(user) => Self::User(user),
            Actor::System => Self::System,
        }
    }
}

impl From<&AuditEvent> for EventRecord {
    fn from(event: &AuditEvent) -> Self {
        let text = |text: &str| shorten(text, MAX_TEXT_BYTES);
        let name = |name: &KeyName| name.as_str().to_owned();
        match event {
            AuditEvent::GatewayStarted { version } => Self::GatewayStarted { version: text(version) },
            AuditEvent::GatewayStopped => Self::GatewayStopped {},
            AuditEvent::KeyCreated { name: key, changes } => {
                Self::KeyCreated { name: name(key), changes: records(changes) }
            }
            AuditEvent::KeyEnabled { name: key } => Self::KeyEnabled { name: name(key) },
            AuditEvent::KeyDisabled { name: key } => Self::KeyDisabled { name: name(key) },
            AuditEvent::KeyDeleted { name: key, changes } => {
                Self::KeyDeleted { name: name(key), changes: records(changes) }
            }
            AuditEvent::KeyChanged { name: key, change } => {
                let ChangeRecord { field, from, to } = change.into();
                Self::KeyChanged { name: name(key), field, from, to }
            }
            AuditEvent::KeyRotated { name: key, earlier_until, ended_earlier } => Self::KeyRotated {
                name: name(key),
                earlier_until_ms: earlier_until.map(Timestamp::as_millis),
                ended_earlier: *ended_earlier,
            },
            AuditEvent::KeyEarlierEnded { name: key } => Self::KeyEarlierEnded { name: name(key) },
            AuditEvent::PoliciesReloaded { generation } => Self::PoliciesReloaded { generation: *generation },
            AuditEvent::PolicyReloadRefused { reason } => Self::PolicyReloadRefused { reason: text(reason) },
            AuditEvent::PoliciesRolledBack { generation, to } => {
                Self::PoliciesRolledBack { generation: *generation, to: *to }
            }
            AuditEvent::ApprovalGiven(ruling) => Self::ApprovalGiven(RulingRecord::from(&**ruling)),
            AuditEvent::ApprovalRefused(ruling) => Self::ApprovalRefused(RulingRecord::from(&**ruling)),
            AuditEvent::PinsAdopted { upstream, tools } => {
                Self::PinsAdopted { upstream: upstream.as_str().to_owned(), tools: *tools }
            }
            AuditEvent::PinAccepted { upstream, tool, digest } => {
                Self::PinAccepted { upstream: upstream.as_str().to_owned(), tool: text(tool), digest: text(digest) }
            }
            AuditEvent::PinsAccepted { upstream, tools } => {
                Self::PinsAccepted { upstream: upstream.as_str().to_owned(), tools: *tools }
            }
            AuditEvent::RecordingRead { decision } => Self::RecordingRead { decision: text(decision) },
            AuditEvent::RecordingsRead { policy, hook, questions } => Self::RecordingsRead {
                policy: policy.as_deref().map(text),
                hook: hook.as_deref().map(text),
                questions: *questions,
            },
            AuditEvent::PinsForgotten { upstream, tools } => {
                Self::PinsForgotten { upstream: upstream.as_str().to_owned(), tools: *tools }
            }
            AuditEvent::PoliciesNotFollowed { reason } => Self::PoliciesNotFollowed { reason: text(reason) },
            AuditEvent::ClientRegistered { client, by, evicted, as_what } => {
                let Registered { name, redirect_uris, grant_types, changes } = as_what;
                Self::ClientRegistered {
                    client: client.to_string(),
                    by: by.to_string(),
                    evicted: *evicted,
                    name: name.as_deref().map(text),
                    redirect_uris: redirect_uris.iter().map(|uri| text(uri)).collect(),
                    grant_types: grant_types.clone(),
                    changes: records(changes),
                }
            }
            AuditEvent::ClientUpdated { client, changes } => {
                Self::ClientUpdated { client: client.to_string(), changes: records(changes) }
            }
            AuditEvent::ClientDeleted { client, changes } => {
                Self::ClientDeleted { client: client.to_string(), changes: records(changes) }
            }
            AuditEvent::ConsentGiven(party) => Self::ConsentGiven(party.into()),
            AuditEvent::ConsentRefused { client } => Self::ConsentRefused { client: client.to_string() },
            AuditEvent::ConsentForgotten(party) => Self::ConsentForgotten(party.into()),
            AuditEvent::CodeBurned(party) => Self::CodeBurned(party.into()),
            AuditEvent::GrantIssued { grant, party } => {
                Self::GrantIssued { grant: grant.to_string(), party: party.into() }
            }
            AuditEvent::GrantRevoked { grant, party, reason } => {
                Self::GrantRevoked { grant: grant.to_string(), party: party.into(), reason: reason.to_string() }
            }
            AuditEvent::GrantsRevoked { of, reason } => {
                Self::GrantsRevoked { of: text(of), reason: reason.to_string() }
            }
            AuditEvent::TokenRevoked { grant } => Self::TokenRevoked { grant: grant.to_string() },
            AuditEvent::RefreshReplayed { grant } => Self::RefreshReplayed { grant: grant.to_string() },
            AuditEvent::RefreshReuseRefused { grant } => Self::RefreshReuseRefused { grant: grant.to_string() },
            AuditEvent::SigningKeyChanged { key, algorithm, state } => {
                Self::SigningKeyChanged { key: text(key), algorithm: text(algorithm), state: state.to_string() }
            }
            AuditEvent::UserCreated { user, role, status, changes } => Self::UserCreated {
                user: user.to_string(),
                role: text(role),
                status: text(status),
                changes: records(changes),
            },
            AuditEvent::UserChanged { user, change } => {
                let ChangeRecord { field, from, to } = change.into();
                Self::UserChanged { user: user.to_string(), field, from, to }
            }
            AuditEvent::UserDeleted { user, name } => Self::UserDeleted { user: user.to_string(), name: text(name) },
            AuditEvent::IdentityLinked { user, issuer, subject } => {
                Self::IdentityLinked { user: user.to_string(), issuer: text(issuer), subject: text(subject) }
            }
            AuditEvent::IdentityUnlinked { user, issuer, subject } => {
                Self::IdentityUnlinked { user: user.to_string(), issuer: text(issuer), subject: text(subject) }
            }
            AuditEvent::SignedIn { user, session, method } => {
                Self::SignedIn { user: user.to_string(), session: session.to_string(), method: text(method) }
            }
            AuditEvent::SessionRenewed { user, session } => {
                Self::SessionRenewed { user: user.to_string(), session: session.to_string() }
            }
            AuditEvent::SignedOut { user, sessions } => Self::SignedOut { user: user.to_string(), sessions: *sessions },
            AuditEvent::EverybodySignedOut => Self::EverybodySignedOut {},
            AuditEvent::SetUpLinkMade => Self::SetUpLinkMade {},
            AuditEvent::ConnectionLinkMade { holder, upstream, expires } => Self::ConnectionLinkMade {
                holder: text(holder),
                upstream: upstream.to_string(),
                expires_ms: expires.as_millis(),
            },
            AuditEvent::ApiTokenCreated { token, user, name, role, changes } => Self::ApiTokenCreated {
                token: token.to_string(),
                user: user.to_string(),
                name: text(name),
                role: text(role),
                changes: records(changes),
            },
            AuditEvent::ApiTokenRevoked { token, user } => {
                Self::ApiTokenRevoked { token: token.to_string(), user: user.to_string() }
            }
            AuditEvent::ConnectionStored { holder, upstream, kind } => {
                Self::ConnectionStored { holder: text(holder), upstream: upstream.to_string(), kind: text(kind) }
            }
            AuditEvent::ConnectionFailed { holder, upstream, reason } => {
                Self::ConnectionFailed { holder: text(holder), upstream: upstream.to_string(), reason: text(reason) }
            }
            AuditEvent::ConnectionOrphaned { holder, upstream } => {
                Self::ConnectionOrphaned { holder: text(holder), upstream: upstream.to_string() }
            }
            AuditEvent::ConnectionReactivated { holder, upstream } => {
                Self::ConnectionReactivated { holder: text(holder), upstream: upstream.to_string() }
            }
            AuditEvent::ConnectionEnded { holder, upstream, why } => {
                Self::ConnectionEnded { holder: text(holder), upstream: upstream.to_string(), why: text(why) }
            }
            AuditEvent::TokensRevoked { holder, upstream } => {
                Self::TokensRevoked { holder: text(holder), upstream: upstream.to_string() }
            }
            AuditEvent::TokensNotRevoked { holder, upstream, attempts } => {
                Self::TokensNotRevoked { holder: text(holder), upstream: upstream.to_string(), attempts: *attempts }
            }
            AuditEvent::FlowRefused { holder, upstream, check } => {
                Self::FlowRefused { holder: text(holder), upstream: upstream.to_string(), check: text(check) }
            }
            AuditEvent::UpstreamDeclared { upstream, revision, unchecked, changes } => {
                let (upstream, changes) = (upstream.to_string(), records(changes));
                Self::UpstreamDeclared { upstream, revision: *revision, unchecked: *unchecked, changes }
            }
            AuditEvent::UpstreamChanged { upstream, revision, enabled, unchecked, changes } => {
                let (revision, enabled, unchecked) = (*revision, *enabled, *unchecked);
                let (upstream, changes) = (upstream.to_string(), records(changes));
                Self::UpstreamChanged { upstream, revision, enabled, unchecked, changes }
            }
            AuditEvent::UpstreamWithdrawn { upstream, changes } => {
                Self::UpstreamWithdrawn { upstream: upstream.to_string(), changes: records(changes) }
            }
            AuditEvent::PolicyModuleUploaded { digest, name, version, bytes } => Self::PolicyModuleUploaded {
                digest: digest.clone(),
                name: name.clone(),
                version: version.clone(),
                bytes: *bytes,
            },
            AuditEvent::PolicyModuleSigned { digest } => Self::PolicyModuleSigned { digest: digest.clone() },
            AuditEvent::PolicyModuleRemoved { digest, name, version } => {
                Self::PolicyModuleRemoved { digest: digest.clone(), name: name.clone(), version: version.clone() }
            }
            AuditEvent::PolicyBound { binding, revision, definition } => Self::PolicyBound {
                binding: binding.to_string(),
                revision: *revision,
                definition: abridge(definition, MAX_DEFINITION_BYTES),
            },
            AuditEvent::PolicyBindingChanged { binding, revision, before, after } => Self::PolicyBindingChanged {
                binding: binding.to_string(),
                revision: *revision,
                before: abridge(before, MAX_DEFINITION_BYTES),
                after: abridge(after, MAX_DEFINITION_BYTES),
            },
            AuditEvent::PolicyUnbound { binding, before } => {
                Self::PolicyUnbound { binding: binding.to_string(), before: abridge(before, MAX_DEFINITION_BYTES) }
            }
            AuditEvent::VaultInitialized { deployment, kek } => {
                Self::VaultInitialized { deployment: deployment.to_string(), kek: kek.to_string() }
            }
            AuditEvent::VaultKekRotated { from, to } => {
                Self::VaultKekRotated { from: from.as_ref().map(ToString::to_string), to: to.to_string() }
            }
            AuditEvent::VaultRewrapped { to, keys } => Self::VaultRewrapped { to: to.to_string(), keys: *keys },
            AuditEvent::VaultShredded { owner } => Self::VaultShredded { owner: owner.to_string() },
            AuditEvent::VaultRecordRefused { owner, table, key, field, reason } => Self::VaultRecordRefused {
                owner: owner.to_string(),
                table: text(table),
                key: text(key),
                field: text(field),
                reason: text(reason),
            },
            AuditEvent::BackupTaken => Self::BackupTaken {},
            AuditEvent::BackupRestored { taken, rows, digest, epoch } => {
                Self::BackupRestored { taken_ms: taken.as_millis(), rows: *rows, digest: text(digest), epoch: *epoch }
            }
        }
    }
}

fn records(changes: &[FieldChange]) -> Vec<ChangeRecord> {
    changes.iter().map(ChangeRecord::from).collect()
}

impl From<&FieldChange> for ChangeRecord {
    fn from(change: &FieldChange) -> Self {
        let side = |side: &String| abridge(side, MAX_TEXT_BYTES);
        let FieldChange { field, from, to } = change;
        Self { field: shorten(field, MAX_TEXT_BYTES), from: from.as_ref().map(side), to: to.as_ref().map(side) }
    }
}

impl From<&Party> for PartyRecord {
    fn from(party: &Party) -> Self {
        let Party { principal, client } = party;
        Self { principal: principal.to_string(), client: client.to_string() }
    }
}

impl From<&Ruling> for RulingRecord {
    fn from(ruling: &Ruling) -> Self {
        let text = |text: &str| shorten(text, MAX_TEXT_BYTES);
        let Ruling { approval, principal, upstream, item, policy, code, note } = ruling;
        Self {
            approval: approval.as_str().to_owned(),
            principal: principal.to_string(),
            upstream: upstream.as_str().to_owned(),
            item: text(item),
            policy: policy.as_str().to_owned(),
            code: text(code),
            note: note.as_deref().map(text),
        }
    }
}
