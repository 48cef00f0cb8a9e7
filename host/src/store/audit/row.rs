//! A row of the audit trail as it is stored.

use serde::{Deserialize, Serialize};

use crate::ids::{ApiTokenTag, UserTag};

/// A row as it is stored, codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct EntryRecord {
    pub(super) at_ms: u64,
    pub(super) sequence: u64,
    pub(super) actor: ActorRecord,
    pub(super) event: EventRecord,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in super::super) enum ActorRecord {
    OperatorSocket,
    OperatorToken,
    OperatorSession(UserTag),
    OperatorApiToken { token: ApiTokenTag, user: UserTag },
    OperatorSetUpLink,
    User(UserTag),
    System,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum EventRecord {
    GatewayStarted {
        version: String,
    },
    GatewayStopped {},
    KeyCreated {
        name: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<ChangeRecord>,
    },
    KeyEnabled {
        name: String,
    },
    KeyDisabled {
        name: String,
    },
    KeyDeleted {
        name: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<ChangeRecord>,
    },
    KeyChanged {
        name: String,
        field: String,
        from: Option<String>,
        to: Option<String>,
    },
    KeyRotated {
        name: String,
        earlier_until_ms: Option<u64>,
        ended_earlier: bool,
    },
    KeyEarlierEnded {
        name: String,
    },
    PoliciesReloaded {
        generation: u64,
    },
    PolicyReloadRefused {
        reason: String,
    },
    PoliciesRolledBack {
        generation: u64,
        to: u64,
    },
    ApprovalGiven(RulingRecord),
    ApprovalRefused(RulingRecord),
    PinsAdopted {
        upstream: String,
        tools: u64,
    },
    PinAccepted {
        upstream: String,
        tool: String,
        digest: String,
    },
    PinsAccepted {
        upstream: String,
        tools: u64,
    },
    RecordingRead {
        decision: String,
    },
    RecordingsRead {
        policy: Option<String>,
        hook: Option<String>,
        questions: u64,
    },
    BackupTaken {},
    BackupRestored {
        taken_ms: u64,
        rows: u64,
        digest: String,
        epoch: u64,
    },
    VaultInitialized {
        deployment: String,
        kek: String,
    },
    VaultKekRotated {
        from: Option<String>,
        to: String,
    },
    VaultRewrapped {
        to: String,
        keys: u64,
    },
    VaultShredded {
        owner: String,
    },
    VaultRecordRefused {
        owner: String,
        table: String,
        key: String,
        field: String,
        reason: String,
    },
    PinsForgotten {
        upstream: String,
        tools: u64,
    },
    PoliciesNotFollowed {
        reason: String,
    },
    UserCreated {
        user: String,
        role: String,
        status: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<ChangeRecord>,
    },
    UserChanged {
        user: String,
        field: String,
        from: Option<String>,
        to: Option<String>,
    },
    UserDeleted {
        user: String,
        name: String,
    },
    IdentityLinked {
        user: String,
        issuer: String,
        subject: String,
    },
    IdentityUnlinked {
        user: String,
        issuer: String,
        subject: String,
    },
    SignedIn {
        user: String,
        session: String,
        method: String,
    },
    SessionRenewed {
        user: String,
        session: String,
    },
    SignedOut {
        user: String,
        sessions: u64,
    },
    EverybodySignedOut {},
    ApiTokenCreated {
        token: String,
        user: String,
        name: String,
        role: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<ChangeRecord>,
    },
    ApiTokenRevoked {
        token: String,
        user: String,
    },
    SetUpLinkMade {},
    ConnectionLinkMade {
        holder: String,
        upstream: String,
        expires_ms: u64,
    },
    ConnectionStored {
        holder: String,
        upstream: String,
        kind: String,
    },
    ConnectionFailed {
        holder: String,
        upstream: String,
        reason: String,
    },
    ConnectionOrphaned {
        holder: String,
        upstream: String,
    },
    ConnectionReactivated {
        holder: String,
        upstream: String,
    },
    ConnectionEnded {
        holder: String,
        upstream: String,
        why: String,
    },
    TokensRevoked {
        holder: String,
        upstream: String,
    },
    TokensNotRevoked {
        holder: String,
        upstream: String,
        attempts: u64,
    },
    FlowRefused {
        holder: String,
        upstream: String,
        check: String,
    },
    UpstreamDeclared {
        upstream: String,
        revision: u64,
        #[serde(default)]
        unchecked: bool,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<ChangeRecord>,
    },
    UpstreamChanged {
        upstream: String,
        revision: u64,
        enabled: bool,
        #[serde(default)]
        unchecked: bool,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<ChangeRecord>,
    },
    UpstreamWithdrawn {
        upstream: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<ChangeRecord>,
    },
    PolicyModuleUploaded {
        digest: String,
        name: String,
        version: String,
        bytes: u64,
    },
    PolicyModuleSigned {
        digest: String,
    },
    PolicyModuleRemoved {
        digest: String,
        name: String,
        version: String,
    },
    PolicyBound {
        binding: String,
        revision: u64,
        definition: String,
    },
    PolicyBindingChanged {
        binding: String,
        revision: u64,
        before: String,
        after: String,
    },
    PolicyUnbound {
        binding: String,
        before: String,
    },
    ClientRegistered {
        client: String,
        by: String,
        evicted: u64,
        #[serde(default)]
        name: Option<String>,
        #[serde(default)]
        redirect_uris: Vec<String>,
        #[serde(default)]
        grant_types: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<ChangeRecord>,
    },
    ClientUpdated {
        client: String,
        #[serde(default)]
        changes: Vec<ChangeRecord>,
    },
    ClientDeleted {
        client: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<ChangeRecord>,
    },
    ConsentGiven(PartyRecord),
    ConsentRefused {
        client: String,
    },
    ConsentForgotten(PartyRecord),
    CodeBurned(PartyRecord),
    GrantIssued {
        grant: String,
        party: PartyRecord,
    },
    GrantRevoked {
        grant: String,
        party: PartyRecord,
        reason: String,
    },
    GrantsRevoked {
        of: String,
        reason: String,
    },
    TokenRevoked {
        grant: String,
    },
    RefreshReplayed {
        grant: String,
    },
    RefreshReuseRefused {
        grant: String,
    },
    SigningKeyChanged {
        key: String,
        algorithm: String,
        state: String,
    },
}

/// What rows of codec version 1 have only since changes are told: those before have none.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeRecord {
    pub(super) field: String,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PartyRecord {
    pub(super) principal: String,
    pub(super) client: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RulingRecord {
    pub(super) approval: String,
    pub(super) principal: String,
    pub(super) upstream: String,
    pub(super) item: String,
    pub(super) policy: String,
    pub(super) code: String,
    pub(super) note: Option<String>,
}
