//! What is remembered of events, in two trails that are deliberately not one.
//!
//! The *audit trail* holds what operators and the gateway itself did: a closed list of events, each committed with
//! the change it tells of and kept for over a year. The *decision trail* holds what became of callers' requests:
//! written a moment later, in batches, dropped rather than waited for, kept for days. Pure: both are kept by
//! `store::audit` and `store::decisions`. No secret, argument or result is part of either: the notes of a decision are
//! the policies' own words, and a policy that takes something out of a result must not repeat it there.

use std::fmt;

use crate::env::Timestamp;
use crate::ids::{
    ApiTokenId, ApiTokenTag, ApprovalId, BindingName, BrowserSessionId, ClientId, DeploymentId, GrantId, KekId,
    KeyName, Owner, Principal, UpstreamName, UserId, UserTag,
};

/// One line of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When it was committed.
    pub at: Timestamp,
    pub actor: Actor,
    pub event: AuditEvent,
}

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// An operator, by how they proved to be one.
    Operator(OperatorProof),
    /// A person with an account, who acts for themselves.
    User(UserTag),
    /// The gateway on its own account.
    System,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperatorProof {
    /// The admin socket, which only its owner can open.
    Socket,
    /// The operator token.
    Token,
    /// A person who is signed in at the admin listener.
    Session(UserTag),
    /// A person's API token.
    ApiToken { token: ApiTokenTag, user: UserTag },
    /// The link with which the first owner is made.
    SetUpLink,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(OperatorProof::Socket) => f.write_str("operator:socket"),
            Self::Operator(OperatorProof::Token) => f.write_str("operator:token"),
            Self::Operator(OperatorProof::Session(user)) => write!(f, "operator:session:{user}"),
            Self::Operator(OperatorProof::ApiToken { token, user }) => write!(f, "operator:api_token:{token}:{user}"),
            Self::Operator(OperatorProof::SetUpLink) => f.write_str("operator:set_up_link"),
            Self::User(user) => write!(f, "user:{user}"),
            Self::System => f.write_str("system"),
        }
    }
}

impl Actor {
    /// The one that is written like this.
    pub fn parse(text: &str) -> Option<Self> {
        let user = |tag: &str| UserTag::try_from(tag.to_owned()).ok();
        Some(match text.split(':').collect::<Vec<_>>().as_slice() {
            ["system"] => Self::System,
            ["user", tag] => Self::User(user(tag)?),
            ["operator", "socket"] => Self::Operator(OperatorProof::Socket),
            ["operator", "token"] => Self::Operator(OperatorProof::Token),
            ["operator", "set_up_link"] => Self::Operator(OperatorProof::SetUpLink),
            ["operator", "session", tag] => Self::Operator(OperatorProof::Session(user(tag)?)),
            ["operator", "api_token", token, tag] => {
                let token = ApiTokenTag::try_from((*token).to_owned()).ok()?;
                Self::Operator(OperatorProof::ApiToken { token, user: user(tag)? })
            }
            _ => return None,
        })
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditEvent {
    GatewayStarted {
        version: String,
    },
    GatewayStopped,
    KeyCreated {
        name: KeyName,
        changes: Vec<FieldChange>,
    },
    KeyEnabled {
        name: KeyName,
    },
    KeyDisabled {
        name: KeyName,
    },
    KeyDeleted {
        name: KeyName,
        changes: Vec<FieldChange>,
    },
    /// One field of a key.
    KeyChanged {
        name: KeyName,
        change: FieldChange,
    },
    /// A key has another secret.
    KeyRotated {
        name: KeyName,
        /// Until when the one before is good as well, if it is.
        earlier_until: Option<Timestamp>,
        /// One before that was good still, and has ended with this.
        ended_earlier: bool,
    },
    /// The earlier secret of a key has ended before its time.
    KeyEarlierEnded {
        name: KeyName,
    },
    PoliciesReloaded {
        generation: u64,
    },
    PolicyReloadRefused {
        reason: String,
    },
    /// What an earlier generation had came into force again.
    PoliciesRolledBack {
        generation: u64,
        to: u64,
    },
    ApprovalGiven(Box<Ruling>),
    ApprovalRefused(Box<Ruling>),
    /// An upstream was seen for the first time, and its tools were pinned as they were.
    PinsAdopted {
        upstream: UpstreamName,
        tools: u64,
    },
    /// The definition with this digest was pinned.
    PinAccepted {
        upstream: UpstreamName,
        tool: String,
        digest: String,
    },
    /// Everything that the upstream offers was pinned.
    PinsAccepted {
        upstream: UpstreamName,
        tools: u64,
    },
    /// The recorded inputs of a decision were read.
    RecordingRead {
        decision: String,
    },
    /// The latest recorded inputs were read: of a policy, of a hook, or of all.
    RecordingsRead {
        policy: Option<String>,
        hook: Option<String>,
        questions: u64,
    },
    /// The whole store was read, for a backup.
    BackupTaken,
    /// The store is what a backup held, and what was handed out after it is void.
    BackupRestored {
        /// When the backup was taken.
        taken: Timestamp,
        rows: u64,
        digest: String,
        epoch: u64,
    },
    /// The vault was made, with its first key-encryption key.
    VaultInitialized {
        deployment: DeploymentId,
        kek: KekId,
    },
    /// New data keys are wrapped by another key-encryption key from now on.
    VaultKekRotated {
        from: Option<KekId>,
        to: KekId,
    },
    /// So many data keys were wrapped anew.
    VaultRewrapped {
        to: KekId,
        keys: u64,
    },
    /// The data key of an owner was destroyed, and with it all that is sealed for them.
    VaultShredded {
        owner: Owner,
    },
    /// A sealed record was not opened: it is damaged, or it was sealed for another place or deployment.
    VaultRecordRefused {
        owner: Owner,
        table: String,
        key: String,
        field: String,
        reason: String,
    },
    /// The pins of an upstream that is not configured any more were forgotten.
    PinsForgotten {
        upstream: UpstreamName,
        tools: u64,
    },
    /// An operator changed policies on another gateway, and this one could not do the same.
    PoliciesNotFollowed {
        reason: String,
    },
    /// What else there is to say of the account is told as changes from nothing.
    UserCreated {
        user: UserId,
        role: String,
        status: String,
        changes: Vec<FieldChange>,
    },
    /// One field of an account. What a password was and is stays unsaid.
    UserChanged {
        user: UserId,
        change: FieldChange,
    },
    UserDeleted {
        user: UserId,
        name: String,
    },
    /// A person may sign in as this subject of this identity provider.
    IdentityLinked {
        user: UserId,
        issuer: String,
        subject: String,
    },
    IdentityUnlinked {
        user: UserId,
        issuer: String,
        subject: String,
    },
    SignedIn {
        user: UserId,
        session: BrowserSessionId,
        method: String,
    },
    /// The cookie of a signed-in browser was replaced.
    SessionRenewed {
        user: UserId,
        session: BrowserSessionId,
    },
    SignedOut {
        user: UserId,
        sessions: u64,
    },
    EverybodySignedOut,
    ApiTokenCreated {
        token: ApiTokenId,
        user: UserId,
        name: String,
        role: String,
        changes: Vec<FieldChange>,
    },
    ApiTokenRevoked {
        token: ApiTokenId,
        user: UserId,
    },
    /// An operator had a link made with which the first owner makes their account.
    SetUpLinkMade,
    /// An operator had a link made with which its holder's credential for an upstream is made, or made anew.
    ConnectionLinkMade {
        holder: String,
        upstream: UpstreamName,
        expires: Timestamp,
    },
    /// A holder's credential for an upstream was made or replaced.
    ConnectionStored {
        holder: String,
        upstream: UpstreamName,
        kind: String,
    },
    /// It does not work until its person does something.
    ConnectionFailed {
        holder: String,
        upstream: UpstreamName,
        reason: String,
    },
    /// Its holder may not use the upstream any more.
    ConnectionOrphaned {
        holder: String,
        upstream: UpstreamName,
    },
    /// Its holder may use the upstream again.
    ConnectionReactivated {
        holder: String,
        upstream: UpstreamName,
    },
    ConnectionEnded {
        holder: String,
        upstream: UpstreamName,
        why: String,
    },
    /// The authorization server was told that an ended connection's tokens are not used any more.
    TokensRevoked {
        holder: String,
        upstream: UpstreamName,
    },
    /// It could not be told, and nobody tries any more.
    TokensNotRevoked {
        holder: String,
        upstream: UpstreamName,
        attempts: u64,
    },
    /// An answer of an authorization server did not pass a check.
    FlowRefused {
        holder: String,
        upstream: UpstreamName,
        check: String,
    },
    /// An operator declared an upstream, `unchecked` if nobody tried whether it works.
    UpstreamDeclared {
        upstream: UpstreamName,
        revision: u64,
        unchecked: bool,
        changes: Vec<FieldChange>,
    },
    UpstreamChanged {
        upstream: UpstreamName,
        revision: u64,
        enabled: bool,
        unchecked: bool,
        changes: Vec<FieldChange>,
    },
    UpstreamWithdrawn {
        upstream: UpstreamName,
        changes: Vec<FieldChange>,
    },
    PolicyModuleUploaded {
        /// Lower-case hex SHA-256.
        digest: String,
        name: String,
        version: String,
        bytes: u64,
    },
    /// A module that was there got other signatures.
    PolicyModuleSigned {
        digest: String,
    },
    PolicyModuleRemoved {
        digest: String,
        name: String,
        version: String,
    },
    /// An operator declared a policy binding. Definitions are JSON.
    PolicyBound {
        binding: BindingName,
        revision: u64,
        definition: String,
    },
    PolicyBindingChanged {
        binding: BindingName,
        revision: u64,
        before: String,
        after: String,
    },
    PolicyUnbound {
        binding: BindingName,
        before: String,
    },
    /// An OAuth client was added, and so many that nobody had used made room for it.
    ClientRegistered {
        client: ClientId,
        by: RegisteredBy,
        evicted: u64,
        /// What it is described by, as far as the trail tells that.
        as_what: Registered,
    },
    /// A client is described by something else, or has another secret.
    ClientUpdated {
        client: ClientId,
        changes: Vec<FieldChange>,
    },
    ClientDeleted {
        client: ClientId,
        changes: Vec<FieldChange>,
    },
    /// Somebody agreed to what a client asked for.
    ConsentGiven(Party),
    /// Somebody refused it, who may not have said who they are.
    ConsentRefused {
        client: ClientId,
    },
    /// A remembered consent counts no more.
    ConsentForgotten(Party),
    /// A code was presented by its client without what proves that the client asked for it, and is void.
    CodeBurned(Party),
    GrantIssued {
        grant: GrantId,
        party: Party,
    },
    GrantRevoked {
        grant: GrantId,
        party: Party,
        reason: RevocationReason,
    },
    /// Everything was revoked that was granted until now to a client, to a principal, to a kind of principal, or at all.
    GrantsRevoked {
        of: String,
        reason: RevocationReason,
    },
    /// One access token was revoked.
    TokenRevoked {
        grant: GrantId,
    },
    /// A refresh token was presented again within its grace, and answered alike.
    RefreshReplayed {
        grant: GrantId,
    },
    /// A refresh token was presented again after its grace, and refused; the client's grants are not revoked for that.
    RefreshReuseRefused {
        grant: GrantId,
    },
    /// A key that signs tokens is in this state now.
    SigningKeyChanged {
        key: String,
        algorithm: String,
        state: SigningKeyState,
    },
}

/// Who agreed with whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    pub principal: Principal,
    pub client: ClientId,
}

/// What a client was registered as. Lines of before are without it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    pub name: Option<String>,
    pub redirect_uris: Vec<String>,
    pub grant_types: Vec<String>,
    /// What else it is described by, from nothing.
    pub changes: Vec<FieldChange>,
}

/// A field of something before and after: a text as it is, and anything else as text. `None` is where it was not said. Of a
/// secret neither is told, only that it is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldChange {
    pub field: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

/// What was decided about an approval that a policy wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    pub approval: ApprovalId,
    /// Who wanted to do it.
    pub principal: Principal,
    pub upstream: UpstreamName,
    /// The upstream's own name for the tool or item.
    pub item: String,
    pub policy: BindingName,
    pub code: String,
    pub note: Option<String>,
}

impl AuditEvent {
    /// The names of all events.
    pub const NAMES: [&'static str; 72] = [
        "gateway.started",
        "gateway.stopped",
        "key.created",
        "key.enabled",
        "key.disabled",
        "key.deleted",
        "key.changed",
        "key.rotated",
        "key.earlier_ended",
        "policies.reloaded",
        "policies.reload_refused",
        "approval.given",
        "approval.refused",
        "pins.adopted",
        "pin.accepted",
        "pins.accepted",
        "recording.read",
        "recordings.read",
        "policies.rolled_back",
        "pins.forgotten",
        "policies.not_followed",
        "client.registered",
        "client.updated",
        "client.deleted",
        "consent.given",
        "consent.refused",
        "consent.forgotten",
        "code.burned",
        "grant.issued",
        "grant.revoked",
        "grants.revoked",
        "token.revoked",
        "refresh.replayed",
        "refresh.reuse_refused",
        "signing_key.changed",
        "user.created",
        "user.changed",
        "user.deleted",
        "identity.linked",
        "identity.unlinked",
        "browser.signed_in",
        "browser.renewed",
        "browser.signed_out",
        "browser.everybody_signed_out",
        "api_token.created",
        "api_token.revoked",
        "set_up_link.made",
        "connection_link.made",
        "connection.stored",
        "connection.failed",
        "connection.orphaned",
        "connection.reactivated",
        "connection.ended",
        "tokens.revoked",
        "tokens.not_revoked",
        "connection_flow.refused",
        "upstream.declared",
        "upstream.changed",
        "upstream.withdrawn",
        "policy_module.uploaded",
        "policy_module.signed",
        "policy_module.removed",
        "policy.bound",
        "policy.changed",
        "policy.unbound",
        "vault.initialized",
        "vault.kek_rotated",
        "vault.rewrapped",
        "vault.shredded",
        "vault.record_refused",
        "backup.taken",
        "backup.restored",
    ];

    /// The event's name, the same in the trail, the API and the documents.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::GatewayStarted { .. } => "gateway.started",
            Self::GatewayStopped => "gateway.stopped",
            Self::KeyCreated { .. } => "key.created",
            Self::KeyEnabled { .. } => "key.enabled",
            Self::KeyDisabled { .. } => "key.disabled",
            Self::KeyDeleted { .. } => "key.deleted",
            Self::KeyChanged { .. } => "key.changed",
            Self::KeyRotated { .. } => "key.rotated",
            Self::KeyEarlierEnded { .. } => "key.earlier_ended",
            Self::PoliciesReloaded { .. } => "policies.reloaded",
            Self::PolicyReloadRefused { .. } => "policies.reload_refused",
            Self::ApprovalGiven(_) => "approval.given",
            Self::ApprovalRefused(_) => "approval.refused",
            Self::PinsAdopted { .. } => "pins.adopted",
            Self::PinAccepted { .. } => "pin.accepted",
            Self::PinsAccepted { .. } => "pins.accepted",
            Self::RecordingRead { .. } => "recording.read",
            Self::RecordingsRead { .. } => "recordings.read",
            Self::PoliciesRolledBack { .. } => "policies.rolled_back",
            Self::PinsForgotten { .. } => "pins.forgotten",
            Self::PoliciesNotFollowed { .. } => "policies.not_followed",
            Self::ClientRegistered { .. } => "client.registered",
            Self::ClientUpdated { .. } => "client.updated",
            Self::ClientDeleted { .. } => "client.deleted",
            Self::ConsentGiven(_) => "consent.given",
            Self::ConsentRefused { .. } => "consent.refused",
            Self::ConsentForgotten(_) => "consent.forgotten",
            Self::CodeBurned(_) => "code.burned",
            Self::GrantIssued { .. } => "grant.issued",
            Self::GrantRevoked { .. } => "grant.revoked",
            Self::GrantsRevoked { .. } => "grants.revoked",
            Self::TokenRevoked { .. } => "token.revoked",
            Self::RefreshReplayed { .. } => "refresh.replayed",
            Self::RefreshReuseRefused { .. } => "refresh.reuse_refused",
            Self::SigningKeyChanged { .. } => "signing_key.changed",
            Self::UserCreated { .. } => "user.created",
            Self::UserChanged { .. } => "user.changed",
            Self::UserDeleted { .. } => "user.deleted",
            Self::IdentityLinked { .. } => "identity.linked",
            Self::IdentityUnlinked { .. } => "identity.unlinked",
            Self::SignedIn { .. } => "browser.signed_in",
            Self::SessionRenewed { .. } => "browser.renewed",
            Self::SignedOut { .. } => "browser.signed_out",
            Self::EverybodySignedOut => "browser.everybody_signed_out",
            Self::ApiTokenCreated { .. } => "api_token.created",
            Self::ApiTokenRevoked { .. } => "api_token.revoked",
            Self::SetUpLinkMade => "set_up_link.made",
            Self::ConnectionLinkMade { .. } => "connection_link.made",
            Self::ConnectionStored { .. } => "connection.stored",
            Self::ConnectionFailed { .. } => "connection.failed",
            Self::ConnectionOrphaned { .. } => "connection.orphaned",
            Self::ConnectionReactivated { .. } => "connection.reactivated",
            Self::ConnectionEnded { .. } => "connection.ended",
            Self::TokensRevoked { .. } => "tokens.revoked",
            Self::TokensNotRevoked { .. } => "tokens.not_revoked",
            Self::FlowRefused { .. } => "connection_flow.refused",
            Self::UpstreamDeclared { .. } => "upstream.declared",
            Self::UpstreamChanged { .. } => "upstream.changed",
            Self::UpstreamWithdrawn { .. } => "upstream.withdrawn",
            Self::PolicyModuleUploaded { .. } => "policy_module.uploaded",
            Self::PolicyModuleSigned { .. } => "policy_module.signed",
            Self::PolicyModuleRemoved { .. } => "policy_module.removed",
            Self::PolicyBound { .. } => "policy.bound",
            Self::PolicyBindingChanged { .. } => "policy.changed",
            Self::PolicyUnbound { .. } => "policy.unbound",
            Self::VaultInitialized { .. } => "vault.initialized",
            Self::VaultKekRotated { .. } => "vault.kek_rotated",
            Self::VaultRewrapped { .. } => "vault.rewrapped",
            Self::VaultShredded { .. } => "vault.shredded",
            Self::VaultRecordRefused { .. } => "vault.record_refused",
            Self::BackupTaken => "backup.taken",
            Self::BackupRestored { .. } => "backup.restored",
        }
    }
}

/// One line of the decision trail: what was asked, what was decided, what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionRecord {
    /// The text of a [`crate::ids::DecisionId`].
    pub id: String,
    pub at: Timestamp,
    pub principal: Principal,
    /// The MCP method, such as `tools/call`.
    pub operation: String,
    /// `None` if the request names none that exists.
    pub upstream: Option<UpstreamName>,
    /// The upstream's own name for the tool, or what the caller asked for if there is no such tool.
    pub tool: Option<String>,
    /// The MCP revision that the caller speaks.
    pub revision: String,
    pub verdict: RecordedVerdict,
    /// Of the policy that decided, or of the gateway's own check.
    pub reason_code: Option<String>,
    /// The policy set that was asked.
    pub generation: u64,
    /// In the order in which policies were asked.
    pub steps: Vec<DecisionStep>,
    /// Approvals that were asked for, refused or used.
    pub approvals: Vec<ApprovalId>,
    pub outcome: RecordedOutcome,
    pub elapsed_ms: u64,
}

/// What one policy said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionStep {
    pub binding: BindingName,
    /// The module's own name, as its manifest has it. Records of earlier versions have none.
    pub module_name: String,
    /// The module's version. Records of earlier versions have none.
    pub module_version: String,
    /// Lower-case hex SHA-256.
    pub module_digest: String,
    pub mode: RecordedMode,
    /// Such as `tool-call`.
    pub hook: String,
    pub verdict: RecordedVerdict,
    pub reason_code: Option<String>,
    /// The rule that matched, as the policy's author names it.
    pub rule: Option<String>,
    pub micros: u64,
    /// Facts that the policy added, by key.
    pub notes: Vec<(String, String)>,
}

words! {
    /// A verdict, of one policy or of all together.
    RecordedVerdict {
        Abstain = "abstain",
        Allow = "allow",
        /// A credential may be used.
        Release = "release",
        /// The person has to be asked.
        Consent = "consent",
        Deny = "deny",
        /// The tool is not visible to this principal.
        Hidden = "hidden",
        StepUp = "step-up",
        Approve = "approve",
        Throttle = "throttle",
        Show = "show",
        Hide = "hide",
        /// A list was gone through.
        Filter = "filter",
        /// A result may go to the caller as it is.
        Pass = "pass",
        /// Something was taken out of a result.
        Redact = "redact",
        /// A result may not go to the caller.
        Block = "block",
        /// The policy failed, which denies.
        Error = "error",
        /// What a policy in shadow mode said, without consequence.
        WouldAbstain = "would_abstain",
        WouldRelease = "would_release",
        WouldConsent = "would_consent",
        WouldAllow = "would_allow",
        WouldDeny = "would_deny",
        WouldStepUp = "would_step-up",
        WouldApprove = "would_approve",
        WouldThrottle = "would_throttle",
        WouldShow = "would_show",
        WouldHide = "would_hide",
        WouldFilter = "would_filter",
        WouldPass = "would_pass",
        WouldRedact = "would_redact",
        WouldBlock = "would_block",
        WouldError = "would_error",
    }

    /// Whether what a policy says counts.
    RecordedMode {
        Enforce = "enforce",
        /// It is asked and has no say.
        Shadow = "shadow",
    }

    /// What the caller got in the end.
    RecordedOutcome {
        Result = "result",
        /// A result with `isError`, from the upstream.
        ToolError = "tool_error",
        /// A JSON-RPC error, from the upstream or because it could not be reached.
        Error = "error",
        /// The gateway or a policy refused.
        Refused = "refused",
        Cancelled = "cancelled",
    }

    /// Who registered an OAuth client.
    RegisteredBy {
        /// The client itself (RFC 7591).
        Client = "client",
        Operator = "operator",
    }

    /// Why something that was granted counts no more.
    RevocationReason {
        /// The client presented a code that it had redeemed already.
        CodeReplayed = "code_replayed",
        /// A refresh token was presented again after its grace.
        TokenReused = "token_reused",
        /// The client asked for it (RFC 7009).
        Client = "client",
        /// Whoever consented asked for it.
        Principal = "principal",
        Operator = "operator",
        /// The client's registration was deleted.
        ClientDeleted = "client_deleted",
        /// The principal was deleted or disabled.
        PrincipalGone = "principal_gone",
    }

    /// Where a key that signs tokens stands.
    SigningKeyState {
        /// Published, and not used.
        Announced = "announced",
        Active = "active",
        /// Published for what it signed, and not used.
        Retired = "retired",
        Gone = "gone",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_word_means_what_it_was_written_for() {
        for verdict in ["abstain", "allow", "deny", "hidden", "throttle", "redact", "error", "would_deny"] {
            assert_eq!(RecordedVerdict::parse(verdict).map(RecordedVerdict::as_str), Some(verdict));
        }
        for outcome in ["result", "tool_error", "error", "refused", "cancelled"] {
            assert_eq!(RecordedOutcome::parse(outcome).map(RecordedOutcome::as_str), Some(outcome));
        }
        assert_eq!(RecordedVerdict::parse("Allow"), None);
        assert_eq!(RecordedOutcome::parse(""), None);
    }

    /// The names that [`AuditEvent::name`] has, as they are written there.
    fn names() -> BTreeSet<&'static str> {
        let (_, body) = include_str!("audit.rs").split_once("pub const fn name(&self)").unwrap();
        let (body, _) = body.split_once("\n    }\n").unwrap();
        let arms = body.lines().filter_map(|line| line.trim().strip_prefix("Self::"));
        arms.map(|arm| arm.split('"').nth(1).unwrap_or_else(|| panic!("{arm} is written in another way"))).collect()
    }

    #[test]
    fn every_event_is_in_the_documentation_and_nothing_else() {
        let names = names();
        assert_eq!(names, AuditEvent::NAMES.into_iter().collect());
        assert_eq!(names.len(), AuditEvent::NAMES.len(), "each stands there once");
        let page = include_str!("../../docs/observability.md");
        let (_, section) = page.split_once("## The audit trail").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
        let explained: Vec<&str> =
            cells.flat_map(|cell| cell.split("`, `")).map(|name| name.trim_matches('`')).collect();
        assert_eq!(names, explained.iter().copied().collect());
        assert_eq!(names.len(), explained.len(), "each stands there once");
    }

    #[test]
    fn an_actor_is_read_as_they_are_written() {
        let user = UserTag::try_from("0123456789abcdef01234567".to_owned()).unwrap();
        let token = ApiTokenTag::try_from("76543210fedcba9876543210".to_owned()).unwrap();
        let proofs = [
            OperatorProof::Socket,
            OperatorProof::Token,
            OperatorProof::Session(user),
            OperatorProof::ApiToken { token, user },
            OperatorProof::SetUpLink,
        ];
        for actor in proofs.into_iter().map(Actor::Operator).chain([Actor::User(user), Actor::System]) {
            assert_eq!(Actor::parse(&actor.to_string()), Some(actor));
        }
        for none in ["", "system:", "systems", "operator", "operator:session:x", "user:", "operator:socket:x"] {
            assert_eq!(Actor::parse(none), None, "{none}");
        }
    }
}
