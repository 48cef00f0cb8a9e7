//! Events as they are read. What makes no sense is a fault of its row alone.

use super::super::StoreError;
use super::super::engine::Table;
use super::super::table::unreadable;
use super::Recorded;
use super::row::{ActorRecord, ChangeRecord, EntryRecord, EventRecord, PartyRecord, RulingRecord};
use crate::audit::{
    Actor, AuditEntry, AuditEvent, FieldChange, OperatorProof, Party, Registered, RegisteredBy, RevocationReason,
    Ruling, SigningKeyState,
};
use crate::env::Timestamp;
use crate::ids::{
    ApiTokenId, ApprovalId, BindingName, BrowserSessionId, ClientId, DeploymentId, GrantId, KekId, KeyName, Owner,
    Principal, UpstreamName, UserId,
};

impl TryFrom<EntryRecord> for Recorded {
    type Error = StoreError;

    fn try_from(record: EntryRecord) -> Result<Self, StoreError> {
        let EntryRecord { at_ms, sequence, actor, event } = record;
        let at = Timestamp::from_millis(at_ms);
        Ok(Self { sequence, entry: AuditEntry { at, actor: actor.into(), event: event.try_into()? } })
    }
}

impl From<ActorRecord> for Actor {
    fn from(record: ActorRecord) -> Self {
        match record {
            ActorRecord::OperatorSocket => Self::Operator(OperatorProof::Socket),
            ActorRecord::OperatorToken => Self::Operator(OperatorProof::Token),
            ActorRecord::OperatorSession(user) => Self::Operator(OperatorProof::Session(user)),
            ActorRecord::OperatorApiToken { token, user } => Self::Operator(OperatorProof::ApiToken { token, user }),
            ActorRecord::OperatorSetUpLink => Self::Operator(OperatorProof::SetUpLink),
            ActorRecord::User(user) => Self::User(user),
            ActorRecord::System => Self::System,
        }
    }
}

impl TryFrom<EventRecord> for AuditEvent {
    type Error = StoreError;

    fn try_from(record: EventRecord) -> Result<Self, StoreError> {
        let name = |name: &str| KeyName::parse(name).map_err(|error| unreadable(Table::Audit, error));
        Ok(match record {
            EventRecord::GatewayStarted { version } => Self::GatewayStarted { version },
            EventRecord::GatewayStopped {} => Self::GatewayStopped,
            EventRecord::KeyCreated { name: key, changes } => {
                Self::KeyCreated { name: name(&key)?, changes: told(changes) }
            }
            EventRecord::KeyEnabled { name: key } => Self::KeyEnabled { name: name(&key)? },
            EventRecord::KeyDisabled { name: key } => Self::KeyDisabled { name: name(&key)? },
            EventRecord::KeyDeleted { name: key, changes } => {
                Self::KeyDeleted { name: name(&key)?, changes: told(changes) }
            }
            EventRecord::KeyChanged { name: key, field, from, to } => {
                Self::KeyChanged { name: name(&key)?, change: FieldChange { field, from, to } }
            }
            EventRecord::KeyRotated { name: key, earlier_until_ms, ended_earlier } => Self::KeyRotated {
                name: name(&key)?,
                earlier_until: earlier_until_ms.map(Timestamp::from_millis),
                ended_earlier,
            },
            EventRecord::KeyEarlierEnded { name: key } => Self::KeyEarlierEnded { name: name(&key)? },
            EventRecord::PoliciesReloaded { generation } => Self::PoliciesReloaded { generation },
            EventRecord::PolicyReloadRefused { reason } => Self::PolicyReloadRefused { reason },
            EventRecord::PoliciesRolledBack { generation, to } => Self::PoliciesRolledBack { generation, to },
            EventRecord::ApprovalGiven(ruling) => Self::ApprovalGiven(Box::new(ruling.try_into()?)),
            EventRecord::ApprovalRefused(ruling) => Self::ApprovalRefused(Box::new(ruling.try_into()?)),
            EventRecord::PinsAdopted { upstream: of, tools } => Self::PinsAdopted { upstream: upstream(&of)?, tools },
            EventRecord::PinAccepted { upstream: of, tool, digest } => {
                Self::PinAccepted { upstream: upstream(&of)?, tool, digest }
            }
            EventRecord::PinsAccepted { upstream: of, tools } => Self::PinsAccepted { upstream: upstream(&of)?, tools },
            EventRecord::RecordingRead { decision } => Self::RecordingRead { decision },
            EventRecord::RecordingsRead { policy, hook, questions } => Self::RecordingsRead { policy, hook, questions },
            EventRecord::PinsForgotten { upstream: of, tools } => {
                Self::PinsForgotten { upstream: upstream(&of)?, tools }
            }
            EventRecord::PoliciesNotFollowed { reason } => Self::PoliciesNotFollowed { reason },
            EventRecord::ClientRegistered { client: of, by, evicted, name, redirect_uris, grant_types, changes } => {
                Self::ClientRegistered {
                    client: client(&of)?,
                    by: RegisteredBy::parse(&by).ok_or_else(|| none("who registered a client"))?,
                    evicted,
                    as_what: Registered { name, redirect_uris, grant_types, changes: told(changes) },
                }
            }
            EventRecord::ClientUpdated { client: of, changes } => {
                Self::ClientUpdated { client: client(&of)?, changes: told(changes) }
            }
            EventRecord::ClientDeleted { client: of, changes } => {
                Self::ClientDeleted { client: client(&of)?, changes: told(changes) }
            }
            EventRecord::ConsentGiven(party) => Self::ConsentGiven(party.try_into()?),
            EventRecord::ConsentRefused { client: of } => Self::ConsentRefused { client: client(&of)? },
            EventRecord::ConsentForgotten(party) => Self::ConsentForgotten(party.try_into()?),
            EventRecord::CodeBurned(party) => Self::CodeBurned(party.try_into()?),
            EventRecord::GrantIssued { grant: id, party } => {
                Self::GrantIssued { grant: grant(&id)?, party: party.try_into()? }
            }
            EventRecord::GrantRevoked { grant: id, party, reason: why } => {
                Self::GrantRevoked { grant: grant(&id)?, party: party.try_into()?, reason: reason(&why)? }
            }
            EventRecord::GrantsRevoked { of, reason: why } => Self::GrantsRevoked { of, reason: reason(&why)? },
            EventRecord::TokenRevoked { grant: id } => Self::TokenRevoked { grant: grant(&id)? },
            EventRecord::RefreshReplayed { grant: id } => Self::RefreshReplayed { grant: grant(&id)? },
            EventRecord::RefreshReuseRefused { grant: id } => Self::RefreshReuseRefused { grant: grant(&id)? },
            EventRecord::SigningKeyChanged { key, algorithm, state } => Self::SigningKeyChanged {
                key,
                algorithm,
                state: SigningKeyState::parse(&state).ok_or_else(|| none("a state of a signing key"))?,
            },
            EventRecord::UserCreated { user, role, status, changes } => {
                Self::UserCreated { user: id(&user, UserId::parse)?, role, status, changes: told(changes) }
            }
            EventRecord::UserChanged { user, field, from, to } => {
                Self::UserChanged { user: id(&user, UserId::parse)?, change: FieldChange { field, from, to } }
            }
            EventRecord::UserDeleted { user, name } => Self::UserDeleted { user: id(&user, UserId::parse)?, name },
            EventRecord::IdentityLinked { user, issuer, subject } => {
                Self::IdentityLinked { user: id(&user, UserId::parse)?, issuer, subject }
            }
            EventRecord::IdentityUnlinked { user, issuer, subject } => {
                Self::IdentityUnlinked { user: id(&user, UserId::parse)?, issuer, subject }
            }
            EventRecord::SignedIn { user, session, method } => Self::SignedIn {
                user: id(&user, UserId::parse)?,
                session: id(&session, BrowserSessionId::parse)?,
                method,
            },
            EventRecord::SessionRenewed { user, session } => Self::SessionRenewed {
                user: id(&user, UserId::parse)?,
                session: id(&session, BrowserSessionId::parse)?,
            },
            EventRecord::SignedOut { user, sessions } => Self::SignedOut { user: id(&user, UserId::parse)?, sessions },
            EventRecord::EverybodySignedOut {} => Self::EverybodySignedOut,
            EventRecord::SetUpLinkMade {} => Self::SetUpLinkMade,
            EventRecord::ConnectionLinkMade { holder, upstream: of, expires_ms } => Self::ConnectionLinkMade {
                holder,
                upstream: upstream(&of)?,
                expires: Timestamp::from_millis(expires_ms),
            },
            EventRecord::ApiTokenCreated { token, user, name, role, changes } => Self::ApiTokenCreated {
                token: id(&token, ApiTokenId::parse)?,
                user: id(&user, UserId::parse)?,
                name,
                role,
                changes: told(changes),
            },
            EventRecord::ApiTokenRevoked { token, user } => {
                Self::ApiTokenRevoked { token: id(&token, ApiTokenId::parse)?, user: id(&user, UserId::parse)? }
            }
            EventRecord::ConnectionStored { holder, upstream: of, kind } => {
                Self::ConnectionStored { holder, upstream: upstream(&of)?, kind }
            }
            EventRecord::ConnectionFailed { holder, upstream: of, reason } => {
                Self::ConnectionFailed { holder, upstream: upstream(&of)?, reason }
            }
            EventRecord::ConnectionOrphaned { holder, upstream: of } => {
                Self::ConnectionOrphaned { holder, upstream: upstream(&of)? }
            }
            EventRecord::ConnectionReactivated { holder, upstream: of } => {
                Self::ConnectionReactivated { holder, upstream: upstream(&of)? }
            }
            EventRecord::ConnectionEnded { holder, upstream: of, why } => {
                Self::ConnectionEnded { holder, upstream: upstream(&of)?, why }
            }
            EventRecord::TokensRevoked { holder, upstream: of } => {
                Self::TokensRevoked { holder, upstream: upstream(&of)? }
            }
            EventRecord::TokensNotRevoked { holder, upstream: of, attempts } => {
                Self::TokensNotRevoked { holder, upstream: upstream(&of)?, attempts }
            }
            EventRecord::FlowRefused { holder, upstream: of, check } => {
                Self::FlowRefused { holder, upstream: upstream(&of)?, check }
            }
            EventRecord::UpstreamDeclared { upstream: of, revision, unchecked, changes } => {
                Self::UpstreamDeclared { upstream: upstream(&of)?, revision, unchecked, changes: told(changes) }
            }
            EventRecord::UpstreamChanged { upstream: of, revision, enabled, unchecked, changes } => {
                let changes = told(changes);
                Self::UpstreamChanged { upstream: upstream(&of)?, revision, enabled, unchecked, changes }
            }
            EventRecord::UpstreamWithdrawn { upstream: of, changes } => {
                Self::UpstreamWithdrawn { upstream: upstream(&of)?, changes: told(changes) }
            }
            EventRecord::PolicyModuleUploaded { digest, name, version, bytes } => {
                Self::PolicyModuleUploaded { digest, name, version, bytes }
            }
            EventRecord::PolicyModuleSigned { digest } => Self::PolicyModuleSigned { digest },
            EventRecord::PolicyModuleRemoved { digest, name, version } => {
                Self::PolicyModuleRemoved { digest, name, version }
            }
            EventRecord::PolicyBound { binding: of, revision, definition } => {
                Self::PolicyBound { binding: binding(&of)?, revision, definition }
            }
            EventRecord::PolicyBindingChanged { binding: of, revision, before, after } => {
                Self::PolicyBindingChanged { binding: binding(&of)?, revision, before, after }
            }
            EventRecord::PolicyUnbound { binding: of, before } => {
                Self::PolicyUnbound { binding: binding(&of)?, before }
            }
            EventRecord::VaultInitialized { deployment, kek } => {
                Self::VaultInitialized { deployment: id(&deployment, DeploymentId::parse)?, kek: kek_id(&kek)? }
            }
            EventRecord::VaultKekRotated { from, to } => {
                Self::VaultKekRotated { from: from.as_deref().map(kek_id).transpose()?, to: kek_id(&to)? }
            }
            EventRecord::VaultRewrapped { to, keys } => Self::VaultRewrapped { to: kek_id(&to)?, keys },
            EventRecord::VaultShredded { owner: of } => Self::VaultShredded { owner: owner(&of)? },
            EventRecord::VaultRecordRefused { owner: of, table, key, field, reason } => {
                Self::VaultRecordRefused { owner: owner(&of)?, table, key, field, reason }
            }
            EventRecord::BackupTaken {} => Self::BackupTaken,
            EventRecord::BackupRestored { taken_ms, rows, digest, epoch } => {
                Self::BackupRestored { taken: Timestamp::from_millis(taken_ms), rows, digest, epoch }
            }
        })
    }
}

fn told(records: Vec<ChangeRecord>) -> Vec<FieldChange> {
    records.into_iter().map(FieldChange::from).collect()
}

impl From<ChangeRecord> for FieldChange {
    fn from(record: ChangeRecord) -> Self {
        let ChangeRecord { field, from, to } = record;
        Self { field, from, to }
    }
}

impl TryFrom<PartyRecord> for Party {
    type Error = StoreError;

    fn try_from(record: PartyRecord) -> Result<Self, StoreError> {
        let PartyRecord { principal, client: of } = record;
        let principal = Principal::parse(&principal).ok_or_else(|| none("a principal"))?;
        Ok(Self { principal, client: client(&of)? })
    }
}

impl TryFrom<RulingRecord> for Ruling {
    type Error = StoreError;

    fn try_from(record: RulingRecord) -> Result<Self, StoreError> {
        let RulingRecord { approval, principal, upstream: of, item, policy, code, note } = record;
        let bad = |what: &str| unreadable(Table::Audit, format_args!("{what} is none"));
        Ok(Self {
            approval: ApprovalId::parse(&approval).ok_or_else(|| bad("an approval's id"))?,
            principal: Principal::parse(&principal).ok_or_else(|| bad("a principal"))?,
            upstream: upstream(&of)?,
            item,
            policy: BindingName::parse(&policy).map_err(|error| unreadable(Table::Audit, error))?,
            code,
            note,
        })
    }
}

pub(super) fn none(what: &str) -> StoreError {
    unreadable(Table::Audit, format_args!("{what} is none"))
}

fn client(id: &str) -> Result<ClientId, StoreError> {
    ClientId::parse(id).ok_or_else(|| none("a client's id"))
}

fn grant(id: &str) -> Result<GrantId, StoreError> {
    GrantId::parse(id).ok_or_else(|| none("a grant's id"))
}

fn reason(word: &str) -> Result<RevocationReason, StoreError> {
    RevocationReason::parse(word).ok_or_else(|| none("a reason"))
}

/// The id that a text is of.
fn id<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, StoreError> {
    parse(text).ok_or_else(|| unreadable(Table::Audit, "an id is none"))
}

fn kek_id(name: &str) -> Result<KekId, StoreError> {
    KekId::parse(name).map_err(|error| unreadable(Table::Audit, error))
}

fn owner(text: &str) -> Result<Owner, StoreError> {
    Owner::parse(text).ok_or_else(|| unreadable(Table::Audit, "an owner is none"))
}

fn binding(name: &str) -> Result<BindingName, StoreError> {
    BindingName::parse(name).map_err(|error| unreadable(Table::Audit, error))
}

fn upstream(name: &str) -> Result<UpstreamName, StoreError> {
    UpstreamName::parse(name).map_err(|error| unreadable(Table::Audit, error))
}
